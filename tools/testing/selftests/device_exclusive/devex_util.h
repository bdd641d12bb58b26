/* SPDX-License-Identifier: GPL-2.0 */
/* What the device-exclusive selftests share: memory, device, processes. */
#ifndef _DEVEX_UTIL_H
#define _DEVEX_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "test_modules/test_device_exclusive_uapi.h"

/*
 * The 30 s of the harness are too few for a kernel that checks all that it
 * does. Whoever runs the tests has a limit as well.
 */
#ifdef TEST_TIMEOUT_DEFAULT
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT	300
#endif

/*
 * Functions that return int give 0, or -errno for an ioctl and -1 (after a
 * line on stderr that says what is wrong) for all else.
 */

/*
 * The kinds of memory
 */
enum memory_kind {
	SMALL,		/* 4 KiB pages */
	MANY,		/* 4 KiB pages, as many of them and where THP would be */
	PTEMAP,		/* large folios, mapped by PTEs */
	THP,		/* large folios, mapped by PMDs */
	LAZYFREE,	/* 4 KiB pages, written, then MADV_FREE */
	LAZYFREE_THP,	/* the same, mapped by PMDs */
	KSM,		/* 4 KiB pages, shared by KSM with a twin */
	MREMAPPED,	/* 4 KiB pages that have come from another address */
	SWAPPED,	/* 4 KiB pages that are swapped out */
	FILE_COPY,	/* 4 KiB pages, written to a private mapping of a file */
	MTHP_16K,	/* folios of that size */
	MTHP_64K,
	MTHP_512K,
	PARTIAL,	/* large folios, mapped by PTEs, and only some pages */
	PTEMAP_MOVED,	/* like PTEMAP, but come from another address, */
	THP_MOVED,	/* and the same for THP */
	HUGETLB,	/* huge pages from the pool */
};

/**
 * struct memory - a range of private anonymous memory
 * @kind: what it is made of
 * @addr: where it begins
 * @first: the number of its first page, where it is a part of another
 * @size: in bytes
 * @nr: in pages
 * @folios: how many folios back it once all of it is exclusive
 * @map: all that was mapped to get it
 * @map_size: the size of @map
 */
struct memory {
	enum memory_kind kind;
	char *addr;
	size_t first;
	size_t size;
	size_t nr;
	size_t folios;
	char *map;
	size_t map_size;
};

/* Every word of the memory holds a value of its own, which depends on @seed. */
int memory_map(struct memory *mem, enum memory_kind kind, uint32_t seed);
void memory_unmap(struct memory *mem);
int memory_renew(struct memory *mem, size_t nr, uint32_t seed);
struct memory memory_part(const struct memory *mem, size_t first, size_t nr);
void memory_fill(const struct memory *mem, uint32_t seed);
size_t memory_wrong(const struct memory *mem, uint32_t seed);
char *memory_page(const struct memory *mem, size_t i);
uint64_t *memory_word(const struct memory *mem, size_t page);
uint64_t memory_value(uint32_t seed, size_t page, size_t word);

size_t page_size(void);
size_t thp_size(void);

/* Settings of the system that a test changes for a while */
struct setting {
	char path[96];
	char old[64];
};

int setting_change(struct setting *setting, const char *path, const char *value);
int setting_restore(const struct setting *setting);

/* May memory be in folios of that size: "never", "madvise", and so on */
int thp_allow(struct setting *setting, size_t size, const char *value);

/* Accesses that the compiler must not leave out */
static inline char touch(const char *addr)
{
	return __atomic_load_n(addr, __ATOMIC_RELAXED);
}

static inline uint64_t read_word(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void write_word(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

/*
 * What the page table says, from /proc/self/pagemap
 */
enum page_state {
	PAGE_NONE,
	PAGE_PRESENT,
	PAGE_SWAPPED,
	PAGE_EXCLUSIVE,
	PAGE_PRIVATE,	/* in the memory of a device */
	PAGE_MIGRATING,	/* on its way to another page frame */
	PAGE_OTHER,	/* an entry that no page may have here */
};

/* Bits of a pagemap entry */
#define PM_SOFT_DIRTY	_BITULL(55)
#define PM_UFFD_WP	_BITULL(57)

enum page_state page_state(const char *addr);
bool is_exclusive(const char *addr);
size_t memory_count_bit(const struct memory *mem, uint64_t bit);
size_t memory_count(const struct memory *mem, enum page_state state);
void memory_pfns(const struct memory *mem, uint64_t *pfns);
size_t memory_moved(const struct memory *mem, const uint64_t *pfns);
bool memory_is_large(const struct memory *mem);
size_t memory_large(const struct memory *mem);
size_t memory_blocks(const struct memory *mem, size_t nr);
size_t memory_huge(const struct memory *mem);
int memory_nodes(const struct memory *mem, int *nodes);
long vm_counter(const char *name);
long process_kib(const char *name);
long pages_cached(void);

/*
 * The simulated device; see its header for the ioctls
 */
int device_open(void);
int own_all_pages(void);
long device_make(int dev, const struct memory *mem, uint32_t flags);
long device_migrate(int dev, const struct memory *mem);
int device_unlock(int dev);
int device_add(int dev, uint64_t *word, uint64_t value, uint64_t count);
int device_pin(int dev, const struct memory *mem);
int device_unpin(int dev, const struct memory *mem);
int device_poison(int dev, const struct memory *mem);
int device_write(int dev, void *addr, const void *buf, size_t size);
int device_read(int dev, const void *addr, void *buf, size_t size);
int device_query(int dev, const struct memory *mem, uint8_t *held);
long device_held(int dev, const struct memory *mem);
int device_counters(int dev, struct devex_counters *counters);
uint64_t all_events(const struct devex_counters *counters);
bool device_agrees(int dev, const struct memory *mem);

/*
 * Make all of the memory exclusive and let the device write to it; and later,
 * in how many pages is that, or anything else, not as it should be?
 */
int device_use(int dev, const struct memory *mem);
size_t memory_wrong_after_use(const struct memory *mem, uint32_t seed);

/**
 * struct peer - the other end of a fork: parent or child
 * @pid: of the child; 0 in the child itself
 * @in: what the other end says
 * @out: what we say
 */
struct peer {
	pid_t pid;
	int in;
	int out;
};

pid_t peer_fork(struct peer *peer);
void peer_tell(const struct peer *peer);
bool peer_wait(const struct peer *peer);
int peer_exit(struct peer *peer);
int child_exit(pid_t pid);

/* The state of a thread as ps(1) shows it: 'D' is uninterruptible sleep */
char thread_state(pid_t tid);

/* A process that does @work again and again until helper_stop() */
pid_t helper_start(void (*work)(void *data), void *data);
int helper_stop(pid_t pid);

/*
 * The system
 */
struct cgroup {
	char path[64];
	char old[256];
};

int cgroup_enter(struct cgroup *cg);
void cgroup_leave(struct cgroup *cg);
int cgroup_set(const struct cgroup *cg, const char *file, const char *value);
void cgroup_flush(const struct cgroup *cg);
void cgroup_reclaim(const struct cgroup *cg, const char *amount);
long cgroup_read(const struct cgroup *cg, const char *file);
long cgroup_stat(const struct cgroup *cg, const char *file, const char *name);

int write_file(const char *path, const char *value);
int write_number(const char *path, long value);
long read_number(const char *path);
int drain_lru(void);

#endif /* _DEVEX_UTIL_H */
