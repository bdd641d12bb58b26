// SPDX-License-Identifier: GPL-2.0
/*
 * A simulated device for the device-exclusive selftests. Each open file is a
 * device that mirrors the address space of the process that opened it: see
 * test_device_exclusive_uapi.h for what it can be told to do.
 *
 * The mirror holds no page references. A page in it is valid for as long as
 * devex.lock is held, because the notifier takes pages out under that lock
 * before the kernel does anything to their mappings. Locks nest like this:
 *
 *	devex_process.locking > mmap_lock > folio lock > devex.lock
 *	devex.pins_lock > mmap_lock
 *	devex.memory_lock > mmap_lock
 */
#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/ioport.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/rwsem.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "test_device_exclusive_uapi.h"

/* DEVEX_NO_RANGE is for the mails of the series before that with the range call. */
#if defined(CONFIG_DEVICE_EXCLUSIVE) && !defined(DEVEX_NO_RANGE)
#include <linux/device_exclusive.h>
#define DEVEX_HAS_RANGE 1
#else
#define DEVEX_HAS_RANGE 0

/* For kernels without a range call: never called, but it makes this compile. */
struct device_exclusive_range {
	struct mm_struct *mm;
	unsigned long start;
	unsigned long end;
	void *owner;
	unsigned int flags;
	struct page **pages;
};

static long make_device_exclusive_range(struct device_exclusive_range *range)
{
	return -EOPNOTSUPP;
}

static void device_exclusive_range_unlock(struct device_exclusive_range *range,
					  long npages)
{
}
#endif

/**
 * struct devex_process - what the devices of one process have in common
 * @node: in devex_processes
 * @mm: the process; a device's notifier keeps it from being reused
 * @devices: how many devices there are; under devex_processes_lock
 * @locking: held for read to make a page exclusive, for write to begin keeping
 *	folios locked
 * @locked: number of folios that are kept locked
 *
 * While a process keeps folios locked, it must not make anything exclusive
 * unless it says that it wants to wait for them: without a range call the kernel
 * waits for such a lock where it cannot be killed, and the one who is to unlock
 * it might be waiting for the same process to die.
 */
struct devex_process {
	struct list_head node;
	struct mm_struct *mm;
	unsigned int devices;
	struct rw_semaphore locking;
	atomic_long_t locked;
};

/**
 * struct devex - one device
 * @notifier: covers the whole address space
 * @lock: protects @mirror and @counters; what the notifier waits for
 * @mirror: the device's page table, page index to struct page
 * @counters: what DEVEX_IOC_COUNTERS reports, but for the pins
 * @process: whose device it is
 * @locked: the folios that are kept locked, by PFN
 * @opener: the thread group leader of the process
 * @watch: gives up @locked when the process dies
 * @pins_lock: protects @pins
 * @pins: list of struct devex_pin
 * @memory_lock: protects @memory, and keeps it from being filled
 * @memory: the device's own memory, if it was ever used
 */
struct devex {
	struct mmu_interval_notifier notifier;
	struct mutex lock;	/* mirror and counters */
	struct xarray mirror;
	struct devex_counters counters;
	struct devex_process *process;
	struct xarray locked;
	struct task_struct *opener;
	struct delayed_work watch;
	struct mutex pins_lock;	/* pins */
	struct list_head pins;
	struct mutex memory_lock;	/* memory */
	struct devex_memory *memory;
};

/**
 * struct devex_pin - memory pinned by one DEVEX_IOC_PIN
 * @node: in devex.pins
 * @addr: where it begins in the process
 * @npages: number of @pages
 * @pages: what pin_user_pages_fast() returned
 */
struct devex_pin {
	struct list_head node;
	unsigned long addr;
	unsigned long npages;
	struct page *pages[] __counted_by(npages);
};

/**
 * struct devex_engine - the part of the device that does the additions
 * @dev: the device
 * @addr: of the word
 * @value: what to add
 * @count: how often
 * @done: additions made
 * @state: see below
 * @wait: for changes of @state
 */
struct devex_engine {
	struct devex *dev;
	unsigned long addr;
	u64 value;
	u64 count;
	u64 done;
	enum {
		DEVEX_ENGINE_RUNS,
		DEVEX_ENGINE_FAULTED,	/* the device does not hold the page */
		DEVEX_ENGINE_RESUMES,	/* now it does: make one addition */
		DEVEX_ENGINE_FINISHED,
	} state;
	wait_queue_head_t wait;
};

static LIST_HEAD(devex_processes);
static DEFINE_MUTEX(devex_processes_lock);

/* What mmap() shows: memory, but mapped by PFN */
static struct page *devex_pfnmap_page;

/* The page that DEVEX_IOC_POISON made unreadable, or 0: one for all devices */
static atomic_long_t devex_poison_pfn;
static bool devex_can_poison;

static struct mm_struct *devex_mm(const struct devex *dev)
{
	return dev->notifier.mm;
}

/*
 * The notifier
 */

static unsigned int devex_event(const struct mmu_notifier_range *range)
{
	static_assert(DEVEX_EVENT_UNMAP == (int)MMU_NOTIFY_UNMAP);
	static_assert(DEVEX_EVENT_EXCLUSIVE == (int)MMU_NOTIFY_EXCLUSIVE);

	return min_t(unsigned int, range->event, DEVEX_EVENT_OTHER);
}

static bool devex_invalidate(struct mmu_interval_notifier *notifier,
			     const struct mmu_notifier_range *range,
			     unsigned long cur_seq)
{
	struct devex *dev = container_of(notifier, struct devex, notifier);
	struct page *page;
	unsigned long index;

	if (mmu_notifier_range_blockable(range))
		mutex_lock(&dev->lock);
	else if (!mutex_trylock(&dev->lock))
		return false;

	if (range->event == MMU_NOTIFY_EXCLUSIVE && range->owner == dev) {
		dev->counters.own_events++;
	} else {
		mmu_interval_set_seq(notifier, cur_seq);
		dev->counters.events[devex_event(range)]++;
		xa_for_each_range(&dev->mirror, index, page,
				  range->start >> PAGE_SHIFT,
				  (range->end - 1) >> PAGE_SHIFT) {
			xa_erase(&dev->mirror, index);
			dev->counters.invalidated++;
			dev->counters.held--;
		}
	}
	mutex_unlock(&dev->lock);
	return true;
}

