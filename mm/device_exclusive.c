// SPDX-License-Identifier: GPL-2.0
/*
 * Device-exclusive memory: anonymous pages that a device has for itself, until
 * a CPU wants them back.
 *
 * The PTE of such a page is replaced by a device-exclusive entry, which is not
 * present, but for the rest is what the PTE was: it maps the page, and holds a
 * mapcount and a reference. So neither the conversion nor the way back, taken
 * by CPU faults and by fork(), touches these.
 */
#include <linux/delay.h>
#include <linux/device_exclusive.h>
#include <linux/export.h>
#include <linux/hugetlb.h>
#include <linux/leafops.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/pagemap.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/userfaultfd_k.h>

#include <asm/tlbflush.h>

#include "internal.h"

/*
 * The ordinary PTE that the device-exclusive entry @orig_pte of @pfn stands
 * for: old, clean and, as vm_page_prot of a COW mapping always is,
 * write-protected.
 */
static __always_inline pte_t
exclusive_entry_to_pte(struct vm_area_struct *vma, unsigned long pfn,
		       pte_t orig_pte)
{
	pte_t pte = pte_mkold(pfn_pte(pfn, READ_ONCE(vma->vm_page_prot)));

	if (pte_swp_soft_dirty(orig_pte))
		pte = pte_mksoft_dirty(pte);

	if (unlikely(pte_swp_uffd(orig_pte))) {
		pte = pte_mkuffd(pte);
		/* See do_swap_page(): restore PAGE_NONE for RWP */
		if (userfaultfd_rwp(vma))
			pte = pte_modify(pte, PAGE_NONE);
	}
	return pte;
}

/*
 * What the fault @vmf puts in place of the device-exclusive entry: a young PTE
 * and, for a write, a dirty and writable one, so that no second fault is needed.
 */
static pte_t exclusive_fault_pte(struct vm_fault *vmf, struct folio *folio)
{
	struct vm_area_struct *vma = vmf->vma;
	pte_t pte = exclusive_entry_to_pte(vma, page_to_pfn(vmf->page),
					   vmf->orig_pte);

	pte = pte_mkyoung(pte);
	if (!(vma->vm_flags & VM_WRITE))
		return pte;

	/* userfaultfd has to see the write first: that is another fault. */
	if ((vmf->flags & FAULT_FLAG_WRITE) && !pte_uffd(pte))
		pte = pte_mkdirty(pte);

	if (can_change_pte_writable(vma, vmf->address, pte)) {
		if (folio_test_dirty(folio))
			pte = pte_mkdirty(pte);
		pte = pte_mkwrite(pte, vma);
	}
	return pte;
}

/*
 * Replace the device-exclusive entry that @vmf is about by an ordinary PTE.
 *
 * The folio and the page table must be locked, and MMU notifiers must have
 * been called to invalidate any (exclusive) device mappings.
 *
 * Locking the folio makes sure that anybody who just converted the pte to
 * a device-exclusive entry can map it into the device to make forward
 * progress without others converting it back until the folio was unlocked.
 *
 * If the folio lock ever becomes an issue, we can stop relying on the folio
 * lock; it might make some scenarios with heavy thrashing less likely to
 * make forward progress, but these scenarios might not be valid use cases.
 *
 * Note that the folio lock does not protect against all cases of concurrent
 * page table modifications (e.g., MADV_DONTNEED, mprotect), so device drivers
 * must use MMU notifiers to sync against any concurrent changes.
 */
static void restore_exclusive_pte(struct vm_fault *vmf, struct folio *folio)
{
	VM_WARN_ON_FOLIO(!folio_test_locked(folio), folio);

	set_pte_at(vmf->vma->vm_mm, vmf->address, vmf->pte,
		   exclusive_fault_pte(vmf, folio));

	/*
	 * No need to invalidate - it was non-present before. However
	 * secondary CPUs may have mappings that need invalidating.
	 */
	update_mmu_cache_range(vmf, vmf->vma, vmf->address, vmf->pte, 1);
}

/*
 * How many entries from @ptep on, at most @max_nr, are device-exclusive like
 * @pte, the first one, and map consecutive pages of @folio.
 */
