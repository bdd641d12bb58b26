// SPDX-License-Identifier: GPL-2.0
/*
 * Failed allocations: each one that a command of the device, or fork, makes
 * fails in turn. The right errno, nothing lost or leaked, and the process goes
 * on working. See Documentation/fault-injection/fault-injection.rst.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/mempolicy.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include "devex_util.h"

#define SEED		0x10

/* What takes long is for CPUs to have all pages back: so have few. */
#define SOME_PAGES	32

/* No operation allocates so often: a sweep has an end. */
#define MAX_NTH		4000

/*
 * Sweeps are repeated until so many allocations have failed: if each had cost us
 * a page, that would be more than what else may happen. A page that only one of
 * them costs can be seen where there are as many sweeps. With many pages that
 * would take long: there what is lost is more likely a large folio.
 */
#define ENOUGH		300
#define ENOUGH_OF_MANY	75

/*
 * Where allocations fail: which ones those are is up to debugfs. By default
 * these would not be the ones that may sleep, nor single pages.
 */
#define DEBUGFS		"/sys/kernel/debug/"
#define FAIL_NTH	"/proc/thread-self/fail-nth"
#define FAIL_USERCOPY	DEBUGFS "fail_usercopy"
#define KTHREADD	"/proc/2/"

static const char * const settings[][2] = {
	{ DEBUGFS "failslab/verbose", "0" },
	{ DEBUGFS "failslab/ignore-gfp-wait", "N" },
	{ DEBUGFS "failslab/cache-filter", "N" },
	{ DEBUGFS "fail_page_alloc/verbose", "0" },
	{ DEBUGFS "fail_page_alloc/ignore-gfp-wait", "N" },
	{ DEBUGFS "fail_page_alloc/ignore-gfp-highmem", "N" },
	{ DEBUGFS "fail_page_alloc/min-order", "0" },
	/* khugepaged must not take exclusive pages for swapped ones. */
	{ "/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_swap", "0" },
};

#define NR_SETTINGS	ARRAY_SIZE(settings)

/**
 * struct inject - what a test works with
 * @setting: what was set before
 * @pmd: the same, of THPs
 * @mthp: the same, of smaller large folios
 * @cgroup: of the test's own
 * @all: memory
 * @mem: the part of it that the operations are done with
 * @pages: how large that is
 * @alone: there is nothing but this part
 * @kind: what the memory is made of
 * @large: it, and a child, may have large folios in it
 * @policy: it has a mempolicy that depends on the address
 * @fresh: what is to be made exclusive has no pages yet
 * @exclusive: it is exclusive when the process forks
 * @pinned: it is pinned then
 * @pfns: where it was when it was pinned
 * @dev: the device
 * @other: another device, to be closed
 * @nth: the file fail-nth of the task whose allocations are to fail
 * @flags: of DEVEX_IOC_MAKE
 * @added: what additions have given so far
 * @child: a process that was made, or 0
 * @map: memory of the device, if it is mapped
 * @thorough: look at all of the memory and its state, not only at one word of
 *	each page
 */
struct inject {
	struct setting setting[NR_SETTINGS];
	struct setting pmd;
	struct setting mthp;
	struct cgroup cgroup;
	struct memory all;
	struct memory mem;
	size_t pages;
	bool alone;
	enum memory_kind kind;
	bool large;
	bool policy;
	bool fresh;
	bool exclusive;
	bool pinned;
	uint64_t pfns[512];
	int dev;
	int other;
	int nth;
	uint32_t flags;
	uint64_t added;
	pid_t child;
	void *map;
	bool thorough;
};

#define NOT_CONFIGURED							\
	"the kernel needs CONFIG_FAULT_INJECTION, FAULT_INJECTION_DEBUG_FS, FAILSLAB and FAIL_PAGE_ALLOC"
#define HAS_USERCOPY							\
	"the kernel has CONFIG_FAULT_INJECTION_USERCOPY, whose failures are counted as well"

/* Why not, or NULL */
static const char *cannot_inject(void)
{
	bool can = !access(FAIL_NTH, W_OK);
	size_t i;

	for (i = 0; i < NR_SETTINGS; i++)
		can &= !access(settings[i][0], W_OK);
	if (!can)
		return NOT_CONFIGURED;
	if (!access(FAIL_USERCOPY, F_OK))
		return HAS_USERCOPY;
	return NULL;
}

/*
 * The kernel writes to the rseq area of a thread on its way back to user space.
 * After a fork that needs a page; without memory it would be SIGSEGV.
 */
