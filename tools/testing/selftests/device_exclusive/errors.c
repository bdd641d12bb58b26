// SPDX-License-Identifier: GPL-2.0
/*
 * What cannot be made exclusive, and what the device cannot do at the moment:
 * the right errno, and nothing else.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <sys/stat.h>

#include "devex_util.h"

#define SEED	0x10

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE		0x08
#endif

/*
 * Memory of every kind
 */
FIXTURE(memory)
{
	struct memory mem;
	int dev;
};

FIXTURE_SETUP(memory)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
}

FIXTURE_TEARDOWN(memory)
{
	if (self->dev >= 0)
		close(self->dev);
	if (self->mem.addr)
		munmap(self->mem.addr, self->mem.size);
}

static void map(struct __test_metadata *_metadata, struct memory *mem,
		size_t size, int prot, int flags, int fd)
{
	mem->size = size;
	mem->nr = size / page_size();
	mem->addr = mmap(NULL, size, prot, flags, fd, 0);
	ASSERT_NE(MAP_FAILED, mem->addr)
		TH_LOG("mmap failed: %s", strerror(errno));
}

/* None of the commands that make it exclusive does. */
static void expect_error(struct __test_metadata *_metadata, int dev,
			 const struct memory *mem, long error)
{
	struct devex_counters counters;

	EXPECT_EQ(error, device_make(dev, mem, 0));
	EXPECT_EQ(error, device_make(dev, mem, DEVEX_RANGE_ONCE));
	EXPECT_EQ(error, device_make(dev, mem, DEVEX_RANGE_SINGLE));
	EXPECT_EQ(error, device_make(dev, mem, DEVEX_RANGE_LOCKED));
	EXPECT_EQ(error, device_add(dev, memory_word(mem, 0), 1, 1));

	EXPECT_EQ(0, device_held(dev, mem));
	EXPECT_EQ(0, device_counters(dev, &counters));
	EXPECT_EQ(0, counters.conversions);
	EXPECT_EQ(0, counters.held);
	EXPECT_EQ(0, counters.locked);
}

/* It works. */
static void expect_success(struct __test_metadata *_metadata, int dev,
			   const struct memory *mem)
{
	EXPECT_EQ((long)mem->nr, device_make(dev, mem, 0));
	EXPECT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	memory_fill(mem, SEED);
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

static int open_file(struct __test_metadata *_metadata, size_t size)
{
	int fd;

	fd = memfd_create("device-exclusive", 0);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ftruncate(fd, size));
	return fd;
}

TEST_F(memory, read_only)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_READ,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	expect_error(_metadata, self->dev, &self->mem, -EFAULT);
}

TEST_F(memory, no_access)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	expect_error(_metadata, self->dev, &self->mem, -EFAULT);
}

/* Read-only after it was written to: the page is there, the right is not. */
TEST_F(memory, no_longer_writable)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memory_fill(&self->mem, SEED);
	ASSERT_EQ(0, mprotect(self->mem.addr, self->mem.size, PROT_READ));
	expect_error(_metadata, self->dev, &self->mem, -EFAULT);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

TEST_F(memory, shared_anonymous)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1);
	memory_fill(&self->mem, SEED);
	expect_error(_metadata, self->dev, &self->mem, -EOPNOTSUPP);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

