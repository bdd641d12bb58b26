// SPDX-License-Identifier: GPL-2.0
/*
 * KUnit tests for device-exclusive memory: the entries, what fork() does with
 * them, make_device_exclusive_range() on memory of a process, and CPU faults.
 *
 * Each test but those for the entries has an address space of its own. There is
 * no device. What it would be told comes to an interval notifier, which writes
 * it down.
 */
#include <kunit/test.h>
#include <linux/anon_inodes.h>
#include <linux/debug_locks.h>
#include <linux/device_exclusive.h>
#include <linux/fs.h>
#include <linux/leafops.h>
#include <linux/lockdep.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/sched/signal.h>
#include <linux/shmem_fs.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>

#include <asm/tlbflush.h>

#include "../internal.h"

MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");

/* The memory of a test; it begins with a page table of its own. */
#define NR_PAGES	(3UL * PTRS_PER_PTE)
#define NR_EVENTS	16

/* What nobody has written to the array of pages */
#define NO_PAGE		((struct page *)0x123UL)

struct event {
	enum mmu_notifier_event type;
	unsigned long start;
	unsigned long end;
	void *owner;
};

/**
 * struct exclusive_test - what a test works with
 * @mm: its address space
 * @base: the address of its first page; all others are known by their number
 * @pages: room for what make_device_exclusive_range() returns
 * @range: the argument of the last call of it
 * @lock_depth: how many locks were held before that call
 * @notifier: for all of @mm
 * @events: what came to @notifier since that call began
 * @nr_events: how many these were, which may be more than fit
 * @in_section: what to do when the notifier section of a conversion begins
 * @page: a page for fault handlers
 * @fault: what the fault handler of special memory returns, instead of @page
 * @nr_retries: how many times it returns VM_FAULT_RETRY before
 * @fault_flags: what it was called with
 * @kill: whether a fatal signal comes while it is working
 * @work: something to be done by somebody else meanwhile
 * @task: whom @work is to kill
 * @folio: what @work is to unlock
 */
struct exclusive_test {
	struct mm_struct *mm;
	unsigned long base;
	struct page **pages;
	struct device_exclusive_range range;
	int lock_depth;
	struct mmu_interval_notifier notifier;
	struct event events[NR_EVENTS];
	unsigned int nr_events;
	void (*in_section)(struct exclusive_test *t);

	struct page *page;
	vm_fault_t fault;
	int nr_retries;
	enum fault_flag fault_flags;
	bool kill;

	struct delayed_work work;
	struct task_struct *task;
	struct folio *folio;
};

static unsigned long addr_of(struct exclusive_test *t, unsigned long nr)
{
	return t->base + nr * PAGE_SIZE;
}

/*
 * The address space
 */

static bool record_event(struct mmu_interval_notifier *notifier,
			 const struct mmu_notifier_range *range,
			 unsigned long cur_seq)
{
	struct exclusive_test *t = container_of(notifier, struct exclusive_test,
						notifier);

	mmu_interval_set_seq(notifier, cur_seq);
	if (t->nr_events < NR_EVENTS)
		t->events[t->nr_events] = (struct event) {
			.type = range->event,
			.start = range->start,
			.end = range->end,
			.owner = range->owner,
		};
	t->nr_events++;
	if (t->in_section && range->event == MMU_NOTIFY_EXCLUSIVE)
		t->in_section(t);
	return true;
}

static const struct mmu_interval_notifier_ops notifier_ops = {
	.invalidate = record_event,
};

static void remove_notifier(void *data)
{
	struct exclusive_test *t = data;

	mmu_interval_notifier_remove(&t->notifier);
}

static int exclusive_test_init(struct kunit *test)
{
	struct exclusive_test *t;
	unsigned long addr;
	int err;

	t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t);
	t->pages = kunit_kcalloc(test, NR_PAGES, sizeof(*t->pages), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->pages);

	addr = kunit_vm_mmap(test, NULL, 0, NR_PAGES * PAGE_SIZE + PMD_SIZE,
			     PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, 0);
	KUNIT_ASSERT_NE(test, addr, 0);
	KUNIT_ASSERT_LT(test, addr, TASK_SIZE);
	t->mm = current->mm;
	t->base = ALIGN(addr, PMD_SIZE);

	err = mmu_interval_notifier_insert(&t->notifier, t->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &notifier_ops);
	KUNIT_ASSERT_EQ(test, err, 0);
	test->priv = t;
	return kunit_add_action_or_reset(test, remove_notifier, t);
}

/* Map something else there. */
static void map(struct kunit *test, unsigned long from, unsigned long nr,
		struct file *file, unsigned long prot, unsigned long flags)
{
	struct exclusive_test *t = test->priv;
	unsigned long addr = addr_of(t, from);

	if (!file)
		flags |= MAP_ANONYMOUS;
	KUNIT_ASSERT_EQ(test, vm_mmap(file, addr, nr * PAGE_SIZE, prot,
				      flags | MAP_FIXED, 0), addr);
}

/* The content of a page tells which one it is. */
static void write_pages(struct kunit *test, unsigned long from, unsigned long nr)
{
	struct exclusive_test *t = test->priv;
	unsigned long i, failed = 0;

	for (i = from; i < from + nr; i++)
		if (put_user((u32)i + 1, (u32 __user *)addr_of(t, i)))
			failed++;
	KUNIT_ASSERT_EQ(test, failed, 0);
}

static void read_zeros(struct kunit *test, unsigned long from, unsigned long nr)
{
	struct exclusive_test *t = test->priv;
	unsigned long i, failed = 0;
	u32 value;

	for (i = from; i < from + nr; i++)
		if (get_user(value, (u32 __user *)addr_of(t, i)) || value)
			failed++;
	KUNIT_EXPECT_EQ(test, failed, 0);
}

static void expect_written(struct kunit *test, unsigned long from,
			   unsigned long nr)
{
	struct exclusive_test *t = test->priv;
	unsigned long i, failed = 0;
	u32 value;

	for (i = from; i < from + nr; i++)
		if (get_user(value, (u32 __user *)addr_of(t, i)) ||
		    value != i + 1)
			failed++;
	KUNIT_EXPECT_EQ(test, failed, 0);
}

/*
 * The page table. Only the test works on it, and without the mmap_lock, which
 * may not be taken while a range is exclusive and locked.
 */

static pte_t *lock_pte(struct exclusive_test *t, unsigned long nr,
		       spinlock_t **ptl)
{
	pmd_t *pmd = mm_find_pmd(t->mm, addr_of(t, nr));

	if (!pmd)
		return NULL;
	return pte_offset_map_lock(t->mm, pmd, addr_of(t, nr), ptl);
}

static pte_t read_pte(struct exclusive_test *t, unsigned long nr)
{
	pte_t pte = __pte(0);
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	ptep = lock_pte(t, nr, &ptl);
	if (!ptep)
		return pte;
	pte = ptep_get(ptep);
	pte_unmap_unlock(ptep, ptl);
	return pte;
}

static void write_pte(struct kunit *test, unsigned long nr, pte_t pte)
{
	struct exclusive_test *t = test->priv;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	ptep = lock_pte(t, nr, &ptl);
	KUNIT_ASSERT_NOT_NULL(test, ptep);
	ptep_get_and_clear(t->mm, addr_of(t, nr), ptep);
	set_pte_at(t->mm, addr_of(t, nr), ptep, pte);
	flush_tlb_mm(t->mm);
	pte_unmap_unlock(ptep, ptl);
}

static bool pte_is_exclusive(pte_t pte)
{
	return !pte_none(pte) && !pte_present(pte) &&
	       softleaf_is_device_exclusive(softleaf_from_pte(pte));
}

/* The page that is mapped there, also if it is exclusive */
static struct page *page_at(struct exclusive_test *t, unsigned long nr)
{
	pte_t pte = read_pte(t, nr);

	if (pte_present(pte))
		return pte_page(pte);
	if (pte_is_exclusive(pte))
		return softleaf_to_page(softleaf_from_pte(pte));
	return NULL;
}

static struct folio *folio_at(struct kunit *test, unsigned long nr)
{
	struct page *page = page_at(test->priv, nr);

	KUNIT_ASSERT_NOT_NULL(test, page);
	return page_folio(page);
}

static unsigned long count_exclusive(struct exclusive_test *t,
				     unsigned long from, unsigned long nr)
{
	unsigned long i, found = 0;

	for (i = from; i < from + nr; i++)
		found += pte_is_exclusive(read_pte(t, i));
	return found;
}

static unsigned long count_present(struct exclusive_test *t,
				   unsigned long from, unsigned long nr)
{
	unsigned long i, found = 0;

	for (i = from; i < from + nr; i++)
		found += !!pte_present(read_pte(t, i));
	return found;
}

/* Exchange what is mapped at two places of one page table. */
static void swap_ptes(struct kunit *test, unsigned long a, unsigned long b)
{
	pte_t first = read_pte(test->priv, a);
	pte_t second = read_pte(test->priv, b);

	/* No anonymous page may be writable at two places, not for a moment. */
	write_pte(test, b, __pte(0));
	write_pte(test, a, second);
	write_pte(test, b, first);
}

/* As a page fault would map @folio at page @nr, where nothing is. */
static void map_folio(struct kunit *test, unsigned long nr, struct folio *folio)
{
	struct exclusive_test *t = test->priv;
	struct vm_area_struct *vma;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;
	int err;

	/* Its last page, so that there is a page table, and an anon_vma */
	write_pages(test, round_up(nr + 1, PTRS_PER_PTE) - 1, 1);

	err = mem_cgroup_charge(folio, t->mm, GFP_KERNEL);
	KUNIT_ASSERT_EQ(test, err, 0);
	__folio_mark_uptodate(folio);

	mmap_read_lock(t->mm);
	vma = vma_lookup(t->mm, addr_of(t, nr));
	ptep = lock_pte(t, nr, &ptl);
	if (vma && ptep) {
		map_anon_folio_pte_nopf(folio, ptep, vma, addr_of(t, nr), false);
		add_mm_counter(t->mm, MM_ANONPAGES, folio_nr_pages(folio));
	}
	if (ptep)
		pte_unmap_unlock(ptep, ptl);
	mmap_read_unlock(t->mm);
	KUNIT_ASSERT_TRUE(test, vma && ptep);
}