static const struct mmu_interval_notifier_ops devex_notifier_ops = {
	.invalidate = devex_invalidate,
};

/*
 * Making pages exclusive
 */

/* The only way before there were ranges: a range call that stops at one page */
static long devex_single_call(struct device_exclusive_range *range)
{
	struct folio *folio;
	struct page *page;

	page = make_device_exclusive(range->mm, range->start, range->owner,
				     &folio);
	if (IS_ERR(page))
		return PTR_ERR(page);
	range->pages[0] = page;
	return 1;
}

static long devex_call(struct device_exclusive_range *range, u32 flags)
{
	if (!DEVEX_HAS_RANGE || (flags & DEVEX_RANGE_SINGLE))
		return devex_single_call(range);
	return make_device_exclusive_range(range);
}

static void devex_unlock_folio(struct folio *folio)
{
	folio_unlock(folio);
	folio_put(folio);
}

/* After devex_call() with the same @flags */
static void devex_unlock_range(struct device_exclusive_range *range,
			       long npages, u32 flags)
{
	if (!DEVEX_HAS_RANGE || (flags & DEVEX_RANGE_SINGLE))
		devex_unlock_folio(page_folio(range->pages[0]));
	else
		device_exclusive_range_unlock(range, npages);
}

static void devex_unreserve(struct devex *dev, unsigned long index,
			    unsigned long npages)
{
	while (npages--)
		xa_release(&dev->mirror, index + npages);
}

/* Have a place in the mirror for each page: what programs it cannot wait. */
static int devex_reserve(struct devex *dev, unsigned long index,
			 unsigned long npages)
{
	unsigned long i;
	int err;

	for (i = 0; i < npages; i++) {
		cond_resched();
		err = fatal_signal_pending(current) ? -EINTR :
		      xa_reserve(&dev->mirror, index + i, GFP_KERNEL);
		if (err) {
			devex_unreserve(dev, index, i);
			return err;
		}
	}
	return 0;
}

static int devex_program_page(struct devex *dev, unsigned long index,
			      struct page *page)
{
	void *old;

	/*
	 * There is a place reserved. Should another thread have used that up,
	 * reserve one again rather than wait for memory here: reclaim may be
	 * waiting for our lock.
	 */
	old = xa_store(&dev->mirror, index, page, GFP_NOWAIT | __GFP_NOWARN);
	if (xa_is_err(old))
		return -EAGAIN;
	dev->counters.conversions++;
	if (!old)
		dev->counters.held++;
	return 0;
}

/*
 * Program the device with pages that devex_call() has made exclusive. Returns
 * -EAGAIN if that must begin again, because of an invalidation since @seq for
 * example.
 */
static int devex_program(struct devex *dev,
			 const struct device_exclusive_range *range,
			 long npages, unsigned long seq)
{
	int err = 0;
	long i;

	mutex_lock(&dev->lock);
	dev->counters.calls++;
	if (mmu_interval_read_retry(&dev->notifier, seq)) {
		dev->counters.retries++;
		err = -EAGAIN;
	}
	for (i = 0; !err && i < npages; i++)
		err = devex_program_page(dev, (range->start >> PAGE_SHIFT) + i,
					 range->pages[i]);
	mutex_unlock(&dev->lock);
	return err;
}

/*
 * One attempt; see devex_make(). From devex_call() to devex_unlock_range() no
 * mmap_lock may be taken, nor may anything else be made exclusive, nor may
 * this wait for a notifier section as mmu_interval_read_begin() does.
 */
static long devex_try_make(struct devex *dev,
			   struct device_exclusive_range *range, u32 flags)
{
	unsigned long index = range->start >> PAGE_SHIFT;
	unsigned long nr = (range->end - range->start) >> PAGE_SHIFT;
	unsigned long seq;
	long made;
	int err;

	err = devex_reserve(dev, index, nr);
	if (err)
		return err;

	seq = mmu_interval_read_begin(&dev->notifier);

	err = mmap_read_lock_killable(range->mm);
	if (err)
		goto unreserve;
	made = devex_call(range, flags);
	mmap_read_unlock(range->mm);
	if (made < 0) {
		err = made;
		goto unreserve;
	}
	if (WARN_ON_ONCE(!made || made > nr)) {
		err = -EIO;
		goto unreserve;
	}

	err = devex_program(dev, range, made, seq);
	if (err) {
		devex_unlock_range(range, made, flags);
		/*
		 * What needs more memory than there is would take away what it
		 * has again and again: be content with that.
		 */
		range->end = range->start + made * PAGE_SIZE;
		goto unreserve;
	}
	devex_unreserve(dev, index + made, nr - made);
	return made;

unreserve:
	devex_unreserve(dev, index, nr);
	return err;
}

/*
 * make_device_exclusive() of a kernel without a range call faults pages in, too,
 * but where it cannot be killed, and not in a range that userfaultfd handles.
 * If the page is exclusive already, it also begins a notifier section for it
 * after our mmu_interval_read_begin(), so that we had to start over, again and
 * again. So have an ordinary, writable page at @addr.
 */
static int devex_fault_in(unsigned long addr)
{
	struct page *page;
	long ret;

	if (DEVEX_HAS_RANGE)
		return 0;
	ret = get_user_pages_unlocked(addr, 1, &page, FOLL_WRITE);
	if (ret < 0)
		return ret;
	if (ret)
		put_page(page);
	return 0;
}

/* Is it one of these locks that we would wait for? */
static bool devex_must_not_wait(struct devex *dev, u32 flags)
{
	return !(flags & DEVEX_RANGE_WAIT) &&
	       atomic_long_read(&dev->process->locked);
}

/*
 * Make pages from range->start on exclusive and program the device. Returns how
 * many. Their folios are locked until devex_unlock_range(): as long as that is
 * so no CPU fault takes a page back.
 */
