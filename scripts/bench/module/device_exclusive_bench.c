// SPDX-License-Identifier: GPL-2.0
/* See device_exclusive_bench.h. */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/kprobes.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#ifdef CONFIG_DEVICE_EXCLUSIVE
#include <linux/device_exclusive.h>
#endif

#include "device_exclusive_bench.h"

/* What a driver takes in one call */
#define CALL_SIZE	SZ_2M
#define CALL_PAGES	(CALL_SIZE / PAGE_SIZE)

/**
 * struct bench - one open file
 * @notifier: covers the whole address space, once subscribed
 * @subscribed: is it?
 * @lock: serializes ioctl()
 * @pages: of one call
 * @pinned: the pages that are pinned, @nr_pinned of them
 * @nr_pinned: 0 if nothing is pinned
 */
struct bench {
	struct mmu_interval_notifier notifier;
	bool subscribed;
	struct mutex lock;	/* all of it */
	struct page *pages[CALL_PAGES];
	struct page **pinned;
	unsigned long nr_pinned;
};

static atomic64_t sections, ptl_locks;
static bool watching;

static bool bench_invalidate(struct mmu_interval_notifier *notifier,
			     const struct mmu_notifier_range *range,
			     unsigned long cur_seq)
{
	mmu_interval_set_seq(notifier, cur_seq);
	if (READ_ONCE(watching))
		atomic64_inc(&sections);
	return true;
}

static const struct mmu_interval_notifier_ops bench_notifier_ops = {
	.invalidate = bench_invalidate,
};

static long bench_subscribe(struct bench *bench)
{
	int err;

	if (bench->subscribed)
		return -EEXIST;
	err = mmu_interval_notifier_insert(&bench->notifier, current->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &bench_notifier_ops);
	bench->subscribed = !err;
	return err;
}

static long make_pages(struct bench *bench, unsigned long addr,
		       unsigned long end)
{
	struct folio *folio;
	struct page *page;

	mmap_read_lock(current->mm);
	for (; addr < end; addr += PAGE_SIZE) {
		page = make_device_exclusive(current->mm, addr, bench, &folio);
		if (IS_ERR(page)) {
			mmap_read_unlock(current->mm);
			return PTR_ERR(page);
		}
		folio_unlock(folio);
		folio_put(folio);
	}
	mmap_read_unlock(current->mm);
	return 0;
}

#ifdef CONFIG_DEVICE_EXCLUSIVE
static long make_range(struct bench *bench, unsigned long addr,
		       unsigned long end)
{
	struct device_exclusive_range range = {
		.mm = current->mm,
		.end = end,
		.owner = bench,
		.pages = bench->pages,
	};
	long made;

	for (range.start = addr; range.start < end;
	     range.start += made * PAGE_SIZE) {
		mmap_read_lock(current->mm);
		made = make_device_exclusive_range(&range);
		mmap_read_unlock(current->mm);
		if (made < 0)
			return made;
		device_exclusive_range_unlock(&range, made);
	}
	return 0;
}
#else
#define make_range	make_pages
#endif

static long bench_make(struct bench *bench, const struct bench_range *range,
		       bool one)
{
	unsigned long addr = range->addr, end = addr + range->size, next;
	long err = 0;

	if (!bench->subscribed)
		return -EINVAL;
	for (; !err && addr < end; addr = next) {
		next = min(end, ALIGN_DOWN(addr, CALL_SIZE) + CALL_SIZE);
		err = one ? make_pages(bench, addr, next) :
			    make_range(bench, addr, next);
	}
	return err;
}

static void bench_unpin(struct bench *bench)
{
	unpin_user_pages(bench->pinned, bench->nr_pinned);
	kvfree(bench->pinned);
	bench->nr_pinned = 0;
}

static long bench_pin(struct bench *bench, const struct bench_range *range)
{
	unsigned long nr = range->size >> PAGE_SHIFT;
	long ret = 1;

	if (bench->nr_pinned)
		return -EEXIST;
	bench->pinned = kvmalloc_array(nr, sizeof(*bench->pinned), GFP_KERNEL);
	if (!bench->pinned)
		return -ENOMEM;
	while (ret > 0 && bench->nr_pinned < nr) {
		ret = pin_user_pages_fast(range->addr +
					  bench->nr_pinned * PAGE_SIZE,
					  nr - bench->nr_pinned,
					  FOLL_WRITE | FOLL_LONGTERM,
					  bench->pinned + bench->nr_pinned);
		if (ret > 0)
			bench->nr_pinned += ret;
	}
	if (bench->nr_pinned == nr)
		return 0;
	bench_unpin(bench);
	return ret ?: -EFAULT;
}