static struct folio *map_new_folio(struct kunit *test, unsigned long nr,
				   unsigned int order)
{
	struct folio *folio = folio_alloc(GFP_USER | __GFP_ZERO, order);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	map_folio(test, nr, folio);
	write_pages(test, nr, folio_nr_pages(folio));
	return folio;
}

/* Two small folios whose pages are neighbours in memory, too */
static void map_neighbours(struct kunit *test, unsigned long nr)
{
	struct page *page = alloc_pages(GFP_USER | __GFP_ZERO, 1);

	KUNIT_ASSERT_NOT_NULL(test, page);
	split_page(page, 1);
	map_folio(test, nr, page_folio(page));
	map_folio(test, nr + 1, page_folio(page + 1));
	write_pages(test, nr, 2);
}

/*
 * Calls, and what must be true of each
 */

/*
 * Until unlock_range(), the test may not access the memory, and must not fail an
 * assertion, since folios are locked.
 */
static long call_make(struct exclusive_test *t)
{
	unsigned long i;

	for (i = 0; i < NR_PAGES; i++)
		t->pages[i] = NO_PAGE;
	t->nr_events = 0;
	/* The mmap_lock will not be held any more. */
	t->lock_depth = lockdep_depth(current) - 1;
	t->range.mm = t->mm;
	t->range.owner = t;
	t->range.pages = t->pages;
	return make_device_exclusive_range(&t->range);
}

static long make_range(struct exclusive_test *t, unsigned long from,
		       unsigned long nr)
{
	long ret;

	t->range.start = addr_of(t, from);
	t->range.end = addr_of(t, from + nr);
	mmap_read_lock(t->mm);
	ret = call_make(t);
	mmap_read_unlock(t->mm);
	return ret;
}

static void expect_event(struct kunit *test, unsigned int i,
			 enum mmu_notifier_event type, unsigned long from,
			 unsigned long nr)
{
	struct exclusive_test *t = test->priv;

	KUNIT_ASSERT_LT(test, i, min(t->nr_events, NR_EVENTS));
	KUNIT_EXPECT_EQ(test, t->events[i].type, type);
	KUNIT_EXPECT_EQ(test, t->events[i].start, addr_of(t, from));
	KUNIT_EXPECT_EQ(test, t->events[i].end, addr_of(t, from + nr));
	if (type == MMU_NOTIFY_EXCLUSIVE)
		KUNIT_EXPECT_PTR_EQ(test, t->events[i].owner, t->range.owner);
}

static unsigned int count_events(struct exclusive_test *t,
				 enum mmu_notifier_event type)
{
	unsigned int i, found = 0;

	for (i = 0; i < min(t->nr_events, NR_EVENTS); i++)
		found += t->events[i].type == type;
	return found;
}

/* Lockdep sees that the folios are held. */
static void expect_held(struct kunit *test, bool held)
{
	struct exclusive_test *t = test->priv;

	if (IS_ENABLED(CONFIG_LOCKDEP) && debug_locks)
		KUNIT_EXPECT_EQ(test, lockdep_depth(current),
				t->lock_depth + held);
}

/* Of what the last call was to make exclusive, @nr pages are, and no others. */
static void expect_result(struct kunit *test, long ret, long nr)
{
	struct exclusive_test *t = test->priv;
	unsigned long from = (t->range.start - t->base) / PAGE_SIZE;
	unsigned long i, wrong = 0, unlocked = 0;
	struct page *page;

	KUNIT_EXPECT_EQ(test, ret, nr);
	expect_held(test, ret > 0);
	for (i = 0; i < NR_PAGES; i++) {
		if ((long)i >= ret) {
			wrong += t->pages[i] != NO_PAGE;
			continue;
		}
		page = page_at(t, from + i);
		wrong += !page || t->pages[i] != page;
		unlocked += !page || !folio_test_locked(page_folio(page));
	}
	KUNIT_EXPECT_EQ(test, wrong, 0);
	KUNIT_EXPECT_EQ(test, unlocked, 0);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, from, max(ret, 0L)),
			max(ret, 0L));
}

static void unlock_range(struct kunit *test, long nr)
{
	struct exclusive_test *t = test->priv;
	unsigned long from = (t->range.start - t->base) / PAGE_SIZE;
	unsigned long i, locked = 0;

	device_exclusive_range_unlock(&t->range, nr);
	expect_held(test, false);
	for (i = from; (long)(i - from) < nr; i++)
		locked += folio_test_locked(page_folio(page_at(t, i)));
	KUNIT_EXPECT_EQ(test, locked, 0);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, from, max(nr, 0L)),
			max(nr, 0L));
}

/* Make pages exclusive, and expect that it works. */
static void make_exclusive(struct kunit *test, unsigned long from,
			   unsigned long nr)
{
	long ret = make_range(test->priv, from, nr);

	expect_result(test, ret, nr);
	unlock_range(test, ret);
	KUNIT_ASSERT_EQ(test, ret, nr);
}

/*
 * Device-exclusive entries
 */

static const unsigned long pfns[] = { 1, 2, 0x1234, 0xfffff, 1UL << 20 };

static pte_t exclusive_pte(unsigned long pfn)
{
	return swp_entry_to_pte(make_device_exclusive_entry(pfn));
}

/* Bits that stand beside the entry, each that there can be */
static pte_t with_bits(pte_t pte, unsigned int bits)
{
	if (bits & 1)
		pte = pte_swp_mkexclusive(pte);
	if (bits & 2)
		pte = pte_swp_mksoft_dirty(pte);
	if (bits & 4)
		pte = pte_swp_mkuffd(pte);
	return pte;
}

static unsigned int bits_of(pte_t pte)
{
	return (pte_swp_exclusive(pte) ? 1 : 0) |
	       (pte_swp_soft_dirty(pte) ? 2 : 0) |
	       (pte_swp_uffd(pte) ? 4 : 0);
}

/* Those that this architecture and configuration have */
static unsigned int possible_bits(void)
{
	return 1 | (pgtable_supports_soft_dirty() ? 2 : 0) |
	       (pgtable_supports_uffd() ? 4 : 0);
}

static void entry_type(struct kunit *test)
{
	swp_entry_t entry = make_device_exclusive_entry(pfns[0]);

	/* Other tools know it by this number, from /proc/pid/pagemap. */
	KUNIT_EXPECT_EQ(test, swp_type(entry), 30);
	KUNIT_EXPECT_GE(test, swp_type(entry), MAX_SWAPFILES);
}

static void entry_is(struct kunit *test)
{
	softleaf_t entry;
	pte_t pte;
	int i;

	for (i = 0; i < ARRAY_SIZE(pfns); i++) {
		pte = exclusive_pte(pfns[i]);
		KUNIT_EXPECT_FALSE(test, pte_none(pte));
		KUNIT_EXPECT_FALSE(test, pte_present(pte));

		entry = softleaf_from_pte(pte);
		KUNIT_EXPECT_TRUE(test, softleaf_is_device_exclusive(entry));
		KUNIT_EXPECT_TRUE(test, softleaf_has_pfn(entry));
		KUNIT_EXPECT_EQ(test, softleaf_to_pfn(entry), pfns[i]);
	}
}

static void entry_is_nothing_else(struct kunit *test)
{
	softleaf_t entry = softleaf_from_pte(exclusive_pte(pfns[0]));

	KUNIT_EXPECT_FALSE(test, softleaf_is_none(entry));
	KUNIT_EXPECT_FALSE(test, softleaf_is_swap(entry));
	KUNIT_EXPECT_FALSE(test, softleaf_is_migration(entry));
	KUNIT_EXPECT_FALSE(test, softleaf_is_device_private(entry));
	KUNIT_EXPECT_FALSE(test, softleaf_is_hwpoison(entry));
	KUNIT_EXPECT_FALSE(test, softleaf_is_marker(entry));
}

static void nothing_else_is_entry(struct kunit *test)
{
	swp_entry_t others[] = {
		swp_entry(0, pfns[0]),
		swp_entry(MAX_SWAPFILES - 1, pfns[0]),
#ifdef CONFIG_MIGRATION
		make_readable_migration_entry(pfns[0]),
		make_readable_exclusive_migration_entry(pfns[0]),
		make_writable_migration_entry(pfns[0]),
#endif
#ifdef CONFIG_DEVICE_PRIVATE
		make_readable_device_private_entry(pfns[0]),
		make_writable_device_private_entry(pfns[0]),
#endif
#ifdef CONFIG_MEMORY_FAILURE
		swp_entry(SWP_HWPOISON, pfns[0]),
#endif
		make_pte_marker_entry(PTE_MARKER_POISONED),
		make_pte_marker_entry(PTE_MARKER_GUARD),
	};
	softleaf_t entry;
	int i;

	for (i = 0; i < ARRAY_SIZE(others); i++) {
		entry = softleaf_from_pte(swp_entry_to_pte(others[i]));
		KUNIT_EXPECT_FALSE_MSG(test, softleaf_is_device_exclusive(entry),
				       "entry %d of type %u", i,
				       swp_type(others[i]));
	}
}