static long devex_make(struct devex *dev, struct device_exclusive_range *range,
		       u32 flags)
{
	struct devex_process *process = dev->process;
	long ret;

	do {
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
		if (devex_must_not_wait(dev, flags))
			return -EBUSY;
		ret = devex_fault_in(range->start);
		if (ret)
			return ret;

		if (down_read_killable(&process->locking))
			return -EINTR;
		if (devex_must_not_wait(dev, flags))
			ret = -EBUSY;
		else
			ret = devex_try_make(dev, range, flags);
		up_read(&process->locking);
	} while (ret == -EAGAIN);

	return ret;
}

/* How many pages to ask the kernel for at once */
static unsigned long devex_batch(unsigned long npages, u32 flags)
{
	if (flags & DEVEX_RANGE_SINGLE)
		return 1;
	if (!(flags & DEVEX_RANGE_ONCE))
		return min(npages, DEVEX_BATCH);
	return min(npages, totalram_pages());
}

/* Make pages exclusive until one fails; an errno only if that is the first. */
static long devex_make_range(struct devex *dev, unsigned long addr,
			     unsigned long npages, u32 flags)
{
	unsigned long batch = devex_batch(npages, flags), done = 0;
	struct device_exclusive_range range = {
		.mm = devex_mm(dev),
		.owner = dev,
	};
	long made;

	range.pages = kvmalloc_array(batch, sizeof(*range.pages),
				     GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!range.pages)
		return -ENOMEM;
	do {
		range.start = addr + done * PAGE_SIZE;
		range.end = range.start + min(npages - done, batch) * PAGE_SIZE;
		made = devex_make(dev, &range, flags);
		if (made < 0)
			break;
		devex_unlock_range(&range, made, flags);
		done += made;
	} while (done < npages && !(flags & DEVEX_RANGE_ONCE));
	kvfree(range.pages);

	return done ? done : made;
}

/*
 * Keeping folios locked
 */

static void devex_unlock_all(struct devex *dev)
{
	struct folio *folio;
	unsigned long pfn;

	xa_for_each(&dev->locked, pfn, folio) {
		/* Another thread may be doing the same. */
		if (!xa_erase(&dev->locked, pfn))
			continue;
		atomic_long_dec(&dev->process->locked);
		devex_unlock_folio(folio);
	}
}

/*
 * A dying process may itself wait, where it cannot be killed, for a folio that
 * it keeps locked: in a fault on the way out, or in a system call like
 * madvise(). Its files are not closed before that comes to an end. And a child
 * may have inherited them.
 */
static void devex_watch(struct work_struct *work)
{
	struct devex *dev = container_of(work, struct devex, watch.work);

	if ((READ_ONCE(dev->opener->signal->flags) & SIGNAL_GROUP_EXIT) ||
	    !atomic_read(&devex_mm(dev)->mm_users))
		devex_unlock_all(dev);
	else if (!xa_empty(&dev->locked))
		schedule_delayed_work(&dev->watch, HZ / 10);
}

static bool devex_holds(struct devex *dev, unsigned long index,
			struct page *page)
{
	bool ret;

	mutex_lock(&dev->lock);
	ret = xa_load(&dev->mirror, index) == page;
	mutex_unlock(&dev->lock);
	return ret;
}

/*
 * Lock the folio behind one page of the mirror, unless that is done already.
 * Returns -EAGAIN if the device has lost the page, or the lock is contended.
 */
static int devex_lock_page(struct devex *dev, unsigned long index)
{
	struct folio *folio;
	struct page *page;
	int err;

	mutex_lock(&dev->lock);
	page = xa_load(&dev->mirror, index);
	if (page) {
		folio = page_folio(page);
		folio_get(folio);
	}
	mutex_unlock(&dev->lock);
	if (!page)
		return -EAGAIN;

	err = -EAGAIN;
	if (xa_load(&dev->locked, folio_pfn(folio))) {
		err = 0;
		goto put;
	}
	if (!folio_trylock(folio))
		goto put;
	/* From here on only zap, mprotect and the like can take it away. */
	if (!devex_holds(dev, index, page))
		goto unlock;
	err = xa_err(xa_store(&dev->locked, folio_pfn(folio), folio,
			      GFP_KERNEL));
	if (err)
		goto unlock;
	atomic_long_inc(&dev->process->locked);
	schedule_delayed_work(&dev->watch, HZ / 10);
	return 0;

unlock:
	folio_unlock(folio);
put:
	folio_put(folio);
	return err;
}

/* All the folios of the range or, if that does not work right now, none */
static int devex_try_lock_range(struct devex *dev, unsigned long addr,
				unsigned long npages)
{
	struct devex_process *process = dev->process;
	unsigned long i;
	int err = 0;

	if (down_write_killable(&process->locking))
		return -EINTR;
	if (atomic_long_read(&process->locked))
		err = -EBUSY;
	for (i = 0; !err && i < npages; i++) {
		err = devex_lock_page(dev, (addr >> PAGE_SHIFT) + i);
		if (err)
			devex_unlock_all(dev);
	}
	up_write(&process->locking);
	return err;
}

/* As devex_make_range(), and the folios are locked in the end */
static long devex_make_range_locked(struct devex *dev, unsigned long addr,
				    unsigned long npages, u32 flags)
{
	long made;
	int err;

	do {
		made = devex_make_range(dev, addr, npages, flags);
		if (made < 0)
			return made;
		err = devex_try_lock_range(dev, addr, made);
	} while (err == -EAGAIN);

	return err ? err : made;
}

/*
 * Additions
 */

/*
 * An addition that is not atomic: one that a CPU makes in between is lost.
 * Returns false if the device does not hold the page.
 */
static bool devex_add_once(struct devex_engine *engine)
{
	struct devex *dev = engine->dev;
	unsigned int i;
	struct page *page;
	u64 *word, value;

	mutex_lock(&dev->lock);
	page = xa_load(&dev->mirror, engine->addr >> PAGE_SHIFT);
	if (page) {
		word = kmap_local_page(page) + offset_in_page(engine->addr);
		value = READ_ONCE(*word);
		for (i = 0; i < 16; i++)
			cpu_relax();
		WRITE_ONCE(*word, value + engine->value);
		kunmap_local(word);
		/* No PTE knows that the page is dirty. */
		set_page_dirty(page);
	}
	mutex_unlock(&dev->lock);
	return page;
}

