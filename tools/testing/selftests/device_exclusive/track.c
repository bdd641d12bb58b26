// SPDX-License-Identifier: GPL-2.0
/*
 * What the kernel keeps track of in the entries of a page table: who has
 * written since when. Neither may get lost while a device has the page, nor may
 * the device write without being seen.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#include "devex_util.h"

#define SEED		0x10
#define OTHER_SEED	0x20

/* Of a THP only some of the pages take part. */
#define PAGES		48

#define PAGE_IDLE	"/sys/kernel/mm/page_idle/bitmap"
#define NUMA_BALANCING	"/proc/sys/kernel/numa_balancing"
#define NUMA_DEBUGFS	"/sys/kernel/debug/sched/numa_balancing/"

static void make_all(struct __test_metadata *_metadata, int dev,
		     const struct memory *mem)
{
	ASSERT_EQ((long)mem->nr, device_make(dev, mem, 0));
	ASSERT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	ASSERT_EQ((long)mem->nr, device_held(dev, mem));
}

/*
 * userfaultfd, for writes only or for any access. The kernel resolves the
 * faults itself and notes them by clearing the bit in the entry.
 */
FIXTURE(uffd)
{
	struct memory mem;
	struct memory part;	/* what the test is about */
	int uffd;
	int dev;
};

FIXTURE_VARIANT(uffd)
{
	enum memory_kind kind;
	bool any_access;
};

FIXTURE_VARIANT_ADD(uffd, write_small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(uffd, write_ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(uffd, write_thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(uffd, access_small)
{
	.kind = SMALL,
	.any_access = true,
};

FIXTURE_VARIANT_ADD(uffd, access_ptemap)
{
	.kind = PTEMAP,
	.any_access = true,
};

FIXTURE_VARIANT_ADD(uffd, access_thp)
{
	.kind = THP,
	.any_access = true,
};

static int uffd_open(struct __test_metadata *_metadata, uint64_t features)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = features,
	};
	int fd;

	fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	ASSERT_LE(0, fd);
	ASSERT_EQ(0, ioctl(fd, UFFDIO_API, &api))
		TH_LOG("UFFDIO_API: %s", strerror(errno));
	return fd;
}

static void uffd_register(struct __test_metadata *_metadata, int uffd,
			  const struct memory *mem, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)mem->addr, mem->size },
		.mode = mode,
	};

	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg))
		TH_LOG("UFFDIO_REGISTER: %s", strerror(errno));
}

FIXTURE_SETUP(uffd)
{
	self->uffd = -1;
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
	self->part = memory_part(&self->mem, 8, PAGES);
	if (variant->any_access) {
		self->uffd = uffd_open(_metadata, UFFD_FEATURE_RWP |
				       UFFD_FEATURE_RWP_ASYNC);
		uffd_register(_metadata, self->uffd, &self->mem,
			      UFFDIO_REGISTER_MODE_RWP);
	} else {
		self->uffd = uffd_open(_metadata, UFFD_FEATURE_WP_ASYNC |
				       UFFD_FEATURE_PAGEFAULT_FLAG_WP);
		uffd_register(_metadata, self->uffd, &self->mem,
			      UFFDIO_REGISTER_MODE_WP);
	}
}

