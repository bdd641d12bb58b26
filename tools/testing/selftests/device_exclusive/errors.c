// SPDX-License-Identifier: GPL-2.0
/*
 * What cannot be made exclusive, and what the device does with nonsense: the
 * right errno, and nothing else.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "devex_util.h"

#define SEED	0x10

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
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

static int try_ioctl(int dev, unsigned long cmd, void *arg)
{
	return ioctl(dev, cmd, arg) ? -errno : 0;
}

static const unsigned long range_commands[] = {
	DEVEX_IOC_MAKE,
	DEVEX_IOC_PIN,
	DEVEX_IOC_UNPIN,
	DEVEX_IOC_POISON,
	DEVEX_IOC_MIGRATE,
};

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

/* Of @good, one field at a time is wrong. */
TEST_F(ioctl, bad_range)
{
	struct devex_range good = {
		.addr = (uintptr_t)self->mem.addr,
		.size = 2 * page_size(),
	};
	const uint64_t low = page_size(), top = -2 * page_size();
	const struct {
		struct devex_range range;
		int error;
	} bad[] = {
		{ { good.addr + 1, good.size, 0, 0, 0 }, -EINVAL },
		{ { good.addr + 8, good.size, 0, 0, 0 }, -EINVAL },
		{ { good.addr, 0, 0, 0, 0 }, -EINVAL },
		{ { good.addr, 1, 0, 0, 0 }, -EINVAL },
		{ { good.addr, good.size - 1, 0, 0, 0 }, -EINVAL },
		{ { good.addr, -low, 0, 0, 0 }, -EINVAL },
		{ { top, 2 * low, 0, 0, 0 }, -EINVAL },
		{ { top, 4 * low, 0, 0, 0 }, -EINVAL },
		{ { top, low, 0, 0, 0 }, -EFAULT },
		{ { 1ULL << 63, low, 0, 0, 0 }, -EFAULT },
		{ { good.addr, 1ULL << 62, 0, 0, 0 }, -EFAULT },
		{ { good.addr, good.size, 1U << 4, 0, 0 }, -EINVAL },
		{ { good.addr, good.size, 1U << 31, 0, 0 }, -EINVAL },
		{ { good.addr, good.size,
		    DEVEX_RANGE_LOCKED | DEVEX_RANGE_WAIT, 0, 0 }, -EINVAL },
		{ { good.addr, good.size, 0, 1, 0 }, -EINVAL },
		{ { good.addr, good.size, 0, 1U << 31, 0 }, -EINVAL },
	};
	struct devex_range range;
	unsigned long cmd;
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(range_commands); i++) {
		cmd = range_commands[i];
		for (j = 0; j < ARRAY_SIZE(bad); j++) {
			range = bad[j].range;
			EXPECT_EQ(bad[j].error,
				  try_ioctl(self->dev, cmd, &range))
				TH_LOG("command %#lx, number %zu", cmd, j);
		}
		/* Only DEVEX_IOC_MAKE takes any flags. */
		if (cmd == DEVEX_IOC_MAKE)
			continue;
		for (j = 0; j < 4; j++) {
			range = good;
			range.flags = 1U << j;
			EXPECT_EQ(-EINVAL, try_ioctl(self->dev, cmd, &range));
		}
	}
	expect_idle(_metadata, self->dev, &self->mem);
}

TEST_F(ioctl, bad_add)
{
	const uint64_t addr = (uintptr_t)self->mem.addr;
	const struct {
		struct devex_add add;
		int error;
	} bad[] = {
		{ { addr + 1, 1, 1, 0, 0, 0 }, -EINVAL },
		{ { addr + 4, 1, 1, 0, 0, 0 }, -EINVAL },
		{ { addr, 1, 1, 0, 0, 1 }, -EINVAL },
		{ { addr, 1, 1, 0, 0, 1ULL << 63 }, -EINVAL },
		{ { 1ULL << 63, 1, 1, 0, 0, 0 }, -EFAULT },
		{ { -8ULL, 1, 1, 0, 0, 0 }, -EFAULT },
		{ { 0, 1, 1, 0, 0, 0 }, -EFAULT },
	};
	struct devex_add add;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		add = bad[i].add;
		EXPECT_EQ(bad[i].error,
			  try_ioctl(self->dev, DEVEX_IOC_ADD, &add))
			TH_LOG("number %zu", i);
	}
	expect_idle(_metadata, self->dev, &self->mem);
}