static void devex_engine_enter(struct devex_engine *engine, int state)
{
	WRITE_ONCE(engine->state, state);
	wake_up_all(&engine->wait);
}

static int devex_engine_thread(void *arg)
{
	struct devex_engine *engine = arg;

	while (!kthread_should_stop()) {
		int state = READ_ONCE(engine->state);

		if (state == DEVEX_ENGINE_FAULTED ||
		    state == DEVEX_ENGINE_FINISHED)
			wait_event_idle(engine->wait, kthread_should_stop() ||
					READ_ONCE(engine->state) != state);
		else if (!devex_add_once(engine))
			devex_engine_enter(engine, DEVEX_ENGINE_FAULTED);
		else if (++engine->done == engine->count)
			devex_engine_enter(engine, DEVEX_ENGINE_FINISHED);
		else if (state == DEVEX_ENGINE_RESUMES)
			devex_engine_enter(engine, DEVEX_ENGINE_RUNS);
		cond_resched();
	}
	return 0;
}

/*
 * The engine has met a page that the device does not hold. Like a driver that
 * programs its device under the folio lock, give the engine the time for one
 * addition before a CPU can take the page back.
 */
static int devex_engine_fault(struct devex_engine *engine)
{
	struct page *page;
	struct device_exclusive_range range = {
		.mm = devex_mm(engine->dev),
		.start = PAGE_ALIGN_DOWN(engine->addr),
		.end = PAGE_ALIGN_DOWN(engine->addr) + PAGE_SIZE,
		.owner = engine->dev,
		.pages = &page,
	};
	long made;
	int err;

	made = devex_make(engine->dev, &range, 0);
	if (made < 0)
		return made;

	devex_engine_enter(engine, DEVEX_ENGINE_RESUMES);
	err = wait_event_killable(engine->wait, READ_ONCE(engine->state) !=
				  DEVEX_ENGINE_RESUMES);
	devex_unlock_range(&range, made, 0);
	return err ? -EINTR : 0;
}

/* Serve the engine's faults until it has finished. */
static int devex_engine_run(struct devex_engine *engine, u64 *faults)
{
	int err = 0;

	while (!err) {
		if (wait_event_killable(engine->wait, READ_ONCE(engine->state) !=
					DEVEX_ENGINE_RUNS))
			return -EINTR;
		if (READ_ONCE(engine->state) == DEVEX_ENGINE_FINISHED)
			return 0;
		++*faults;
		err = devex_engine_fault(engine);
	}
	return err;
}

static long devex_ioctl_add(struct devex *dev, void __user *arg)
{
	struct devex_engine engine = { .dev = dev };
	struct task_struct *task;
	struct devex_add add;
	int err;

	if (copy_from_user(&add, arg, sizeof(add)))
		return -EFAULT;
	if (add.reserved || !IS_ALIGNED(add.addr, sizeof(u64)) || !add.count)
		return -EINVAL;
	if (add.addr >= TASK_SIZE)
		return -EFAULT;

	engine.addr = add.addr;
	engine.value = add.value;
	engine.count = add.count;
	init_waitqueue_head(&engine.wait);
	task = kthread_run(devex_engine_thread, &engine, "devex/%d",
			   task_pid_nr(current));
	if (IS_ERR(task))
		return PTR_ERR(task);

	add.faults = 0;
	err = devex_engine_run(&engine, &add.faults);
	kthread_stop(task);
	add.done = engine.done;

	if (copy_to_user(arg, &add, sizeof(add)))
		return -EFAULT;
	return err;
}

/*
 * The device's own memory, which CPUs cannot access (device-private). There is
 * no such memory: behind each page of it is an ordinary one with the content.
 */

#ifdef CONFIG_DEVICE_PRIVATE
#define DEVEX_MEMORY_SIZE	SZ_4M
#define DEVEX_MEMORY_PAGES	(DEVEX_MEMORY_SIZE / PAGE_SIZE)
#define DEVEX_MIGRATE_BATCH	16

/**
 * struct devex_memory - the memory of one device
 * @pgmap: the struct pages; its owner is the device
 * @region: the physical addresses that nobody else uses meanwhile
 * @used: one bit a page
 */
struct devex_memory {
	struct dev_pagemap pgmap;
	struct resource *region;
	DECLARE_BITMAP(used, DEVEX_MEMORY_PAGES);
};

static unsigned long devex_memory_pfn(const struct devex_memory *memory)
{
	return PHYS_PFN(memory->pgmap.range.start);
}

/* A page of it, locked, or NULL. There is one caller at a time. */
static struct page *devex_memory_alloc(struct devex_memory *memory)
{
	struct page *page, *content;
	unsigned long nr;

	nr = find_first_zero_bit(memory->used, DEVEX_MEMORY_PAGES);
	if (nr == DEVEX_MEMORY_PAGES)
		return NULL;
	content = alloc_page(GFP_HIGHUSER);
	if (!content)
		return NULL;
	set_bit(nr, memory->used);
	page = pfn_to_page(devex_memory_pfn(memory) + nr);
	zone_device_page_init(page, &memory->pgmap, 0);
	page->zone_device_data = content;
	return page;
}

static void devex_memory_free(struct folio *folio)
{
	struct devex_memory *memory = container_of(folio->pgmap,
						   struct devex_memory, pgmap);

	__free_page(folio->page.zone_device_data);
	clear_bit(folio_pfn(folio) - devex_memory_pfn(memory), memory->used);
}

/*
 * These two get what a migration has found, and return where that goes; or 0 if
 * there is no memory.
 */
static unsigned long devex_to_memory(struct devex_memory *memory,
				     unsigned long src, bool writable)
{
	struct page *from = migrate_pfn_to_page(src), *to;
	unsigned long dst;

	to = devex_memory_alloc(memory);
	if (!to)
		return 0;
	dst = migrate_pfn(page_to_pfn(to));
	if (from) {
		copy_highpage(to->zone_device_data, from);
		return dst | (src & MIGRATE_PFN_WRITE);
	}
	/* Nobody has written there yet. */
	clear_highpage(to->zone_device_data);
	return dst | (writable ? MIGRATE_PFN_WRITE : 0);
}