static int no_rseq(void)
{
	char *area = (char *)__builtin_thread_pointer() + __rseq_offset;
	/* What glibc registers is not less than this, the first size it had. */
	unsigned int size = __rseq_size < 32 ? 32 : __rseq_size;

	if (!__rseq_size)
		return 0;
	return syscall(SYS_rseq, area, size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
}

/* The @nth allocation from now on fails, or none does any more. */
static int arm(int fd, unsigned int nth)
{
	char buf[16];
	int len = snprintf(buf, sizeof(buf), "%u", nth);

	return write(fd, buf, len) == len ? 0 : -1;
}

/* Has it failed? Then there is nothing left to count. */
static int disarm(int fd, bool *injected)
{
	char buf[16] = "";
	ssize_t len = pread(fd, buf, sizeof(buf) - 1, 0);

	if (arm(fd, 0) || len <= 0)
		return -1;
	*injected = !strtoul(buf, NULL, 10);
	return 0;
}

static void inject_begin(struct __test_metadata *_metadata, struct inject *in)
{
	const char *why = cannot_inject();
	size_t i;

	ASSERT_EQ(NULL, why)
		TH_LOG("%s", why);
	in->other = -1;
	ASSERT_EQ(0, no_rseq());
	in->dev = device_open();
	ASSERT_LE(0, in->dev);
	in->nth = open(FAIL_NTH, O_RDWR);
	ASSERT_LE(0, in->nth);
	ASSERT_EQ(0, cgroup_enter(&in->cgroup));
	ASSERT_EQ(0, own_all_pages());
	/* A test that was killed may have left this. */
	ASSERT_EQ(0, write_file(KTHREADD "fail-nth", "0"));
	for (i = 0; i < NR_SETTINGS; i++)
		ASSERT_EQ(0, setting_change(&in->setting[i], settings[i][0],
					    settings[i][1]));
}

static void inject_end(struct inject *in)
{
	size_t i;

	if (in->nth >= 0) {
		arm(in->nth, 0);
		close(in->nth);
	}
	if (in->dev >= 0)
		close(in->dev);
	for (i = 0; i < NR_SETTINGS; i++)
		setting_restore(&in->setting[i]);
	setting_restore(&in->mthp);
	setting_restore(&in->pmd);
	memory_unmap(&in->all);
	cgroup_leave(&in->cgroup);
}

/*
 * The memory
 */

static size_t words_wrong(const struct memory *mem, bool fresh)
{
	size_t i, wrong = 0;

	for (i = 0; i < mem->nr; i++)
		wrong += read_word(memory_word(mem, i)) !=
			 (fresh ? 0 : memory_value(SEED, mem->first + i, 0));
	return wrong;
}

/* All of it is touched, so that no page is exclusive any more. */
static size_t content_wrong(const struct inject *in)
{
	if (in->fresh || !in->thorough)
		return words_wrong(&in->mem, in->fresh);
	return memory_wrong(&in->mem, SEED);
}

static void unmap_rest(struct __test_metadata *_metadata,
		       const struct memory *all, const struct memory *part)
{
	size_t before = part->addr - all->addr;
	size_t behind = all->size - part->size - before;

	if (before)
		ASSERT_EQ(0, munmap(all->addr, before));
	if (behind)
		ASSERT_EQ(0, munmap(part->addr + part->size, behind));
}

static void map_memory(struct __test_metadata *_metadata, struct inject *in)
{
	struct memory *mem = &in->all;
	unsigned long nodes = 3;
	size_t first = 0;

	ASSERT_EQ(0, memory_map(mem, in->kind, SEED));
	ASSERT_GE(ARRAY_SIZE(in->pfns), in->pages);
	if (in->large)
		ASSERT_EQ(0, madvise(mem->addr, mem->size, MADV_HUGEPAGE));
	if (in->policy)
		ASSERT_EQ(0, syscall(SYS_mbind, mem->addr, mem->size,
				     MPOL_INTERLEAVE, &nodes,
				     8 * sizeof(nodes), 0));
	if (in->fresh)
		ASSERT_EQ(0, madvise(mem->addr, mem->size, MADV_DONTNEED));
	/* Of less than a THP, pages of two folios */
	if (in->pages < thp_size() / page_size())
		first = (mem->nr - in->pages) / 2;
	in->mem = memory_part(mem, first, in->pages);
	if (in->alone)
		unmap_rest(_metadata, mem, &in->mem);
}

/* No entry has been lost, whatever else has happened. */
static void expect_complete(struct __test_metadata *_metadata,
			    const struct inject *in)
{
	const struct memory *mem = &in->mem;
	size_t lost = memory_count(mem, PAGE_NONE);

	if (!in->fresh)
		EXPECT_EQ(0, lost);
	EXPECT_EQ(0, memory_count(mem, PAGE_OTHER));
	EXPECT_TRUE(device_agrees(in->dev, mem));
}

static struct devex_counters counters_of(struct __test_metadata *_metadata,
					 int dev)
{
	struct devex_counters counters;

	ASSERT_EQ(0, device_counters(dev, &counters));
	return counters;
}

/*
 * Sweeps
 */

/* Something was done, but not all: more than an error, less than success */
#define PART		1

/**
 * struct operation - something in which allocations fail
 * @prepare: get ready for it, as often as it is done
 * @run: what is done while allocations fail: 0, PART or -errno
 * @check: what must be true after @run has returned @ret
 * @undo: when all is done
 * @errors: what @run may return, if an allocation failed; 0 if it cannot fail
 * @part: whether it may return PART then
 * @allocates: memory, which may not be there without any harm
 * @slow: do it again after a failure only where all is looked at
 */
struct operation {
	void (*prepare)(struct __test_metadata *_metadata, struct inject *in);
	int (*run)(struct inject *in);
	void (*check)(struct __test_metadata *_metadata, struct inject *in,
		      int ret);
	void (*undo)(struct __test_metadata *_metadata, struct inject *in);
	int errors[2];
	bool part;
	bool allocates;
	bool slow;
};

static bool allowed(const struct operation *op, int ret)
{
	if (ret == PART)
		return op->part;
	return !ret || (ret < 0 && (ret == op->errors[0] ||
				    ret == op->errors[1]));
}

/* Once, with the @nth allocation failing. Returns what op->run() did. */
static int inject_once(struct __test_metadata *_metadata, struct inject *in,
		       const struct operation *op, unsigned int nth,
		       bool *injected)
{
	int ret;

	if (op->prepare)
		op->prepare(_metadata, in);
	ASSERT_EQ(0, arm(in->nth, nth));
	ret = op->run(in);
	ASSERT_EQ(0, disarm(in->nth, injected));
	EXPECT_TRUE(*injected ? allowed(op, ret) : !ret)
		TH_LOG("with allocation %u: %d (%s)", nth, ret,
		       ret < 0 ? strerror(-ret) : "not all");
	op->check(_metadata, in, ret);
	return ret;
}

struct tally {
	unsigned int injections;
	unsigned int errors;
};

/* Each allocation in turn */
static void sweep(struct __test_metadata *_metadata, struct inject *in,
		  const struct operation *op, struct tally *tally)
{
	bool injected = true;
	unsigned int nth;
	int ret;

	for (nth = 1; injected; nth++) {
		ASSERT_GE(MAX_NTH, nth);
		ret = inject_once(_metadata, in, op, nth, &injected);
		tally->injections += injected;
		tally->errors += ret < 0;
		if (ret && (in->thorough || !op->slow)) {
			/* The same again, and all is well. */
			ret = op->run(in);
			EXPECT_EQ(0, ret)
				TH_LOG("after allocation %u: %d", nth, ret);
			op->check(_metadata, in, ret);
		}
		if (op->undo)
			op->undo(_metadata, in);
		ASSERT_NE(KSFT_FAIL, _metadata->exit_code)
			TH_LOG("this was allocation %u", nth);
	}
}

/*
 * Leaks, in pages. Where a page that is leaked can be seen depends on how it was
 * lost: it is mapped (RSS, nr_anon_pages), or was not freed after that (the LRU
 * lists), or never mapped (the charge of the cgroup), or never charged (used
 * memory), or it is a page table. What is smaller than a page is for kmemleak.
 */
enum gauge {
	RSS,
	RSS_ANON,
	ANON,
	LRU,
	CHARGE,
	TABLES,
	PINS,
	USED,
	NR_GAUGES,
};

/*
 * @slack: up to so many pages may be other things. Most are exact but for what
 * the program itself, or somebody else in a VM that has nothing to do, may use.
 * The charge is made in advance, for 64 pages on each CPU, and also for objects
 * that the kernel keeps. Used memory is all that is neither free nor in slabs.
 * memory.stat would be no good: it may be some 100 pages out of date.
 */
static const struct {
	const char *name;
	long slack;
} gauges[NR_GAUGES] = {
	[RSS] = { "VmRSS", 16 },
	[RSS_ANON] = { "RssAnon", 16 },
	[ANON] = { "nr_anon_pages", 32 },
	[LRU] = { "nr_active_anon and nr_inactive_anon", 32 },
	[CHARGE] = { "memory.current", 256 },
	[TABLES] = { "nr_page_table_pages", 32 },
	[PINS] = { "pages pinned and not unpinned", 0 },
	[USED] = { "used memory", 256 },
};

static void measure(struct __test_metadata *_metadata,
		    const struct cgroup *cg, long *gauge)
{
	const long page = page_size();

	/* The stacks of threads, and more, are only freed some time later. */
	ASSERT_EQ(0, syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0));
	ASSERT_EQ(0, drain_lru());
	/* What each CPU has counted for itself */
	ASSERT_EQ(0, write_file("/proc/sys/vm/stat_refresh", "1"));
	gauge[RSS] = process_kib("VmRSS:") * 1024 / page;
	gauge[RSS_ANON] = process_kib("RssAnon:") * 1024 / page;
	gauge[ANON] = vm_counter("nr_anon_pages");
	gauge[LRU] = vm_counter("nr_active_anon") +
		     vm_counter("nr_inactive_anon");
	gauge[CHARGE] = cgroup_read(cg, "memory.current") / page;
	gauge[TABLES] = vm_counter("nr_page_table_pages");
	gauge[PINS] = vm_counter("nr_foll_pin_acquired") -
		      vm_counter("nr_foll_pin_released");
	gauge[USED] = -vm_counter("nr_free_pages") - pages_cached() -
		      vm_counter("nr_slab_reclaimable") -
		      vm_counter("nr_slab_unreclaimable");
}