TEST_F(ioctl, bad_dma)
{
	const uint64_t addr = (uintptr_t)self->mem.addr, size = page_size();
	uint64_t word = 0, buf = (uintptr_t)&word;
	struct memory one = memory_part(&self->mem, 0, 1);
	const struct {
		struct devex_dma dma;
		int error;
	} bad[] = {
		{ { addr, 0, buf, 0, 0 }, -EINVAL },
		{ { addr, -1ULL, buf, 0, 0 }, -EINVAL },
		{ { addr, 8, buf, 1U << 1, 0 }, -EINVAL },
		{ { addr, 8, buf, 1U << 31, 0 }, -EINVAL },
		{ { addr, 8, buf, 0, 1 }, -EINVAL },
		{ { addr - 8, 8, buf, 0, 0 }, -ENOENT },
		{ { addr - 8, 16, buf, 0, 0 }, -ENOENT },
		{ { addr + size, 8, buf, 0, 0 }, -ENOENT },
		{ { addr + size - 8, 16, buf, 0, 0 }, -ENOENT },
		{ { addr, 1ULL << 62, buf, 0, 0 }, -ENOENT },
		{ { addr, 8, 0, 0, 0 }, -EFAULT },
		{ { addr, 8, 1ULL << 63, 0, 0 }, -EFAULT },
		{ { addr, 8, 0, DEVEX_DMA_READ, 0 }, -EFAULT },
	};
	struct devex_dma dma;
	size_t i;

	/* Nothing is pinned yet. */
	EXPECT_EQ(-ENOENT, device_write(self->dev, one.addr, &word, 8));
	EXPECT_EQ(-ENOENT, device_read(self->dev, one.addr, &word, 8));

	ASSERT_EQ(0, device_pin(self->dev, &one));
	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		dma = bad[i].dma;
		EXPECT_EQ(bad[i].error,
			  try_ioctl(self->dev, DEVEX_IOC_DMA, &dma))
			TH_LOG("number %zu", i);
	}
	EXPECT_EQ(0, device_read(self->dev, one.addr + size - 8, &word, 8));
	EXPECT_EQ(memory_value(SEED, 0, size / 8 - 1), word);
	ASSERT_EQ(0, device_unpin(self->dev, &one));
	expect_idle(_metadata, self->dev, &self->mem);
}

TEST_F(ioctl, bad_query)
{
	const uint64_t addr = (uintptr_t)self->mem.addr, size = page_size();
	uint8_t byte;
	const uint64_t held = (uintptr_t)&byte;
	const struct {
		struct devex_query query;
		int error;
	} bad[] = {
		{ { addr + 1, size, held, 0 }, -EINVAL },
		{ { addr, 0, held, 0 }, -EINVAL },
		{ { addr, size + 1, held, 0 }, -EINVAL },
		{ { addr, -size, held, 0 }, -EINVAL },
		{ { addr, size, held, 1 }, -EINVAL },
		{ { 1ULL << 63, size, held, 0 }, -EFAULT },
		{ { addr, size, 0, 0 }, -EFAULT },
		{ { addr, size, 1ULL << 63, 0 }, -EFAULT },
	};
	struct devex_counters counters = { .reserved = 1 };
	struct devex_query query;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		query = bad[i].query;
		EXPECT_EQ(bad[i].error,
			  try_ioctl(self->dev, DEVEX_IOC_QUERY, &query))
			TH_LOG("number %zu", i);
	}
	EXPECT_EQ(-EINVAL,
		  try_ioctl(self->dev, DEVEX_IOC_COUNTERS, &counters));
	expect_idle(_metadata, self->dev, &self->mem);
}

/* The argument itself is not there. */
TEST_F(ioctl, bad_pointer)
{
	static const unsigned long commands[] = {
		DEVEX_IOC_MAKE, DEVEX_IOC_PIN, DEVEX_IOC_UNPIN,
		DEVEX_IOC_POISON, DEVEX_IOC_MIGRATE, DEVEX_IOC_ADD,
		DEVEX_IOC_DMA, DEVEX_IOC_QUERY, DEVEX_IOC_COUNTERS,
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		EXPECT_EQ(-EFAULT, try_ioctl(self->dev, commands[i], NULL));
		EXPECT_EQ(-EFAULT, try_ioctl(self->dev, commands[i],
					     (void *)(1UL << 63)));
		EXPECT_EQ(-EFAULT, try_ioctl(self->dev, commands[i],
					     (void *)-page_size()));
	}
	expect_idle(_metadata, self->dev, &self->mem);
}

TEST_F(ioctl, unknown)
{
	struct devex_range range = {
		.addr = (uintptr_t)self->mem.addr,
		.size = page_size(),
	};

	/* Another number, another size, another direction, another type */
	EXPECT_EQ(-ENOTTY, try_ioctl(self->dev,
				     _IOWR('x', 0x7f, struct devex_range),
				     &range));
	EXPECT_EQ(-ENOTTY, try_ioctl(self->dev,
				     _IOWR('x', 0x00, struct devex_add),
				     &range));
	EXPECT_EQ(-ENOTTY, try_ioctl(self->dev,
				     _IOW('x', 0x00, struct devex_range),
				     &range));
	EXPECT_EQ(-ENOTTY, try_ioctl(self->dev,
				     _IOWR('y', 0x00, struct devex_range),
				     &range));
	EXPECT_EQ(-ENOTTY, try_ioctl(self->dev, 0, &range));
	EXPECT_EQ(-ENOTTY, try_ioctl(self->dev, -1U, &range));
	expect_idle(_metadata, self->dev, &self->mem);
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