static unsigned long devex_from_memory(unsigned long src, gfp_t gfp)
{
	struct page *to = alloc_page(GFP_HIGHUSER_MOVABLE | gfp);

	if (!to)
		return 0;
	copy_highpage(to, migrate_pfn_to_page(src)->zone_device_data);
	lock_page(to);
	return migrate_pfn(page_to_pfn(to)) | (src & MIGRATE_PFN_WRITE);
}

/* A CPU has touched it. */
static vm_fault_t devex_migrate_to_ram(struct vm_fault *vmf)
{
	unsigned long src = 0, dst = 0;
	vm_fault_t ret = 0;
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = vmf->address,
		.end = vmf->address + PAGE_SIZE,
		.src = &src,
		.dst = &dst,
		.pgmap_owner = page_pgmap(vmf->page)->owner,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
		.fault_page = vmf->page,
	};

	if (migrate_vma_setup(&args))
		return VM_FAULT_SIGBUS;
	if (src & MIGRATE_PFN_MIGRATE) {
		dst = devex_from_memory(src, 0);
		if (!dst)
			ret = VM_FAULT_OOM;
	}
	migrate_vma_pages(&args);
	migrate_vma_finalize(&args);
	return ret;
}

static const struct dev_pagemap_ops devex_memory_ops = {
	.folio_free	= devex_memory_free,
	.migrate_to_ram	= devex_migrate_to_ram,
};

static struct devex_memory *devex_memory_create(struct devex *dev)
{
	struct devex_memory *memory = kzalloc_obj(*memory, GFP_KERNEL_ACCOUNT);
	void *err;

	if (!memory)
		return ERR_PTR(-ENOMEM);
	memory->region = request_free_mem_region(&iomem_resource,
						 DEVEX_MEMORY_SIZE,
						 "test_device_exclusive");
	err = memory->region;
	if (IS_ERR(err))
		goto free;

	memory->pgmap.type = MEMORY_DEVICE_PRIVATE;
	memory->pgmap.ops = &devex_memory_ops;
	memory->pgmap.owner = dev;
	memory->pgmap.nr_range = 1;
	memory->pgmap.range.start = memory->region->start;
	memory->pgmap.range.end = memory->region->start + DEVEX_MEMORY_SIZE - 1;
	err = memremap_pages(&memory->pgmap, numa_node_id());
	if (!IS_ERR(err))
		return memory;

	release_mem_region(memory->region->start,
			   resource_size(memory->region));
free:
	kfree(memory);
	return err;
}

/* Whoever has mapped it, there or as a child of that process, gets it back. */
static void devex_memory_evict(unsigned long pfn)
{
	unsigned long src = 0, dst = 0;

	migrate_device_range(&src, pfn, 1);
	if (src & MIGRATE_PFN_MIGRATE)
		dst = devex_from_memory(src, __GFP_NOFAIL);
	migrate_device_pages(&src, &dst, 1);
	migrate_device_finalize(&src, &dst, 1);
}

static void devex_memory_destroy(struct devex *dev)
{
	struct devex_memory *memory = dev->memory;
	unsigned long nr;

	if (!memory)
		return;
	for_each_set_bit(nr, memory->used, DEVEX_MEMORY_PAGES) {
		/* It may be locked by a fault that is doing the same. */
		while (test_bit(nr, memory->used)) {
			devex_memory_evict(devex_memory_pfn(memory) + nr);
			cond_resched();
		}
	}
	memunmap_pages(&memory->pgmap);
	release_mem_region(memory->region->start,
			   resource_size(memory->region));
	kfree(memory);
}

static unsigned long devex_memory_used(const struct devex *dev)
{
	if (!dev->memory)
		return 0;
	return bitmap_weight(dev->memory->used, DEVEX_MEMORY_PAGES);
}

/* Move at most DEVEX_MIGRATE_BATCH pages of one VMA. Returns how many it has. */
static long devex_migrate_batch(struct devex *dev, struct vm_area_struct *vma,
				unsigned long addr, unsigned long npages)
{
	unsigned long src[DEVEX_MIGRATE_BATCH] = { };
	unsigned long dst[DEVEX_MIGRATE_BATCH] = { };
	struct migrate_vma args = {
		.vma = vma,
		.start = addr,
		.end = addr + npages * PAGE_SIZE,
		.src = src,
		.dst = dst,
		.pgmap_owner = dev,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};
	unsigned long i;
	long moved = 0;
	int err;

	err = migrate_vma_setup(&args);
	if (err)
		return err;
	for (i = 0; i < npages; i++)
		if (src[i] & MIGRATE_PFN_MIGRATE)
			dst[i] = devex_to_memory(dev->memory, src[i],
						 vma->vm_flags & VM_WRITE);
	migrate_vma_pages(&args);
	for (i = 0; i < npages; i++)
		moved += !!(src[i] & MIGRATE_PFN_MIGRATE);
	migrate_vma_finalize(&args);
	return moved;
}

static long devex_migrate(struct devex *dev, unsigned long addr,
			  unsigned long npages)
{
	struct mm_struct *mm = devex_mm(dev);
	unsigned long nr, end = addr + npages * PAGE_SIZE;
	struct vm_area_struct *vma;
	long ret = 0, moved = 0;

	lockdep_assert_held(&dev->memory_lock);

	if (!dev->memory) {
		struct devex_memory *memory = devex_memory_create(dev);

		if (IS_ERR(memory))
			return PTR_ERR(memory);
		dev->memory = memory;
	}

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for (; ret >= 0 && addr < end; addr += nr * PAGE_SIZE) {
		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		vma = vma_lookup(mm, addr);
		if (!vma) {
			ret = -EFAULT;
			break;
		}
		nr = min_t(unsigned long, DEVEX_MIGRATE_BATCH,
			   (min(end, vma->vm_end) - addr) >> PAGE_SHIFT);
		ret = devex_migrate_batch(dev, vma, addr, nr);
		moved += ret;
		cond_resched();
	}
	mmap_read_unlock(mm);
	return ret < 0 ? ret : moved;
}
#else
static void devex_memory_destroy(struct devex *dev) { }

