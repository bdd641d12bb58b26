/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * The simulated device of the device-exclusive selftests.
 *
 * An open file of /dev/test_device_exclusive is one device. It mirrors the
 * address space of the process that opened it; another process (a child that
 * inherited the file, for example) gets -EACCES, except from
 * DEVEX_IOC_COUNTERS and DEVEX_IOC_DMA. When the process dies, the device loses
 * its pages and unlocks what it keeps locked; closing the file takes back the
 * rest: the pins, and what is in the device's own memory.
 *
 * mmap() of the file gives zeroed memory without struct pages of its own
 * (VM_PFNMAP), which can never be made exclusive.
 *
 * All addresses and sizes are in bytes. Reserved fields must be zero, and so
 * must flag bits without a name: -EINVAL. A range that does not end in user
 * space is -EFAULT.
 */
#ifndef _TEST_DEVICE_EXCLUSIVE_UAPI_H
#define _TEST_DEVICE_EXCLUSIVE_UAPI_H

#include <linux/const.h>
#include <linux/ioctl.h>
#include <linux/types.h>

#define DEVEX_DEVICE		"/dev/test_device_exclusive"

/**
 * struct devex_range - a range of the process's address space
 * @addr: (in) first byte, page aligned
 * @size: (in) a multiple of the page size, not zero
 * @flags: (in) DEVEX_RANGE_*, where the command takes any
 * @reserved: (in) zero
 * @npages: (out) number of pages, counted from @addr, that the command served
 */
struct devex_range {
	__u64 addr;
	__u64 size;
	__u32 flags;
	__u32 reserved;
	__u64 npages;
};

/* DEVEX_IOC_MAKE: keep the folios locked until DEVEX_IOC_UNLOCK */
#define DEVEX_RANGE_LOCKED	_BITUL(0)

/* DEVEX_IOC_MAKE: page by page, by make_device_exclusive() */
#define DEVEX_RANGE_SINGLE	_BITUL(1)

/* DEVEX_IOC_MAKE: ask the kernel for the whole range, and only once */
#define DEVEX_RANGE_ONCE	_BITUL(2)

/*
 * DEVEX_IOC_MAKE: wait for folios that a device of this process keeps locked.
 * -EOPNOTSUPP where the kernel has no range call: one that waits could not be
 * killed. -EINVAL together with DEVEX_RANGE_LOCKED.
 */
#define DEVEX_RANGE_WAIT	_BITUL(3)

/**
 * struct devex_add - additions by the device
 * @addr: (in) a naturally aligned 64-bit word
 * @value: (in) what to add; the sum wraps
 * @count: (in) how many times, at least once
 * @done: (out) additions that were made, also if the rest of them fail
 * @faults: (out) how often the device had to make the page exclusive for it
 * @reserved: (in) zero
 */
struct devex_add {
	__u64 addr;
	__u64 value;
	__u64 count;
	__u64 done;
	__u64 faults;
	__u64 reserved;
};

/**
 * struct devex_dma - a transfer to or from pinned memory
 * @addr: (in) where the pinned memory begins in the process that pinned it
 * @size: (in) bytes, not zero; may begin and end inside a page
 * @buf: (in) user memory of the caller, @size bytes
 * @flags: (in) DEVEX_DMA_*
 * @reserved: (in) zero
 */
struct devex_dma {
	__u64 addr;
	__u64 size;
	__u64 buf;
	__u32 flags;
	__u32 reserved;
};

/* DEVEX_IOC_DMA: from the pinned pages to @buf, rather than the reverse */
#define DEVEX_DMA_READ		_BITUL(0)

/**
 * struct devex_query - which pages the device holds
 * @addr: (in) first byte, page aligned
 * @size: (in) a multiple of the page size, not zero
 * @held: (in) user memory, one byte a page: 1 where the device holds it, or 0
 * @reserved: (in) zero
 */
struct devex_query {
	__u64 addr;
	__u64 size;
	__u64 held;
	__u64 reserved;
};

/* Index into devex_counters.events: the kinds of enum mmu_notifier_event */
enum {
	DEVEX_EVENT_UNMAP,
	DEVEX_EVENT_CLEAR,
	DEVEX_EVENT_PROTECTION_VMA,
	DEVEX_EVENT_PROTECTION_PAGE,
	DEVEX_EVENT_SOFT_DIRTY,
	DEVEX_EVENT_RELEASE,
	DEVEX_EVENT_MIGRATE,
	DEVEX_EVENT_EXCLUSIVE,
	DEVEX_EVENT_OTHER,
	DEVEX_NR_EVENTS,
};

