/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the stress test share; stress.c tells how it works. */
#ifndef _STRESS_H
#define _STRESS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "kselftest.h"
#include "devex_util.h"

#define THREADS		3
#define DEVICES		2
#define WORDS		(THREADS + 1)
#define SHARED		THREADS	/* the word that all of them add to */
#define REGIONS		4
#define MAX_PAGES	640	/* of a region */
#define MAX_PROCESSES	8
#define MAX_SLOTS	64
#define MAX_DEPTH	3	/* of forks */
#define MAX_CHILDREN	2	/* of one thread */
#define MAX_FAILURES	20	/* then it ends */
#define MAX_OFFLINE	64	/* pages: nobody gives them back */
#define MAX_ERRNO	134
#define EVENTS		32	/* that a region remembers */
#define MOVE_PAGES	16
#define KSM_REGION	1	/* the only one that is MADV_MERGEABLE */
#define HUGE_REGION	3	/* the only one that has room for a huge page */

/* Where nobody else maps anything: a region moves between the halves of it. */
#define WINDOW(i)	((char *)(0x100000000000UL + 2 * HALF * (i)))
#define HALF		0x80000000UL

/* The operations. See ops[] for what they are. */
enum op {
	CPU_ADD, CPU_STORE, CPU_READ, CHECK, FILL, LOOK,
	MAKE, ADD, MIGRATE, PIN, UNPIN, DMA_WRITE, DMA_READ,
	FORK, FORK_LOCKED, KILL, WAIT,
	MREMAP, MPROTECT_READ, MPROTECT_WRITE, MUNMAP,
	DONTNEED, FREE, COLD, PAGEOUT, COLLAPSE, HUGEPAGE, NOHUGEPAGE,
	MERGEABLE, UNMERGEABLE, OFFLINE,
	UFFD_REGISTER, UFFD_UNREGISTER, UFFD_PROTECT, UFFD_MOVE,
	UFFD_RESOLVE, UFFD_COPY, UFFD_ZEROPAGE,
	MOVE_NODE, MBIND,
	COMPACT, RECLAIM, MIGRATE_PROCESS, IDLE, DRAIN, SWITCH_LRU, SWITCH_MTHP,
	NR_OPS
};

/* Flags of a page */
#define LAZY		1	/* MADV_FREE: may have become zero */
#define READONLY	2
#define PINNED		4	/* what is pinned is still what is mapped */
#define UNFILLED	8	/* the pager may not have been asked for it yet */
#define FREED		16	/* MADV_FREE while it was PINNED */

struct word {
	uint64_t lo, hi;
};

struct event {
	unsigned int step, thread, depth;
	enum op op;
	size_t first, nr;
};

/* A range of private anonymous memory; stress.c tells about the locks */
struct region {
	int index;
	struct memory mem;	/* where it is now */
	pthread_rwlock_t cpu, device;
	unsigned int changes;	/* odd while what is mapped is being changed */
	unsigned int lazy;	/* how many pages are LAZY */
	uint64_t uffd;		/* UFFDIO_REGISTER_MODE_* */
	uint8_t flags[MAX_PAGES];
	int pin_dev;
	struct memory pin;	/* where it was when that was done */
	struct event events[EVENTS];
	unsigned int nr_events;
};

struct shadow {
	int ready;
	struct word words[REGIONS][MAX_PAGES][WORDS];
};

/* Somebody who makes steps, as all processes see it; free if there is no @pid */
struct slot {
	pid_t pid, tid;
	char name[64];
	unsigned int step;
	enum op op;
	time_t since;
};

struct actor {
	struct slot *slot;
	unsigned int thread;
	unsigned int step;
	uint64_t key;		/* made of the name */
	uint64_t random;
	pid_t children[MAX_CHILDREN];
};

/* What all processes share */
struct board {
	int stop;
	unsigned int mismatches, failures;
	unsigned long steps;
	unsigned int offline;
	unsigned long done[NR_OPS], skipped[NR_OPS];
	unsigned long errors[NR_OPS][MAX_ERRNO];
	pid_t processes[MAX_PROCESSES];
	struct slot slots[MAX_SLOTS];
};

extern struct board *board;

/* What there is of it in each process */
struct process {
	unsigned int depth;
	struct region regions[REGIONS];
	struct shadow *shadow;
	int dev[DEVICES];
	int uffd;
	pthread_mutex_t uffd_lock;	/* who opens it */
	pthread_mutex_t move_lock;	/* of the place for UFFD_MOVE */
	bool pager_ends;
	pthread_t pager;
};

extern struct process me;

extern __thread struct actor *self;

extern struct cgroup cgroup;

struct options {
	uint64_t seed;
	unsigned int seconds, steps, processes;
	unsigned int hang;	/* after so many seconds */
	enum { NOTHING, LOSE, STRAY } mistake;
	bool verbose;
};

extern struct options options;

struct operation {
	const char *name;
	void (*run)(void);	/* none: a part of others */
	unsigned int weight;
	bool system;		/* not what a process does to itself */
	int allowed[6];		/* errnos */
};

extern const struct operation ops[NR_OPS];

/* A part of a region */
struct span {
	struct region *r;
	size_t first, nr;
	struct memory mem;	/* with the region locked */
};

/*
 * stress_model.c
 */
uint64_t mix(uint64_t x);
unsigned int below(unsigned int n);

bool stopped(void);
void report(unsigned int *counter, const char *more, const char *fmt, ...)
	__printf(3, 4);
#define fail(...)	report(&board->failures, "", __VA_ARGS__)
void mismatch(const struct region *r, size_t page, unsigned int slot,
	      const struct word *want, uint64_t found);
long result(enum op op, long ret);
long called(enum op op, long ret);
void skip(enum op op);
void note(struct region *r, enum op what, size_t first, size_t nr);

struct word *model(const struct region *r, size_t page, unsigned int slot);
uint64_t *word_at(const struct region *r, size_t page, unsigned int slot);
uint64_t tag(const struct region *r, size_t page, unsigned int slot);
void set_model(struct word *word, uint64_t value);
void will_add(struct word *word, uint64_t by);
void has_added(struct word *word, uint64_t by, uint64_t not);
void check_page(struct region *r, size_t page, bool maybe, uint64_t other);
void check_region(struct region *r);
void settle(struct region *r);

void lock_all(struct region *r);
void unlock_all(struct region *r);
void lock_access(struct region *r, pthread_rwlock_t *lock);
void change_begin(struct region *r);
void change_begin_settled(struct region *r);
void change_wait(struct region *r);
void change_end(struct region *r);

struct region *any_region(void);
struct span any_span(unsigned int max);
struct span any_span_at_all(void);
struct span any_span_to_split(void);
struct span whole_region(size_t index);
void span_locked(struct span *s, enum op op);
bool any_flag(const struct span *s, uint8_t flags);

/*
 * stress_ops.c
 */
int any_device(void);
void end_pager(void);

/*
 * stress.c
 */
void do_fork(void);

#endif /* _STRESS_H */
