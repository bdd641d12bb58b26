// SPDX-License-Identifier: GPL-2.0
/*
 * fork() in a loop, while another process makes sure that somebody else takes
 * the locks of the same folios: not a single one may fail.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <sched.h>

#include "devex_util.h"

#define SEED		0x10
#define FORKS		350

/* Pages that each turn is about; of a THP just these are mapped by PTEs */
#define LOOP_PAGES	32

#define PAGE_IDLE	"/sys/kernel/mm/page_idle/bitmap"

/**
 * struct target - what the process that makes trouble needs to know
 * @trouble: what it does, again and again
 * @cgroup: whose memory to reclaim
 * @heads: first page frames of the folios
 * @idle: the file PAGE_IDLE
 * @stop: do nothing for the moment
 * @busy: it is doing something
 */
struct target {
	void (*trouble)(struct target *target);
	struct cgroup cgroup;
	uint64_t heads[LOOP_PAGES];
	int idle;
	int stop;
	int busy;
};

/* Write page_idle's bitmap, which walks the rmap under the folio lock. */
static void mark_idle(struct target *target)
{
	uint64_t head, bit;
	size_t i;

	for (i = 0; i < LOOP_PAGES; i++) {
		head = __atomic_load_n(&target->heads[i], __ATOMIC_RELAXED);
		bit = 1ULL << (head % 64);
		if (pwrite(target->idle, &bit, sizeof(bit), head / 64 * 8) < 0)
			_exit(1);
	}
}

/* Reclaim the test's memory. */
static void reclaim(struct target *target)
{
	cgroup_reclaim(&target->cgroup, "256K");
}

/* Compact all of the memory. */
static void compact(struct target *target)
{
	(void)target;
	if (write_file("/proc/sys/vm/compact_memory", "1"))
		_exit(1);
}

FIXTURE(loop)
{
	struct target *target;
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(loop)
{
	void (*trouble)(struct target *target);
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(loop, idle_small)
{
	.trouble = mark_idle,
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(loop, idle_thp)
{
	.trouble = mark_idle,
	.kind = THP,
};

FIXTURE_VARIANT_ADD(loop, compact_small)
{
	.trouble = compact,
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(loop, compact_thp)
{
	.trouble = compact,
	.kind = THP,
};

FIXTURE_VARIANT_ADD(loop, reclaim_small)
{
	.trouble = reclaim,
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(loop, reclaim_thp)
{
	.trouble = reclaim,
	.kind = THP,
};

FIXTURE_SETUP(loop)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	self->target = mmap(NULL, sizeof(*self->target), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->target);
	self->target->trouble = variant->trouble;
	self->target->stop = true;
	self->target->idle = open(PAGE_IDLE, O_WRONLY);
	ASSERT_LE(0, self->target->idle)
		TH_LOG("cannot open %s: %s", PAGE_IDLE, strerror(errno));
	ASSERT_EQ(0, cgroup_enter(&self->target->cgroup));
}

FIXTURE_TEARDOWN(loop)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
	cgroup_leave(&self->target->cgroup);
}

static void make_trouble(void *data)
{
	struct target *target = data;

	__atomic_store_n(&target->busy, 1, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&target->stop, __ATOMIC_SEQ_CST))
		target->trouble(target);
	__atomic_store_n(&target->busy, 0, __ATOMIC_SEQ_CST);
	sched_yield();
}

static void set_trouble(struct target *target, bool on)
{
	__atomic_store_n(&target->stop, !on, __ATOMIC_SEQ_CST);
	while (!on && __atomic_load_n(&target->busy, __ATOMIC_SEQ_CST))
		sched_yield();
}

/* Start with a large folio each time, and without trouble. */
static void renew_memory(struct __test_metadata *_metadata, struct memory *mem,
			 struct target *target)
{
	if (mem->kind != THP)
		return;
	set_trouble(target, false);
	ASSERT_EQ(0, memory_renew(mem, LOOP_PAGES, SEED));
	set_trouble(target, true);
}

static void note_heads(struct target *target, const struct memory *part)
{
	size_t nr = part->kind == THP ? thp_size() / page_size() : 1;
	uint64_t pfns[part->nr];
	size_t i;

	memory_pfns(part, pfns);
	for (i = 0; i < part->nr; i++)
		__atomic_store_n(&target->heads[i], pfns[i] / nr * nr,
				 __ATOMIC_RELAXED);
}

/* Make all of it exclusive. Fewer pages than asked for is normal: ask again. */
static void make_all(struct __test_metadata *_metadata, int dev,
		     const struct memory *mem)
{
	struct memory rest;
	size_t done = 0;
	long made;

	while (done < mem->nr) {
		rest = memory_part(mem, done, mem->nr - done);
		made = device_make(dev, &rest, 0);
		ASSERT_LT(0, made);
		done += made;
	}
}

/* A fork that meets an entry which reclaim has broken might never return. */
static void check_reclaim(struct __test_metadata *_metadata, int dev,
			  struct memory *mem, const struct cgroup *cgroup)
{
	int i;

	make_all(_metadata, dev, mem);
	for (i = 0; i < 10; i++) {
		cgroup_reclaim(cgroup, "16M");
		ASSERT_EQ(0, memory_count(mem, PAGE_OTHER));
	}
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

TEST_F(loop, fork)
{
	unsigned int i, failed = 0, wrong = 0;
	struct target *target = self->target;
	struct memory part;
	pid_t pid, helper;
	int error = 0;

	/* First the other process, which must not share the memory. */
	helper = helper_start(make_trouble, target);
	ASSERT_LE(0, helper);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
	ASSERT_EQ(0, drain_lru());
	if (variant->trouble == reclaim)
		check_reclaim(_metadata, self->dev, &self->mem,
			      &target->cgroup);
	set_trouble(target, true);

	for (i = 0; i < FORKS; i++) {
		renew_memory(_metadata, &self->mem, target);
		part = memory_part(&self->mem, 0, LOOP_PAGES);
		make_all(_metadata, self->dev, &part);
		note_heads(target, &part);

		pid = fork();
		if (!pid)
			_exit(memory_wrong(&part, SEED) != 0);
		if (pid < 0) {
			error = errno;
			failed++;
			continue;
		}
		wrong += child_exit(pid) != 0;
	}

	wrong += memory_wrong(&part, SEED) != 0;
	EXPECT_EQ(0, helper_stop(helper));
	TH_LOG("%u forks, %u failed%s%s", i, failed, failed ? ": " : "",
	       failed ? strerror(error) : "");
	EXPECT_EQ(0, failed);
	EXPECT_EQ(0, wrong);
}

TEST_HARNESS_MAIN