static unsigned long devex_memory_used(const struct devex *dev)
{
	return 0;
}

static long devex_migrate(struct devex *dev, unsigned long addr,
			  unsigned long npages)
{
	return -EOPNOTSUPP;
}
#endif

/*
 * Pins
 */

static struct devex_pin *devex_find_pin(struct devex *dev, unsigned long addr,
					unsigned long size)
{
	struct devex_pin *pin;

	lockdep_assert_held(&dev->pins_lock);

	/* The one that overlaps */
	list_for_each_entry(pin, &dev->pins, node)
		if (addr < pin->addr + pin->npages * PAGE_SIZE &&
		    pin->addr < addr + size)
			return pin;
	return NULL;
}

static long devex_pin(struct devex *dev, unsigned long addr,
		      unsigned long npages)
{
	struct devex_pin *pin;
	unsigned long done;
	long pinned = 0;

	lockdep_assert_held(&dev->pins_lock);

	if (npages > min_t(unsigned long, totalram_pages(), INT_MAX))
		return -ENOMEM;
	if (devex_find_pin(dev, addr, npages * PAGE_SIZE))
		return -EEXIST;
	pin = kvmalloc(struct_size(pin, pages, npages),
		       GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (!pin)
		return -ENOMEM;
	pin->addr = addr;
	pin->npages = npages;

	/* Where it stops, call again to know why. */
	for (done = 0; done < npages; done += pinned) {
		pinned = pin_user_pages_fast(addr + done * PAGE_SIZE,
					     npages - done,
					     FOLL_WRITE | FOLL_LONGTERM,
					     pin->pages + done);
		if (pinned <= 0)
			break;
	}
	if (done < npages) {
		unpin_user_pages(pin->pages, done);
		kvfree(pin);
		return pinned ? pinned : -EFAULT;
	}
	list_add(&pin->node, &dev->pins);
	return npages;
}

/* The page can be read again. */
static void devex_unpoison(void)
{
	atomic_long_set(&devex_poison_pfn, 0);
}

static void devex_unpin(struct devex_pin *pin)
{
	if (page_to_pfn(pin->pages[0]) == atomic_long_read(&devex_poison_pfn))
		devex_unpoison();
	/* What DEVEX_IOC_DMA wrote is marked dirty. */
	unpin_user_pages(pin->pages, pin->npages);
	list_del(&pin->node);
	kvfree(pin);
}

/* The pin that was made for exactly this range */
static struct devex_pin *devex_exact_pin(struct devex *dev, unsigned long addr,
					 unsigned long npages)
{
	struct devex_pin *pin = devex_find_pin(dev, addr, npages * PAGE_SIZE);

	if (!pin || pin->addr != addr || pin->npages != npages)
		return NULL;
	return pin;
}

static int devex_dma_page(struct page *page, unsigned int offset,
			  void __user *buf, unsigned int len, bool read)
{
	char *bounce = (char *)__get_free_page(GFP_KERNEL);
	int err = 0;

	if (!bounce)
		return -ENOMEM;
	if (read) {
		memcpy_from_page(bounce, page, offset, len);
		if (copy_to_user(buf, bounce, len))
			err = -EFAULT;
	} else if (copy_from_user(bounce, buf, len)) {
		err = -EFAULT;
	} else {
		memcpy_to_page(page, offset, bounce, len);
		set_page_dirty(page);
	}
	free_page((unsigned long)bounce);
	return err;
}

static int devex_dma(struct devex_pin *pin, const struct devex_dma *dma)
{
	unsigned long pos = dma->addr - pin->addr;
	unsigned long done = 0;
	unsigned int len;
	int err = 0;

	for (; !err && done < dma->size; done += len, pos += len) {
		if (fatal_signal_pending(current))
			return -EINTR;
		len = min_t(unsigned long, dma->size - done,
			    PAGE_SIZE - offset_in_page(pos));
		err = devex_dma_page(pin->pages[pos >> PAGE_SHIFT],
				     offset_in_page(pos),
				     u64_to_user_ptr(dma->buf) + done, len,
				     dma->flags & DEVEX_DMA_READ);
		cond_resched();
	}
	return err;
}

static long devex_ioctl_dma(struct devex *dev, void __user *arg)
{
	struct devex_pin *pin;
	struct devex_dma dma;
	u64 end;
	long err;

	if (copy_from_user(&dma, arg, sizeof(dma)))
		return -EFAULT;
	if (dma.reserved || (dma.flags & ~DEVEX_DMA_READ) || !dma.size ||
	    check_add_overflow(dma.addr, dma.size, &end))
		return -EINVAL;

	if (mutex_lock_killable(&dev->pins_lock))
		return -EINTR;
	pin = devex_find_pin(dev, dma.addr, dma.size);
	if (!pin || dma.addr < pin->addr ||
	    end > pin->addr + pin->npages * PAGE_SIZE)
		err = -ENOENT;
	else
		err = devex_dma(pin, &dma);
	mutex_unlock(&dev->pins_lock);
	return err;
}

/*
 * Memory errors: fork() copies pinned pages with copy_mc_to_kernel(), which
 * fails when the source cannot be read. Make it fail without such a page, and
 * keep memory_failure_queue() from taking that away for good.
 */

#if defined(CONFIG_X86_64) && defined(CONFIG_KRETPROBES)
/* copy_mc_to_kernel(dst, src, len) */
static int devex_copy_entry(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	const void *src = (void *)regs_get_kernel_argument(regs, 1);
	unsigned long pfn = atomic_long_read(&devex_poison_pfn);

	*(unsigned long *)ri->data = regs_get_kernel_argument(regs, 2);
	/* Not zero: no need to see it return */
	return !pfn || !virt_addr_valid(src) ||
	       page_to_pfn(virt_to_page(src)) != pfn;
}

static int devex_copy_return(struct kretprobe_instance *ri,
			     struct pt_regs *regs)
{
	/* "number of bytes not copied" */
	regs_set_return_value(regs, *(unsigned long *)ri->data);
	return 0;
}

/* memory_failure_queue(pfn, flags) */
static int devex_memory_failure(struct kprobe *kp, struct pt_regs *regs)
{
	unsigned long pfn = atomic_long_read(&devex_poison_pfn);

	if (!pfn || regs_get_kernel_argument(regs, 0) != pfn)
		return 0;
	/* Return to its caller at once. */
	instruction_pointer_set(regs, regs_get_kernel_stack_nth(regs, 0));
	regs->sp += sizeof(unsigned long);
	return 1;
}

/* What has this is not optimized; the optimized kind cannot leave out a call. */
static void devex_not_optimized(struct kprobe *kp, struct pt_regs *regs,
				unsigned long flags)
{
}

static struct kretprobe devex_copy_probe = {
	.kp.symbol_name	= "copy_mc_to_kernel",
	.entry_handler	= devex_copy_entry,
	.handler	= devex_copy_return,
	.data_size	= sizeof(unsigned long),
};

static struct kprobe devex_memory_failure_probe = {
	.symbol_name	= "memory_failure_queue",
	.pre_handler	= devex_memory_failure,
	.post_handler	= devex_not_optimized,
};

static void devex_poison_init(void)
{
	if (IS_ENABLED(CONFIG_MEMORY_FAILURE) &&
	    register_kprobe(&devex_memory_failure_probe))
		return;
	if (!register_kretprobe(&devex_copy_probe))
		devex_can_poison = true;
	else if (IS_ENABLED(CONFIG_MEMORY_FAILURE))
		unregister_kprobe(&devex_memory_failure_probe);
}

static void devex_poison_exit(void)
{
	if (!devex_can_poison)
		return;
	unregister_kretprobe(&devex_copy_probe);
	if (IS_ENABLED(CONFIG_MEMORY_FAILURE))
		unregister_kprobe(&devex_memory_failure_probe);
}
#else
static void devex_poison_init(void) { }
static void devex_poison_exit(void) { }
#endif

static long devex_poison(struct devex_pin *pin)
{
	if (!devex_can_poison)
		return -EOPNOTSUPP;
	if (!pin)
		return -ENOENT;
	if (pin->npages != 1)
		return -EINVAL;
	if (atomic_long_cmpxchg(&devex_poison_pfn, 0,
				page_to_pfn(pin->pages[0])))
		return -EBUSY;
	return 1;
}

/*
 * The file
 */

static int devex_check_range(u64 addr, u64 size)
{
	u64 end;

	if (!PAGE_ALIGNED(addr) || !PAGE_ALIGNED(size) || !size ||
	    check_add_overflow(addr, size, &end))
		return -EINVAL;
	return end > TASK_SIZE ? -EFAULT : 0;
}

static long devex_make_command(struct devex *dev, unsigned long addr,
			       unsigned long npages, u32 flags)
{
	if ((flags & DEVEX_RANGE_WAIT) && !DEVEX_HAS_RANGE)
		return -EOPNOTSUPP;
	if (!(flags & DEVEX_RANGE_LOCKED))
		return devex_make_range(dev, addr, npages, flags);
	return devex_make_range_locked(dev, addr, npages, flags);
}

static long devex_range_command(struct devex *dev, unsigned int cmd,
				unsigned long addr, unsigned long npages,
				u32 flags)
{
	struct devex_pin *pin;
	long ret;

	if (cmd == DEVEX_IOC_MAKE)
		return devex_make_command(dev, addr, npages, flags);

	if (cmd == DEVEX_IOC_MIGRATE) {
		if (mutex_lock_killable(&dev->memory_lock))
			return -EINTR;
		ret = devex_migrate(dev, addr, npages);
		mutex_unlock(&dev->memory_lock);
		return ret;
	}

	if (mutex_lock_killable(&dev->pins_lock))
		return -EINTR;
	pin = devex_exact_pin(dev, addr, npages);
	if (cmd == DEVEX_IOC_PIN) {
		ret = devex_pin(dev, addr, npages);
	} else if (cmd == DEVEX_IOC_POISON) {
		ret = devex_poison(pin);
	} else if (pin) {
		devex_unpin(pin);
		ret = npages;
	} else {
		ret = -ENOENT;
	}
	mutex_unlock(&dev->pins_lock);
	return ret;
}

static bool devex_flags_valid(unsigned int cmd, u32 flags)
{
	const u32 exclude = DEVEX_RANGE_LOCKED | DEVEX_RANGE_WAIT;

	if (cmd != DEVEX_IOC_MAKE)
		return !flags;
	return !(flags & ~(DEVEX_RANGE_LOCKED | DEVEX_RANGE_SINGLE |
			   DEVEX_RANGE_ONCE | DEVEX_RANGE_WAIT)) &&
	       (flags & exclude) != exclude;
}

static long devex_ioctl_range(struct devex *dev, unsigned int cmd,
			      void __user *arg)
{
	struct devex_range range;
	long ret;

	if (copy_from_user(&range, arg, sizeof(range)))
		return -EFAULT;
	if (range.reserved || !devex_flags_valid(cmd, range.flags))
		return -EINVAL;
	ret = devex_check_range(range.addr, range.size);
	if (ret)
		return ret;

	ret = devex_range_command(dev, cmd, range.addr,
				  range.size >> PAGE_SHIFT, range.flags);
	if (ret < 0)
		return ret;
	range.npages = ret;
	return copy_to_user(arg, &range, sizeof(range)) ? -EFAULT : 0;
}

static long devex_ioctl_query(struct devex *dev, void __user *arg)
{
	struct devex_query query;
	u8 __user *held;
	unsigned long i;
	long err;

	if (copy_from_user(&query, arg, sizeof(query)))
		return -EFAULT;
	if (query.reserved)
		return -EINVAL;
	err = devex_check_range(query.addr, query.size);
	if (err)
		return err;

	held = u64_to_user_ptr(query.held);
	for (i = 0; i < query.size >> PAGE_SHIFT; i++) {
		struct page *page;

		page = xa_load(&dev->mirror, (query.addr >> PAGE_SHIFT) + i);
		if (put_user(page ? 1 : 0, held + i))
			return -EFAULT;
		if (fatal_signal_pending(current))
			return -EINTR;
		cond_resched();
	}
	return 0;
}

static long devex_ioctl_counters(struct devex *dev, void __user *arg)
{
	struct devex_counters counters;
	struct devex_pin *pin;
	struct folio *folio;
	unsigned long pfn;

	if (copy_from_user(&counters, arg, sizeof(counters)))
		return -EFAULT;
	if (counters.reserved)
		return -EINVAL;

	mutex_lock(&dev->lock);
	counters = dev->counters;
	mutex_unlock(&dev->lock);

	if (mutex_lock_killable(&dev->pins_lock))
		return -EINTR;
	list_for_each_entry(pin, &dev->pins, node)
		counters.pinned += pin->npages;
	mutex_unlock(&dev->pins_lock);

	if (mutex_lock_killable(&dev->memory_lock))
		return -EINTR;
	counters.stored = devex_memory_used(dev);
	mutex_unlock(&dev->memory_lock);

	xa_for_each(&dev->locked, pfn, folio)
		counters.locked++;

	return copy_to_user(arg, &counters, sizeof(counters)) ? -EFAULT : 0;
}

static long devex_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct devex *dev = file->private_data;
	void __user *argp = (void __user *)arg;

	/* These do not need the process's page tables. */
	if (cmd == DEVEX_IOC_COUNTERS)
		return devex_ioctl_counters(dev, argp);
	if (cmd == DEVEX_IOC_DMA)
		return devex_ioctl_dma(dev, argp);

	if (current->mm != devex_mm(dev))
		return -EACCES;

	switch (cmd) {
	case DEVEX_IOC_MAKE:
	case DEVEX_IOC_MIGRATE:
	case DEVEX_IOC_PIN:
	case DEVEX_IOC_UNPIN:
	case DEVEX_IOC_POISON:
		return devex_ioctl_range(dev, cmd, argp);
	case DEVEX_IOC_UNLOCK:
		devex_unlock_all(dev);
		return 0;
	case DEVEX_IOC_ADD:
		return devex_ioctl_add(dev, argp);
	case DEVEX_IOC_QUERY:
		return devex_ioctl_query(dev, argp);
	}
	return -ENOTTY;
}