TEST_F(memory, shared_file)
{
	size_t size = 4 * page_size();
	int fd = open_file(_metadata, size);

	map(_metadata, &self->mem, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	memory_fill(&self->mem, SEED);
	expect_error(_metadata, self->dev, &self->mem, -EOPNOTSUPP);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
	close(fd);
}

/* The device writes: so it gets a private copy, which is anonymous memory. */
TEST_F(memory, private_file)
{
	size_t size = 4 * page_size();
	int fd = open_file(_metadata, size);

	map(_metadata, &self->mem, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
	expect_success(_metadata, self->dev, &self->mem);
	close(fd);
}

/* The same with the zero page */
TEST_F(memory, never_written)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	EXPECT_EQ(0, touch(self->mem.addr));
	expect_success(_metadata, self->dev, &self->mem);
}

TEST_F(memory, hugetlb_private)
{
	map(_metadata, &self->mem, thp_size(), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	memory_fill(&self->mem, SEED);
	expect_error(_metadata, self->dev, &self->mem, -EOPNOTSUPP);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

TEST_F(memory, hugetlb_shared)
{
	map(_metadata, &self->mem, thp_size(), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	memory_fill(&self->mem, SEED);
	expect_error(_metadata, self->dev, &self->mem, -EOPNOTSUPP);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* The kernel may drop it, and does not say so if there is no memory for it. */
TEST_F(memory, droppable)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_READ | PROT_WRITE,
	    MAP_DROPPABLE | MAP_ANONYMOUS, -1);
	memory_fill(&self->mem, SEED);
	expect_error(_metadata, self->dev, &self->mem, -EOPNOTSUPP);
}

/* Mapped by PFN */
TEST_F(memory, pfnmap)
{
	map(_metadata, &self->mem, page_size(), PROT_READ | PROT_WRITE, MAP_SHARED,
	    self->dev);
	expect_error(_metadata, self->dev, &self->mem, -EOPNOTSUPP);
	EXPECT_EQ(0, touch(self->mem.addr));
}

TEST_F(memory, unmapped)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	ASSERT_EQ(0, munmap(self->mem.addr, self->mem.size));
	expect_error(_metadata, self->dev, &self->mem, -EFAULT);
	self->mem.addr = NULL;
}

TEST_F(memory, guard_page)
{
	map(_metadata, &self->mem, 4 * page_size(), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	ASSERT_EQ(0, madvise(self->mem.addr, page_size(), MADV_GUARD_INSTALL));
	expect_error(_metadata, self->dev, &self->mem, -EFAULT);
}

/* As with get_user_pages(), the number of pages up to the hole */
TEST_F(memory, hole)
{
	struct memory head, hole;

	map(_metadata, &self->mem, 8 * page_size(), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1);
	head = memory_part(&self->mem, 0, 5);
	hole = memory_part(&self->mem, 5, 1);
	ASSERT_EQ(0, munmap(hole.addr, hole.size));
	EXPECT_EQ(5, device_make(self->dev, &self->mem, 0));
	EXPECT_EQ(5, device_held(self->dev, &self->mem));
	EXPECT_EQ(5, memory_count(&head, PAGE_EXCLUSIVE));

	/* Pins are all or nothing. */
	EXPECT_EQ(-EFAULT, device_pin(self->dev, &self->mem));
	EXPECT_EQ(-ENOENT, device_unpin(self->dev, &head));
	EXPECT_EQ(0, device_pin(self->dev, &head));
	EXPECT_EQ(0, device_unpin(self->dev, &head));
}

/*
 * What the device is told
 */
FIXTURE(ioctl)
{
	struct memory mem;
	int dev;
};

FIXTURE_SETUP(ioctl)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, SMALL, SEED));
}

