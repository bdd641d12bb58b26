// SPDX-License-Identifier: GPL-2.0
/*
 * What else can happen to memory while a device has it: changes of the mapping,
 * the end of the process, migration. The data must be right afterwards, and the
 * device must be told when it loses a page.
 */
#include "kselftest_harness.h"
#include <linux/mempolicy.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include "devex_util.h"

#define SEED		0x10
#define OTHER_SEED	0x20

/* What a program that is executed by a test exits with */
#define EXEC_OK		42

static void expect_held(struct __test_metadata *_metadata, int dev,
			const struct memory *mem, size_t nr)
{
	struct devex_counters counters;

	EXPECT_EQ((long)nr, device_held(dev, mem));
	EXPECT_EQ(0, device_counters(dev, &counters));
	EXPECT_EQ(nr, counters.held);
}

/*
 * Changes of the mapping, and its end
 */
FIXTURE(lifetime)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(lifetime)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(lifetime, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(lifetime, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(lifetime, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(lifetime, lazyfree)
{
	.kind = LAZYFREE,
};

FIXTURE_VARIANT_ADD(lifetime, ksm)
{
	.kind = KSM,
};

FIXTURE_VARIANT_ADD(lifetime, mremapped)
{
	.kind = MREMAPPED,
};

FIXTURE_VARIANT_ADD(lifetime, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_SETUP(lifetime)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
}

FIXTURE_TEARDOWN(lifetime)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* Read-only for a while */
TEST_F(lifetime, mprotect)
{
	const struct memory *mem = &self->mem;

	ASSERT_EQ(0, device_use(self->dev, mem));
	ASSERT_EQ(0, mprotect(mem->addr, mem->size, PROT_READ));
	expect_held(_metadata, self->dev, mem, 0);
	EXPECT_EQ(-EFAULT, device_make(self->dev, mem, 0));
	EXPECT_EQ(memory_value(SEED, 3, 1), memory_word(mem, 3)[1]);

	ASSERT_EQ(0, mprotect(mem->addr, mem->size, PROT_READ | PROT_WRITE));
	EXPECT_EQ((long)mem->nr, device_make(self->dev, mem, 0));
	expect_held(_metadata, self->dev, mem, mem->nr);
	EXPECT_EQ(0, memory_wrong_after_use(mem, SEED));
}

/* A part of it goes away. */
TEST_F(lifetime, munmap)
{
	struct memory gone = memory_part(&self->mem, 8, self->mem.nr / 2);
	struct memory low = memory_part(&self->mem, 0, 8);
	struct memory high = memory_part(&self->mem, 8 + gone.nr,
					 self->mem.nr - 8 - gone.nr);

	ASSERT_EQ(0, device_use(self->dev, &self->mem));
	ASSERT_EQ(0, munmap(gone.addr, gone.size));
	/* More may be lost than that: the kernel tells it about whole PMDs. */
	EXPECT_EQ(0, device_held(self->dev, &gone));
	EXPECT_TRUE(device_agrees(self->dev, &self->mem));
	EXPECT_EQ(-EFAULT, device_make(self->dev, &gone, 0));
	EXPECT_EQ(low.nr, memory_count(&low, PAGE_EXCLUSIVE));
	EXPECT_EQ(high.nr, memory_count(&high, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, memory_wrong_after_use(&low, SEED));
	EXPECT_EQ(0, memory_wrong_after_use(&high, SEED));
}

/* A part of it is thrown away, and zero from then on. */
TEST_F(lifetime, dontneed)
{
	struct memory gone = memory_part(&self->mem, 8, self->mem.nr / 2);
	struct memory low = memory_part(&self->mem, 0, 8);
	size_t i, wrong = 0;

	ASSERT_EQ(0, device_use(self->dev, &self->mem));
	ASSERT_EQ(0, madvise(gone.addr, gone.size, MADV_DONTNEED));
	EXPECT_EQ(gone.nr, memory_count(&gone, PAGE_NONE));
	EXPECT_EQ(0, device_held(self->dev, &gone));
	expect_held(_metadata, self->dev, &self->mem,
		    self->mem.nr - gone.nr);

	/* New memory, which the device can have again */
	ASSERT_EQ((long)gone.nr, device_make(self->dev, &gone, 0));
	for (i = 0; i < gone.nr; i++)
		wrong += read_word(memory_word(&gone, i)) != 0;
	EXPECT_EQ(0, wrong);
	EXPECT_EQ(0, memory_wrong_after_use(&low, SEED));
}

/* MADV_FREE with the entries present: nobody needs the memory, so it stays. */
TEST_F(lifetime, madv_free)
{
	const struct memory *mem = &self->mem;

	ASSERT_EQ(0, device_use(self->dev, mem));
	ASSERT_EQ(0, madvise(mem->addr, mem->size, MADV_FREE));
	EXPECT_TRUE(device_agrees(self->dev, mem));
	EXPECT_EQ(0, memory_wrong_after_use(mem, SEED));
	EXPECT_TRUE(device_agrees(self->dev, mem));
}

/* MADV_PAGEOUT with the entries present: whatever it does, nothing is lost. */
TEST_F(lifetime, pageout)
{
	const struct memory *mem = &self->mem;

	ASSERT_EQ(0, device_use(self->dev, mem));
	ASSERT_EQ(0, madvise(mem->addr, mem->size, MADV_PAGEOUT));
	EXPECT_EQ(0, memory_count(mem, PAGE_OTHER));
	EXPECT_TRUE(device_agrees(self->dev, mem));
	EXPECT_EQ(0, memory_wrong_after_use(mem, SEED));
	expect_held(_metadata, self->dev, mem, 0);
}

/* It moves to another address, where the device has nothing. */
TEST_F(lifetime, mremap)
{
	struct memory moved = self->mem;
	char *target, *addr;

	/* At another offset in its page table */
	target = mmap(NULL, self->mem.size + thp_size(), PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, target);
	if (((uintptr_t)target ^ (uintptr_t)self->mem.addr) % thp_size() == 0)
		target += page_size();

	ASSERT_EQ(0, device_use(self->dev, &self->mem));
	addr = mremap(self->mem.addr, self->mem.size, self->mem.size,
		      MREMAP_MAYMOVE | MREMAP_FIXED, target);
	ASSERT_EQ(target, addr);
	moved.addr = addr;
	expect_held(_metadata, self->dev, &self->mem, 0);
	expect_held(_metadata, self->dev, &moved, 0);
	EXPECT_EQ(moved.nr, memory_count(&self->mem, PAGE_NONE));
	EXPECT_EQ(0, memory_count(&moved, PAGE_NONE));
	EXPECT_EQ(0, memory_count(&moved, PAGE_OTHER));

	/* It can have it there. */
	ASSERT_EQ((long)moved.nr, device_make(self->dev, &moved, 0));
	EXPECT_EQ(0, memory_wrong_after_use(&moved, SEED));
}

/* Get the file @fd of another process. */
static int steal_file(pid_t pid, int fd)
{
	int pidfd, ret;

	pidfd = syscall(SYS_pidfd_open, pid, 0);
	ret = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
	close(pidfd);
	return ret;
}

/*
 * A child gives its memory to a device and then comes to an end, while the
 * device itself lives on in our hands.
 */
static void end_of_process(struct __test_metadata *_metadata,
			   enum memory_kind kind, uint32_t flags, int signal)
{
	const int its_fd = 100;
	struct devex_counters counters;
	struct memory mem;
	struct peer peer;
	int dev;

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		dev = device_open();
		EXPECT_EQ(its_fd, dup2(dev, its_fd));
		EXPECT_EQ(0, memory_map(&mem, kind, OTHER_SEED));
		EXPECT_EQ((long)mem.nr, device_make(dev, &mem, flags));
		peer_tell(&peer);
		peer_wait(&peer);
		_exit(0);
	}
	ASSERT_TRUE(peer_wait(&peer));
	dev = steal_file(peer.pid, its_fd);
	ASSERT_LE(0, dev);
	ASSERT_EQ(0, device_counters(dev, &counters));
	EXPECT_LT(0, counters.held);
	EXPECT_EQ(!!(flags & DEVEX_RANGE_LOCKED), !!counters.locked);

	if (signal)
		kill(peer.pid, signal);
	else
		peer_tell(&peer);
	EXPECT_EQ(signal ? 128 + signal : 0, peer_exit(&peer));

	/* The device was told. It has not lost the locks at once, but soon. */
	ASSERT_EQ(0, device_counters(dev, &counters));
	EXPECT_EQ(0, counters.held);
	while (counters.locked) {
		usleep(10000);
		ASSERT_EQ(0, device_counters(dev, &counters));
	}
	close(dev);
}

TEST_F(lifetime, exit)
{
	end_of_process(_metadata, variant->kind, 0, 0);
}

TEST_F(lifetime, exit_locked)
{
	end_of_process(_metadata, variant->kind, DEVEX_RANGE_LOCKED, 0);
}

TEST_F(lifetime, kill)
{
	end_of_process(_metadata, variant->kind, 0, SIGKILL);
}

TEST_F(lifetime, kill_locked)
{
	end_of_process(_metadata, variant->kind, DEVEX_RANGE_LOCKED, SIGKILL);
}

/* The process becomes another program, which inherits the device. */
TEST_F(lifetime, exec)
{
	const struct memory *mem = &self->mem;
	struct memory own;
	char fd[16];
	pid_t pid;
	int dev;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		dev = device_open();
		EXPECT_LE(0, dev);
		EXPECT_EQ(0, memory_map(&own, mem->kind, OTHER_SEED));
		ASSERT_EQ(0, device_use(dev, &own));
		snprintf(fd, sizeof(fd), "%d", dev);
		execl("/proc/self/exe", "lifetime", "after-exec", fd, NULL);
		_exit(1);
	}
	EXPECT_EQ(EXEC_OK, child_exit(pid));
}

/* What the other program is: the device has nothing, and takes no orders. */
static int after_exec(int dev)
{
	struct devex_counters counters;
	struct memory mem;

	if (device_counters(dev, &counters) || counters.held)
		return 1;
	if (memory_map(&mem, SMALL, SEED))
		return 2;
	if (device_make(dev, &mem, 0) != -EACCES)
		return 3;
	return EXEC_OK;
}

/*
 * Migration, between NUMA nodes and in compaction
 */
FIXTURE(migrate)
{
	struct memory mem;
	int node;	/* to which to migrate */
	int dev;
};

FIXTURE_VARIANT(migrate)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(migrate, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(migrate, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(migrate, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(migrate, lazyfree)
{
	.kind = LAZYFREE,
};

/* Where a page is, and with @node, where it is after an attempt to move it */
static int move_page(const char *addr, const int *node)
{
	const void *page = addr;
	int status = -EIO;

	if (syscall(SYS_move_pages, 0, 1, &page, node, &status, MPOL_MF_MOVE))
		return -errno;
	return status;
}

FIXTURE_SETUP(migrate)
{
	int node;

	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("there is one NUMA node only; boot with numa=fake=2");
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
	ASSERT_EQ(0, drain_lru());
	node = move_page(self->mem.addr, NULL);
	ASSERT_LE(0, node);
	self->node = node ? 0 : 1;
}

FIXTURE_TEARDOWN(migrate)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* move_pages(2): it moves a page, or says that it finds none. */
TEST_F(migrate, move_pages)
{
	const struct memory *mem = &self->mem;
	struct memory page;
	size_t i, moved = 0;
	int status;

	ASSERT_EQ(0, device_use(self->dev, mem));
	for (i = 0; i < mem->nr; i += mem->nr / 16) {
		page = memory_part(mem, i, 1);
		status = move_page(page.addr, &self->node);
		if (status == self->node) {
			EXPECT_EQ(0, device_held(self->dev, &page));
			moved++;
		} else {
			EXPECT_EQ(-ENOENT, status);
			EXPECT_TRUE(is_exclusive(page.addr));
		}
	}
	TH_LOG("%zu of 16 pages moved", moved);
	EXPECT_TRUE(device_agrees(self->dev, mem));
	EXPECT_EQ(0, memory_wrong_after_use(mem, SEED));
	expect_held(_metadata, self->dev, mem, 0);
}

/* A present page is moved, and with it all pages of the same folio. */
TEST_F(migrate, neighbour)
{
	bool same = variant->kind == PTEMAP || variant->kind == THP;
	struct memory some = memory_part(&self->mem, 1, 7);
	char *neighbour = memory_page(&self->mem, 9);
	uint64_t pfns[7];

	ASSERT_EQ(0, device_use(self->dev, &some));
	memory_pfns(&some, pfns);

	ASSERT_EQ(self->node, move_page(neighbour, &self->node));
	EXPECT_EQ(same ? some.nr : 0, memory_moved(&some, pfns));
	EXPECT_EQ(same ? 0 : some.nr, memory_count(&some, PAGE_EXCLUSIVE));
	expect_held(_metadata, self->dev, &some, same ? 0 : some.nr);
	EXPECT_EQ(0, memory_wrong_after_use(&some, SEED));

	/* The device can have them where they are now. */
	EXPECT_EQ((long)some.nr, device_make(self->dev, &some, 0));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* Pages that take turns on the two nodes, until @stop */
struct mover {
	const struct memory *mem;
	unsigned int moved;
	bool stop;
	pthread_t thread;
};

static void *move_thread(void *data)
{
	struct mover *mover = data;
	const struct memory *mem = mover->mem;
	int nodes[mem->nr], status[mem->nr];
	const void *pages[mem->nr];
	unsigned int turn;
	size_t i;

	for (i = 0; i < mem->nr; i++)
		pages[i] = memory_page(mem, i);
	for (turn = 0; !__atomic_load_n(&mover->stop, __ATOMIC_RELAXED); turn++) {
		for (i = 0; i < mem->nr; i++)
			nodes[i] = turn % 2;
		if (syscall(SYS_move_pages, 0, mem->nr, pages, nodes, status,
			    MPOL_MF_MOVE))
			continue;
		for (i = 0; i < mem->nr; i++)
			mover->moved += status[i] == nodes[i];
	}
	return NULL;
}

/* The device gets pages that are being moved, and nothing is lost. */
TEST_F(migrate, make_while_moving)
{
	struct memory some = memory_part(&self->mem, 0, 32);
	struct mover mover = { .mem = &some };
	size_t page;
	int round;

	ASSERT_EQ(0, pthread_create(&mover.thread, NULL, move_thread, &mover));
	for (round = 0; round < 30; round++) {
		page = round % some.nr;
		ASSERT_LT(0, device_make(self->dev, &some, 0));
		ASSERT_EQ(0, device_add(self->dev, memory_word(&some, page), 1,
					1));
		EXPECT_EQ(memory_value(SEED, page, 0) + 1,
			  read_word(memory_word(&some, page)));
		__atomic_fetch_sub(memory_word(&some, page), 1,
				   __ATOMIC_RELAXED);
		EXPECT_EQ(0, memory_wrong(&some, SEED));
	}
	__atomic_store_n(&mover.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(mover.thread, NULL));
	TH_LOG("%u pages moved", mover.moved);
	EXPECT_LT(0, mover.moved);
	/* Not before: what the device holds and what is mapped are two questions. */
	EXPECT_TRUE(device_agrees(self->dev, &some));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* migrate_pages(2) of the whole process */
TEST_F(migrate, migrate_pages)
{
	const struct memory *mem = &self->mem;
	unsigned long from = 1UL << !self->node, to = 1UL << self->node;

	ASSERT_EQ(0, device_use(self->dev, mem));
	ASSERT_LE(0, syscall(SYS_migrate_pages, 0, 8 * sizeof(from), &from,
			     &to));
	EXPECT_TRUE(device_agrees(self->dev, mem));
	EXPECT_EQ(0, memory_wrong_after_use(mem, SEED));
	expect_held(_metadata, self->dev, mem, 0);
}

/* Compaction */
TEST_F(migrate, compact)
{
	const struct memory *mem = &self->mem;

	ASSERT_EQ(0, device_use(self->dev, mem));
	ASSERT_EQ(0, write_file("/proc/sys/vm/compact_memory", "1"));
	EXPECT_EQ(0, memory_count(mem, PAGE_OTHER));
	EXPECT_TRUE(device_agrees(self->dev, mem));
	EXPECT_EQ(0, memory_wrong_after_use(mem, SEED));
	expect_held(_metadata, self->dev, mem, 0);
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "after-exec"))
		return after_exec(atoi(argv[2]));
	return test_harness_run(argc, argv);
}