static int devex_mmap(struct file *file, struct vm_area_struct *vma)
{
	if (vma->vm_pgoff || vma->vm_end - vma->vm_start > PAGE_SIZE)
		return -EINVAL;
	return remap_pfn_range(vma, vma->vm_start,
			       page_to_pfn(devex_pfnmap_page), PAGE_SIZE,
			       vma->vm_page_prot);
}

static struct devex_process *devex_get_process(struct mm_struct *mm)
{
	struct devex_process *process;

	mutex_lock(&devex_processes_lock);
	list_for_each_entry(process, &devex_processes, node)
		if (process->mm == mm)
			goto found;
	process = kzalloc_obj(*process, GFP_KERNEL_ACCOUNT);
	if (!process)
		goto out;
	process->mm = mm;
	init_rwsem(&process->locking);
	list_add(&process->node, &devex_processes);
found:
	process->devices++;
out:
	mutex_unlock(&devex_processes_lock);
	return process;
}

static void devex_put_process(struct devex_process *process)
{
	mutex_lock(&devex_processes_lock);
	if (!--process->devices) {
		list_del(&process->node);
		kfree(process);
	}
	mutex_unlock(&devex_processes_lock);
}

static int devex_open(struct inode *inode, struct file *file)
{
	struct devex *dev = kzalloc_obj(*dev, GFP_KERNEL_ACCOUNT);
	int err = -ENOMEM;

	if (!dev)
		return err;
	mutex_init(&dev->lock);
	xa_init(&dev->mirror);
	xa_init(&dev->locked);
	mutex_init(&dev->pins_lock);
	INIT_LIST_HEAD(&dev->pins);
	mutex_init(&dev->memory_lock);
	INIT_DELAYED_WORK(&dev->watch, devex_watch);
	dev->opener = get_task_struct(current->group_leader);

	dev->process = devex_get_process(current->mm);
	if (!dev->process)
		goto free_dev;
	err = mmu_interval_notifier_insert(&dev->notifier, current->mm, 0,
					   ULONG_MAX & PAGE_MASK,
					   &devex_notifier_ops);
	if (err)
		goto put_process;
	file->private_data = dev;
	return 0;

put_process:
	devex_put_process(dev->process);
free_dev:
	put_task_struct(dev->opener);
	kfree(dev);
	return err;
}