FIXTURE_TEARDOWN(ioctl)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* Nothing happened. */
static void expect_idle(struct __test_metadata *_metadata, int dev,
			const struct memory *mem)
{
	struct devex_counters counters;

	EXPECT_EQ(0, device_counters(dev, &counters));
	EXPECT_EQ(0, counters.conversions);
	EXPECT_EQ(0, counters.held);
	EXPECT_EQ(0, counters.locked);
	EXPECT_EQ(0, counters.pinned);
	EXPECT_EQ(0, counters.stored);
	EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/* Pins of one device do not overlap. */
TEST_F(ioctl, pin_twice)
{
	struct memory mid = memory_part(&self->mem, 4, 4);
	struct memory low = memory_part(&self->mem, 3, 2);
	struct memory all = self->mem;
	struct devex_counters counters;

	EXPECT_EQ(-ENOENT, device_unpin(self->dev, &mid));
	ASSERT_EQ(0, device_pin(self->dev, &mid));
	EXPECT_EQ(-EEXIST, device_pin(self->dev, &mid));
	EXPECT_EQ(-EEXIST, device_pin(self->dev, &low));
	EXPECT_EQ(-EEXIST, device_pin(self->dev, &all));
	EXPECT_EQ(-ENOENT, device_unpin(self->dev, &low));
	EXPECT_EQ(-ENOENT, device_unpin(self->dev, &all));
	EXPECT_EQ(0, device_counters(self->dev, &counters));
	EXPECT_EQ(4, counters.pinned);
	ASSERT_EQ(0, device_unpin(self->dev, &mid));
	EXPECT_EQ(-ENOENT, device_unpin(self->dev, &mid));
	expect_idle(_metadata, self->dev, &self->mem);
}

/* A memory error is for one page, which is pinned. */
TEST_F(ioctl, bad_poison)
{
	struct memory one = memory_part(&self->mem, 4, 1);
	struct memory two = memory_part(&self->mem, 4, 2);

	ASSERT_EQ(0, device_pin(self->dev, &two));
	if (device_poison(self->dev, &two) == -EOPNOTSUPP)
		SKIP(return, "no simulated memory errors on this architecture");
	EXPECT_EQ(-ENOENT, device_poison(self->dev, &one));
	EXPECT_EQ(-EINVAL, device_poison(self->dev, &two));
	ASSERT_EQ(0, device_unpin(self->dev, &two));
	EXPECT_EQ(-ENOENT, device_poison(self->dev, &two));

	/* One at a time */
	ASSERT_EQ(0, device_pin(self->dev, &one));
	EXPECT_EQ(0, device_poison(self->dev, &one));
	EXPECT_EQ(-EBUSY, device_poison(self->dev, &one));
	ASSERT_EQ(0, device_unpin(self->dev, &one));
	expect_idle(_metadata, self->dev, &self->mem);
}

/* With folios locked nothing more can be made exclusive in the process. */
TEST_F(ioctl, make_while_locked)
{
	struct memory held = memory_part(&self->mem, 0, 4);
	struct memory more = memory_part(&self->mem, 8, 1);
	uint64_t *word = (uint64_t *)held.addr;
	struct devex_counters counters;
	int other;

	ASSERT_EQ(4, device_make(self->dev, &held, DEVEX_RANGE_LOCKED));
	EXPECT_EQ(0, device_counters(self->dev, &counters));
	EXPECT_EQ(4, counters.locked);
	EXPECT_EQ(-EBUSY, device_make(self->dev, &held, 0));
	EXPECT_EQ(-EBUSY, device_make(self->dev, &more, 0));
	EXPECT_EQ(-EBUSY, device_make(self->dev, &more, DEVEX_RANGE_LOCKED));
	EXPECT_EQ(-EBUSY, device_add(self->dev, memory_word(&more, 0), 1, 1));

	/* Nor by another device of the same process */
	other = device_open();
	ASSERT_LE(0, other);
	EXPECT_EQ(-EBUSY, device_make(other, &more, 0));
	EXPECT_EQ(-EBUSY, device_make(other, &held, 0));
	close(other);

	/* But the device may work on what it holds. */
	EXPECT_EQ(0, device_add(self->dev, word, 2, 3));
	EXPECT_EQ(4, device_held(self->dev, &held));

	ASSERT_EQ(0, device_unlock(self->dev));
	EXPECT_EQ(0, device_counters(self->dev, &counters));
	EXPECT_EQ(0, counters.locked);
	EXPECT_EQ(1, device_make(self->dev, &more, 0));
	EXPECT_EQ(memory_value(SEED, 0, 0) + 6, *word);
}

/* A device serves the process that opened it, and no other. */
TEST_F(ioctl, other_process)
{
	struct devex_counters counters;
	uint64_t word = 1234;
	pid_t pid;

	ASSERT_EQ(0, device_pin(self->dev, &self->mem));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(-EACCES, device_make(self->dev, &self->mem, 0));
		EXPECT_EQ(-EACCES, device_unlock(self->dev));
		EXPECT_EQ(-EACCES, device_add(self->dev, &word, 1, 1));
		EXPECT_EQ(-EACCES, device_pin(self->dev, &self->mem));
		EXPECT_EQ(-EACCES, device_unpin(self->dev, &self->mem));
		EXPECT_EQ(-EACCES, device_poison(self->dev, &self->mem));
		EXPECT_EQ(-EACCES, device_held(self->dev, &self->mem));

		/* These two need no page table. */
		EXPECT_EQ(0, device_counters(self->dev, &counters));
		EXPECT_EQ(self->mem.nr, counters.pinned);
		EXPECT_EQ(0, device_write(self->dev, self->mem.addr, &word,
					  sizeof(word)));
		_exit(0);
	}
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(1234, read_word(memory_word(&self->mem, 0)));
}

/* Only root may use it. */
TEST(device_mode)
{
	struct stat st;

	ASSERT_EQ(0, stat(DEVEX_DEVICE, &st))
		TH_LOG("%s: %s; is the module test_device_exclusive loaded?",
		       DEVEX_DEVICE, strerror(errno));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(0600, st.st_mode & 07777);
	EXPECT_EQ(0, st.st_uid);
}

TEST_HARNESS_MAIN