static void entry_keeps_bits(struct kunit *test)
{
	unsigned int bits;
	softleaf_t entry;
	pte_t pte;

	for (bits = 0; bits < 8; bits++) {
		if (bits & ~possible_bits())
			continue;
		pte = with_bits(exclusive_pte(pfns[2]), bits);
		KUNIT_EXPECT_EQ(test, bits_of(pte), bits);
		KUNIT_EXPECT_FALSE(test, pte_present(pte));

		entry = softleaf_from_pte(pte);
		KUNIT_EXPECT_TRUE(test, softleaf_is_device_exclusive(entry));
		KUNIT_EXPECT_EQ(test, softleaf_to_pfn(entry), pfns[2]);
	}
}

/* The entries of a batch are made, and recognised, by this step. */
static void entry_next(struct kunit *test)
{
	unsigned int bits;
	pte_t next, want;
	int i;

	for (i = 0; i < ARRAY_SIZE(pfns); i++) {
		for (bits = 0; bits < 8; bits++) {
			if (bits & ~possible_bits())
				continue;
			next = pte_next_swp_offset(with_bits(exclusive_pte(pfns[i]),
							     bits));
			want = with_bits(exclusive_pte(pfns[i] + 1), bits);
			KUNIT_EXPECT_TRUE_MSG(test, pte_same(next, want),
					      "PFN %#lx, bits %#x", pfns[i],
					      bits);
		}
	}
}

static struct kunit_case entry_cases[] = {
	KUNIT_CASE(entry_type),
	KUNIT_CASE(entry_is),
	KUNIT_CASE(entry_is_nothing_else),
	KUNIT_CASE(nothing_else_is_entry),
	KUNIT_CASE(entry_keeps_bits),
	KUNIT_CASE(entry_next),
	{}
};

/*
 * fork(): revert_exclusive_ptes()
 */

/* Returns the PTE that the function has returned; it must be the first one. */
static pte_t revert(struct kunit *test, unsigned long nr, int max_nr)
{
	struct exclusive_test *t = test->priv;
	pte_t pte = __pte(0), first = __pte(0);
	struct vm_area_struct *vma;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	mmap_write_lock(t->mm);
	vma = vma_lookup(t->mm, addr_of(t, nr));
	ptep = lock_pte(t, nr, &ptl);
	if (vma && ptep) {
		lazy_mmu_mode_enable();
		pte = revert_exclusive_ptes(vma, addr_of(t, nr), ptep, max_nr);
		first = ptep_get(ptep);
		lazy_mmu_mode_disable();
	}
	if (ptep)
		pte_unmap_unlock(ptep, ptl);
	mmap_write_unlock(t->mm);
	KUNIT_EXPECT_TRUE(test, pte_same(pte, first));
	return pte;
}

/* Of @folio, which is mapped from page 1 on, the first @nr are ordinary again. */
static void expect_reverted(struct kunit *test, struct folio *folio, int nr)
{
	struct exclusive_test *t = test->priv;
	pte_t pte;
	int i;

	for (i = 0; i < nr; i++) {
		pte = read_pte(t, 1 + i);
		KUNIT_ASSERT_TRUE(test, pte_present(pte));
		KUNIT_EXPECT_PTR_EQ(test, pte_page(pte), folio_page(folio, i));
		KUNIT_EXPECT_FALSE(test, pte_write(pte));
		KUNIT_EXPECT_FALSE(test, pte_dirty(pte));
		KUNIT_EXPECT_FALSE(test, pte_young(pte));
		KUNIT_EXPECT_TRUE(test, PageAnonExclusive(pte_page(pte)));
	}
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), folio_nr_pages(folio));
}

static void revert_whole(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 1, 2);
	int refs;

	write_pages(test, 0, 1);
	write_pages(test, 5, 1);
	make_exclusive(test, 0, 6);
	lru_add_drain_all();
	refs = folio_ref_count(folio);

	revert(test, 1, 4);
	expect_reverted(test, folio, 4);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	/* Those around it were not asked for. */
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 6), 2);
	expect_written(test, 0, 6);
}

static void revert_small(struct kunit *test)
{
	struct exclusive_test *t = test->priv;

	write_pages(test, 1, 2);
	make_exclusive(test, 1, 2);
	revert(test, 1, 1);
	expect_reverted(test, folio_at(test, 1), 1);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 2, 1), 1);
	expect_written(test, 1, 2);
}

static void revert_max_nr(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 1, 2);
	int nr;

	for (nr = 1; nr <= 4; nr++) {
		make_exclusive(test, 1, 4);
		revert(test, 1, nr);
		expect_reverted(test, folio, nr);
		KUNIT_EXPECT_EQ(test, count_exclusive(t, 1, 4), 4 - nr);
	}
}

static void revert_from_middle(struct kunit *test)
{
	struct exclusive_test *t = test->priv;

	map_new_folio(test, 1, 2);
	make_exclusive(test, 1, 4);
	revert(test, 3, 2);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 1, 2), 2);
	KUNIT_EXPECT_EQ(test, count_present(t, 3, 2), 2);
	expect_written(test, 1, 4);
}

/* It does not matter what the entries map: here are three folios, mixed. */
static void revert_mixed(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 1, 2);
	struct page *pages[6];
	unsigned long nr;

	map_neighbours(test, 5);
	swap_ptes(test, 2, 5);
	swap_ptes(test, 3, 4);
	for (nr = 1; nr <= 6; nr++) {
		pages[nr - 1] = page_at(t, nr);
		make_exclusive(test, nr, 1);
	}
	revert(test, 1, 6);
	KUNIT_EXPECT_EQ(test, count_present(t, 1, 6), 6);
	for (nr = 1; nr <= 6; nr++)
		KUNIT_EXPECT_PTR_EQ(test, page_at(t, nr), pages[nr - 1]);
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), folio_nr_pages(folio));
}

static void revert_up_to_present(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 1, 2);
	pte_t pte;

	make_exclusive(test, 1, 4);
	write_pages(test, 3, 1);
	pte = read_pte(t, 3);
	revert(test, 1, 4);
	expect_reverted(test, folio, 2);
	KUNIT_EXPECT_TRUE(test, pte_same(read_pte(t, 3), pte));
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 4, 1), 1);
}

static void revert_up_to_none(struct kunit *test)
{
	struct exclusive_test *t = test->priv;

	map_new_folio(test, 1, 2);
	make_exclusive(test, 1, 4);
	KUNIT_ASSERT_EQ(test, vm_munmap(addr_of(t, 3), PAGE_SIZE), 0);
	revert(test, 1, 4);
	KUNIT_EXPECT_EQ(test, count_present(t, 1, 4), 2);
	KUNIT_EXPECT_TRUE(test, pte_none(read_pte(t, 3)));
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 4, 1), 1);
}

/* Each entry has its own. */
static void revert_keeps_bits(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	unsigned int bits, nr;
	pte_t pte;

	if (possible_bits() == 1)
		kunit_skip(test, "neither soft-dirty nor userfaultfd bits here");

	map_new_folio(test, 1, 2);
	make_exclusive(test, 1, 4);
	for (nr = 1; nr <= 4; nr++) {
		bits = (nr - 1) * 2 & possible_bits();
		pte = exclusive_pte(page_to_pfn(page_at(t, nr)));
		write_pte(test, nr, with_bits(pte, bits));
	}
	revert(test, 1, 4);
	for (nr = 1; nr <= 4; nr++) {
		bits = (nr - 1) * 2 & possible_bits();
		pte = read_pte(t, nr);
		KUNIT_EXPECT_TRUE(test, pte_present(pte));
		KUNIT_EXPECT_EQ(test, !!pte_soft_dirty(pte), !!(bits & 2));
		KUNIT_EXPECT_EQ(test, !!pte_uffd(pte), !!(bits & 4));
		write_pte(test, nr, pte_clear_uffd(pte));
	}
}

static struct kunit_case revert_cases[] = {
	KUNIT_CASE(revert_whole),
	KUNIT_CASE(revert_small),
	KUNIT_CASE(revert_max_nr),
	KUNIT_CASE(revert_from_middle),
	KUNIT_CASE(revert_mixed),
	KUNIT_CASE(revert_up_to_present),
	KUNIT_CASE(revert_up_to_none),
	KUNIT_CASE(revert_keeps_bits),
	{}
};

/*
 * make_device_exclusive_range()
 */

/* Where a range begins behind the start of a page table, and its length */
struct size {
	const char *name;
	unsigned long from;
	unsigned long nr;
};

static const struct size sizes[] = {
	{ "one page", 1, 1 },
	{ "two pages", 1, 2 },
	{ "last page of a table", PTRS_PER_PTE - 1, 1 },
	{ "two tables", PTRS_PER_PTE - 1, 2 },
	{ "all but the last of a table", 0, PTRS_PER_PTE - 1 },
	{ "all but the first of a table", 1, PTRS_PER_PTE - 1 },
	{ "a whole table", 0, PTRS_PER_PTE },
	{ "a table's size, not aligned", 7, PTRS_PER_PTE },
	{ "a table and a page", 0, PTRS_PER_PTE + 1 },
	{ "a page and a table", PTRS_PER_PTE - 1, PTRS_PER_PTE + 1 },
	{ "three tables", PTRS_PER_PTE - 1, PTRS_PER_PTE + 2 },
};

KUNIT_ARRAY_PARAM_DESC(size, sizes, name);

static void range_size(struct kunit *test)
{
	const struct size *size = test->param_value;
	struct exclusive_test *t = test->priv;
	unsigned long end = size->from + size->nr;
	unsigned long before = size->from ? 1 : 0;
	long ret;

	write_pages(test, size->from - before, before + size->nr + 1);
	ret = make_range(t, size->from, size->nr);
	expect_result(test, ret, size->nr);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, size->from, size->nr);

	/* What is beside it stays as it was. */
	KUNIT_EXPECT_EQ(test, count_present(t, size->from - before, before),
			before);
	KUNIT_EXPECT_EQ(test, count_present(t, end, 1), 1);
	expect_written(test, size->from - before, before + size->nr + 1);
}