FIXTURE_TEARDOWN(uffd)
{
	if (self->uffd >= 0)
		close(self->uffd);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* From now on accesses are noted. */
static void protect(struct __test_metadata *_metadata, int uffd,
		    const struct memory *mem, bool any_access)
{
	struct uffdio_writeprotect wp = {
		.range = { (uintptr_t)mem->addr, mem->size },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	struct uffdio_rwprotect rwp = {
		.range = { (uintptr_t)mem->addr, mem->size },
		.mode = UFFDIO_RWPROTECT_MODE_RWP,
	};

	ASSERT_EQ(0, any_access ? ioctl(uffd, UFFDIO_RWPROTECT, &rwp) :
				  ioctl(uffd, UFFDIO_WRITEPROTECT, &wp));
	ASSERT_EQ(mem->nr, memory_count_bit(mem, PM_UFFD_WP));
}

/* Protecting what a device has takes it from the device. */
TEST_F(uffd, protect_exclusive)
{
	struct memory read = memory_part(&self->part, 0, 8);
	struct memory write = memory_part(&self->part, 8, 8);
	struct memory rest = memory_part(&self->part, 16, PAGES - 16);
	size_t i;

	make_all(_metadata, self->dev, &self->part);
	protect(_metadata, self->uffd, &self->part, variant->any_access);
	EXPECT_EQ(PAGES, memory_count(&self->part, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, device_held(self->dev, &self->part));

	/* A page that is read is still protected against writes. */
	for (i = 0; i < read.nr; i++)
		touch(memory_page(&read, i));
	EXPECT_EQ(read.nr, memory_count(&read, PAGE_PRESENT));
	EXPECT_EQ(variant->any_access ? 0 : read.nr,
		  memory_count_bit(&read, PM_UFFD_WP));

	for (i = 0; i < write.nr; i++)
		write_word(memory_word(&write, i), 7);
	EXPECT_EQ(0, memory_count_bit(&write, PM_UFFD_WP));
	for (i = 0; i < read.nr; i++)
		write_word(memory_word(&read, i), 7);
	EXPECT_EQ(0, memory_count_bit(&read, PM_UFFD_WP));

	EXPECT_EQ(rest.nr, memory_count_bit(&rest, PM_UFFD_WP));
	EXPECT_EQ(rest.nr, memory_count(&rest, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, memory_wrong(&rest, SEED));
}

/* The device may write to what it gets: that is a write, and noted. */
TEST_F(uffd, device_writes)
{
	protect(_metadata, self->uffd, &self->part, variant->any_access);
	make_all(_metadata, self->dev, &self->part);
	EXPECT_EQ(0, memory_count_bit(&self->part, PM_UFFD_WP));

	/* The same if the entries are exclusive already. */
	protect(_metadata, self->uffd, &self->part, variant->any_access);
	EXPECT_EQ(0, device_held(self->dev, &self->part));
	make_all(_metadata, self->dev, &self->part);
	EXPECT_EQ(0, memory_count_bit(&self->part, PM_UFFD_WP));

	ASSERT_EQ(0, device_add(self->dev, memory_word(&self->part, 5), 3, 1));
	EXPECT_EQ(0, memory_count_bit(&self->part, PM_UFFD_WP));
	EXPECT_EQ(memory_value(SEED, 13, 0) + 3,
		  read_word(memory_word(&self->part, 5)));
	*memory_word(&self->part, 5) -= 3;
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* A call in a thread of its own, to see whether it ends */
struct call {
	const struct memory *mem;
	uint32_t flags;
	long ret;
	int dev;
	pid_t tid;
	bool done;
	pthread_t thread;
};

static void *call_thread(void *data)
{
	struct call *call = data;

	__atomic_store_n(&call->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	call->ret = device_make(call->dev, call->mem, call->flags);
	__atomic_store_n(&call->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void call_start(struct __test_metadata *_metadata, struct call *call)
{
	call->done = false;
	call->tid = 0;
	ASSERT_EQ(0, pthread_create(&call->thread, NULL, call_thread, call));
}

/* It waits, at least for a moment, or it has ended. */
static void until_call_waits(struct call *call)
{
	pid_t tid = 0;

	while (!__atomic_load_n(&call->done, __ATOMIC_ACQUIRE) &&
	       !(tid && thread_state(tid) == 'D'))
		tid = __atomic_load_n(&call->tid, __ATOMIC_ACQUIRE);
}

static bool call_ends_within(struct call *call, long milliseconds)
{
	struct timespec now, start;
	bool done, in_time;

	clock_gettime(CLOCK_MONOTONIC, &start);
	do {
		usleep(1000);
		done = __atomic_load_n(&call->done, __ATOMIC_ACQUIRE);
		clock_gettime(CLOCK_MONOTONIC, &now);
		in_time = (now.tv_sec - start.tv_sec) * 1000 +
			  (now.tv_nsec - start.tv_nsec) / 1000000 < milliseconds;
	} while (!done && in_time);
	return done;
}

/* Of the second folio, the first page is exclusive and locked by @keeper. */
static struct memory lock_second_folio(struct __test_metadata *_metadata,
				       int keeper, const struct memory *mem)
{
	struct memory kept = memory_part(mem, mem->nr / 2, 1);

	ASSERT_EQ(1, device_make(keeper, &kept, DEVEX_RANGE_LOCKED));
	return kept;
}

/* For that page and those in front of it, the call does not wait for long. */
static void expect_short(struct __test_metadata *_metadata, int keeper, int dev,
			 const struct memory *mem)
{
	struct memory part = memory_part(mem, mem->nr / 2 - 4, 8);
	struct call call = {
		.mem = &part,
		.flags = DEVEX_RANGE_ONCE | DEVEX_RANGE_WAIT,
		.dev = dev,
	};
	bool ends;

	call_start(_metadata, &call);
	ends = call_ends_within(&call, 10000);
	EXPECT_TRUE(ends)
		TH_LOG("it waits for another page than the first");
	ASSERT_EQ(0, device_unlock(keeper));
	ASSERT_EQ(0, pthread_join(call.thread, NULL));
	if (ends)
		EXPECT_EQ(4, call.ret);
	EXPECT_EQ(call.ret, device_held(dev, &part));
}

/*
 * A page is exclusive and protected, and its folio is locked: that is not what
 * userfaultfd has to do with. As the first page, it is waited for.
 */
TEST_F(uffd, locked_first)
{
	struct call call = { .flags = DEVEX_RANGE_WAIT, .dev = self->dev };
	int keeper = device_open();
	struct memory kept;

	ASSERT_LE(0, keeper);
	kept = lock_second_folio(_metadata, keeper, &self->mem);
	protect(_metadata, self->uffd, &kept, variant->any_access);
	call.mem = &kept;
	call_start(_metadata, &call);
	until_call_waits(&call);
	EXPECT_FALSE(call_ends_within(&call, 300))
		TH_LOG("it does not wait, and returns %ld", call.ret);
	ASSERT_EQ(0, device_unlock(keeper));
	ASSERT_EQ(0, pthread_join(call.thread, NULL));
	EXPECT_EQ(1, call.ret);
	EXPECT_EQ(1, device_held(self->dev, &kept));
	EXPECT_EQ(0, memory_count_bit(&kept, PM_UFFD_WP));
	close(keeper);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* As a later page, it is not waited for. */
TEST_F(uffd, locked_later)
{
	int keeper = device_open();
	struct memory kept;

	ASSERT_LE(0, keeper);
	kept = lock_second_folio(_metadata, keeper, &self->mem);
	protect(_metadata, self->uffd, &kept, variant->any_access);
	expect_short(_metadata, keeper, self->dev, &self->mem);
	close(keeper);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/*
 * What is missing is for userfaultfd to provide. Nobody can wait for that with
 * the mmap_lock held: the call gives what there is in front of it.
 */
FIXTURE(missing)
{
	struct memory mem;	/* the first half is there */
	struct memory there;
	struct memory missing;
	int uffd;
	int dev;
};

FIXTURE_SETUP(missing)
{
	const size_t half = PAGES / 2;
	struct memory all;

	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&all, SMALL, SEED));
	self->mem = memory_part(&all, 0, 2 * half);
	self->there = memory_part(&all, 0, half);
	self->missing = memory_part(&all, half, half);
	ASSERT_EQ(0, madvise(self->missing.addr, self->missing.size,
			     MADV_DONTNEED));
	self->uffd = uffd_open(_metadata, 0);
	uffd_register(_metadata, self->uffd, &self->mem,
		      UFFDIO_REGISTER_MODE_MISSING);
}

/* If a call does not end, to close the userfaultfd would wait for it. */
FIXTURE_TEARDOWN(missing) {}

TEST_F(missing, make)
{
	EXPECT_EQ((long)self->there.nr,
		  device_make(self->dev, &self->mem, DEVEX_RANGE_ONCE));
	EXPECT_EQ(self->there.nr, memory_count(&self->mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(-EFAULT, device_make(self->dev, &self->missing,
				       DEVEX_RANGE_ONCE));
	EXPECT_EQ(self->missing.nr, memory_count(&self->missing, PAGE_NONE));
	EXPECT_EQ(0, memory_wrong(&self->there, SEED));
}

/*
 * The first page is lost meanwhile: it must not wait for ever for that one, nor
 * wait at all for the others.
 */
TEST_F(missing, discarded_meanwhile)
{
	const struct memory first = memory_part(&self->mem, 0, 1);
	struct call call = {
		.mem = &self->mem,
		.flags = DEVEX_RANGE_ONCE,
		.dev = self->dev,
	};
	struct uffdio_zeropage zero = {
		.range = { (uintptr_t)first.addr, first.size },
	};
	unsigned int delay;

	for (delay = 0; delay < 20; delay++) {
		call_start(_metadata, &call);
		usleep(delay * 1000);
		ASSERT_EQ(0, madvise(first.addr, first.size, MADV_DONTNEED));
		ASSERT_TRUE(call_ends_within(&call, 20000))
			TH_LOG("it does not end");
		ASSERT_EQ(0, pthread_join(call.thread, NULL));
		if (call.ret != -EFAULT) {
			EXPECT_LT(0, call.ret);
			EXPECT_GE((long)self->there.nr, call.ret);
		}
		ASSERT_EQ(0, ioctl(self->uffd, UFFDIO_ZEROPAGE, &zero));
	}
}

/*
 * Fork copies pinned pages for the child, and shares the others. If somebody
 * wants to note what the child does, too, that goes on there; otherwise nothing
 * is left of it in the child.
 */
FIXTURE(uffd_fork)
{
	struct memory mem;
	struct memory part;	/* what is pinned */
	int uffd;
	int dev;
};

FIXTURE_VARIANT(uffd_fork)
{
	enum memory_kind kind;
	bool any_access;
};

FIXTURE_VARIANT_ADD(uffd_fork, write_small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(uffd_fork, write_ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(uffd_fork, write_thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(uffd_fork, access_small)
{
	.kind = SMALL,
	.any_access = true,
};

FIXTURE_VARIANT_ADD(uffd_fork, access_ptemap)
{
	.kind = PTEMAP,
	.any_access = true,
};

FIXTURE_VARIANT_ADD(uffd_fork, access_thp)
{
	.kind = THP,
	.any_access = true,
};

FIXTURE_SETUP(uffd_fork)
{
	self->uffd = -1;
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
	/* A THP as a whole, or it would be mapped by PTEs */
	self->part = memory_part(&self->mem, 0, variant->kind == THP ?
				 thp_size() / page_size() : PAGES);
	ASSERT_EQ(0, device_pin(self->dev, &self->part));
}

FIXTURE_TEARDOWN(uffd_fork)
{
	if (self->uffd >= 0)
		close(self->uffd);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

static void uffd_fork_protect(struct __test_metadata *_metadata,
			      struct _test_data_uffd_fork *self,
			      bool any_access, uint64_t features)
{
	features |= any_access ? UFFD_FEATURE_RWP | UFFD_FEATURE_RWP_ASYNC :
		    UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
	self->uffd = uffd_open(_metadata, features);
	uffd_register(_metadata, self->uffd, &self->mem, any_access ?
		      UFFDIO_REGISTER_MODE_RWP : UFFDIO_REGISTER_MODE_WP);
	protect(_metadata, self->uffd, &self->mem, any_access);
}

/* The child: how many of the pages are noted for it, and are they all there? */
static int noted_and_right(const struct memory *mem, size_t noted)
{
	if (memory_count_bit(mem, PM_UFFD_WP) != noted)
		return 1;
	if (memory_count(mem, PAGE_PRESENT) != mem->nr)
		return 2;
	if (memory_wrong(mem, SEED))
		return 3;
	memory_fill(mem, OTHER_SEED);
	if (memory_count_bit(mem, PM_UFFD_WP))
		return 4;
	return memory_wrong(mem, OTHER_SEED) ? 5 : 0;
}

/* Until it is told of the child, fork waits. It then has a file for that, too. */
static void *fork_event(void *data)
{
	int *uffd = data, child = -1;
	struct pollfd fd = { .fd = *uffd, .events = POLLIN };
	struct uffd_msg msg;

	if (poll(&fd, 1, -1) == 1 &&
	    read(*uffd, &msg, sizeof(msg)) == sizeof(msg) &&
	    msg.event == UFFD_EVENT_FORK)
		child = msg.arg.fork.ufd;
	*uffd = child;
	return NULL;
}

TEST_F(uffd_fork, followed)
{
	pthread_t thread;
	int uffd;
	pid_t pid;

	uffd_fork_protect(_metadata, self, variant->any_access,
			  UFFD_FEATURE_EVENT_FORK);
	uffd = self->uffd;
	ASSERT_EQ(0, pthread_create(&thread, NULL, fork_event, &uffd));
	pid = fork();
	if (!pid)
		_exit(noted_and_right(&self->mem, self->mem.nr));
	ASSERT_LT(0, pid);
	EXPECT_EQ(0, child_exit(pid));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_LE(0, uffd);
	close(uffd);

	/* The parent's are its own. */
	EXPECT_EQ(self->mem.nr, memory_count_bit(&self->mem, PM_UFFD_WP));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

TEST_F(uffd_fork, alone)
{
	pid_t pid;

	uffd_fork_protect(_metadata, self, variant->any_access, 0);
	pid = fork();
	if (!pid)
		_exit(noted_and_right(&self->mem, 0));
	ASSERT_LT(0, pid);
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(self->mem.nr, memory_count_bit(&self->mem, PM_UFFD_WP));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* A thread that resolves faults, as of a process that is being migrated */
struct pager {
	int uffd;
	unsigned int faults;
	bool write_protected;
	pthread_t thread;
};

static void resolve(struct pager *pager, uint64_t addr)
{
	uint64_t page[page_size() / sizeof(addr)];
	struct uffdio_copy copy = {
		.dst = addr,
		.src = (uintptr_t)page,
		.len = sizeof(page),
	};
	struct uffdio_writeprotect wp = {
		.range = { addr, sizeof(page) },
	};

	memset(page, 0, sizeof(page));
	page[0] = addr;
	pager->faults++;
	if (pager->write_protected)
		ioctl(pager->uffd, UFFDIO_WRITEPROTECT, &wp);
	else
		ioctl(pager->uffd, UFFDIO_COPY, &copy);
}

static void *pager_thread(void *data)
{
	struct pager *pager = data;
	struct pollfd fd = { .fd = pager->uffd, .events = POLLIN };
	struct uffd_msg msg;

	while (poll(&fd, 1, -1) == 1) {
		if (read(pager->uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		resolve(pager, msg.arg.pagefault.address & -page_size());
	}
	return NULL;
}

FIXTURE(pager)
{
	struct pager pager;
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(pager)
{
	bool write_protected;
};

FIXTURE_VARIANT_ADD(pager, missing)
{
	.write_protected = false,
};

FIXTURE_VARIANT_ADD(pager, write_protected)
{
	.write_protected = true,
};

FIXTURE_SETUP(pager)
{
	bool wp = variant->write_protected;

	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, SMALL, SEED));
	self->pager.write_protected = wp;
	self->pager.uffd = uffd_open(_metadata, wp ?
				     UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0);
	uffd_register(_metadata, self->pager.uffd, &self->mem, wp ?
		      UFFDIO_REGISTER_MODE_WP : UFFDIO_REGISTER_MODE_MISSING);
	if (wp) {
		protect(_metadata, self->pager.uffd, &self->mem, false);
	} else {
		ASSERT_EQ(0, madvise(self->mem.addr, self->mem.size,
				     MADV_DONTNEED));
	}
	ASSERT_EQ(0, pthread_create(&self->pager.thread, NULL, pager_thread,
				    &self->pager));
}

FIXTURE_TEARDOWN(pager)
{
	pthread_cancel(self->pager.thread);
	pthread_join(self->pager.thread, NULL);
	close(self->pager.uffd);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/*
 * A call that keeps the mmap_lock cannot wait for a pager: a driver gets the
 * error that get_user_pages() would give it. The device of these tests asks a
 * kernel without ranges for the pages first, in another way. Either is fine, as
 * long as nobody gets a page before the pager has seen to it.
 */
TEST_F(pager, make)
{
	const struct memory *mem = &self->mem;
	long made;
	size_t i;

	made = device_make(self->dev, mem, 0);
	if (made < 0) {
		EXPECT_EQ(-EFAULT, made);
		EXPECT_EQ(0, self->pager.faults);
		EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
		EXPECT_EQ(0, device_held(self->dev, mem));
	}

	/* When they are there it gets them. */
	for (i = 0; i < mem->nr; i++)
		write_word(memory_word(mem, i) + 1, 7);
	EXPECT_EQ(mem->nr, self->pager.faults);
	make_all(_metadata, self->dev, mem);
	ASSERT_EQ(0, device_add(self->dev, memory_word(mem, 5), 3, 1));
	*memory_word(mem, 5) -= 3;
	EXPECT_EQ(0, memory_count_bit(mem, PM_UFFD_WP));
	for (i = 0; i < mem->nr; i++)
		EXPECT_EQ(variant->write_protected ? memory_value(SEED, i, 0) :
			  (uintptr_t)memory_word(mem, i),
			  read_word(memory_word(mem, i)));
	EXPECT_EQ(mem->nr, self->pager.faults);
}

/*
 * Each kind of memory
 */
FIXTURE(track)
{
	struct memory mem;
	struct memory part;	/* what the test is about */
	int dev;
};

FIXTURE_VARIANT(track)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(track, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(track, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(track, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(track, lazyfree)
{
	.kind = LAZYFREE,
};

FIXTURE_VARIANT_ADD(track, ksm)
{
	.kind = KSM,
};

FIXTURE_VARIANT_ADD(track, mremapped)
{
	.kind = MREMAPPED,
};

FIXTURE_VARIANT_ADD(track, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_SETUP(track)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
	self->part = memory_part(&self->mem, 0, PAGES);
}

FIXTURE_TEARDOWN(track)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* Soft-dirty bits, which /proc/self/clear_refs clears */
static int clear_soft_dirty(void)
{
	return write_file("/proc/self/clear_refs", "4");
}

static bool no_soft_dirty(void)
{
#if defined(__x86_64__)
	return false;
#else
	return true;
#endif
}

/* What is dirty stays dirty, and what is clean stays clean until it is written. */
TEST_F(track, soft_dirty)
{
	struct memory read = memory_part(&self->part, 0, 8);
	struct memory write = memory_part(&self->part, 8, 8);
	struct memory rest = memory_part(&self->part, 16, PAGES - 16);
	size_t i;

	if (no_soft_dirty())
		SKIP(return, "no soft-dirty bits on this architecture");

	/* The device may write to what it gets: it is dirty from then on. */
	ASSERT_EQ(0, clear_soft_dirty());
	ASSERT_EQ(0, memory_count_bit(&self->part, PM_SOFT_DIRTY));
	make_all(_metadata, self->dev, &self->part);
	EXPECT_EQ(PAGES, memory_count_bit(&self->part, PM_SOFT_DIRTY));
	for (i = 0; i < read.nr; i++)
		touch(memory_page(&read, i));
	EXPECT_EQ(read.nr, memory_count(&read, PAGE_PRESENT));
	EXPECT_EQ(read.nr, memory_count_bit(&read, PM_SOFT_DIRTY));

	/* Clearing the bits takes all from the device. */
	make_all(_metadata, self->dev, &self->part);
	ASSERT_EQ(0, clear_soft_dirty());
	EXPECT_EQ(0, memory_count_bit(&self->part, PM_SOFT_DIRTY));
	EXPECT_EQ(0, device_held(self->dev, &self->part));
	EXPECT_EQ(PAGES, memory_count(&self->part, PAGE_EXCLUSIVE));

	/* A read does not make dirty, a write does. */
	for (i = 0; i < read.nr; i++)
		touch(memory_page(&read, i));
	EXPECT_EQ(0, memory_count_bit(&read, PM_SOFT_DIRTY));
	for (i = 0; i < write.nr; i++)
		write_word(memory_word(&write, i),
			   memory_value(SEED, 8 + i, 0));
	EXPECT_EQ(write.nr, memory_count_bit(&write, PM_SOFT_DIRTY));
	EXPECT_EQ(0, memory_count_bit(&rest, PM_SOFT_DIRTY));
	for (i = 0; i < read.nr; i++)
		write_word(memory_word(&read, i), memory_value(SEED, i, 0));
	EXPECT_EQ(read.nr, memory_count_bit(&read, PM_SOFT_DIRTY));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* The same if the entries are exclusive already when it gets the pages. */
TEST_F(track, soft_dirty_again)
{
	if (no_soft_dirty())
		SKIP(return, "no soft-dirty bits on this architecture");

	make_all(_metadata, self->dev, &self->part);
	ASSERT_EQ(0, clear_soft_dirty());
	ASSERT_EQ(0, memory_count_bit(&self->part, PM_SOFT_DIRTY));
	ASSERT_EQ(PAGES, memory_count(&self->part, PAGE_EXCLUSIVE));
	make_all(_metadata, self->dev, &self->part);
	ASSERT_EQ(0, device_add(self->dev, memory_word(&self->part, 5), 3, 1));
	EXPECT_EQ(PAGES, memory_count_bit(&self->part, PM_SOFT_DIRTY));

	EXPECT_EQ(memory_value(SEED, 5, 0) + 3,
		  read_word(memory_word(&self->part, 5)));
	EXPECT_EQ(PAGES, memory_count_bit(&self->part, PM_SOFT_DIRTY));
}

/*
 * An entry that is to become dirty is faulted in, for which its folio has to be
 * unlocked: only the first page is waited for.
 */
TEST_F(track, soft_dirty_locked)
{
	int keeper = device_open();

	if (no_soft_dirty())
		SKIP(return, "no soft-dirty bits on this architecture");

	ASSERT_LE(0, keeper);
	lock_second_folio(_metadata, keeper, &self->mem);
	/* The new stack of a thread must not be merged with it, and be dirty. */
	ASSERT_EQ(0, madvise(self->mem.addr, self->mem.size, MADV_DONTDUMP));
	ASSERT_EQ(0, clear_soft_dirty());
	expect_short(_metadata, keeper, self->dev, &self->mem);
	close(keeper);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

static long minor_faults(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_minflt;
}

static long write_faults(const struct memory *mem)
{
	long before = minor_faults();
	size_t i;

	for (i = 0; i < mem->nr; i++)
		write_word(memory_word(mem, i), memory_value(SEED,
							     mem->first + i, 0));
	return minor_faults() - before;
}

static long read_faults(const struct memory *mem)
{
	long before = minor_faults();
	size_t i;

	for (i = 0; i < mem->nr; i++)
		touch(memory_page(mem, i));
	return minor_faults() - before;
}

/* One fault a page, and not another one for a write behind it */
TEST_F(track, faults)
{
	struct memory write = memory_part(&self->part, 0, 16);
	struct memory read = memory_part(&self->part, 16, 16);

	/* What the functions themselves fault in does not count. */
	write_faults(&self->part);
	read_faults(&self->part);

	make_all(_metadata, self->dev, &self->part);
	EXPECT_EQ(16, write_faults(&write));
	EXPECT_EQ(0, write_faults(&write));
	EXPECT_EQ(16, read_faults(&read));
	EXPECT_EQ(0, read_faults(&read));
	EXPECT_EQ(0, write_faults(&read));
	EXPECT_EQ(16, memory_count(&self->part, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

static bool is_idle(struct __test_metadata *_metadata, int bitmap, uint64_t pfn)
{
	uint64_t bits;

	ASSERT_EQ(sizeof(bits),
		  pread(bitmap, &bits, sizeof(bits), pfn / 64 * sizeof(bits)));
	return bits >> pfn % 64 & 1;
}

static void set_idle(struct __test_metadata *_metadata, int bitmap, uint64_t pfn)
{
	uint64_t bit = 1ULL << pfn % 64;

	ASSERT_EQ(sizeof(bit),
		  pwrite(bitmap, &bit, sizeof(bit), pfn / 64 * sizeof(bit)));
}

/* A page is idle until the CPU touches it, and then it is not. */
TEST_F(track, idle)
{
	struct memory one = memory_part(&self->mem, 0, 1);
	uint64_t pfn;
	int bitmap;

	bitmap = open(PAGE_IDLE, O_RDWR);
	ASSERT_LE(0, bitmap);
	make_all(_metadata, self->dev, &self->mem);
	ASSERT_EQ(0, drain_lru());
	/* Of a large folio this is the first page, which has the bit. */
	memory_pfns(&one, &pfn);
	set_idle(_metadata, bitmap, pfn);
	EXPECT_TRUE(is_idle(_metadata, bitmap, pfn));
	EXPECT_TRUE(is_exclusive(one.addr));

	touch(one.addr);
	EXPECT_FALSE(is_idle(_metadata, bitmap, pfn));

	make_all(_metadata, self->dev, &one);
	set_idle(_metadata, bitmap, pfn);
	EXPECT_TRUE(is_idle(_metadata, bitmap, pfn));
	write_word(memory_word(&one, 0), memory_value(OTHER_SEED, 0, 0));
	EXPECT_FALSE(is_idle(_metadata, bitmap, pfn));
	close(bitmap);
}

/*
 * NUMA balancing makes pages inaccessible for a moment, to see who uses them.
 */
FIXTURE(numa)
{
	struct memory mem;
	pthread_t idler;
	int pipe[2];
	long balancing, delay, period;
	int dev;
};

FIXTURE_VARIANT(numa)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(numa, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(numa, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(numa, thp)
{
	.kind = THP,
};

/* Pages near a process with one thread are not looked at: have another one. */
static void *idler_thread(void *data)
{
	int *pipe = data;
	char c;

	return (void *)read(pipe[0], &c, 1);
}

FIXTURE_SETUP(numa)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	self->balancing = read_number(NUMA_BALANCING);
	self->delay = read_number(NUMA_DEBUGFS "scan_delay_ms");
	self->period = read_number(NUMA_DEBUGFS "scan_period_min_ms");
	ASSERT_EQ(0, write_number(NUMA_DEBUGFS "scan_delay_ms", 1));
	ASSERT_EQ(0, write_number(NUMA_DEBUGFS "scan_period_min_ms", 10));
	ASSERT_EQ(0, pipe(self->pipe));
	ASSERT_EQ(0, pthread_create(&self->idler, NULL, idler_thread,
				    self->pipe));
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
}

FIXTURE_TEARDOWN(numa)
{
	write_number(NUMA_BALANCING, self->balancing);
	write_number(NUMA_DEBUGFS "scan_delay_ms", self->delay);
	write_number(NUMA_DEBUGFS "scan_period_min_ms", self->period);
	close(self->pipe[1]);
	pthread_join(self->idler, NULL);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/*
 * Use CPU time until touching the first page is a fault: the scan looks at 256
 * MiB at once, so all that is not in the same folio is inaccessible as well.
 */
static bool wait_for_hints(const struct memory *mem)
{
	struct memory first = memory_part(mem, 0, 1);
	time_t end = time(NULL) + 20;
	long hinted = 0;

	if (write_number(NUMA_BALANCING, 1))
		return false;
	while (!hinted && time(NULL) < end)
		hinted = read_faults(&first);
	return !write_number(NUMA_BALANCING, 0) && hinted;
}

/* How often anybody has touched what was inaccessible for that reason */
static long hint_faults(void)
{
	char name[64];
	long value, faults = -1;
	FILE *file;

	file = fopen("/proc/vmstat", "r");
	while (file && fscanf(file, "%63s %ld", name, &value) == 2)
		if (!strcmp(name, "numa_hint_faults"))
			faults = value;
	if (file)
		fclose(file);
	return faults;
}

/* The device gets them, and all is well afterwards. */
TEST_F(numa, make)
{
	const struct memory *mem = &self->mem;
	struct memory rest = memory_part(mem, mem->nr / 2, mem->nr / 2);
	long before, hints = 0, tries = 0;

	/*
	 * If they were accessible, a page of this program was what faulted, and
	 * this has proved nothing.
	 */
	do {
		read_faults(mem);
		ASSERT_TRUE(wait_for_hints(mem));
		before = hint_faults();
		ASSERT_LE(0, before);
		make_all(_metadata, self->dev, &rest);
		hints = hint_faults() - before;

		ASSERT_EQ(0, device_add(self->dev, memory_word(&rest, 3), 3,
					1));
		*memory_word(&rest, 3) -= 3;
		EXPECT_EQ(0, memory_wrong(&rest, SEED));
		EXPECT_EQ(0, read_faults(&rest));
	} while (hints < (long)mem->folios / 2 && ++tries < 20);
	EXPECT_LE((long)mem->folios / 2, hints);
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/* What is exclusive is none of its business. */
TEST_F(numa, exclusive)
{
	struct memory half = memory_part(&self->mem, 0, self->mem.nr / 2);
	struct memory rest = memory_part(&self->mem, self->mem.nr / 2,
					 self->mem.nr / 2);

	read_faults(&self->mem);
	make_all(_metadata, self->dev, &rest);
	ASSERT_TRUE(wait_for_hints(&half));
	EXPECT_EQ(rest.nr, memory_count(&rest, PAGE_EXCLUSIVE));
	EXPECT_TRUE(device_agrees(self->dev, &rest));
	make_all(_metadata, self->dev, &rest);
	EXPECT_EQ((long)rest.nr, read_faults(&rest));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* It goes on all the time, and the device and the CPU have pages in turn. */
TEST_F(numa, meanwhile)
{
	struct memory part = memory_part(&self->mem, 0, PAGES);
	long first = hint_faults(), rounds = 0;
	time_t end = time(NULL) + 20;
	size_t i;

	ASSERT_LE(0, first);
	ASSERT_EQ(0, write_number(NUMA_BALANCING, 1));
	while ((rounds < 20 || hint_faults() < first + 10) &&
	       time(NULL) < end) {
		ASSERT_EQ((long)part.nr, device_make(self->dev, &part, 0));
		ASSERT_EQ(0, device_add(self->dev, memory_word(&part, 3), 3, 1));
		EXPECT_TRUE(device_agrees(self->dev, &part));
		for (i = 0; i < part.nr; i++)
			*memory_word(&part, i) += 1;
		read_faults(&self->mem);
		rounds++;
	}
	ASSERT_EQ(0, write_number(NUMA_BALANCING, 0));
	EXPECT_LE(20, rounds);
	EXPECT_LE(first + 10, hint_faults());

	*memory_word(&part, 3) -= 3 * rounds;
	for (i = 0; i < part.nr; i++)
		*memory_word(&part, i) -= rounds;
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

TEST_HARNESS_MAIN