static bool more_used(const long *before, const long *after)
{
	int i;

	for (i = 0; i < NR_GAUGES; i++)
		if (after[i] - before[i] > gauges[i].slack)
			return true;
	return false;
}

static struct tally some_sweeps(struct __test_metadata *_metadata,
				struct inject *in, const struct operation *op,
				unsigned int nr)
{
	struct tally tally = {};

	map_memory(_metadata, in);
	while (nr--)
		sweep(_metadata, in, op, &tally);
	if (in->pinned)
		EXPECT_EQ(0, device_unpin(in->dev, &in->mem));
	in->pinned = false;
	memory_unmap(&in->all);
	return tally;
}

/*
 * The first sweep looks at everything. What is still there after it, such as
 * page tables, may stay; then nothing more may be used, however often.
 */
static void sweeps(struct __test_metadata *_metadata, struct inject *in,
		   const struct operation *op)
{
	long before[NR_GAUGES], after[NR_GAUGES];
	unsigned int more = 1, enough, seconds = 0;
	struct tally tally;
	int i;

	in->thorough = true;
	tally = some_sweeps(_metadata, in, op, 1);
	in->thorough = false;
	TH_LOG("%u allocations failed, and so the operation did %u times",
	       tally.injections, tally.errors);
	if (op->errors[0] || op->part || op->allocates)
		ASSERT_LT(0, tally.injections);
	if (op->errors[0])
		ASSERT_LT(0, tally.errors);

	measure(_metadata, &in->cgroup, before);
	enough = in->pages > SOME_PAGES ? ENOUGH_OF_MANY : ENOUGH;
	if (tally.injections)
		more = (enough + tally.injections - 1) / tally.injections;
	tally = some_sweeps(_metadata, in, op, more);
	TH_LOG("then %u failed, each %u times", tally.injections, more);
	do {
		/* A leak stays; what is about to be freed does not. */
		sleep(seconds++);
		measure(_metadata, &in->cgroup, after);
	} while (seconds < 6 && more_used(before, after));
	for (i = 0; i < NR_GAUGES; i++) {
		if (after[i] > before[i])
			TH_LOG("%s: %ld pages more", gauges[i].name,
			       after[i] - before[i]);
		EXPECT_GE(gauges[i].slack, after[i] - before[i]);
	}
}