static int exclusive_pte_batch(struct folio *folio, pte_t *ptep, pte_t pte,
			       int max_nr)
{
	unsigned long pfn = softleaf_to_pfn(softleaf_from_pte(pte));
	int nr = 1;

	max_nr = min_t(unsigned long, max_nr,
		       folio_pfn(folio) + folio_nr_pages(folio) - pfn);
	while (nr < max_nr) {
		pte = pte_next_swp_offset(pte);
		if (!pte_same(ptep_get(ptep + nr), pte))
			break;
		nr++;
	}
	return nr;
}

/*
 * fork() takes device-exclusive pages back: replace the entry at @ptep, and
 * those that follow it, at most @max_nr in all, by ordinary PTEs. They are
 * write-protected, as fork() leaves all PTEs of a COW mapping, and can be copied
 * to the child.
 *
 * An entry is a mapping of the folio and holds a reference to it. The folio
 * cannot be freed, split or moved before its entries have been replaced under
 * the page table lock, which we hold; the folio lock would add nothing to that.
 *
 * A driver that holds the folio lock, because it is about to program its
 * device, does not miss the change: copy_page_range() has opened its notifier
 * section already, so that mmu_interval_read_retry() makes the driver start
 * over. Faults are kept out by the mmap_lock and the VMA lock, both held for
 * write. What was not present is not in the TLB, so there is nothing to flush.
 *
 * Returns the new PTE at @ptep.
 */
pte_t revert_exclusive_ptes(struct vm_area_struct *vma, unsigned long addr,
			    pte_t *ptep, int max_nr)
{
	softleaf_t entry;
	pte_t pte;
	int nr;

	/* Only anonymous pages of a COW mapping can be device-exclusive. */
	VM_WARN_ON_ONCE(!vma_is_cow_mapping(vma));

	/*
	 * The caller is in lazy MMU mode and is about to read all of these. End
	 * a nested section so that they are in the page table (Xen PV).
	 */
	lazy_mmu_mode_enable();
	for (nr = 0; nr < max_nr; nr++) {
		pte = ptep_get(ptep + nr);
		entry = softleaf_from_pte(pte);
		if (!softleaf_is_device_exclusive(entry))
			break;
		VM_WARN_ON_ONCE(!folio_test_anon(softleaf_to_folio(entry)));
		pte = exclusive_entry_to_pte(vma, softleaf_to_pfn(entry), pte);
		VM_WARN_ON_ONCE(pte_write(pte));
		set_pte_at(vma->vm_mm, addr + nr * PAGE_SIZE, ptep + nr, pte);
	}
	lazy_mmu_mode_disable();
	update_mmu_cache_range(NULL, vma, addr, ptep, nr);

	/* There may be more in it now than was set: PTE_CONT on arm64. */
	return ptep_get(ptep);
}

/*
 * Restore a potential device exclusive pte to a working pte entry
 */
vm_fault_t remove_device_exclusive_entry(struct vm_fault *vmf)
{
	struct folio *folio = page_folio(vmf->page);
	struct vm_area_struct *vma = vmf->vma;
	struct mmu_notifier_range range;
	vm_fault_t ret;

	/*
	 * We need a reference to lock the folio because we don't hold
	 * the PTL so a racing thread can remove the device-exclusive
	 * entry and unmap it. If the folio is free the entry must
	 * have been removed already. If it happens to have already
	 * been re-allocated after being freed all we do is lock and
	 * unlock it.
	 */
	if (!folio_try_get(folio))
		return 0;

	ret = folio_lock_or_retry(folio, vmf);
	if (ret) {
		folio_put(folio);
		return ret;
	}
	mmu_notifier_range_init_owner(&range, MMU_NOTIFY_CLEAR, 0,
				      vma->vm_mm, vmf->address,
				      vmf->address + PAGE_SIZE, NULL);
	mmu_notifier_invalidate_range_start(&range);

	vmf->pte = pte_offset_map_lock(vma->vm_mm, vmf->pmd, vmf->address,
				       &vmf->ptl);
	if (likely(vmf->pte && pte_same(ptep_get(vmf->pte), vmf->orig_pte)))
		restore_exclusive_pte(vmf, folio);

	if (vmf->pte)
		pte_unmap_unlock(vmf->pte, vmf->ptl);
	folio_unlock(folio);
	folio_put(folio);

	mmu_notifier_invalidate_range_end(&range);
	return 0;
}