static void range_untouched(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret = make_range(t, 3, PTRS_PER_PTE);

	expect_result(test, ret, PTRS_PER_PTE);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, 3, PTRS_PER_PTE);
	KUNIT_EXPECT_TRUE(test, pte_none(read_pte(t, 2)));
	KUNIT_EXPECT_TRUE(test, pte_none(read_pte(t, 3 + PTRS_PER_PTE)));
	read_zeros(test, 3, PTRS_PER_PTE);
}

/* The zero page is not for devices. */
static void range_zero_page(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	read_zeros(test, 0, 4);
	KUNIT_ASSERT_TRUE(test, is_zero_pfn(pte_pfn(read_pte(t, 0))));
	ret = make_range(t, 0, 4);
	expect_result(test, ret, 4);
	unlock_range(test, ret);
	KUNIT_EXPECT_FALSE(test, is_zero_pfn(page_to_pfn(page_at(t, 0))));
	KUNIT_EXPECT_EQ(test, count_events(t, MMU_NOTIFY_EXCLUSIVE), 1);
	expect_event(test, t->nr_events - 1, MMU_NOTIFY_EXCLUSIVE, 0, 4);
	read_zeros(test, 0, 4);
}

/* A page that is exclusive is not taken from whoever has it by a fault. */
static void range_again(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	pte_t first, last;
	unsigned long faults;
	long ret;

	write_pages(test, 0, 8);
	make_exclusive(test, 0, 8);
	first = read_pte(t, 0);
	last = read_pte(t, 7);
	faults = current->min_flt;

	ret = make_range(t, 0, 8);
	expect_result(test, ret, 8);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, 0, 8);
	KUNIT_EXPECT_EQ(test, current->min_flt, faults);
	KUNIT_EXPECT_TRUE(test, pte_same(read_pte(t, 0), first));
	KUNIT_EXPECT_TRUE(test, pte_same(read_pte(t, 7), last));
	expect_written(test, 0, 8);
}

/* Every kind of page next to every other kind, over two page tables */
static void range_mixed(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	unsigned long from = PTRS_PER_PTE - 12, i;
	unsigned long faults;
	long ret;

	for (i = from; i < from + 24; i += 4) {
		write_pages(test, i, 1);
		read_zeros(test, i + 1, 1);
		make_exclusive(test, i + 2, 1);
	}
	make_exclusive(test, from + 4, 1);
	faults = current->min_flt;

	ret = make_range(t, from, 24);
	expect_result(test, ret, 24);
	unlock_range(test, ret);
	/* One fault for each page of the two kinds that need one */
	KUNIT_EXPECT_EQ(test, current->min_flt, faults + 12);
	KUNIT_EXPECT_EQ(test, count_events(t, MMU_NOTIFY_EXCLUSIVE), 1);
	for (i = from; i < from + 24; i += 4) {
		expect_written(test, i, 1);
		read_zeros(test, i + 1, 3);
	}
}

/* Whoever writes to a page through a device has written to it. */
static void range_dirties(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio;
	long ret;

	write_pages(test, 0, 1);
	KUNIT_ASSERT_EQ(test, do_madvise(t->mm, addr_of(t, 0), PAGE_SIZE,
					 MADV_FREE), 0);
	folio = folio_at(test, 0);
	KUNIT_ASSERT_FALSE(test, folio_test_dirty(folio));
	KUNIT_ASSERT_FALSE(test, pte_dirty(read_pte(t, 0)));
	ret = make_range(t, 0, 1);
	expect_result(test, ret, 1);
	KUNIT_EXPECT_TRUE(test, folio_test_dirty(folio));
	unlock_range(test, ret);
}

/* Whoever uses a page has used it, also if it has been exclusive before. */
static void range_accesses(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio;
	int i;

	write_pages(test, 0, 1);
	folio = folio_at(test, 0);
	for (i = 0; i < 3; i++) {
		folio_clear_referenced(folio);
		make_exclusive(test, 0, 1);
		KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 1), 1);
		KUNIT_EXPECT_TRUE(test, folio_test_referenced(folio));
	}
}

static void range_soft_dirty(struct kunit *test)
{
	struct exclusive_test *t = test->priv;

	if (!pgtable_supports_soft_dirty())
		kunit_skip(test, "no soft-dirty bit here");

	map_new_folio(test, 0, 2);
	write_pte(test, 0, pte_mksoft_dirty(read_pte(t, 0)));
	write_pte(test, 1, pte_mksoft_dirty(read_pte(t, 1)));
	write_pte(test, 2, pte_clear_soft_dirty(read_pte(t, 2)));
	write_pte(test, 3, pte_mksoft_dirty(read_pte(t, 3)));
	make_exclusive(test, 0, 4);
	KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(read_pte(t, 0)));
	KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(read_pte(t, 1)));
	KUNIT_EXPECT_FALSE(test, pte_swp_soft_dirty(read_pte(t, 2)));
	KUNIT_EXPECT_TRUE(test, pte_swp_soft_dirty(read_pte(t, 3)));
	/* When a CPU has them back, all are: the device may have written. */
	expect_written(test, 0, 4);
	KUNIT_EXPECT_TRUE(test, pte_soft_dirty(read_pte(t, 1)));
	KUNIT_EXPECT_TRUE(test, pte_soft_dirty(read_pte(t, 2)));
}

/* One lock and one reference for each folio, and no other count changes. */
static void range_folios(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folios[4];
	int refs[4], held[4], i;
	long ret;

	folios[0] = map_new_folio(test, 0, 0);
	folios[1] = map_new_folio(test, 1, 2);
	folios[2] = map_new_folio(test, 5, 3);
	folios[3] = map_new_folio(test, 13, 0);
	lru_add_drain_all();
	for (i = 0; i < 4; i++)
		refs[i] = folio_ref_count(folios[i]);

	ret = make_range(t, 0, 14);
	for (i = 0; i < 4; i++)
		held[i] = folio_ref_count(folios[i]);
	expect_result(test, ret, 14);
	unlock_range(test, ret);
	lru_add_drain_all();
	for (i = 0; i < 4; i++) {
		KUNIT_EXPECT_EQ(test, held[i], refs[i] + 1);
		KUNIT_EXPECT_EQ(test, folio_ref_count(folios[i]), refs[i]);
		KUNIT_EXPECT_EQ(test, folio_mapcount(folios[i]),
				folio_nr_pages(folios[i]));
	}
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	expect_written(test, 0, 14);
}

static void range_part_of_folio(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 0, 3);
	int refs;
	long ret;

	lru_add_drain_all();
	refs = folio_ref_count(folio);
	ret = make_range(t, 2, 3);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs + 1);
	expect_result(test, ret, 3);
	unlock_range(test, ret);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	KUNIT_EXPECT_EQ(test, count_present(t, 0, 2), 2);
	KUNIT_EXPECT_EQ(test, count_present(t, 5, 3), 3);
	expect_written(test, 0, 8);
}

/* Some of the folio's pages are exclusive already, others are not. */
static void range_folio_again(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 0, 3);
	int refs;
	long ret;

	make_exclusive(test, 2, 3);
	make_exclusive(test, 6, 1);
	lru_add_drain_all();
	refs = folio_ref_count(folio);
	ret = make_range(t, 0, 8);
	expect_result(test, ret, 8);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	expect_written(test, 0, 8);
}

/* The pages of a folio in another order than that of the folio */
static void range_folio_shuffled(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 0, 2);
	int refs;
	long ret;

	swap_ptes(test, 1, 2);
	lru_add_drain_all();
	refs = folio_ref_count(folio);
	ret = make_range(t, 0, 4);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs + 1);
	expect_result(test, ret, 4);
	unlock_range(test, ret);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
}

/* A folio that is there twice, with another one between: it is locked once. */
static void range_folio_twice(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 0, 2);
	int refs;
	long ret;

	map_new_folio(test, 4, 0);
	swap_ptes(test, 2, 4);
	lru_add_drain_all();
	refs = folio_ref_count(folio);
	ret = make_range(t, 0, 5);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs + 1);
	expect_result(test, ret, 3);
	unlock_range(test, ret);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	KUNIT_EXPECT_EQ(test, count_present(t, 3, 2), 2);
}

/* Somebody else has locked a folio that is not the first one. */
static void range_locked(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio;
	int refs;
	long ret;

	write_pages(test, 0, 8);
	folio = folio_at(test, 5);
	lru_add_drain_all();
	refs = folio_ref_count(folio);
	folio_lock(folio);
	ret = make_range(t, 0, 8);
	folio_unlock(folio);
	expect_result(test, ret, 5);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	KUNIT_EXPECT_EQ(test, count_present(t, 5, 3), 3);
}

static void unlock_folio(struct work_struct *work)
{
	struct exclusive_test *t = container_of(work, struct exclusive_test,
						work.work);

	folio_unlock(t->folio);
}

static void stop_work(void *data)
{
	struct exclusive_test *t = data;

	cancel_delayed_work_sync(&t->work);
}

/* Let somebody else work in a moment. */
static void start_work(struct kunit *test, work_func_t func)
{
	struct exclusive_test *t = test->priv;

	INIT_DELAYED_WORK(&t->work, func);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, stop_work, t), 0);
	schedule_delayed_work(&t->work, HZ / 20);
}

/* The first one is waited for. */
static void range_waits(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	write_pages(test, 0, 4);
	t->folio = folio_at(test, 0);
	folio_lock(t->folio);
	start_work(test, unlock_folio);
	ret = make_range(t, 0, 4);
	expect_result(test, ret, 4);
	unlock_range(test, ret);
	flush_delayed_work(&t->work);
}

