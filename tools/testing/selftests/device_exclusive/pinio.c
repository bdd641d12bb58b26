// SPDX-License-Identifier: GPL-2.0
/*
 * fork() of a process whose pinned memory is in use meanwhile: by io_uring, by
 * other threads and a device, by reclaim and migration.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "devex_util.h"

#define PARENT_SEED	0x10
#define CHILD_SEED	0x20
#define DEVICE_SEED	0x30

/*
 * io_uring: whose registered buffers are pinned memory
 */
#define RING_ENTRIES	4

/* How much a request is for */
#define CHUNK		(64 << 10)

struct ring {
	int fd;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	unsigned int *sq_tail, *sq_array, sq_mask;
	unsigned int *cq_head, *cq_tail, cq_mask;
};

static void *ring_map(const struct ring *ring, size_t size, off_t what)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd,
		    what);
}

static void ring_open(struct __test_metadata *_metadata, struct ring *ring,
		      const struct memory *mem)
{
	struct iovec buffer = { mem->addr, mem->size };
	struct io_uring_params p = {};
	char *sq, *cq;

	ring->fd = syscall(SYS_io_uring_setup, RING_ENTRIES, &p);
	ASSERT_LE(0, ring->fd)
		TH_LOG("io_uring_setup: %s", strerror(errno));
	sq = ring_map(ring, p.sq_off.array + p.sq_entries * sizeof(int),
		      IORING_OFF_SQ_RING);
	cq = ring_map(ring, p.cq_off.cqes + p.cq_entries * sizeof(*ring->cqes),
		      IORING_OFF_CQ_RING);
	ring->sqes = ring_map(ring, p.sq_entries * sizeof(*ring->sqes),
			      IORING_OFF_SQES);
	ASSERT_TRUE(sq != MAP_FAILED && cq != MAP_FAILED &&
		    ring->sqes != MAP_FAILED);
	ring->sq_tail = (unsigned int *)(sq + p.sq_off.tail);
	ring->sq_array = (unsigned int *)(sq + p.sq_off.array);
	ring->sq_mask = *(unsigned int *)(sq + p.sq_off.ring_mask);
	ring->cq_head = (unsigned int *)(cq + p.cq_off.head);
	ring->cq_tail = (unsigned int *)(cq + p.cq_off.tail);
	ring->cq_mask = *(unsigned int *)(cq + p.cq_off.ring_mask);
	ring->cqes = (struct io_uring_cqe *)(cq + p.cq_off.cqes);
	ASSERT_EQ(0, syscall(SYS_io_uring_register, ring->fd,
			     IORING_REGISTER_BUFFERS, &buffer, 1))
		TH_LOG("IORING_REGISTER_BUFFERS: %s", strerror(errno));
}

/* IORING_OP_READ_FIXED to @addr, or IORING_OP_WRITE_FIXED from there */
static int ring_submit(struct ring *ring, unsigned int op, int fd, char *addr,
		       size_t size, uint64_t offset)
{
	unsigned int tail = *ring->sq_tail, i = tail & ring->sq_mask;

	ring->sqes[i] = (struct io_uring_sqe) {
		.opcode = op,
		.fd = fd,
		.off = offset,
		.addr = (uintptr_t)addr,
		.len = size,
	};
	ring->sq_array[i] = i;
	__atomic_store_n(ring->sq_tail, tail + 1, __ATOMIC_RELEASE);
	return syscall(SYS_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0);
}

/* What the request before has returned */
static int ring_wait(struct ring *ring)
{
	unsigned int head = *ring->cq_head;
	int ret;

	while (head == __atomic_load_n(ring->cq_tail, __ATOMIC_ACQUIRE)) {
		if (syscall(SYS_io_uring_enter, ring->fd, 0, 1,
			    IORING_ENTER_GETEVENTS, NULL, 0) < 0)
			return -errno;
	}
	ret = ring->cqes[head & ring->cq_mask].res;
	__atomic_store_n(ring->cq_head, head + 1, __ATOMIC_RELEASE);
	return ret;
}