/*
 * Making pages exclusive
 */

/*
 * struct exclusive_walk - the state of one conversion
 * @range: what the caller asks for, and where it finds the result
 * @vma: the VMA of the page that comes next
 * @limit: fault in up to here
 * @end: up to here everything is faulted in
 * @naps: how often it has been waited for pages behind the first one
 * @userfaults: how often userfaultfd seems to have been in the way
 * @section: the notifier section of the conversion
 * @folio: the folio that was locked and referenced last
 * @nr: the number of pages that are exclusive by now
 * @flush: whether the page table needs a TLB flush before it is unlocked
 */
struct exclusive_walk {
	struct device_exclusive_range *range;
	struct vm_area_struct *vma;
	unsigned long limit;
	unsigned long end;
	int naps;
	int userfaults;
	struct mmu_notifier_range section;
	struct folio *folio;
	long nr;
	bool flush;
};

/* So often a call waits for pages behind the first one. */
#define EXCLUSIVE_MAX_NAPS	100

#ifdef CONFIG_LOCKDEP
/*
 * Held by whoever holds the folios of a range, from
 * make_device_exclusive_range() to device_exclusive_range_unlock().
 */
static struct lockdep_map device_exclusive_map =
	STATIC_LOCKDEP_MAP_INIT("device_exclusive", &device_exclusive_map);

/*
 * For functions that may wait for somebody who waits for a folio lock. Lockdep
 * complains if the task holds the folios of a range itself.
 */
void device_exclusive_might_lock(void)
{
	lock_map_acquire(&device_exclusive_map);
	lock_map_release(&device_exclusive_map);
}
#endif

/*
 * Whether there is nothing to fault in: the entry is device-exclusive already
 * or writable. In a COW mapping only exclusive anonymous pages are. If writes
 * are tracked, and that began when the entry was exclusive, the fault is needed.
 */
static bool nonpresent_pte_is_faulted_in(struct vm_area_struct *vma, pte_t pte)
{
	return softleaf_is_device_exclusive(softleaf_from_pte(pte)) &&
	       !pte_swp_uffd(pte) &&
	       (pte_swp_soft_dirty(pte) || !vma_soft_dirty_enabled(vma));
}

static __always_inline bool pte_is_faulted_in(struct vm_area_struct *vma,
					      pte_t pte)
{
	if (pte_present(pte))
		return pte_write(pte);
	return nonpresent_pte_is_faulted_in(vma, pte);
}

static bool pmd_is_faulted_in(pmd_t pmd)
{
	return pmd_trans_huge(pmd) && pmd_write(pmd);
}

/* The page behind an entry that is faulted in, else NULL */
static inline struct page *exclusive_page(struct vm_area_struct *vma, pte_t pte)
{
	if (!pte_is_faulted_in(vma, pte))
		return NULL;
	/* What is writable is no special PTE: see exclusive_check_vma(). */
	if (pte_present(pte))
		return pte_page(pte);
	return pfn_to_page(softleaf_to_pfn(softleaf_from_pte(pte)));
}

/* As get_user_pages() would answer, and what cannot be made exclusive at all */
static int exclusive_check_vma(const struct vm_area_struct *vma)
{
	if (!vma || !(vma->vm_flags & VM_WRITE) ||
	    (vma->vm_flags & VM_SHADOW_STACK))
		return -EFAULT;
	if (!vma_is_cow_mapping(vma) || is_vm_hugetlb_page(vma) ||
	    (vma->vm_flags & (VM_IO | VM_PFNMAP | VM_MIXEDMAP)))
		return -EOPNOTSUPP;
	/* A fault that gets no memory for it does not say so. */
	if (vma->vm_flags & VM_DROPPABLE)
		return -EOPNOTSUPP;
	return 0;
}

/* Whether a fault, where there is @entry, may wait for what userfaultfd does */
static bool exclusive_may_be_userfault(struct vm_area_struct *vma,
				       softleaf_t entry)
{
	/* Their faults wait for folios alone, until there is a present PTE. */
	if (softleaf_is_swap(entry) || softleaf_is_device_exclusive(entry))
		return false;
	return userfaultfd_missing(vma) || userfaultfd_minor(vma) ||
	       (userfaultfd_wp(vma) && !userfaultfd_wp_async(vma)) ||
	       (userfaultfd_rwp(vma) && !userfaultfd_rwp_async(vma));
}

