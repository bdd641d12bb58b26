/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _LINUX_DEVICE_EXCLUSIVE_H
#define _LINUX_DEVICE_EXCLUSIVE_H

struct folio;
struct mm_struct;
struct page;

/**
 * struct device_exclusive_range - what is to become exclusive to a device
 * @mm: the address space; the caller holds its mmap_lock
 * @start: virtual address of the first page, page aligned
 * @end: virtual address behind the last page, page aligned
 * @owner: passed on in MMU_NOTIFY_EXCLUSIVE, for the caller to know its own event
 * @flags: must be 0
 * @pages: room for all pages of the range; the pages that were made exclusive
 *	are stored here: ``pages[i]`` is the page at ``start + i * PAGE_SIZE``
 */
struct device_exclusive_range {
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
	void *owner;
	unsigned int flags;
	struct page **pages;
};

long make_device_exclusive_range(struct device_exclusive_range *range);
void device_exclusive_range_unlock(struct device_exclusive_range *range,
				   long npages);
struct page *make_device_exclusive(struct mm_struct *mm, unsigned long addr,
				   void *owner, struct folio **foliop);

#endif /* _LINUX_DEVICE_EXCLUSIVE_H */