/*
 * The commands
 */

static void prepare_make(struct __test_metadata *_metadata, struct inject *in)
{
	/* All else is as it was: a THP but for its PMD, which takes long. */
	if (in->kind != SWAPPED && !(in->kind == THP && in->thorough))
		return;
	memory_unmap(&in->all);
	map_memory(_metadata, in);
}

static int run_make(struct inject *in)
{
	long made = device_make(in->dev, &in->mem, in->flags);

	/* None at all is an error. */
	if (made <= 0)
		return made ?: -EIO;
	return made == (long)in->mem.nr ? 0 : PART;
}

static void check_make(struct __test_metadata *_metadata, struct inject *in,
		       int ret)
{
	bool locked = ret >= 0 && (in->flags & DEVEX_RANGE_LOCKED);

	if (in->thorough) {
		expect_complete(_metadata, in);
		EXPECT_EQ(locked, !!counters_of(_metadata, in->dev).locked);
	}
	if (in->thorough && !ret) {
		EXPECT_EQ(in->mem.nr, memory_count(&in->mem, PAGE_EXCLUSIVE));
		EXPECT_EQ((long)in->mem.nr, device_held(in->dev, &in->mem));
	}
	/* It is to be done again. */
	if (locked && ret == PART)
		EXPECT_EQ(0, device_unlock(in->dev));
}

/* The CPU has it back, with what was in it. */
static void undo_make(struct __test_metadata *_metadata, struct inject *in)
{
	const struct memory *mem = &in->mem;

	if (in->flags & DEVEX_RANGE_LOCKED)
		EXPECT_EQ(0, device_unlock(in->dev));
	/* To throw it away takes it back, too, and faster. */
	if (!in->fresh || in->thorough)
		EXPECT_EQ(0, content_wrong(in));
	if (in->thorough)
		EXPECT_EQ(0, counters_of(_metadata, in->dev).held);
	if (in->fresh)
		ASSERT_EQ(0, madvise(mem->addr, mem->size, MADV_DONTNEED));
}

/* Where an allocation fails later than for the first page it returns fewer. */
static const struct operation make = {
	.prepare = prepare_make,
	.run = run_make,
	.check = check_make,
	.undo = undo_make,
	.errors = { -ENOMEM },
	.part = true,
};

static void check_pin(struct __test_metadata *_metadata, struct inject *in,
		      int ret)
{
	if (!in->thorough)
		return;
	expect_complete(_metadata, in);
	EXPECT_EQ(ret ? 0 : in->mem.nr,
		  counters_of(_metadata, in->dev).pinned);
}

static int run_pin(struct inject *in)
{
	return device_pin(in->dev, &in->mem);
}

static void undo_pin(struct __test_metadata *_metadata, struct inject *in)
{
	EXPECT_EQ(0, device_unpin(in->dev, &in->mem));
	undo_make(_metadata, in);
}

static const struct operation pin = {
	.prepare = prepare_make,
	.run = run_pin,
	.check = check_pin,
	.undo = undo_pin,
	.errors = { -ENOMEM },
};

static uint64_t *add_word(const struct inject *in)
{
	return memory_word(&in->mem, in->mem.nr / 2);
}