/*
 * Make one attempt to fault in the page at @addr, where there is @entry now.
 *
 * The mmap_lock must not be dropped. Without FAULT_FLAG_ALLOW_RETRY the fault
 * would wait for folios where it cannot be killed, and userfaultfd would
 * complain; so have it return instead of waiting, and do the waiting here.
 */
static int exclusive_fault_in_page(struct exclusive_walk *walk,
				   unsigned long addr, softleaf_t entry)
{
	bool first = addr == walk->range->start;
	vm_fault_t fault;

	if (fatal_signal_pending(current))
		return -EINTR;

	/* Device-private memory moves for the page that was asked for first. */
	if (!first && softleaf_is_device_private(entry))
		return -EBUSY;

	cond_resched();
	fault = handle_mm_fault(walk->vma, addr, FAULT_FLAG_WRITE |
				FAULT_FLAG_REMOTE | FAULT_FLAG_ALLOW_RETRY |
				FAULT_FLAG_RETRY_NOWAIT, NULL);
	if (fault & VM_FAULT_ERROR)
		return vm_fault_to_errno(fault, 0);
	if (!(fault & VM_FAULT_RETRY))
		return 0;

	/*
	 * Nobody is told of a fault that does not wait: there is no point in
	 * waiting. The fault may have found another entry, but hardly twice.
	 */
	if (exclusive_may_be_userfault(walk->vma, entry))
		return walk->userfaults++ ? -EFAULT : 0;
	/*
	 * A folio is locked or is being read. For that of the first page we
	 * wait; those of all later pages have some time together.
	 */
	if (!first && walk->naps++ >= EXCLUSIVE_MAX_NAPS)
		return -EBUSY;
	usleep_range_state(50, 100, TASK_KILLABLE);
	return 0;
}

/*
 * These two return the first address from @addr on that is not faulted in, and
 * in @entry what is there if it is not present; or @end.
 */
static unsigned long exclusive_scan_ptes(struct vm_area_struct *vma, pmd_t *pmd,
					 unsigned long addr, unsigned long end,
					 softleaf_t *entry)
{
	pte_t *start_ptep, *ptep, pte;

	start_ptep = pte_offset_map(pmd, addr);
	if (!start_ptep)
		return addr;

	for (ptep = start_ptep; addr < end; addr += PAGE_SIZE, ptep++) {
		pte = ptep_get_lockless(ptep);
		if (!pte_is_faulted_in(vma, pte)) {
			*entry = softleaf_from_pte(pte);
			break;
		}
	}
	pte_unmap(start_ptep);
	return addr;
}

static unsigned long exclusive_scan(struct vm_area_struct *vma,
				    unsigned long addr, unsigned long end,
				    softleaf_t *entry)
{
	unsigned long next;
	pmd_t *pmd, pmdval;

	for (; addr < end; addr = next) {
		cond_resched();
		*entry = softleaf_mk_none();
		pmd = mm_find_pmd(vma->vm_mm, addr);
		if (!pmd)
			break;
		next = pmd_addr_end(addr, end);
		pmdval = pmdp_get_lockless(pmd);
		if (pmd_is_faulted_in(pmdval))
			continue;
		*entry = softleaf_from_pmd(pmdval);
		addr = exclusive_scan_ptes(vma, pmd, addr, next, entry);
		if (addr != next)
			break;
	}
	return addr;
}

/* Returns 0 and sets @walk->end if at least the first page is faulted in. */
static int exclusive_fault_in(struct exclusive_walk *walk)
{
	struct device_exclusive_range *range = walk->range;
	unsigned long addr = range->start, end;
	softleaf_t entry;
	int err;

	do {
		walk->vma = vma_lookup(range->mm, addr);
		err = exclusive_check_vma(walk->vma);
		if (err)
			break;
		end = min(walk->limit, walk->vma->vm_end);
		addr = exclusive_scan(walk->vma, addr, end, &entry);
		if (addr < end)
			err = exclusive_fault_in_page(walk, addr, entry);
	} while (!err && addr < walk->limit);

	walk->end = addr;
	return addr == range->start ? err : 0;
}