static void range_write_lock(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	write_pages(test, 0, 2);
	t->range.start = addr_of(t, 0);
	t->range.end = addr_of(t, 4);
	mmap_write_lock(t->mm);
	ret = call_make(t);
	mmap_write_unlock(t->mm);
	expect_result(test, ret, 4);
	unlock_range(test, ret);
}

/* The end may be anywhere: only what is there is worked on. */
static void range_end_anywhere(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	map(test, NR_PAGES - 1, 1, NULL, PROT_NONE, MAP_PRIVATE);
	t->range.start = addr_of(t, NR_PAGES - 3);
	t->range.end = ULONG_MAX & PAGE_MASK;
	mmap_read_lock(t->mm);
	ret = call_make(t);
	mmap_read_unlock(t->mm);
	expect_result(test, ret, 2);
	unlock_range(test, ret);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, NR_PAGES - 3, 2);
}

static void range_crosses_vmas(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	unsigned long from = PTRS_PER_PTE - 6;
	long ret;

	/* In the middle of a page table, and where one begins */
	map(test, from + 2, 4, NULL, PROT_READ | PROT_WRITE | PROT_EXEC,
	    MAP_PRIVATE);
	write_pages(test, from, 12);
	ret = make_range(t, from, 12);
	expect_result(test, ret, 12);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, from, 12);
	expect_written(test, from, 12);
}

static void range_private_file(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct file *file = shmem_file_setup("device-exclusive", SZ_1M,
					     mk_vma_flags(VMA_NORESERVE_BIT));
	long ret;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	map(test, 0, 8, file, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fput(file);
	read_zeros(test, 0, 2);
	write_pages(test, 2, 2);
	ret = make_range(t, 0, 8);
	expect_result(test, ret, 8);
	unlock_range(test, ret);
	KUNIT_EXPECT_TRUE(test, folio_test_anon(folio_at(test, 0)));
	KUNIT_EXPECT_TRUE(test, folio_test_anon(folio_at(test, 7)));
	expect_written(test, 2, 2);
}

static void range_unlock_nothing(struct kunit *test)
{
	struct exclusive_test *t = test->priv;

	t->range.pages = NULL;
	t->lock_depth = lockdep_depth(current);
	device_exclusive_range_unlock(&t->range, 0);
	device_exclusive_range_unlock(&t->range, -EFAULT);
	expect_held(test, false);
}

/* The first THP of the test's memory, mapped by a PMD */
static struct folio *map_thp(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	pmd_t *pmd;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_skip(test, "no THPs in this kernel");
	KUNIT_ASSERT_EQ(test, do_madvise(t->mm, t->base, PMD_SIZE,
					 MADV_HUGEPAGE), 0);
	write_pages(test, 0, PTRS_PER_PTE);
	pmd = mm_find_pmd(t->mm, t->base);
	if (!pmd || !pmd_trans_huge(pmdp_get(pmd)))
		kunit_skip(test, "no memory for a THP, or they are turned off");
	return pmd_folio(pmdp_get(pmd));
}

static void range_thp(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_thp(test);
	int refs;
	long ret;

	ret = make_range(t, 0, PTRS_PER_PTE);
	/* Each PTE holds a reference now. */
	refs = folio_ref_count(folio);
	expect_result(test, ret, PTRS_PER_PTE);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, 0, PTRS_PER_PTE);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs - 1);
	KUNIT_EXPECT_EQ(test, folio_nr_pages(folio), PTRS_PER_PTE);
	expect_written(test, 0, PTRS_PER_PTE);
}

static void range_part_of_thp(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	map_thp(test);
	ret = make_range(t, 7, 9);
	expect_result(test, ret, 9);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	/* The size of the mapping changes for all of it. */
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, 0, PTRS_PER_PTE);
	KUNIT_EXPECT_EQ(test, count_present(t, 0, 7), 7);
	KUNIT_EXPECT_EQ(test, count_present(t, 16, PTRS_PER_PTE - 16),
			PTRS_PER_PTE - 16);
	expect_written(test, 0, PTRS_PER_PTE);
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/*
 * Exchange what is mapped in the first and in the third page table. Nobody may
 * touch that before it is undone: these folios belong elsewhere.
 */
static void swap_pmds(struct exclusive_test *t)
{
	pmd_t *a = mm_find_pmd(t->mm, t->base);
	pmd_t *b = mm_find_pmd(t->mm, t->base + 2 * PMD_SIZE);
	pmd_t pmd = pmdp_get(a);

	set_pmd(a, pmdp_get(b));
	set_pmd(b, pmd);
	flush_tlb_mm(t->mm);
}

static bool is_thp(struct exclusive_test *t, unsigned long nr)
{
	return pmd_trans_huge(pmdp_get(mm_find_pmd(t->mm, addr_of(t, nr))));
}

/*
 * A THP shows up where there was a page table when the notifier section began.
 * The section is not for all of it, so it must not be remapped: the range ends
 * there.
 */
static void range_thp_uncovered(struct kunit *test)
{
	const unsigned long from = 2 * PTRS_PER_PTE - 4;
	struct exclusive_test *t = test->priv;
	bool thp;
	long ret;

	map_thp(test);
	write_pages(test, from, 14);
	KUNIT_ASSERT_TRUE(test, is_thp(t, 0));
	KUNIT_ASSERT_FALSE(test, is_thp(t, 2 * PTRS_PER_PTE));

	t->in_section = swap_pmds;
	ret = make_range(t, from, 14);
	t->in_section = NULL;
	thp = is_thp(t, 2 * PTRS_PER_PTE);
	if (ret > 0)
		swap_pmds(t);
	expect_result(test, ret, 4);
	KUNIT_EXPECT_TRUE(test, thp);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	unlock_range(test, ret);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, from, 14);
	KUNIT_EXPECT_TRUE(test, is_thp(t, 0));
	KUNIT_EXPECT_EQ(test, count_exclusive(t, from, 14), 4);
	KUNIT_EXPECT_EQ(test, count_present(t, from + 4, 10), 10);
	expect_written(test, 0, PTRS_PER_PTE);
	expect_written(test, from, 14);

	/* The rest, now that it is as it was */
	make_exclusive(test, from, 14);
	expect_written(test, from, 14);
}
#endif

/* make_device_exclusive(): one page, at any address in it */
static void single_page(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = NULL, *mapped = map_new_folio(test, 0, 2);
	struct page *page;
	bool locked;
	int refs;

	lru_add_drain_all();
	refs = folio_ref_count(mapped);
	t->nr_events = 0;
	t->range.owner = t;
	t->lock_depth = lockdep_depth(current);
	mmap_read_lock(t->mm);
	page = make_device_exclusive(t->mm, addr_of(t, 1) + 5, t, &folio);
	mmap_read_unlock(t->mm);
	KUNIT_ASSERT_PTR_EQ(test, page, folio_page(mapped, 1));
	KUNIT_ASSERT_PTR_EQ(test, folio, mapped);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs + 1);
	expect_held(test, false);
	locked = folio_test_locked(folio);
	KUNIT_EXPECT_TRUE(test, locked);
	if (locked)
		folio_unlock(folio);
	folio_put(folio);

	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	expect_event(test, 0, MMU_NOTIFY_EXCLUSIVE, 1, 1);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 4), 1);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 1, 1), 1);
	expect_written(test, 0, 4);
}

static struct kunit_case range_cases[] = {
	KUNIT_CASE_PARAM(range_size, size_gen_params),
	KUNIT_CASE(range_untouched),
	KUNIT_CASE(range_zero_page),
	KUNIT_CASE(range_again),
	KUNIT_CASE(range_mixed),
	KUNIT_CASE(range_dirties),
	KUNIT_CASE(range_accesses),
	KUNIT_CASE(range_soft_dirty),
	KUNIT_CASE(range_folios),
	KUNIT_CASE(range_part_of_folio),
	KUNIT_CASE(range_folio_again),
	KUNIT_CASE(range_folio_shuffled),
	KUNIT_CASE(range_folio_twice),
	KUNIT_CASE(range_locked),
	KUNIT_CASE(range_waits),
	KUNIT_CASE(range_write_lock),
	KUNIT_CASE(range_end_anywhere),
	KUNIT_CASE(range_crosses_vmas),
	KUNIT_CASE(range_private_file),
	KUNIT_CASE(range_unlock_nothing),
	KUNIT_CASE(range_thp),
	KUNIT_CASE(range_part_of_thp),
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
	KUNIT_CASE(range_thp_uncovered),
#endif
	KUNIT_CASE(single_page),
	{}
};

/*
 * Ranges that end early, and errors
 */

/* What a device driver might map, with a fault handler that a test controls */
static vm_fault_t special_fault(struct vm_fault *vmf)
{
	struct exclusive_test *t = vmf->vma->vm_private_data;

	t->fault_flags = vmf->flags;
	if (t->kill)
		send_sig(SIGKILL, current, 1);
	if (t->nr_retries) {
		t->nr_retries--;
		return VM_FAULT_RETRY;
	}
	if (t->fault)
		return t->fault;
	get_page(t->page);
	vmf->page = t->page;
	return 0;
}

static const struct vm_operations_struct special_vm_ops = {
	.fault = special_fault,
};

static int special_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_ops = &special_vm_ops;
	vma->vm_private_data = file->private_data;
	return 0;
}

static int pfn_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_PFNMAP);
	return 0;
}

static int io_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_IO);
	return 0;
}

static int mixed_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_MIXEDMAP);
	return 0;
}

static const struct file_operations special_fops = { .mmap = special_mmap };
static const struct file_operations pfn_fops = { .mmap = pfn_mmap };
static const struct file_operations io_fops = { .mmap = io_mmap };
static const struct file_operations mixed_fops = { .mmap = mixed_mmap };