static int run_add(struct inject *in)
{
	struct devex_add add = {
		.addr = (uintptr_t)add_word(in),
		.value = 1,
		.count = 3,
	};
	int ret = ioctl(in->dev, DEVEX_IOC_ADD, &add) ? -errno : 0;

	in->added += add.done;
	return !ret && add.done != add.count ? PART : ret;
}

/* What was said to be added was. */
static void check_add(struct __test_metadata *_metadata, struct inject *in,
		      int ret)
{
	size_t page = in->mem.first + in->mem.nr / 2;
	uint64_t old = in->fresh ? 0 : memory_value(SEED, page, 0);

	if (in->thorough)
		expect_complete(_metadata, in);
	if (!ret) {
		EXPECT_LE(3, in->added);
		EXPECT_TRUE(!in->thorough || is_exclusive((char *)add_word(in)));
	}
	EXPECT_EQ(old + in->added, read_word(add_word(in)));
}

static void undo_add(struct __test_metadata *_metadata, struct inject *in)
{
	uint64_t *word = add_word(in);

	write_word(word, read_word(word) - in->added);
	in->added = 0;
	undo_make(_metadata, in);
}

/* The ioctl has a kernel thread made: either may be what has no memory. */
static const struct operation add = {
	.prepare = prepare_make,
	.run = run_add,
	.check = check_add,
	.undo = undo_add,
	.errors = { -ENOMEM },
};

/* To copy a process, for a thread of the kernel, may also say EAGAIN. */
static const struct operation add_thread = {
	.run = run_add,
	.check = check_add,
	.undo = undo_add,
	.errors = { -ENOMEM, -EAGAIN },
};

static void prepare_pinned(struct __test_metadata *_metadata, struct inject *in)
{
	if (!in->pinned)
		ASSERT_EQ(0, device_pin(in->dev, &in->mem));
	in->pinned = true;
}

/* Read a word, and write it back. */
static int run_dma(struct inject *in)
{
	uint64_t word = 0;

	return device_read(in->dev, in->mem.addr, &word, sizeof(word)) ?:
	       device_write(in->dev, in->mem.addr, &word, sizeof(word));
}

static void check_same(struct __test_metadata *_metadata, struct inject *in,
		       int ret)
{
	EXPECT_EQ(0, content_wrong(in));
	if (in->thorough) {
		EXPECT_EQ(in->mem.nr, memory_count(&in->mem, PAGE_PRESENT))
			TH_LOG("after %d", ret);
	}
}

static const struct operation dma = {
	.prepare = prepare_pinned,
	.run = run_dma,
	.check = check_same,
	.errors = { -ENOMEM },
};

/* What allocates nothing cannot fail. */
static void prepare_simple(struct __test_metadata *_metadata, struct inject *in)
{
	prepare_pinned(_metadata, in);
	ASSERT_EQ((long)in->mem.nr, device_make(in->dev, &in->mem,
						DEVEX_RANGE_LOCKED));
}

static int run_simple(struct inject *in)
{
	struct devex_counters counters;
	long held;
	int ret;

	ret = device_unlock(in->dev) ?: device_counters(in->dev, &counters) ?:
	      device_unpin(in->dev, &in->mem);
	in->pinned = false;
	if (ret)
		return ret;
	held = device_held(in->dev, &in->mem);
	if (held < 0)
		return held;
	return held == (long)in->mem.nr ? 0 : PART;
}

static const struct operation simple = {
	.prepare = prepare_simple,
	.run = run_simple,
	.check = check_same,
};

/* Nor can a CPU that accesses memory of its own be told that there is no more. */
static void prepare_exclusive(struct __test_metadata *_metadata,
			      struct inject *in)
{
	ASSERT_EQ((long)in->mem.nr, device_make(in->dev, &in->mem, 0));
}

static int run_touch(struct inject *in)
{
	return words_wrong(&in->mem, false) ? PART : 0;
}

static const struct operation touch_exclusive = {
	.prepare = prepare_exclusive,
	.run = run_touch,
	.check = check_same,
};

/* Device-private memory */
static void prepare_lru(struct __test_metadata *_metadata, struct inject *in)
{
	/* What is on no LRU list stays where it is. */
	ASSERT_EQ(0, drain_lru());
	EXPECT_EQ(in->mem.nr, memory_count(&in->mem, PAGE_PRESENT));
}

/*
 * The device gets its memory when it is first asked to use it. That must not
 * fail: x86 warns if there is no memory for the struct pages (add_pages()).
 */
static void prepare_migrate(struct __test_metadata *_metadata,
			    struct inject *in)
{
	struct memory one = memory_part(&in->mem, 0, 1);

	ASSERT_EQ(0, drain_lru());
	ASSERT_LE(0, device_migrate(in->dev, &one));
	EXPECT_EQ(0, words_wrong(&one, false));
	prepare_lru(_metadata, in);
}

/* What has no room there stays here. */
static int run_migrate(struct inject *in)
{
	long moved = device_migrate(in->dev, &in->mem);

	if (moved < 0)
		return moved;
	in->added += moved;
	return in->added == in->mem.nr ? 0 : PART;
}

static void check_migrate(struct __test_metadata *_metadata, struct inject *in,
			  int ret)
{
	if (!in->thorough)
		return;
	expect_complete(_metadata, in);
	EXPECT_EQ(in->added, memory_count(&in->mem, PAGE_PRIVATE));
	EXPECT_EQ(in->added, counters_of(_metadata, in->dev).stored)
		TH_LOG("after %d", ret);
}