/*
 * The folio behind the first page with a reference, or NULL if that page is not
 * faulted in. The entry that we find holds a reference, too, and cannot change.
 */
static struct folio *exclusive_get_pte_folio(struct exclusive_walk *walk,
					     pmd_t *pmd)
{
	unsigned long addr = walk->range->start;
	struct folio *folio = NULL;
	struct page *page;
	spinlock_t *ptl;	/* of the page table */
	pte_t *ptep;

	ptep = pte_offset_map_lock(walk->range->mm, pmd, addr, &ptl);
	if (!ptep)
		return NULL;
	page = exclusive_page(walk->vma, ptep_get(ptep));
	if (page) {
		folio = page_folio(page);
		folio_get(folio);
	}
	pte_unmap_unlock(ptep, ptl);
	return folio;
}

static struct folio *exclusive_get_folio(struct exclusive_walk *walk)
{
	pmd_t *pmd = mm_find_pmd(walk->range->mm, walk->range->start);
	struct folio *folio = NULL;
	spinlock_t *ptl;	/* of the page table */

	if (!pmd)
		return NULL;
	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (!ptl)
		return exclusive_get_pte_folio(walk, pmd);

	if (pmd_is_faulted_in(pmdp_get(pmd))) {
		folio = pmd_folio(pmdp_get(pmd));
		folio_get(folio);
	}
	spin_unlock(ptl);
	return folio;
}

/*
 * Lock the first folio. It is locked before the notifier section begins, so
 * that we do not disturb the driver that has it locked at the moment; and it is
 * the only one that is waited for. Returns -EAGAIN if the fault-in must begin
 * again.
 */
static int exclusive_lock_first_folio(struct exclusive_walk *walk)
{
	struct folio *folio;
	int err;

	if (!walk->vma || walk->vma->vm_start > walk->range->start)
		walk->vma = vma_lookup(walk->range->mm, walk->range->start);
	folio = exclusive_get_folio(walk);
	if (!folio)
		return -EAGAIN;

	err = folio_lock_killable(folio);
	if (err) {
		folio_put(folio);
		return err;
	}
	walk->folio = folio;
	return 0;
}

static void exclusive_unlock_folio(struct folio *folio)
{
	folio_unlock(folio);
	folio_put(folio);
}

/* Lock and reference @folio, once for all of its pages that follow each other. */
static bool exclusive_lock_folio(struct exclusive_walk *walk,
				 struct folio *folio)
{
	if (folio == walk->folio)
		return true;
	/* The folio that we have locked first is no longer there. */
	if (!walk->nr)
		return false;
	/* Waiting could deadlock, also with ourselves: it may be mapped twice. */
	if (!folio_trylock(folio))
		return false;
	folio_get(folio);
	walk->folio = folio;
	return true;
}

/*
 * Replace @nr writable PTEs, which map consecutive pages of the locked folio
 * from @page on, by device-exclusive entries.
 *
 * A CPU can go on writing until the TLB has been flushed, and what the accessed
 * and the dirty bit were does not matter: to the folio this is a write access,
 * just as get_user_pages() with FOLL_WRITE would be one.
 */
static void exclusive_convert_ptes(struct exclusive_walk *walk,
				   unsigned long addr, pte_t *ptep, pte_t pte,
				   struct page *page, int nr)
{
	struct mm_struct *mm = walk->range->mm;
	unsigned long pfn = page_to_pfn(page);
	pte_t swp_pte;

	VM_WARN_ON_ONCE(!folio_test_anon(walk->folio) ||
			!PageAnonExclusive(page));

	clear_ptes(mm, addr, ptep, nr);
	for (; nr; nr--, ptep++, addr += PAGE_SIZE) {
		swp_pte = swp_entry_to_pte(make_device_exclusive_entry(pfn++));
		if (pte_soft_dirty(pte))
			swp_pte = pte_swp_mksoft_dirty(swp_pte);
		/* The pte is writable, uffd-wp does not apply. */
		set_pte_at(mm, addr, ptep, swp_pte);
	}
	walk->flush = true;

	if (!folio_test_dirty(walk->folio))
		folio_mark_dirty(walk->folio);
}

/*
 * Make pages from @addr on exclusive, at most @max_nr and all of one folio.
 * Returns their number; 0 if the walk ends here.
 */
