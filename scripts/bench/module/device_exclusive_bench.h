/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What `make bench` needs from the kernel: the functions to be measured, with
 * as little around them as a driver can have.
 */
#ifndef _DEVICE_EXCLUSIVE_BENCH_H
#define _DEVICE_EXCLUSIVE_BENCH_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define BENCH_DEVICE	"/dev/device_exclusive_bench"

/**
 * struct bench_range - a range of the calling process
 * @addr: page aligned
 * @size: in bytes, a multiple of the page size
 */
struct bench_range {
	__u64 addr;
	__u64 size;
};

/**
 * struct bench_counts - what has happened since BENCH_IOC_WATCH
 * @sections: MMU notifier sections of the process
 * @ptl_locks: calls of pte_offset_map_lock(), in the whole system
 */
struct bench_counts {
	__u64 sections;
	__u64 ptl_locks;
};

/* Subscribe to the process's notifier events, as a driver does; once a file */
#define BENCH_IOC_SUBSCRIBE	_IO('b', 0)

/*
 * Make a range exclusive, 2 MiB at a time, with the range call if the kernel
 * has it, and else page by page; BENCH_IOC_MAKE_ONE is always page by page.
 */
#define BENCH_IOC_MAKE		_IOW('b', 1, struct bench_range)
#define BENCH_IOC_MAKE_ONE	_IOW('b', 2, struct bench_range)

/* Pin a range for DMA (FOLL_LONGTERM), one at a time for each open file */
#define BENCH_IOC_PIN		_IOW('b', 3, struct bench_range)
#define BENCH_IOC_UNPIN		_IO('b', 4)

/* Copy a page this many times, with the function that fork uses */
#define BENCH_IOC_COPY		_IO('b', 5)

/* Begin to count, at zero; it costs time. COUNTS ends it. */
#define BENCH_IOC_WATCH		_IO('b', 6)
#define BENCH_IOC_COUNTS	_IOR('b', 7, struct bench_counts)

#endif /* _DEVICE_EXCLUSIVE_BENCH_H */