static void ring_all(struct __test_metadata *_metadata, struct ring *ring,
		     unsigned int op, int fd, const struct memory *mem)
{
	size_t done, size;

	for (done = 0; done < mem->size; done += size) {
		size = mem->size - done < CHUNK ? mem->size - done : CHUNK;
		ASSERT_EQ(1, ring_submit(ring, op, fd, mem->addr + done, size,
					 done));
		ASSERT_EQ((int)size, ring_wait(ring));
	}
}

FIXTURE(uring)
{
	struct ring ring;
	struct memory mem;
	struct memory file;	/* the same size, mapped */
	int fd;
};

FIXTURE_VARIANT(uring)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(uring, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(uring, mthp_64k)
{
	.kind = MTHP_64K,
};

FIXTURE_VARIANT_ADD(uring, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(uring, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(uring)
{
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
	ring_open(_metadata, &self->ring, &self->mem);
	self->fd = memfd_create("file", 0);
	ASSERT_LE(0, self->fd);
	ASSERT_EQ(0, ftruncate(self->fd, self->mem.size));
	self->file = self->mem;
	self->file.addr = mmap(NULL, self->mem.size, PROT_READ | PROT_WRITE,
			       MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->file.addr);
}

FIXTURE_TEARDOWN(uring)
{
	close(self->ring.fd);
	close(self->fd);
	memory_unmap(&self->mem);
}

/* A file is read into the parent's buffer: the child does not see it. */
TEST_F(uring, read_fixed)
{
	const struct memory *mem = &self->mem;
	size_t huge = memory_huge(mem);
	uint64_t pfns[mem->nr];
	struct peer peer;

	memory_pfns(mem, pfns);
	memory_fill(&self->file, DEVICE_SEED);
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_EQ(mem->nr, memory_moved(mem, pfns));
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		memory_fill(mem, CHILD_SEED);
		_exit(0);
	}
	ring_all(_metadata, &self->ring, IORING_OP_READ_FIXED, self->fd, mem);
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	EXPECT_EQ(huge, memory_huge(mem))
		TH_LOG("AnonHugePages: %zu bytes before, %zu after fork", huge,
		       memory_huge(mem));
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	EXPECT_EQ(0, memory_moved(mem, pfns));
}

/* What goes to a file is what the parent has written, and not the child. */
TEST_F(uring, write_fixed)
{
	const struct memory *mem = &self->mem;
	struct peer peer;

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		memory_fill(mem, CHILD_SEED);
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED));
		_exit(0);
	}
	memory_fill(mem, DEVICE_SEED);
	EXPECT_TRUE(peer_wait(&peer));
	ring_all(_metadata, &self->ring, IORING_OP_WRITE_FIXED, self->fd, mem);
	EXPECT_EQ(0, memory_wrong(&self->file, DEVICE_SEED));
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
}

/* A request waits for data meanwhile; these span two pages. */
TEST_F(uring, in_flight)
{
	struct memory two = memory_part(&self->mem, self->mem.nr / 2 - 1, 2);
	char *at = two.addr + page_size() - 128;
	char data[256];
	struct peer peer;
	int pipes[2];

	memset(data, 0x5a, sizeof(data));
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(1, ring_submit(&self->ring, IORING_OP_READ_FIXED, pipes[0],
				 at, sizeof(data), 0));

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(&self->mem, PARENT_SEED));
		_exit(0);
	}
	/* Our own write first: the data must not go to what we had before. */
	memory_fill(&two, PARENT_SEED);
	ASSERT_EQ((ssize_t)sizeof(data), write(pipes[1], data, sizeof(data)));
	ASSERT_EQ((int)sizeof(data), ring_wait(&self->ring));
	EXPECT_EQ(0, memcmp(at, data, sizeof(data)));
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memcmp(at, data, sizeof(data)));
}

/*
 * A busy process. Some of its memory stays pinned while it forks; other memory,
 * "loose", is pinned for a moment, page by page. Threads write to both, the
 * device reads and writes both, a thread moves what can be moved to the other
 * node, and another process reclaims.
 */
#define BUSY_FORKS	8
#define LOOSE_PAGES	32

/* Of eight pages that are pinned, one is written by a thread, one by DMA. */
#define WRITER_PAGE	2
#define DMA_PAGE	5