static int devex_release(struct inode *inode, struct file *file)
{
	struct devex *dev = file->private_data;
	struct devex_pin *pin, *next;

	/*
	 * The locks first: mmu_interval_notifier_remove() may have to wait for
	 * somebody who wants them.
	 */
	cancel_delayed_work_sync(&dev->watch);
	devex_unlock_all(dev);
	put_task_struct(dev->opener);
	/* Before the last reference to the mm goes with the notifier */
	devex_put_process(dev->process);
	mmu_interval_notifier_remove(&dev->notifier);
	list_for_each_entry_safe(pin, next, &dev->pins, node)
		devex_unpin(pin);
	devex_memory_destroy(dev);
	xa_destroy(&dev->mirror);
	xa_destroy(&dev->locked);
	kfree(dev);
	return 0;
}

static const struct file_operations devex_fops = {
	.owner		= THIS_MODULE,
	.open		= devex_open,
	.release	= devex_release,
	.unlocked_ioctl	= devex_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.mmap		= devex_mmap,
};

static struct miscdevice devex_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "test_device_exclusive",
	.fops	= &devex_fops,
	.mode	= 0600,
};

static int __init devex_init(void)
{
	int err;

	devex_pfnmap_page = alloc_page(GFP_KERNEL | __GFP_ZERO);
	if (!devex_pfnmap_page)
		return -ENOMEM;
	devex_poison_init();
	err = misc_register(&devex_misc);
	if (err) {
		devex_poison_exit();
		__free_page(devex_pfnmap_page);
	}
	return err;
}

static void __exit devex_exit(void)
{
	misc_deregister(&devex_misc);
	devex_poison_exit();
	__free_page(devex_pfnmap_page);
}

module_init(devex_init);
module_exit(devex_exit);

MODULE_DESCRIPTION("Simulated device for the device-exclusive selftests");
MODULE_LICENSE("GPL");