static int exclusive_convert_folio(struct exclusive_walk *walk,
				   unsigned long addr, pte_t *ptep, int max_nr)
{
	struct page **pages = walk->range->pages + walk->nr;
	pte_t pte = ptep_get(ptep);
	struct page *page = exclusive_page(walk->vma, pte);
	int nr = 1, i;

	if (!page || !exclusive_lock_folio(walk, page_folio(page)))
		return 0;

	if (pte_present(pte)) {
		if (folio_test_large(walk->folio))
			nr = folio_pte_batch_flags(walk->folio, NULL, ptep,
						   &pte, max_nr,
						   FPB_RESPECT_WRITE |
						   FPB_RESPECT_SOFT_DIRTY);
		exclusive_convert_ptes(walk, addr, ptep, pte, page, nr);
	} else if (folio_test_large(walk->folio)) {
		nr = exclusive_pte_batch(walk->folio, ptep, pte, max_nr);
	}

	/* There is no accessed bit: this is what tells that devices use it. */
	folio_mark_accessed(walk->folio);
	for (i = 0; i < nr; i++)
		pages[i] = page + i;
	walk->nr += nr;
	return nr;
}

/*
 * Map a THP by PTEs, unless it is clear that this would be for nothing. Our
 * notifier section must cover all of it: secondary MMUs rely on the size of the
 * mapping, too.
 */
static void exclusive_split_pmd(struct exclusive_walk *walk, pmd_t *pmd,
				unsigned long addr)
{
	unsigned long start = ALIGN_DOWN(addr, PMD_SIZE);
	spinlock_t *ptl;	/* of the page table */
	struct folio *folio;

	ptl = pmd_trans_huge_lock(pmd, walk->vma);
	if (!ptl)
		return;
	if (!pmd_is_faulted_in(pmdp_get(pmd)) || start < walk->section.start ||
	    start + PMD_SIZE > walk->section.end)
		goto unlock;

	folio = pmd_folio(pmdp_get(pmd));
	if (folio == walk->folio || (walk->nr && !folio_test_locked(folio)))
		split_huge_pmd_locked(walk->vma, start, pmd, false);
unlock:
	spin_unlock(ptl);
}

/* Make the pages of one page table exclusive. Returns false if the walk ends. */
static bool exclusive_convert_pmd(struct exclusive_walk *walk,
				  unsigned long addr, unsigned long end)
{
	struct mm_struct *mm = walk->range->mm;
	pmd_t *pmd = mm_find_pmd(mm, addr);
	unsigned long start = addr;
	pte_t *start_ptep, *ptep;
	spinlock_t *ptl;	/* of the page table */
	int nr;

	if (!pmd)
		return false;
	exclusive_split_pmd(walk, pmd, addr);
	start_ptep = pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (!start_ptep)
		return false;

	flush_cache_range(walk->vma, addr, end);
	walk->flush = false;
	lazy_mmu_mode_enable();
	for (ptep = start_ptep; addr < end; addr += nr * PAGE_SIZE, ptep += nr) {
		nr = exclusive_convert_folio(walk, addr, ptep,
					     (end - addr) >> PAGE_SHIFT);
		if (!nr)
			break;
	}
	lazy_mmu_mode_disable();
	/*
	 * Whoever finds an entry that is not present does not flush the TLB, but
	 * may free the page: have it done before we drop the lock.
	 */
	if (walk->flush)
		flush_tlb_range(walk->vma, start, addr);
	pte_unmap_unlock(start_ptep, ptl);
	return addr == end;
}

static bool exclusive_is_thp(struct mm_struct *mm, unsigned long addr)
{
	pmd_t *pmd = mm_find_pmd(mm, addr);

	return pmd && pmd_is_faulted_in(pmdp_get_lockless(pmd));
}

/*
 * Begin the notifier section. It is for all that is faulted in, also for pages
 * that are exclusive: this may be another device. A THP is remapped as a whole.
 */
static void exclusive_section_start(struct exclusive_walk *walk)
{
	struct device_exclusive_range *range = walk->range;
	unsigned long start = range->start, end = walk->end;

	if (exclusive_is_thp(range->mm, start))
		start = ALIGN_DOWN(start, PMD_SIZE);
	if (exclusive_is_thp(range->mm, end - 1))
		end = ALIGN(end, PMD_SIZE);
	mmu_notifier_range_init_owner(&walk->section, MMU_NOTIFY_EXCLUSIVE, 0,
				      range->mm, start, end, range->owner);
	mmu_notifier_invalidate_range_start(&walk->section);
}