static void undo_migrate(struct __test_metadata *_metadata, struct inject *in)
{
	in->added = 0;
	EXPECT_EQ(0, content_wrong(in));
	EXPECT_EQ(0, counters_of(_metadata, in->dev).stored);
}

static const struct operation migrate = {
	.prepare = prepare_migrate,
	.run = run_migrate,
	.check = check_migrate,
	.undo = undo_migrate,
	.part = true,
};

static void prepare_private(struct __test_metadata *_metadata,
			    struct inject *in)
{
	prepare_lru(_metadata, in);
	ASSERT_EQ(0, run_migrate(in));
	in->added = 0;
}

static const struct operation touch_private = {
	.prepare = prepare_private,
	.run = run_touch,
	.check = check_same,
	.allocates = true,
};

/* All that a device may have when it is closed */
static void prepare_close(struct __test_metadata *_metadata, struct inject *in)
{
	struct memory stored = memory_part(&in->mem, 0, 8);
	struct memory pinned = memory_part(&in->mem, 8, 8);
	struct memory held = memory_part(&in->mem, 8, 16);

	prepare_lru(_metadata, in);
	in->other = device_open();
	ASSERT_LE(0, in->other);
	ASSERT_EQ(8, device_migrate(in->other, &stored));
	ASSERT_EQ(0, device_pin(in->other, &pinned));
	ASSERT_EQ(16, device_make(in->other, &held, DEVEX_RANGE_LOCKED));
}

static int run_close(struct inject *in)
{
	return close(in->other) ? -errno : 0;
}

static void check_close(struct __test_metadata *_metadata, struct inject *in,
			int ret)
{
	if (in->thorough) {
		EXPECT_EQ(0, memory_count(&in->mem, PAGE_NONE));
		EXPECT_EQ(0, memory_count(&in->mem, PAGE_PRIVATE));
		EXPECT_EQ(0, memory_count(&in->mem, PAGE_OTHER));
	}
	check_same(_metadata, in, ret);
}

/* This must not fail, and so it may allocate only what cannot. */
static const struct operation close_device = {
	.prepare = prepare_close,
	.run = run_close,
	.check = check_close,
};

static int run_mmap(struct inject *in)
{
	int ret;

	if (!in->map) {
		in->map = mmap(NULL, page_size(), PROT_READ, MAP_SHARED,
			       in->dev, 0);
		if (in->map == MAP_FAILED) {
			in->map = NULL;
			return -errno;
		}
	}
	ret = munmap(in->map, page_size()) ? -errno : 0;
	if (!ret)
		in->map = NULL;
	return ret;
}

static const struct operation map_device = {
	.run = run_mmap,
	.check = check_same,
	.errors = { -ENOMEM },
};

/*
 * The first device of a process is more work than those that follow: open it in
 * a child. What the child says is the errno, and one bit if nothing failed.
 */
#define NOT_INJECTED	0x80

static int open_first(unsigned int nth)
{
	int fd = open(FAIL_NTH, O_RDWR), dev, err;
	bool injected;

	if (fd < 0 || arm(fd, nth))
		return -1;
	dev = open(DEVEX_DEVICE, O_RDWR);
	err = dev < 0 ? errno : 0;
	if (disarm(fd, &injected))
		return -1;
	if (err) {
		/* Now it works. */
		dev = device_open();
		if (dev < 0)
			return -1;
	}
	close(dev);
	return err | (injected ? 0 : NOT_INJECTED);
}

/*
 * Fork
 */

/* The memory is as the parent's was, and can be written to. */
static size_t child_wrong(const struct inject *in)
{
	size_t wrong = content_wrong(in), i;

	for (i = 0; i < in->mem.nr; i += 13)
		write_word(memory_word(&in->mem, i), 0);
	return wrong;
}

static void prepare_fork(struct __test_metadata *_metadata, struct inject *in)
{
	if (in->exclusive)
		prepare_exclusive(_metadata, in);
}

static int run_fork(struct inject *in)
{
	in->child = fork();
	if (!in->child)
		_exit(!!child_wrong(in));
	return in->child < 0 ? -errno : 0;
}

static void check_fork(struct __test_metadata *_metadata, struct inject *in,
		       int ret)
{
	const struct memory *mem = &in->mem;
	size_t i;

	if (!ret)
		EXPECT_EQ(0, child_exit(in->child));
	if (in->thorough)
		expect_complete(_metadata, in);
	/* Then the next one copies what this one has left as it is. */
	if (ret && in->thorough)
		return;
	EXPECT_EQ(0, content_wrong(in));
	if (!in->pinned || !in->thorough)
		return;
	/* What is pinned is still ours, and not where a copy of it is. */
	for (i = 0; i < mem->nr; i++)
		write_word(memory_word(mem, i), read_word(memory_word(mem, i)));
	EXPECT_EQ(0, memory_moved(mem, in->pfns));
}

static const struct operation copy_all = {
	.prepare = prepare_fork,
	.run = run_fork,
	.check = check_fork,
	.errors = { -ENOMEM },
	.slow = true,
};

