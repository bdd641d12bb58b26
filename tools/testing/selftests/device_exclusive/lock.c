// SPDX-License-Identifier: GPL-2.0
/*
 * Folio locks: one call waits for the first folio of its range, where it can be
 * killed, and for no other one.
 */
#include "kselftest_harness.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "devex_util.h"

#define SEED		0x10

/* What a process that shares our memory exits with */
#define WAITED		42

FIXTURE(lock)
{
	struct memory mem;
	int keeper;	/* a device that keeps folios locked */
	int dev;	/* one that wants them */
};

FIXTURE_VARIANT(lock)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(lock, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(lock, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(lock, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(lock)
{
	self->keeper = device_open();
	ASSERT_LE(0, self->keeper);
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
}

FIXTURE_TEARDOWN(lock)
{
	if (self->keeper >= 0)
		close(self->keeper);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* A folio's worth of pages of @mem */
static size_t folio_pages(const struct memory *mem)
{
	return mem->nr / mem->folios;
}

struct waiter {
	const struct memory *mem;
	int dev;
	uint32_t flags;
	long made;
	pid_t tid;
	bool done;
	pthread_t thread;
	uint64_t stack[8 * 1024];
};

static int wait_and_make(void *data)
{
	struct waiter *waiter = data;

	__atomic_store_n(&waiter->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	waiter->made = device_make(waiter->dev, waiter->mem, waiter->flags);
	__atomic_store_n(&waiter->done, true, __ATOMIC_RELEASE);
	return WAITED;
}

static int wait_and_touch(void *data)
{
	struct waiter *waiter = data;

	__atomic_store_n(&waiter->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	touch(waiter->mem->addr);
	__atomic_store_n(&waiter->done, true, __ATOMIC_RELEASE);
	return WAITED;
}

static void *waiter_thread(void *data)
{
	wait_and_make(data);
	return NULL;
}

static bool is_done(struct waiter *waiter)
{
	return __atomic_load_n(&waiter->done, __ATOMIC_ACQUIRE);
}

/* It is waiting when it sleeps uninterruptibly. */
static void until_it_waits(struct __test_metadata *_metadata,
			   struct waiter *waiter)
{
	pid_t tid = 0;

	while (!tid || thread_state(tid) != 'D') {
		tid = __atomic_load_n(&waiter->tid, __ATOMIC_ACQUIRE);
		ASSERT_FALSE(is_done(waiter))
			TH_LOG("it did not wait, and made %ld", waiter->made);
	}
}

/* The range ends in front of a folio that is locked, but for the first. */
TEST_F(lock, stop)
{
	size_t first = self->mem.nr / 2, folio = folio_pages(&self->mem);
	struct memory kept = memory_part(&self->mem, first, 1);
	size_t front = folio < 4 ? 4 : folio;
	struct memory part = memory_part(&self->mem, first - front,
					 2 * front);

	ASSERT_EQ(1, device_make(self->keeper, &kept, DEVEX_RANGE_LOCKED));
	ASSERT_EQ((long)front, device_make(self->dev, &part, DEVEX_RANGE_ONCE |
					   DEVEX_RANGE_WAIT));
	EXPECT_EQ(front, memory_count(&part, PAGE_EXCLUSIVE) - 1);
	EXPECT_EQ((long)front, device_held(self->dev, &part));
	EXPECT_TRUE(is_exclusive(kept.addr));
	ASSERT_EQ(0, device_unlock(self->keeper));

	ASSERT_EQ((long)part.nr, device_make(self->dev, &part,
					     DEVEX_RANGE_ONCE));
	EXPECT_EQ(0, device_held(self->keeper, &part));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* For the first it waits, and gets it. */
static void wait_for(struct __test_metadata *_metadata, int keeper, int dev,
		     const struct memory *kept, const struct memory *wanted)
{
	struct waiter waiter = {
		.mem = wanted,
		.dev = dev,
		.flags = DEVEX_RANGE_WAIT | DEVEX_RANGE_ONCE,
	};

	ASSERT_EQ(1, device_make(keeper, kept, DEVEX_RANGE_LOCKED));
	ASSERT_EQ(0, pthread_create(&waiter.thread, NULL, waiter_thread,
				    &waiter));
	until_it_waits(_metadata, &waiter);
	EXPECT_EQ(1, device_held(keeper, kept));
	EXPECT_TRUE(is_exclusive(kept->addr));

	/* Meanwhile its owner may use it. */
	EXPECT_EQ(0, device_add(keeper, memory_word(kept, 0), 1, 8));
	EXPECT_FALSE(is_done(&waiter));
	ASSERT_EQ(0, device_unlock(keeper));
	ASSERT_EQ(0, pthread_join(waiter.thread, NULL));
	EXPECT_EQ((long)wanted->nr, waiter.made);
	EXPECT_EQ((long)wanted->nr, device_held(dev, wanted));
	EXPECT_EQ(memory_value(SEED, kept->first, 0) + 8,
		  read_word(memory_word(kept, 0)));
}

TEST_F(lock, wait)
{
	struct memory kept = memory_part(&self->mem, 9, 1);
	struct memory wanted = memory_part(&self->mem, 9, 5);

	wait_for(_metadata, self->keeper, self->dev, &kept, &wanted);
}

/* The first page is not the locked one, but in the same folio. */
TEST_F(lock, wait_neighbour)
{
	struct memory kept = memory_part(&self->mem, 9, 1);
	struct memory wanted = memory_part(&self->mem, 10, 5);

	if (variant->kind == SMALL) {
		/* No such thing: it does not have to wait. */
		ASSERT_EQ(1, device_make(self->keeper, &kept,
					 DEVEX_RANGE_LOCKED));
		ASSERT_EQ(5, device_make(self->dev, &wanted,
					 DEVEX_RANGE_WAIT));
		EXPECT_EQ(1, device_held(self->keeper, &kept));
		return;
	}
	wait_for(_metadata, self->keeper, self->dev, &kept, &wanted);
}

/*
 * A process that shares our memory, but is not a thread of ours: when it is
 * killed, our devices go on keeping what they keep.
 */
static void kill_waiter(struct __test_metadata *_metadata,
			int (*work)(void *data), struct waiter *waiter)
{
	pid_t pid;

	pid = clone(work, waiter->stack + ARRAY_SIZE(waiter->stack),
		    CLONE_VM | CLONE_FILES | SIGCHLD, waiter);
	ASSERT_LT(0, pid);
	until_it_waits(_metadata, waiter);

	/* A signal that it would survive does not wake it up. */
	ASSERT_EQ(0, kill(pid, SIGWINCH));
	EXPECT_EQ('D', thread_state(pid));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	/* If it cannot be killed, this waits until the test's time is up. */
	EXPECT_EQ(128 + SIGKILL, child_exit(pid));
	EXPECT_FALSE(is_done(waiter));
}

static void kill_and_go_on(struct __test_metadata *_metadata, int keeper,
			   int dev, const struct memory *mem,
			   int (*work)(void *data), uint32_t flags)
{
	struct memory kept = memory_part(mem, 9, 1);
	struct memory wanted = memory_part(mem, 9, 5);
	struct devex_counters counters;
	struct waiter *waiter;

	waiter = calloc(1, sizeof(*waiter));
	ASSERT_NE(NULL, waiter);
	waiter->mem = &wanted;
	waiter->dev = dev;
	waiter->flags = flags;

	ASSERT_EQ(1, device_make(keeper, &kept, DEVEX_RANGE_LOCKED));
	kill_waiter(_metadata, work, waiter);

	/* Nothing has changed, */
	ASSERT_EQ(0, device_counters(keeper, &counters));
	EXPECT_EQ(1, counters.locked);
	EXPECT_EQ(1, counters.held);
	EXPECT_TRUE(is_exclusive(kept.addr));
	EXPECT_EQ(0, device_held(dev, &wanted));

	/* and no lock is left behind. */
	ASSERT_EQ(0, device_unlock(keeper));
	EXPECT_EQ(5, device_make(dev, &wanted, DEVEX_RANGE_LOCKED));
	ASSERT_EQ(0, device_unlock(dev));
	EXPECT_EQ(0, memory_wrong(mem, SEED));
	free(waiter);
}

TEST_F_TIMEOUT(lock, kill, 20)
{
	kill_and_go_on(_metadata, self->keeper, self->dev, &self->mem,
		       wait_and_make, DEVEX_RANGE_WAIT);
}

TEST_F_TIMEOUT(lock, kill_single, 20)
{
	kill_and_go_on(_metadata, self->keeper, self->dev, &self->mem,
		       wait_and_make, DEVEX_RANGE_WAIT | DEVEX_RANGE_SINGLE);
}

/* The same with the fault of a CPU */
TEST_F_TIMEOUT(lock, kill_touch, 20)
{
	kill_and_go_on(_metadata, self->keeper, self->dev, &self->mem,
		       wait_and_touch, 0);
}

/* One who is killed while he gets a lot of memory does not get all of it. */
TEST(kill_in_the_middle)
{
	const size_t gib = 1UL << 30, mib = 1UL << 20;
	struct memory mem = {
		.size = gib,
		.nr = gib / page_size(),
	};
	struct cgroup cgroup;
	unsigned long rss;
	char path[128];
	struct peer peer;
	int dev;

	/* The cgroup is the child's, and outlives it. */
	ASSERT_EQ(0, cgroup_enter(&cgroup));
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		dev = device_open();
		mem.addr = mmap(NULL, gib, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		madvise(mem.addr, gib, MADV_NOHUGEPAGE);
		peer_tell(&peer);
		device_make(dev, &mem, DEVEX_RANGE_ONCE);
		_exit(0);
	}
	ASSERT_TRUE(peer_wait(&peer));
	snprintf(path, sizeof(path), "%s/memory.current", cgroup.path);
	do {
		rss = read_number(path);
		ASSERT_EQ(0, waitpid(peer.pid, NULL, WNOHANG))
			TH_LOG("it came to an end by itself");
	} while (rss < 16 * mib);
	ASSERT_EQ(0, kill(peer.pid, SIGKILL));
	EXPECT_EQ(128 + SIGKILL, peer_exit(&peer));

	snprintf(path, sizeof(path), "%s/memory.peak", cgroup.path);
	EXPECT_GT(gib / 2, read_number(path));
	TH_LOG("killed at %lu MiB, ended at %lu MiB", rss / mib,
	       read_number(path) / mib);
	cgroup_leave(&cgroup);
}

TEST_HARNESS_MAIN