/**
 * struct devex_counters - what has happened to this device since it was opened
 * @events: (out) notifier events of the process by kind, but for
 * @own_events: (out) the MMU_NOTIFY_EXCLUSIVE events of this device itself
 * @calls: (out) calls that gave pages of make_device_exclusive_range() or, with
 *	DEVEX_RANGE_SINGLE or on a kernel without it, make_device_exclusive()
 * @conversions: (out) pages made exclusive and programmed
 * @retries: (out) attempts given up because of a concurrent notifier event
 * @invalidated: (out) pages that notifier events have taken from the device
 * @held: (out) pages that the device holds now
 * @locked: (out) folios that it keeps locked now
 * @pinned: (out) pages that it has pinned now
 * @stored: (out) pages of its own memory that are in use now
 * @reserved: (in) zero
 */
struct devex_counters {
	__u64 events[DEVEX_NR_EVENTS];
	__u64 own_events;
	__u64 calls;
	__u64 conversions;
	__u64 retries;
	__u64 invalidated;
	__u64 held;
	__u64 locked;
	__u64 pinned;
	__u64 stored;
	__u64 reserved;
};

/*
 * DEVEX_IOC_MAKE: make a range exclusive and program the device. Like
 * get_user_pages(): @npages counted from @addr, an errno only where it is
 * none. -EBUSY while a device of this process keeps folios locked. With
 * DEVEX_RANGE_LOCKED every folio of these pages is locked once, and stays so.
 *
 * The kernel is asked for DEVEX_BATCH pages at a time, and again where it gives
 * fewer. Each time it may have to be repeated because of a notifier event.
 */
#define DEVEX_BATCH		512
#define DEVEX_IOC_MAKE		_IOWR('x', 0x00, struct devex_range)

/* DEVEX_IOC_UNLOCK: unlock all folios that are kept locked; no argument */
#define DEVEX_IOC_UNLOCK	_IO('x', 0x01)

/*
 * DEVEX_IOC_ADD: a kernel thread does *@addr += @value, not atomically, @count
 * times, each time only while the device holds the page. A page that it does
 * not hold is made exclusive first. -EBUSY if that is needed while a device of
 * this process keeps folios locked; -EINTR on a fatal signal.
 */
#define DEVEX_IOC_ADD		_IOWR('x', 0x02, struct devex_add)

/*
 * DEVEX_IOC_PIN: pin a range for DMA (FOLL_LONGTERM, FOLL_WRITE), all or
 * nothing. -EEXIST if some of it is pinned by this device already.
 */
#define DEVEX_IOC_PIN		_IOWR('x', 0x03, struct devex_range)

/* DEVEX_IOC_UNPIN: the reverse, for a range given to DEVEX_IOC_PIN; -ENOENT */
#define DEVEX_IOC_UNPIN		_IOWR('x', 0x04, struct devex_range)

/* DEVEX_IOC_DMA: write to (or read from) pinned pages; -ENOENT if not pinned */
#define DEVEX_IOC_DMA		_IOW('x', 0x05, struct devex_dma)

/* DEVEX_IOC_QUERY: which pages of a range does the device hold? */
#define DEVEX_IOC_QUERY		_IOW('x', 0x06, struct devex_query)

/*
 * DEVEX_IOC_POISON: copy_mc_to_kernel() cannot read a page any more, as if it
 * had a memory error, until it is unpinned. The range is one page, the same as
 * was given to DEVEX_IOC_PIN. -ENOENT if it was not; -EBUSY while there is
 * another such page; -EOPNOTSUPP where the kernel does not survive such errors.
 */
#define DEVEX_IOC_POISON	_IOWR('x', 0x08, struct devex_range)

/*
 * DEVEX_IOC_MIGRATE: move pages to the device's own memory, where no CPU can
 * access them: one that tries gets them back. @npages is how many were moved,
 * anywhere in the range. What is in use, swapped out or exclusive stays where
 * it is, and so does what does not fit: there are 4 MiB. -EOPNOTSUPP where the
 * kernel has no CONFIG_DEVICE_PRIVATE.
 */
#define DEVEX_IOC_MIGRATE	_IOWR('x', 0x09, struct devex_range)

/* DEVEX_IOC_COUNTERS: see struct devex_counters */
#define DEVEX_IOC_COUNTERS	_IOWR('x', 0x07, struct devex_counters)

#endif /* _TEST_DEVICE_EXCLUSIVE_UAPI_H */