/*
 * Make exclusive what is faulted in, up to the first page that has gone again,
 * or whose folio is locked by somebody else.
 */
static void exclusive_convert(struct exclusive_walk *walk)
{
	unsigned long addr = walk->range->start, next;

	exclusive_section_start(walk);
	for (; addr < walk->end; addr = next) {
		if (addr >= walk->vma->vm_end)
			walk->vma = vma_lookup(walk->range->mm, addr);
		next = pmd_addr_end(addr, min(walk->end, walk->vma->vm_end));
		if (!exclusive_convert_pmd(walk, addr, next) ||
		    fatal_signal_pending(current))
			break;
		cond_resched();
	}
	mmu_notifier_invalidate_range_end(&walk->section);
}

/* One attempt. Returns -EAGAIN if the first page has gone before it was done. */
static int exclusive_try_range(struct exclusive_walk *walk)
{
	int err;

	if (fatal_signal_pending(current))
		return -EINTR;
	cond_resched();
	err = exclusive_fault_in(walk);
	if (!err)
		err = exclusive_lock_first_folio(walk);
	if (err)
		return err;

	exclusive_convert(walk);
	if (walk->nr)
		return 0;
	exclusive_unlock_folio(walk->folio);
	walk->folio = NULL;
	return -EAGAIN;
}

static long exclusive_make_range(struct device_exclusive_range *range)
{
	struct exclusive_walk walk = { .range = range, .limit = range->end };
	int err;

	mmap_assert_locked(range->mm);
	device_exclusive_might_lock();

	while ((err = exclusive_try_range(&walk)) == -EAGAIN) {
		/*
		 * Somebody else was faster. It may even have been reclaim: if
		 * there is not memory enough for all of the range, the first
		 * page has made room for the last. A fatal signal ends this.
		 */
		walk.limit = range->start + PAGE_SIZE;
	}
	return err ? err : walk.nr;
}

/**
 * make_device_exclusive_range() - Give a device a range of pages for itself
 * @range: the range, and where to put the pages
 *
 * Take anonymous memory away from the CPUs: the PTE of each page is replaced by
 * a device-exclusive entry. A CPU that accesses such a page faults, waits for
 * the folio lock, calls MMU notifiers so that the device lets go, and has the
 * page back. What is not a writable anonymous page yet is faulted in as for a
 * write first. What is device-exclusive already stays so, without a fault, unless
 * userfaultfd or soft-dirty tracking has to see a write; if it is another device
 * that has it, an MMU_NOTIFY_EXCLUSIVE event tells it to let go. Such an event,
 * with @range->owner, is sent for all that is worked on at once, which is all of
 * the range if nothing gets in between, and for all of a THP that this begins or
 * ends in; the caller must ignore its own.
 *
 * The range may cross VMAs and page tables. It is worked on from its start, and
 * as far as possible: where that ends depends on what other tasks do, too, so
 * ask for the rest with another call. It ends, among others, before a page
 * whose folio somebody else has locked, or reads in, and before device-private
 * memory; neither holds for the page at @range->start. That one is waited for,
 * and moved back from the device. While pages are faulted in, others may be
 * waited for, too: some milliseconds, all of them together, and where the page
 * fault cannot do without.
 *
 * On entry the caller holds the mmap_lock of @range->mm, for read or for write,
 * and no folio lock. The mmap_lock is not dropped. If pages are returned, the
 * caller also has locked and referenced each of their folios, once for all of
 * its pages, so that no CPU fault takes a page back before the device has been
 * programmed. The task has to drop the mmap_lock, program the device, and call
 * device_exclusive_range_unlock(). In between it must not
 *
 * - take the mmap_lock, or cause a page fault on user memory;
 * - call mmu_interval_read_begin() or mmu_interval_notifier_remove();
 * - make anything else exclusive.
 *
 * Each of these can wait for a task that waits for one of the folios. Lockdep
 * reports them.
 *
 * The folio lock does not keep out munmap(), mprotect(), fork() and others. A
 * driver must learn about these from an MMU notifier; with an interval
 * notifier, it calls mmu_interval_read_begin() before it takes the mmap_lock,
 * and checks mmu_interval_read_retry() under its own lock before it programs
 * the device. Nor is access through references that were taken earlier, by
 * get_user_pages() for example, prevented.
 *
 * The entries are always PTEs. A THP that is mapped by a PMD is mapped by PTEs
 * before its pages, or as many as are asked for, become exclusive. The pages
 * are marked dirty and accessed now. When the device has written to them later,
 * the driver has to mark them dirty when it lets go.
 *
 * Context: May sleep.
 *
 * Return:
 * * positive - the number of pages, from @range->start on, that are exclusive;
 *   their struct pages are in @range->pages.
 * * %-EINVAL - @range is empty or not page aligned, or has unknown flags.
 * * %-EFAULT - there is no VMA at the start, it is not writable, or the page
 *   could not be faulted in, because it is in a guard region, for example, or
 *   because only userfaultfd can provide it.
 * * %-EOPNOTSUPP - what is at the start is not private anonymous memory, nor a
 *   private mapping of a file, which becomes that when it is written to; or it
 *   is hugetlb, memory that may be dropped (VM_DROPPABLE), or memory of a
 *   driver (VM_IO, VM_PFNMAP or VM_MIXEDMAP).
 * * %-ENOMEM - out of memory.
 * * %-EINTR - a fatal signal is pending.
 */