static void map_special(struct kunit *test, unsigned long from,
			const struct file_operations *fops)
{
	struct exclusive_test *t = test->priv;
	struct file *file = anon_inode_getfile("device-exclusive", fops, t,
					       O_RDWR);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	map(test, from, 1, file, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	fput(file);
}

static void free_test_page(void *page)
{
	put_page(page);
}

static void map_faults(struct kunit *test, unsigned long from, vm_fault_t fault)
{
	struct exclusive_test *t = test->priv;

	t->page = alloc_page(GFP_USER | __GFP_ZERO);
	KUNIT_ASSERT_NOT_NULL(test, t->page);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, free_test_page,
							t->page), 0);
	t->fault = fault;
	map_special(test, from, &special_fops);
}

/* What can be at the first page that cannot be made exclusive */
static void map_hole(struct kunit *test, unsigned long nr)
{
	struct exclusive_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, vm_munmap(addr_of(t, nr), PAGE_SIZE), 0);
}

static void map_read_only(struct kunit *test, unsigned long nr)
{
	map(test, nr, 1, NULL, PROT_READ, MAP_PRIVATE);
}

static void map_no_access(struct kunit *test, unsigned long nr)
{
	map(test, nr, 1, NULL, PROT_NONE, MAP_PRIVATE);
}

static void map_guard(struct kunit *test, unsigned long nr)
{
	struct exclusive_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, do_madvise(t->mm, addr_of(t, nr), PAGE_SIZE,
					 MADV_GUARD_INSTALL), 0);
}

static void map_bus_error(struct kunit *test, unsigned long nr)
{
	map_faults(test, nr, VM_FAULT_SIGBUS);
}

static void map_poisoned(struct kunit *test, unsigned long nr)
{
	map_faults(test, nr, VM_FAULT_HWPOISON);
}

static void map_no_memory(struct kunit *test, unsigned long nr)
{
	map_faults(test, nr, VM_FAULT_OOM);
}

static void map_shared(struct kunit *test, unsigned long nr)
{
	map(test, nr, 1, NULL, PROT_READ | PROT_WRITE, MAP_SHARED);
}

static void map_shared_read_only(struct kunit *test, unsigned long nr)
{
	map(test, nr, 1, NULL, PROT_READ, MAP_SHARED);
}

static void map_pfns(struct kunit *test, unsigned long nr)
{
	map_special(test, nr, &pfn_fops);
}

static void map_io(struct kunit *test, unsigned long nr)
{
	map_special(test, nr, &io_fops);
}

static void map_mixed(struct kunit *test, unsigned long nr)
{
	map_special(test, nr, &mixed_fops);
}

struct obstacle {
	const char *name;
	void (*map)(struct kunit *test, unsigned long nr);
	long error;
};

static const struct obstacle obstacles[] = {
	{ "hole", map_hole, -EFAULT },
	{ "read-only", map_read_only, -EFAULT },
	{ "no access", map_no_access, -EFAULT },
	{ "guard region", map_guard, -EFAULT },
	{ "SIGBUS", map_bus_error, -EFAULT },
	{ "hardware poison", map_poisoned, -EFAULT },
	{ "shared and read-only", map_shared_read_only, -EFAULT },
	{ "shared", map_shared, -EOPNOTSUPP },
	{ "PFN map", map_pfns, -EOPNOTSUPP },
	{ "I/O", map_io, -EOPNOTSUPP },
	{ "mixed map", map_mixed, -EOPNOTSUPP },
	{ "no memory", map_no_memory, -ENOMEM },
};

KUNIT_ARRAY_PARAM_DESC(obstacle, obstacles, name);

/* At the start it is an error. */
static void error_of(struct kunit *test)
{
	const struct obstacle *obstacle = test->param_value;
	struct exclusive_test *t = test->priv;
	pte_t before;
	long ret;

	write_pages(test, 0, 8);
	obstacle->map(test, 4);
	before = read_pte(t, 4);

	ret = make_range(t, 4, 4);
	expect_result(test, ret, obstacle->error);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, count_events(t, MMU_NOTIFY_EXCLUSIVE), 0);
	KUNIT_EXPECT_TRUE(test, pte_same(read_pte(t, 4), before));
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 8), 0);
	KUNIT_EXPECT_EQ(test, count_present(t, 5, 3), 3);
}

/* Later it is where the range ends, and who asks for the rest gets the error. */
static void prefix_of(struct kunit *test)
{
	const struct obstacle *obstacle = test->param_value;
	struct exclusive_test *t = test->priv;
	long ret;

	write_pages(test, 0, 8);
	obstacle->map(test, 4);

	ret = make_range(t, 1, 7);
	expect_result(test, ret, 3);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, count_events(t, MMU_NOTIFY_EXCLUSIVE), 1);
	expect_event(test, t->nr_events - 1, MMU_NOTIFY_EXCLUSIVE, 1, 3);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 8), 3);
	KUNIT_EXPECT_EQ(test, count_present(t, 5, 3), 3);

	ret = make_range(t, 4, 4);
	expect_result(test, ret, obstacle->error);
	unlock_range(test, ret);
	expect_written(test, 0, 4);
}

struct bad_range {
	const char *name;
	unsigned long start;	/* behind the first page */
	unsigned long end;
	unsigned int flags;
};

static const struct bad_range bad_ranges[] = {
	{ "start not aligned", 1, 2 * PAGE_SIZE, 0 },
	{ "start in the middle", PAGE_SIZE / 2, 2 * PAGE_SIZE, 0 },
	{ "end not aligned", 0, 2 * PAGE_SIZE - 1, 0 },
	{ "both not aligned", 8, PAGE_SIZE + 8, 0 },
	{ "empty", PAGE_SIZE, PAGE_SIZE, 0 },
	{ "end before start", 2 * PAGE_SIZE, PAGE_SIZE, 0 },
	{ "unknown flag", 0, 2 * PAGE_SIZE, 1U << 31 },
	{ "all flags", 0, 2 * PAGE_SIZE, ~0U },
};

KUNIT_ARRAY_PARAM_DESC(bad_range, bad_ranges, name);

static void error_invalid(struct kunit *test)
{
	const struct bad_range *bad = test->param_value;
	struct exclusive_test *t = test->priv;
	long ret;

	write_pages(test, 0, 4);
	t->range.start = t->base + bad->start;
	t->range.end = t->base + bad->end;
	t->range.flags = bad->flags;
	mmap_read_lock(t->mm);
	ret = call_make(t);
	mmap_read_unlock(t->mm);
	expect_result(test, ret, -EINVAL);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, t->nr_events, 0);
	KUNIT_EXPECT_EQ(test, count_present(t, 0, 4), 4);
}

static void error_no_address(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	t->range.start = PAGE_ALIGN(TASK_SIZE);
	t->range.end = t->range.start + PAGE_SIZE;
	mmap_read_lock(t->mm);
	ret = call_make(t);
	mmap_read_unlock(t->mm);
	KUNIT_EXPECT_EQ(test, ret, -EFAULT);
	KUNIT_EXPECT_PTR_EQ(test, t->pages[0], NO_PAGE);
	KUNIT_EXPECT_EQ(test, t->nr_events, 0);
	expect_held(test, false);
	unlock_range(test, ret);
}

/* A fault that has to be tried again, and works then, as one for writing */
static void fault_retried(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	write_pages(test, 0, 2);
	map_faults(test, 1, 0);
	t->nr_retries = 3;
	ret = make_range(t, 0, 3);
	expect_result(test, ret, 3);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, t->nr_retries, 0);
	KUNIT_EXPECT_TRUE(test, t->fault_flags & FAULT_FLAG_WRITE);
	KUNIT_EXPECT_TRUE(test, folio_test_anon(folio_at(test, 1)));
	KUNIT_EXPECT_PTR_NE(test, page_at(t, 1), t->page);
	expect_written(test, 0, 1);
	read_zeros(test, 1, 2);
}

/* What is never ready only holds up those who ask for it first. */
static void fault_never_ready(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	write_pages(test, 0, 2);
	map_faults(test, 2, 0);
	t->nr_retries = INT_MAX;
	ret = make_range(t, 0, 4);
	expect_result(test, ret, 2);
	unlock_range(test, ret);
	KUNIT_EXPECT_LT(test, t->nr_retries, INT_MAX);
	expect_written(test, 0, 2);
}

/* The mmap_lock is still held afterwards. */
static void fault_keeps_lock(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	bool kept;
	long ret;

	map_faults(test, 0, 0);
	t->nr_retries = 1;
	t->range.start = addr_of(t, 0);
	t->range.end = addr_of(t, 2);
	mmap_read_lock(t->mm);
	ret = call_make(t);
	kept = rwsem_is_locked(&t->mm->mmap_lock);
	if (kept)
		mmap_read_unlock(t->mm);
	KUNIT_EXPECT_TRUE(test, kept);
	expect_result(test, ret, 2);
	unlock_range(test, ret);
}

/*
 * Fatal signals
 */

static void forget_signals(void)
{
	flush_signals(current);
	disallow_signal(SIGKILL);
}

static void killed_before(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	write_pages(test, 0, 2);
	allow_kernel_signal(SIGKILL);
	send_sig(SIGKILL, current, 1);
	ret = make_range(t, 0, 2);
	forget_signals();
	expect_result(test, ret, -EINTR);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, t->nr_events, 0);
	KUNIT_EXPECT_EQ(test, count_present(t, 0, 2), 2);
}

/* The fault handler would let us try much longer. */
static void killed_in_fault(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	long ret;

	map_faults(test, 0, 0);
	t->nr_retries = 100;
	t->kill = true;
	allow_kernel_signal(SIGKILL);
	ret = make_range(t, 0, 4);
	forget_signals();
	expect_result(test, ret, -EINTR);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, t->nr_retries, 99);
	KUNIT_EXPECT_EQ(test, t->nr_events, 0);
}