struct busy {
	struct memory pinned;
	struct memory loose;
	int dev;	/* keeps @pinned pinned */
	int other;	/* pins @loose */
	struct cgroup *cgroup;
	bool start;	/* all of the memory is there */
	bool stop;
	unsigned long written;
	unsigned long checked;
	unsigned long pins;
	unsigned long moves;
	unsigned long wrong;
};

static bool busy_stop(const struct busy *busy)
{
	return __atomic_load_n(&busy->stop, __ATOMIC_RELAXED);
}

/* The word that changes: not the first, so that DMA begins inside of a page */
static uint64_t *busy_word(const struct memory *mem, size_t page)
{
	return memory_word(mem, page) + 77;
}

static void *busy_writer(void *data)
{
	struct busy *busy = data;
	size_t i;

	while (!busy_stop(busy)) {
		busy->written++;
		for (i = WRITER_PAGE; i < busy->pinned.nr; i += 8)
			write_word(busy_word(&busy->pinned, i), busy->written);
		sched_yield();
	}
	return NULL;
}

/* The CPU and the device see what the other has written. */
static bool is_coherent(int dev, uint64_t *word, uint64_t value)
{
	uint64_t seen = 0;

	write_word(word, value);
	if (device_read(dev, word, &seen, sizeof(seen)) || seen != value)
		return false;
	value = ~value;
	return !device_write(dev, word, &value, sizeof(value)) &&
	       read_word(word) == value;
}

static void *busy_checker(void *data)
{
	struct busy *busy = data;
	size_t i;

	while (!busy_stop(busy)) {
		for (i = DMA_PAGE; i < busy->pinned.nr; i += 8) {
			if (!is_coherent(busy->dev, busy_word(&busy->pinned, i),
					 busy->checked++))
				busy->wrong++;
		}
		sched_yield();
	}
	return NULL;
}

/* GUP-fast, where it can be had: it is not while fork copies page tables. */
static void *busy_pinner(void *data)
{
	struct busy *busy = data;
	struct memory page;
	size_t i;

	while (!busy_stop(busy)) {
		i = busy->pins++ % busy->loose.nr;
		page = memory_part(&busy->loose, i, 1);
		if (device_pin(busy->other, &page) ||
		    !is_coherent(busy->other, busy_word(&busy->loose, i),
				 busy->pins) ||
		    device_unpin(busy->other, &page))
			busy->wrong++;
		sched_yield();
	}
	return NULL;
}

static void move_to(struct busy *busy, const struct memory *mem, int node)
{
	int nodes[LOOSE_PAGES], status[LOOSE_PAGES];
	const void *pages[LOOSE_PAGES];
	size_t i;

	for (i = 0; i < LOOSE_PAGES; i++) {
		pages[i] = memory_page(mem, i);
		nodes[i] = node;
	}
	if (syscall(SYS_move_pages, 0, LOOSE_PAGES, pages, nodes, status,
		    MPOL_MF_MOVE))
		return;
	for (i = 0; i < LOOSE_PAGES; i++)
		busy->moves += status[i] == node;
}

static void *busy_mover(void *data)
{
	struct busy *busy = data;
	int node;

	for (node = 0; !busy_stop(busy); node = !node) {
		move_to(busy, &busy->loose, node);
		/* In vain */
		move_to(busy, &busy->pinned, node);
		sched_yield();
	}
	return NULL;
}

static void busy_reclaim(void *data)
{
	const struct busy *busy = data;

	if (__atomic_load_n(&busy->start, __ATOMIC_ACQUIRE))
		cgroup_reclaim(busy->cgroup, "256K");
	usleep(1000);
}

/* Pages that nobody writes to, and that are not as they were at first */
static size_t quiet_wrong(const struct memory *mem)
{
	size_t i, wrong = 0;
	struct memory page;

	for (i = 0; i < mem->nr; i++) {
		page = memory_part(mem, i, 1);
		if (i % 8 != WRITER_PAGE && i % 8 != DMA_PAGE)
			wrong += memory_wrong(&page, PARENT_SEED);
	}
	return wrong;
}

/* The same for memory where one word of each page changes, in words */
static size_t others_wrong(const struct memory *mem)
{
	size_t i, words = page_size() / sizeof(uint64_t), wrong = 0;
	uint64_t *word = memory_word(mem, 0);

	for (i = 0; i < mem->nr * words; i++) {
		if (&word[i] != busy_word(mem, i / words))
			wrong += read_word(&word[i]) !=
				 memory_value(PARENT_SEED,
					      mem->first + i / words, i % words);
	}
	return wrong;
}