long make_device_exclusive_range(struct device_exclusive_range *range)
{
	long nr;

	if (range->flags || range->start >= range->end ||
	    !PAGE_ALIGNED(range->start) || !PAGE_ALIGNED(range->end))
		return -EINVAL;

	nr = exclusive_make_range(range);
	if (nr > 0)
		lock_map_acquire(&device_exclusive_map);
	return nr;
}
EXPORT_SYMBOL_GPL(make_device_exclusive_range);

/**
 * device_exclusive_range_unlock() - Let CPU faults have the pages again
 * @range: as it was passed to make_device_exclusive_range()
 * @npages: what that function has returned
 *
 * Unlock the folios of the range and drop the references to them. To be called
 * once for all of the pages, by the task that made them exclusive, when the
 * device has been programmed or when it is clear that it will not be. The pages
 * remain exclusive until somebody needs them.
 *
 * If @npages is not positive, there is nothing to unlock, and nothing is done.
 */
void device_exclusive_range_unlock(struct device_exclusive_range *range,
				   long npages)
{
	struct page **pages = range->pages, **end = pages + npages;
	struct page *first, *last;
	struct folio *folio;

	if (npages <= 0)
		return;

	while (pages < end) {
		folio = page_folio(*pages);
		first = folio_page(folio, 0);
		last = first + folio_nr_pages(folio) - 1;
		do {
			pages++;
		} while (pages < end && *pages >= first && *pages <= last);
		exclusive_unlock_folio(folio);
	}
	lock_map_release(&device_exclusive_map);
}
EXPORT_SYMBOL_GPL(device_exclusive_range_unlock);

/**
 * make_device_exclusive() - Mark a page for exclusive use by a device
 * @mm: mm_struct of associated target process
 * @addr: the virtual address to mark for exclusive device access
 * @owner: passed to MMU_NOTIFY_EXCLUSIVE range notifier to allow filtering
 * @foliop: folio pointer will be stored here on success.
 *
 * This is make_device_exclusive_range() for one page: see there. The function
 * returns with the folio locked and referenced. The driver should drop both,
 * with folio_unlock() and folio_put(), once it has programmed its device.
 *
 * Return: pointer to the page on success, otherwise a negative error.
 */
struct page *make_device_exclusive(struct mm_struct *mm, unsigned long addr,
				   void *owner, struct folio **foliop)
{
	struct page *page;
	struct device_exclusive_range range = {
		.mm = mm,
		.start = PAGE_ALIGN_DOWN(addr),
		.end = PAGE_ALIGN_DOWN(addr) + PAGE_SIZE,
		.owner = owner,
		.pages = &page,
	};
	long ret = exclusive_make_range(&range);

	if (ret < 0)
		return ERR_PTR(ret);
	*foliop = page_folio(page);
	return page;
}
EXPORT_SYMBOL_GPL(make_device_exclusive);