static void kill_task(struct work_struct *work)
{
	struct exclusive_test *t = container_of(work, struct exclusive_test,
						work.work);

	send_sig(SIGKILL, t->task, 1);
}

/* Nobody unlocks the folio. */
static void killed_waiting(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio;
	int refs;
	long ret;

	write_pages(test, 0, 2);
	folio = folio_at(test, 0);
	lru_add_drain_all();
	refs = folio_ref_count(folio);
	t->task = current;
	allow_kernel_signal(SIGKILL);
	folio_lock(folio);
	start_work(test, kill_task);
	ret = make_range(t, 0, 2);
	folio_unlock(folio);
	stop_work(t);
	forget_signals();
	expect_result(test, ret, -EINTR);
	unlock_range(test, ret);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	KUNIT_EXPECT_EQ(test, t->nr_events, 0);
	KUNIT_EXPECT_EQ(test, count_present(t, 0, 2), 2);
}

static void single_page_errors(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = NULL;
	struct page *pages[3];

	map_hole(test, 0);
	map_read_only(test, 1);
	map_shared(test, 2);
	mmap_read_lock(t->mm);
	pages[0] = make_device_exclusive(t->mm, addr_of(t, 0), NULL, &folio);
	pages[1] = make_device_exclusive(t->mm, addr_of(t, 1), NULL, &folio);
	pages[2] = make_device_exclusive(t->mm, addr_of(t, 2), NULL, &folio);
	mmap_read_unlock(t->mm);
	KUNIT_EXPECT_PTR_EQ(test, pages[0], ERR_PTR(-EFAULT));
	KUNIT_EXPECT_PTR_EQ(test, pages[1], ERR_PTR(-EFAULT));
	KUNIT_EXPECT_PTR_EQ(test, pages[2], ERR_PTR(-EOPNOTSUPP));
	KUNIT_EXPECT_NULL(test, folio);
}

static struct kunit_case error_cases[] = {
	KUNIT_CASE_PARAM(error_of, obstacle_gen_params),
	KUNIT_CASE_PARAM(prefix_of, obstacle_gen_params),
	KUNIT_CASE_PARAM(error_invalid, bad_range_gen_params),
	KUNIT_CASE(error_no_address),
	KUNIT_CASE(fault_retried),
	KUNIT_CASE(fault_never_ready),
	KUNIT_CASE(fault_keeps_lock),
	KUNIT_CASE(killed_before),
	KUNIT_CASE(killed_in_fault),
	KUNIT_CASE(killed_waiting),
	KUNIT_CASE(single_page_errors),
	{}
};

/*
 * Parameters at their limits, and random ones
 */

/* Where there is no VMA: the ends of the address space, and what is behind it */
static const unsigned long nowhere[] = {
	0,
	PAGE_SIZE,
	1UL << (BITS_PER_LONG - 2),
	1UL << (BITS_PER_LONG - 1),
	-3 * PAGE_SIZE,
	-2 * PAGE_SIZE,
	-PAGE_SIZE,
};

static void expect_limit(struct kunit *test, unsigned long start,
			 unsigned long end, unsigned int flags, long expected)
{
	struct exclusive_test *t = test->priv;
	long ret;

	t->range.start = start;
	t->range.end = end;
	t->range.flags = flags;
	mmap_read_lock(t->mm);
	ret = call_make(t);
	mmap_read_unlock(t->mm);
	expect_result(test, ret, expected);
	unlock_range(test, ret);
	if (ret != expected)
		kunit_info(test, "from %lx to %lx, flags %x", start, end, flags);
}

static void limits_of_range(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	unsigned long last = PAGE_ALIGN_DOWN(TASK_SIZE) - PAGE_SIZE;
	unsigned long base = t->base, i, j;

	write_pages(test, 0, 4);
	map_hole(test, 4);
	for (i = 0; i < BITS_PER_TYPE(t->range.flags); i++)
		expect_limit(test, base, base + PAGE_SIZE, 1U << i, -EINVAL);
	for (i = 1; i < PAGE_SIZE; i *= 2) {
		expect_limit(test, base + i, base + PAGE_SIZE, 0, -EINVAL);
		expect_limit(test, base - i, base + PAGE_SIZE, 0, -EINVAL);
		expect_limit(test, base, base + i, 0, -EINVAL);
		expect_limit(test, base, base + PAGE_SIZE - i, 0, -EINVAL);
		expect_limit(test, base, -i, 0, -EINVAL);
	}
	/* All that is possible, behind which the end comes before the start */
	for (i = 0; i < ARRAY_SIZE(nowhere); i++)
		for (j = 0; j < ARRAY_SIZE(nowhere); j++)
			expect_limit(test, nowhere[i], nowhere[j], 0,
				     i < j ? -EFAULT : -EINVAL);
	expect_limit(test, last, last + PAGE_SIZE, 0, -EFAULT);
	expect_limit(test, last + PAGE_SIZE, -PAGE_SIZE, 0, -EFAULT);
	expect_limit(test, -PAGE_SIZE, 0, 0, -EINVAL);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 4), 0);

	/* The end may be anywhere. */
	expect_limit(test, base, base + 4 * PAGE_SIZE, 0, 4);
	expect_limit(test, base, base + 5 * PAGE_SIZE, 0, 4);
	expect_limit(test, base, last + PAGE_SIZE, 0, 4);
	expect_limit(test, base + PAGE_SIZE, -PAGE_SIZE, 0, 3);
	expect_limit(test, base + 4 * PAGE_SIZE, -PAGE_SIZE, 0, -EFAULT);
	expect_written(test, 0, 4);
}

/* Like make_range() and unlock_range(), for one page; @expected: 1 or an error */
static void expect_single(struct kunit *test, unsigned long addr, long expected)
{
	struct exclusive_test *t = test->priv;
	unsigned long nr = (addr - t->base) / PAGE_SIZE;
	struct folio *folio = NULL;
	struct page *page;

	mmap_read_lock(t->mm);
	page = make_device_exclusive(t->mm, addr, t, &folio);
	mmap_read_unlock(t->mm);
	if (IS_ERR(page)) {
		KUNIT_EXPECT_EQ(test, PTR_ERR(page), expected);
		KUNIT_EXPECT_NULL(test, folio);
		return;
	}
	KUNIT_EXPECT_EQ(test, expected, 1);
	KUNIT_EXPECT_PTR_EQ(test, page, page_at(t, nr));
	KUNIT_EXPECT_PTR_EQ(test, folio, page_folio(page));
	KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, count_exclusive(t, nr, 1), 1);
	folio_unlock(folio);
	folio_put(folio);
}

/* Its address need not be aligned. */
static void limits_of_single_page(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	unsigned long i;

	write_pages(test, 0, 2);
	map_hole(test, 2);
	for (i = 0; i < ARRAY_SIZE(nowhere); i++) {
		expect_single(test, nowhere[i], -EFAULT);
		expect_single(test, nowhere[i] + PAGE_SIZE - 1, -EFAULT);
	}
	expect_single(test, PAGE_ALIGN_DOWN(TASK_SIZE) - 1, -EFAULT);
	expect_single(test, TASK_SIZE, -EFAULT);
	expect_single(test, addr_of(t, 2), -EFAULT);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 2), 0);

	expect_single(test, addr_of(t, 2) - 1, 1);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 2), 1);
	expect_single(test, addr_of(t, 0) + 1, 1);
	expect_single(test, addr_of(t, 0), 1);
	expect_written(test, 0, 2);
}

/* What is not a number of pages is nothing to unlock. */
static void limits_of_unlock(struct kunit *test)
{
	static const long nothing[] = { 0, -1, -EFAULT, -MAX_ERRNO, LONG_MIN };
	struct exclusive_test *t = test->priv;
	struct folio *folio;
	unsigned long i;
	int refs;

	write_pages(test, 0, 1);
	folio = folio_at(test, 0);
	lru_add_drain_all();
	refs = folio_ref_count(folio);
	make_exclusive(test, 0, 1);
	t->lock_depth = lockdep_depth(current);
	for (i = 0; i < ARRAY_SIZE(nothing); i++) {
		device_exclusive_range_unlock(&t->range, nothing[i]);
		expect_held(test, false);
	}
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 1), 1);
	expect_written(test, 0, 1);
}

/* Random calls go to that many pages, with obstacles between them. */
#define RANDOM_PAGES	64
#define RANDOM_CALLS	10000

/**
 * struct random_calls - what the next random call depends on, and expects
 * @rnd: for random numbers
 * @error: of a page that cannot be made exclusive, else 0
 * @written: the page has been written to
 */
struct random_calls {
	struct rnd_state rnd;
	long error[RANDOM_PAGES + 1];
	bool written[RANDOM_PAGES];
};

static u32 random_below(struct random_calls *calls, u32 limit)
{
	return prandom_u32_state(&calls->rnd) % limit;
}

static void random_map(struct kunit *test, struct random_calls *calls)
{
	static const struct {
		unsigned long nr;
		void (*map)(struct kunit *test, unsigned long nr);
		long error;
	} places[] = {
		{ 9, map_hole, -EFAULT },
		{ 17, map_read_only, -EFAULT },
		{ 18, map_no_access, -EFAULT },
		{ 29, map_guard, -EFAULT },
		{ 38, map_shared, -EOPNOTSUPP },
		{ 47, map_pfns, -EOPNOTSUPP },
		{ 48, map_io, -EOPNOTSUPP },
		{ 60, map_shared_read_only, -EFAULT },
		{ RANDOM_PAGES, map_hole, -EFAULT },
	};
	unsigned long i;

	for (i = 0; i < ARRAY_SIZE(places); i++) {
		places[i].map(test, places[i].nr);
		calls->error[places[i].nr] = places[i].error;
	}
}