static void prepare_fork_pinned(struct __test_metadata *_metadata,
				struct inject *in)
{
	if (!in->pinned) {
		prepare_pinned(_metadata, in);
		memory_pfns(&in->mem, in->pfns);
	}
	prepare_fork(_metadata, in);
}

static const struct operation copy_pinned = {
	.prepare = prepare_fork_pinned,
	.run = run_fork,
	.check = check_fork,
	.errors = { -ENOMEM },
	.slow = true,
};

/* What is swapped out stays so in the parent. */
static void check_fork_swapped(struct __test_metadata *_metadata,
			       struct inject *in, int ret)
{
	if (!ret)
		EXPECT_EQ(0, child_exit(in->child));
	EXPECT_EQ(in->mem.nr, memory_count(&in->mem, PAGE_SWAPPED));
}

static const struct operation copy_swapped = {
	.run = run_fork,
	.check = check_fork_swapped,
	.errors = { -ENOMEM },
};

/*
 * The commands that allocate more or less, for each kind of memory
 */
FIXTURE(command)
{
	struct inject in;
};

FIXTURE_VARIANT(command)
{
	enum memory_kind kind;
	bool fresh;
	bool large;	/* one THP: there is none for less */
};

FIXTURE_VARIANT_ADD(command, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(command, mthp_64k)
{
	.kind = MTHP_64K,
};

FIXTURE_VARIANT_ADD(command, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(command, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(command, fresh)
{
	.kind = SMALL,
	.fresh = true,
};

FIXTURE_VARIANT_ADD(command, fresh_thp)
{
	.kind = THP,
	.fresh = true,
	.large = true,
};

FIXTURE_VARIANT_ADD(command, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_SETUP(command)
{
	self->in.kind = variant->kind;
	self->in.pages = variant->large ? thp_size() / page_size() : SOME_PAGES;
	self->in.fresh = variant->fresh;
	self->in.large = variant->large;
	inject_begin(_metadata, &self->in);
}

FIXTURE_TEARDOWN(command)
{
	inject_end(&self->in);
}

TEST_F_TIMEOUT(command, make, 600)
{
	sweeps(_metadata, &self->in, &make);
}

TEST_F_TIMEOUT(command, make_once, 600)
{
	self->in.flags = DEVEX_RANGE_ONCE;
	sweeps(_metadata, &self->in, &make);
}

TEST_F_TIMEOUT(command, make_single, 600)
{
	self->in.flags = DEVEX_RANGE_SINGLE;
	sweeps(_metadata, &self->in, &make);
}

TEST_F_TIMEOUT(command, make_locked, 600)
{
	self->in.flags = DEVEX_RANGE_LOCKED;
	sweeps(_metadata, &self->in, &make);
}

TEST_F_TIMEOUT(command, pin, 600)
{
	sweeps(_metadata, &self->in, &pin);
}

TEST_F_TIMEOUT(command, add, 600)
{
	sweeps(_metadata, &self->in, &add);
}

/*
 * What does not depend on the kind of memory
 */
FIXTURE(global)
{
	struct inject in;
};

FIXTURE_SETUP(global)
{
	self->in.kind = SMALL;
	self->in.pages = SOME_PAGES;
	inject_begin(_metadata, &self->in);
}

FIXTURE_TEARDOWN(global)
{
	inject_end(&self->in);
}

TEST_F_TIMEOUT(global, dma, 600)
{
	sweeps(_metadata, &self->in, &dma);
}

TEST_F_TIMEOUT(global, simple, 600)
{
	sweeps(_metadata, &self->in, &simple);
}

TEST_F_TIMEOUT(global, touch_exclusive, 600)
{
	sweeps(_metadata, &self->in, &touch_exclusive);
}

/* Few pages: to drain the LRU batches each time takes long. */
TEST_F_TIMEOUT(global, migrate, 600)
{
	self->in.pages = 16;
	sweeps(_metadata, &self->in, &migrate);
}

TEST_F_TIMEOUT(global, touch_private, 600)
{
	self->in.pages = 16;
	sweeps(_metadata, &self->in, &touch_private);
}

TEST_F_TIMEOUT(global, close, 600)
{
	sweeps(_metadata, &self->in, &close_device);
}

TEST_F_TIMEOUT(global, mmap, 600)
{
	sweeps(_metadata, &self->in, &map_device);
}

/* It is kthreadd who makes the thread: let that one have no memory. */
TEST_F_TIMEOUT(global, add_thread, 600)
{
	char name[16] = "";
	int fd;

	fd = open(KTHREADD "comm", O_RDONLY);
	ASSERT_LT(0, read(fd, name, sizeof(name) - 1));
	ASSERT_STREQ("kthreadd\n", name);
	close(fd);
	close(self->in.nth);
	self->in.nth = open(KTHREADD "fail-nth", O_RDWR);
	ASSERT_LE(0, self->in.nth);
	sweeps(_metadata, &self->in, &add_thread);
}

TEST_F_TIMEOUT(global, open, 600)
{
	unsigned int nth, errors = 0;
	int said = 0;
	pid_t pid;

	for (nth = 1; !(said & NOT_INJECTED); nth++) {
		ASSERT_GE(MAX_NTH, nth);
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(open_first(nth));
		said = child_exit(pid);
		ASSERT_GT(0xff, said);
		EXPECT_TRUE(!(said & ~NOT_INJECTED) || said == ENOMEM)
			TH_LOG("allocation %u: %s", nth,
			       strerror(said & ~NOT_INJECTED));
		errors += said == ENOMEM;
	}
	TH_LOG("%u allocations failed, and so did %u calls", nth - 2, errors);
	EXPECT_LT(0, errors);
}

/*
 * Fork in every state
 */
static void fork_begin(struct __test_metadata *_metadata, struct inject *in)
{
	if (!in->pages)
		in->pages = in->kind == THP || in->large ?
			    thp_size() / page_size() : SOME_PAGES;
	in->alone = true;
	inject_begin(_metadata, in);
}

FIXTURE(fork)
{
	struct inject in;
};

FIXTURE_VARIANT(fork)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(fork, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(fork, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(fork, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(fork)
{
	self->in.kind = variant->kind;
	fork_begin(_metadata, &self->in);
}

FIXTURE_TEARDOWN(fork)
{
	inject_end(&self->in);
}

TEST_F_TIMEOUT(fork, plain, 600)
{
	sweeps(_metadata, &self->in, &copy_all);
}

TEST_F_TIMEOUT(fork, exclusive, 600)
{
	self->in.exclusive = true;
	sweeps(_metadata, &self->in, &copy_all);
}

TEST_F_TIMEOUT(fork, pinned, 600)
{
	sweeps(_metadata, &self->in, &copy_pinned);
}

TEST_F_TIMEOUT(fork, both, 600)
{
	self->in.exclusive = true;
	sweeps(_metadata, &self->in, &copy_pinned);
}

/*
 * When a swap entry has as many references as fit into it, the next one needs
 * memory: fork first tries to get it under its locks, and then without them.
 */
FIXTURE(count)
{
	struct inject in;
	pid_t holders[32];
};

FIXTURE_VARIANT(count)
{
	int bits;	/* for the number of references; depends on the kernel */
};

FIXTURE_VARIANT_ADD(count, four_bits)
{
	.bits = 4,
};

FIXTURE_VARIANT_ADD(count, five_bits)
{
	.bits = 5,
};

FIXTURE_SETUP(count)
{
	self->in.kind = SWAPPED;
	self->in.thorough = true;
	fork_begin(_metadata, &self->in);
}

FIXTURE_TEARDOWN(count)
{
	inject_end(&self->in);
}

static void hold(__maybe_unused void *data)
{
	pause();
}

TEST_F_TIMEOUT(count, fork, 600)
{
	/* The last number means that there are more; and the parent has one. */
	int i, nr = (1 << variant->bits) - 1 - 2;
	struct tally tally = {};

	map_memory(_metadata, &self->in);
	for (i = 0; i < nr; i++) {
		self->holders[i] = helper_start(hold, NULL);
		ASSERT_LT(0, self->holders[i]);
	}
	sweep(_metadata, &self->in, &copy_swapped, &tally);
	TH_LOG("%u allocations failed, and so fork did %u times",
	       tally.injections, tally.errors);
	EXPECT_LT(0, tally.errors);
	/* Some it can do without, or asks for again. */
	EXPECT_GT(tally.injections, tally.errors);
	for (i = 0; i < nr; i++)
		EXPECT_EQ(0, helper_stop(self->holders[i]));
	EXPECT_EQ(0, content_wrong(&self->in));
}

/*
 * What the copies of pinned pages may be made of
 */
FIXTURE(copies)
{
	struct inject in;
};

FIXTURE_VARIANT(copies)
{
	enum memory_kind kind;
	bool large;	/* the child may have THPs, */
	bool mthp;	/* or 64 KiB rather than those */
	bool policy;	/* each page of it is allocated alone */
};

FIXTURE_VARIANT_ADD(copies, small_interleave)
{
	.kind = SMALL,
	.policy = true,
};

FIXTURE_VARIANT_ADD(copies, small_to_64k)
{
	.kind = SMALL,
	.large = true,
	.mthp = true,
};

FIXTURE_VARIANT_ADD(copies, ptemap_to_thp)
{
	.kind = PTEMAP,
	.large = true,
};

FIXTURE_VARIANT_ADD(copies, thp_to_thp)
{
	.kind = THP,
	.large = true,
};

FIXTURE_SETUP(copies)
{
	self->in.kind = variant->kind;
	self->in.large = variant->large;
	self->in.policy = variant->policy;
	if (variant->mthp) {
		self->in.pages = SOME_PAGES;
		ASSERT_EQ(0, thp_allow(&self->in.pmd, thp_size(), "never"));
		ASSERT_EQ(0, thp_allow(&self->in.mthp, 64 << 10, "madvise"));
	}
	fork_begin(_metadata, &self->in);
}

FIXTURE_TEARDOWN(copies)
{
	inject_end(&self->in);
}

TEST_F_TIMEOUT(copies, pinned, 600)
{
	sweeps(_metadata, &self->in, &copy_pinned);
}

TEST_HARNESS_MAIN