static uint64_t busy_sum(const struct memory *mem)
{
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < mem->nr; i++)
		sum = sum * 31 + read_word(busy_word(mem, i));
	return sum;
}

FIXTURE(busy)
{
	struct busy *busy;
	struct cgroup cgroup;
};

FIXTURE_VARIANT(busy)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(busy, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(busy, mthp_64k)
{
	.kind = MTHP_64K,
};

FIXTURE_VARIANT_ADD(busy, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(busy)
{
	self->busy = mmap(NULL, sizeof(*self->busy), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->busy);
	self->busy->cgroup = &self->cgroup;
	self->busy->dev = device_open();
	self->busy->other = device_open();
	ASSERT_LE(0, self->busy->dev);
	ASSERT_LE(0, self->busy->other);
	ASSERT_EQ(0, cgroup_enter(&self->cgroup));
}

FIXTURE_TEARDOWN(busy)
{
	close(self->busy->dev);
	close(self->busy->other);
	memory_unmap(&self->busy->pinned);
	cgroup_leave(&self->cgroup);
}

TEST_F(busy, fork)
{
	static void *(* const work[])(void *) = {
		busy_writer, busy_checker, busy_pinner, busy_mover,
	};
	struct busy *busy = self->busy;
	unsigned int i, forks, failed = 0;
	pthread_t threads[ARRAY_SIZE(work)];
	struct memory loose;
	uint64_t *pfns, sum;
	pid_t pid, helper;
	size_t wrong = 0;

	helper = helper_start(busy_reclaim, busy);
	ASSERT_LE(0, helper);
	ASSERT_EQ(0, memory_map(&busy->pinned, variant->kind, PARENT_SEED));
	ASSERT_EQ(0, memory_map(&loose, variant->kind, PARENT_SEED));
	busy->loose = memory_part(&loose, loose.nr / 2 - LOOSE_PAGES / 2,
				  LOOSE_PAGES);
	ASSERT_EQ(0, device_pin(busy->dev, &busy->pinned));
	pfns = calloc(busy->pinned.nr, sizeof(*pfns));
	ASSERT_NE(NULL, pfns);
	memory_pfns(&busy->pinned, pfns);
	__atomic_store_n(&busy->start, true, __ATOMIC_RELEASE);
	for (i = 0; i < ARRAY_SIZE(work); i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, work[i], busy));

	for (forks = 0; forks < BUSY_FORKS; forks++) {
		pid = fork();
		if (!pid) {
			/* What others do from now on is not for us to see. */
			sum = busy_sum(&busy->pinned) + busy_sum(&busy->loose);
			usleep(5000);
			wrong = quiet_wrong(&busy->pinned) +
				others_wrong(&busy->loose);
			if (sum != busy_sum(&busy->pinned) +
				   busy_sum(&busy->loose))
				wrong++;
			_exit(wrong != 0);
		}
		if (pid < 0)
			failed++;
		else
			wrong += child_exit(pid) != 0;
	}
	__atomic_store_n(&busy->stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < ARRAY_SIZE(work); i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	EXPECT_EQ(0, helper_stop(helper));

	TH_LOG("%lu writes, %lu checks, %lu pins, %lu moves", busy->written,
	       busy->checked, busy->pins, busy->moves);
	EXPECT_LT(0, busy->written);
	EXPECT_LT(0, busy->checked);
	EXPECT_LT(0, busy->pins);
	EXPECT_LT(0, busy->moves);
	EXPECT_EQ(0, failed);
	EXPECT_EQ(0, wrong)
		TH_LOG("%zu of %u children saw something else", wrong, forks);
	EXPECT_EQ(0, busy->wrong)
		TH_LOG("%lu times the device and we did not see the same",
		       busy->wrong);
	EXPECT_EQ(0, quiet_wrong(&busy->pinned));
	EXPECT_EQ(0, others_wrong(&busy->loose));
	EXPECT_EQ(0, memory_moved(&busy->pinned, pfns));
	memory_unmap(&loose);
}

TEST_HARNESS_MAIN