/* A CPU writes to a page, reads it, or throws it away. */
static void random_access(struct kunit *test, struct random_calls *calls)
{
	struct exclusive_test *t = test->priv;
	u32 nr = random_below(calls, RANDOM_PAGES);

	if (calls->error[nr])
		return;
	switch (random_below(calls, 4)) {
	case 0:
		KUNIT_ASSERT_EQ(test, do_madvise(t->mm, addr_of(t, nr),
						 PAGE_SIZE, MADV_DONTNEED), 0);
		calls->written[nr] = false;
		break;
	case 1:
		write_pages(test, nr, 1);
		calls->written[nr] = true;
		break;
	default:
		if (calls->written[nr])
			expect_written(test, nr, 1);
		else
			read_zeros(test, nr, 1);
	}
}

/* A page or, now and then, somewhere else; and seldom not aligned */
static unsigned long random_address(struct exclusive_test *t,
				    struct random_calls *calls)
{
	unsigned long addr = addr_of(t, random_below(calls, RANDOM_PAGES + 1));

	if (!random_below(calls, 16))
		addr = nowhere[random_below(calls, ARRAY_SIZE(nowhere))];
	if (!random_below(calls, 16))
		addr += random_below(calls, PAGE_SIZE);
	return addr;
}

/* What a call has to return: an error, or how many pages there are in a row */
static long random_expect(struct exclusive_test *t, struct random_calls *calls,
			  unsigned long start, unsigned long end)
{
	unsigned long nr = (start - t->base) / PAGE_SIZE, first = nr;

	if (start >= end || !PAGE_ALIGNED(start) || !PAGE_ALIGNED(end))
		return -EINVAL;
	if (start < t->base || nr > RANDOM_PAGES)
		return -EFAULT;
	while (addr_of(t, nr) < end && !calls->error[nr])
		nr++;
	return nr == first ? calls->error[first] : nr - first;
}

static void random_range(struct kunit *test, struct random_calls *calls)
{
	struct exclusive_test *t = test->priv;
	unsigned long start = random_address(t, calls), end;
	unsigned int flags = 0;
	long expected;

	end = start + (1 + random_below(calls, 16)) * PAGE_SIZE;
	if (!random_below(calls, 4))
		end = random_address(t, calls);
	expected = random_expect(t, calls, start, end);
	if (!random_below(calls, 32)) {
		flags = 1 + random_below(calls, U32_MAX);
		expected = -EINVAL;
	}
	expect_limit(test, start, end, flags, expected);
}

static void random_single(struct kunit *test, struct random_calls *calls)
{
	struct exclusive_test *t = test->priv;
	unsigned long addr = random_address(t, calls);
	unsigned long start = PAGE_ALIGN_DOWN(addr);

	/* The last page of all ends at 0. */
	expect_single(test, addr, start == -PAGE_SIZE ? -EFAULT :
		      random_expect(t, calls, start, start + PAGE_SIZE));
}

/* Nothing is left of the calls but exclusive pages, with what was in them. */
static void random_check(struct kunit *test, struct random_calls *calls)
{
	struct exclusive_test *t = test->priv;
	unsigned long i, locked = 0, held = 0;
	struct folio *folio;

	lru_add_drain_all();
	for (i = 0; i < RANDOM_PAGES; i++) {
		if (calls->error[i] || !page_at(t, i) ||
		    is_zero_pfn(page_to_pfn(page_at(t, i))))
			continue;
		folio = page_folio(page_at(t, i));
		locked += folio_test_locked(folio);
		held += folio_ref_count(folio) != folio_mapcount(folio);
	}
	KUNIT_EXPECT_EQ(test, locked, 0);
	KUNIT_EXPECT_EQ(test, held, 0);
	for (i = 0; i < RANDOM_PAGES; i++) {
		if (calls->written[i])
			expect_written(test, i, 1);
		else if (!calls->error[i])
			read_zeros(test, i, 1);
	}
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, RANDOM_PAGES), 0);
}

static void random_calls(struct kunit *test)
{
	struct random_calls *calls;
	unsigned int i;

	calls = kunit_kzalloc(test, sizeof(*calls), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, calls);
	prandom_seed_state(&calls->rnd, 1);
	random_map(test, calls);
	for (i = 0; i < RANDOM_CALLS; i++) {
		random_access(test, calls);
		if (random_below(calls, 4))
			random_range(test, calls);
		else
			random_single(test, calls);
		/* One is enough to find out what is wrong. */
		if (test->status == KUNIT_FAILURE) {
			kunit_info(test, "that was call %u", i);
			break;
		}
	}
	random_check(test, calls);
}

static struct kunit_case limit_cases[] = {
	KUNIT_CASE(limits_of_range),
	KUNIT_CASE(limits_of_single_page),
	KUNIT_CASE(limits_of_unlock),
	KUNIT_CASE_SLOW(random_calls),
	{}
};

/*
 * CPU accesses
 */

/* Page @nr has been accessed, and no other one of @total. */
static void expect_taken_back(struct kunit *test, unsigned long nr,
			      unsigned long total, unsigned long faults)
{
	struct exclusive_test *t = test->priv;
	pte_t pte = read_pte(t, nr);

	KUNIT_EXPECT_EQ(test, current->min_flt, faults + 1);
	KUNIT_EXPECT_EQ(test, t->nr_events, 1);
	expect_event(test, 0, MMU_NOTIFY_CLEAR, nr, 1);
	KUNIT_EXPECT_TRUE(test, pte_present(pte));
	KUNIT_EXPECT_TRUE(test, pte_young(pte));
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, total), total - 1);
}

static void access_write(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	unsigned long faults;
	struct page *page;
	pte_t pte;

	write_pages(test, 0, 4);
	make_exclusive(test, 0, 4);
	page = page_at(t, 2);
	t->nr_events = 0;
	faults = current->min_flt;

	KUNIT_EXPECT_EQ(test, put_user(100, (u32 __user *)addr_of(t, 2)), 0);
	expect_taken_back(test, 2, 4, faults);
	pte = read_pte(t, 2);
	KUNIT_EXPECT_TRUE(test, pte_write(pte));
	KUNIT_EXPECT_TRUE(test, pte_dirty(pte));
	KUNIT_EXPECT_PTR_EQ(test, pte_page(pte), page);
	expect_written(test, 0, 2);
	expect_written(test, 3, 1);
}

static void access_read(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	unsigned long faults;
	u32 value = 0;

	map_new_folio(test, 0, 2);
	make_exclusive(test, 0, 4);
	t->nr_events = 0;
	faults = current->min_flt;

	KUNIT_EXPECT_EQ(test, get_user(value, (u32 __user *)addr_of(t, 1)), 0);
	expect_taken_back(test, 1, 4, faults);
	KUNIT_EXPECT_EQ(test, value, 2);

	/* It was writable, and is again: no other fault, nor event. */
	t->nr_events = 0;
	write_pages(test, 1, 1);
	KUNIT_EXPECT_EQ(test, current->min_flt, faults + 1);
	KUNIT_EXPECT_EQ(test, t->nr_events, 0);
	expect_written(test, 0, 4);
}

static void access_keeps_counts(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio = map_new_folio(test, 0, 2);
	int refs;

	lru_add_drain_all();
	refs = folio_ref_count(folio);
	make_exclusive(test, 0, 4);
	expect_written(test, 0, 4);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs);
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 4);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_TRUE(test, PageAnonExclusive(page_at(t, 3)));
	KUNIT_EXPECT_EQ(test, get_mm_counter_sum(t->mm, MM_ANONPAGES), 5);
}

/* As often as the device and the CPU like */
static void access_in_turn(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	int i;

	write_pages(test, 0, 8);
	for (i = 0; i < 20; i++) {
		make_exclusive(test, 0, 8);
		expect_written(test, i % 8, 1);
		write_pages(test, (i + 3) % 8, 1);
	}
	KUNIT_EXPECT_EQ(test, count_exclusive(t, 0, 8), 6);
	expect_written(test, 0, 8);
}

static void unmap_exclusive(struct kunit *test)
{
	struct exclusive_test *t = test->priv;
	struct folio *folio;
	int refs;

	folio = map_new_folio(test, 0, 2);
	folio_get(folio);
	make_exclusive(test, 0, 4);
	lru_add_drain_all();
	refs = folio_ref_count(folio);
	KUNIT_EXPECT_EQ(test, vm_munmap(addr_of(t, 0), 4 * PAGE_SIZE), 0);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), refs - 4);
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 0);
	folio_put(folio);
}

static struct kunit_case access_cases[] = {
	KUNIT_CASE(access_write),
	KUNIT_CASE(access_read),
	KUNIT_CASE(access_keeps_counts),
	KUNIT_CASE(access_in_turn),
	KUNIT_CASE(unmap_exclusive),
	{}
};

static struct kunit_suite entry_suite = {
	.name = "device_exclusive_entry",
	.test_cases = entry_cases,
};

static struct kunit_suite revert_suite = {
	.name = "device_exclusive_revert",
	.init = exclusive_test_init,
	.test_cases = revert_cases,
};

static struct kunit_suite range_suite = {
	.name = "device_exclusive_range",
	.init = exclusive_test_init,
	.test_cases = range_cases,
};

static struct kunit_suite error_suite = {
	.name = "device_exclusive_error",
	.init = exclusive_test_init,
	.test_cases = error_cases,
};

static struct kunit_suite limit_suite = {
	.name = "device_exclusive_limits",
	.init = exclusive_test_init,
	.test_cases = limit_cases,
};

static struct kunit_suite access_suite = {
	.name = "device_exclusive_access",
	.init = exclusive_test_init,
	.test_cases = access_cases,
};

kunit_test_suites(&entry_suite, &revert_suite, &range_suite, &error_suite,
		  &limit_suite, &access_suite);

MODULE_DESCRIPTION("Tests for device-exclusive memory");
MODULE_LICENSE("GPL");