static long bench_copy(unsigned long count)
{
	struct page *from = alloc_page(GFP_USER | __GFP_ZERO);
	struct page *to = alloc_page(GFP_USER | __GFP_ZERO);
	long err = from && to ? 0 : -ENOMEM;

	for (; !err && count; count--)
		err = copy_mc_user_highpage(to, from, 0, NULL) ? -EHWPOISON : 0;
	if (to)
		__free_page(to);
	if (from)
		__free_page(from);
	return err;
}

/*
 * Counting
 */

static int count_ptl_lock(struct kprobe *kp, struct pt_regs *regs)
{
	atomic64_inc(&ptl_locks);
	return 0;
}

static struct kprobe ptl_probe = {
	.symbol_name = "pte_offset_map_lock",
	.pre_handler = count_ptl_lock,
	.flags = KPROBE_FLAG_DISABLED,
};

static long bench_watch(void)
{
	int err = enable_kprobe(&ptl_probe);

	atomic64_set(&sections, 0);
	atomic64_set(&ptl_locks, 0);
	WRITE_ONCE(watching, true);
	return err;
}

static long bench_counts(void __user *arg)
{
	struct bench_counts counts = {
		.sections = atomic64_read(&sections),
		.ptl_locks = atomic64_read(&ptl_locks),
	};

	WRITE_ONCE(watching, false);
	disable_kprobe(&ptl_probe);
	return copy_to_user(arg, &counts, sizeof(counts)) ? -EFAULT : 0;
}

/*
 * The file
 */

static long bench_range_command(struct bench *bench, unsigned int cmd,
				void __user *arg)
{
	struct bench_range range;

	if (copy_from_user(&range, arg, sizeof(range)))
		return -EFAULT;
	if (!PAGE_ALIGNED(range.addr) || !PAGE_ALIGNED(range.size) ||
	    !range.size || range.addr > TASK_SIZE ||
	    range.size > TASK_SIZE - range.addr)
		return -EINVAL;
	if (cmd == BENCH_IOC_PIN)
		return bench_pin(bench, &range);
	return bench_make(bench, &range, cmd == BENCH_IOC_MAKE_ONE);
}

static long bench_command(struct bench *bench, unsigned int cmd,
			  unsigned long arg)
{
	switch (cmd) {
	case BENCH_IOC_SUBSCRIBE:
		return bench_subscribe(bench);
	case BENCH_IOC_MAKE:
	case BENCH_IOC_MAKE_ONE:
	case BENCH_IOC_PIN:
		return bench_range_command(bench, cmd, (void __user *)arg);
	case BENCH_IOC_UNPIN:
		if (!bench->nr_pinned)
			return -ENOENT;
		bench_unpin(bench);
		return 0;
	case BENCH_IOC_COPY:
		return bench_copy(arg);
	case BENCH_IOC_WATCH:
		return bench_watch();
	case BENCH_IOC_COUNTS:
		return bench_counts((void __user *)arg);
	}
	return -ENOTTY;
}

static long bench_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct bench *bench = file->private_data;
	long ret;

	mutex_lock(&bench->lock);
	ret = bench_command(bench, cmd, arg);
	mutex_unlock(&bench->lock);
	return ret;
}

static int bench_open(struct inode *inode, struct file *file)
{
	struct bench *bench = kvzalloc_obj(*bench);

	if (!bench)
		return -ENOMEM;
	mutex_init(&bench->lock);
	file->private_data = bench;
	return 0;
}

static int bench_release(struct inode *inode, struct file *file)
{
	struct bench *bench = file->private_data;

	if (bench->subscribed)
		mmu_interval_notifier_remove(&bench->notifier);
	if (bench->nr_pinned)
		bench_unpin(bench);
	kvfree(bench);
	return 0;
}

static const struct file_operations bench_fops = {
	.owner		= THIS_MODULE,
	.open		= bench_open,
	.release	= bench_release,
	.unlocked_ioctl	= bench_ioctl,
};

static struct miscdevice bench_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "device_exclusive_bench",
	.fops	= &bench_fops,
	.mode	= 0600,
};

static int __init bench_init(void)
{
	int err = register_kprobe(&ptl_probe);

	if (err)
		return err;
	err = misc_register(&bench_misc);
	if (err)
		unregister_kprobe(&ptl_probe);
	return err;
}

static void __exit bench_exit(void)
{
	misc_deregister(&bench_misc);
	unregister_kprobe(&ptl_probe);
}

module_init(bench_init);
module_exit(bench_exit);

MODULE_DESCRIPTION("What the device-exclusive benchmarks need from the kernel");
MODULE_LICENSE("GPL");
