// SPDX-License-Identifier: GPL-2.0
/* The model of the stress test, and what it reports; see stress.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

/*
 * Chance
 */
uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

unsigned int below(unsigned int n)
{
	self->random = mix(self->random);
	return self->random % n;
}

/*
 * What there is to say
 */
bool stopped(void)
{
	return __atomic_load_n(&board->stop, __ATOMIC_RELAXED);
}

/* One line, with who, when and how to do it again, and then @more */
void report(unsigned int *counter, const char *more, const char *fmt, ...)
{
	const struct slot *slot = self ? self->slot : NULL;
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (slot)
		dprintf(1, "FAILED: %s (%s step %u, %s, seed %llu)\n%s", text,
			slot->name, slot->step, ops[slot->op].name,
			(unsigned long long)options.seed, more);
	else
		dprintf(1, "FAILED: %s (seed %llu)\n%s", text,
			(unsigned long long)options.seed, more);
	if (__atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST) >= MAX_FAILURES)
		board->stop = 1;
}

/* Note how an operation went: -errno if it failed. */
long result(enum op op, long ret)
{
	size_t i;

	if (ret >= 0) {
		__atomic_add_fetch(&board->done[op], 1, __ATOMIC_RELAXED);
		return ret;
	}
	__atomic_add_fetch(&board->errors[op][-ret < MAX_ERRNO ? -ret : 0], 1,
			   __ATOMIC_RELAXED);
	for (i = 0; i < ARRAY_SIZE(ops[op].allowed); i++)
		if (ops[op].allowed[i] == -ret)
			return ret;
	fail("%s: %s", ops[op].name, strerror(-ret));
	return ret;
}

/* The same for a system call */
long called(enum op op, long ret)
{
	return result(op, ret < 0 ? -errno : ret);
}

void skip(enum op op)
{
	__atomic_add_fetch(&board->skipped[op], 1, __ATOMIC_RELAXED);
}

void note(struct region *r, enum op what, size_t first, size_t nr)
{
	unsigned int i;

	if (options.verbose)
		dprintf(1, "%d %s step %u: %s, region %d pages %zu to %zu at %p\n",
			self->slot->tid, self->slot->name, self->step,
			ops[what].name, r->index, first, first + nr - 1,
			r->mem.addr);

	i = __atomic_fetch_add(&r->nr_events, 1, __ATOMIC_RELAXED) % EVENTS;
	r->events[i] = (struct event){
		.step = self->step,
		.thread = self->thread,
		.depth = me.depth,
		.op = what,
		.first = first,
		.nr = nr,
	};
}

/* What was last done to a page, in at most @size bytes */
static void tell_events(const struct region *r, size_t page, char *text,
			size_t size)
{
	const struct event *e;
	size_t len = 0;
	unsigned int i;

	text[0] = '\0';
	for (i = r->nr_events < EVENTS ? 0 : r->nr_events - EVENTS;
	     i < r->nr_events; i++) {
		e = &r->events[i % EVENTS];
		if (page < e->first || page >= e->first + e->nr)
			continue;
		len += snprintf(text + len, size - len,
				"    %s of pages %zu to %zu: thread %u step %u%s\n",
				ops[e->op].name, e->first,
				e->first + e->nr - 1, e->thread, e->step,
				e->depth < me.depth ? " of the parent" : "");
		if (len >= size)
			return;
	}
}

void mismatch(const struct region *r, size_t page, unsigned int slot,
	      const struct word *want, uint64_t found)
{
	char events[2048];

	tell_events(r, page, events, sizeof(events));
	report(&board->mismatches, events,
	       "region %d page %zu word %u is %#llx, not %#llx to %#llx, flags %#x",
	       r->index, page, slot, (unsigned long long)found,
	       (unsigned long long)want->lo, (unsigned long long)want->hi,
	       r->flags[page]);
}

/*
 * The model
 */
struct word *model(const struct region *r, size_t page, unsigned int slot)
{
	return &me.shadow->words[r->index][page][slot];
}

/* Not at the same place in each page, but in every fourth, for KSM */
uint64_t *word_at(const struct region *r, size_t page, unsigned int slot)
{
	size_t step = page_size() / sizeof(uint64_t) / WORDS;

	return memory_word(&r->mem, page) + slot * step + page % 4 * 31;
}

uint64_t tag(const struct region *r, size_t page, unsigned int slot)
{
	return (uint64_t)(r->index + 1) << 56 | page << 40 |
	       (uint64_t)slot << 36;
}

void set_model(struct word *word, uint64_t value)
{
	__atomic_store_n(&word->hi, value, __ATOMIC_SEQ_CST);
	__atomic_store_n(&word->lo, value, __ATOMIC_SEQ_CST);
}

void will_add(struct word *word, uint64_t by)
{
	__atomic_add_fetch(&word->hi, by, __ATOMIC_SEQ_CST);
}

/* Of the @by that was to be added, that much was not. */
void has_added(struct word *word, uint64_t by, uint64_t not)
{
	__atomic_add_fetch(&word->lo, by - not, __ATOMIC_SEQ_CST);
	__atomic_sub_fetch(&word->hi, not, __ATOMIC_SEQ_CST);
}

/*
 * Nobody else is at work. Either the page is what the model says; or, where that
 * is all right, each word is @other. From then on the model says what it is.
 */
void check_page(struct region *r, size_t page, bool maybe, uint64_t other)
{
	uint64_t found[WORDS];
	struct word *want;
	unsigned int slot;

	for (slot = 0; slot < WORDS; slot++) {
		found[slot] = read_word(word_at(r, page, slot));
		maybe &= found[slot] == other;
	}
	for (slot = 0; slot < WORDS; slot++) {
		want = model(r, page, slot);
		if (!maybe && (found[slot] < want->lo || found[slot] > want->hi))
			mismatch(r, page, slot, want, found[slot]);
		set_model(want, found[slot]);
	}
}

/* A page that is written stays, as it is at that moment. */
void settle(struct region *r)
{
	size_t page;

	for (page = 0; r->lazy && page < r->mem.nr; page++) {
		if (!(r->flags[page] & LAZY))
			continue;
		__atomic_fetch_add(word_at(r, page, 0), 0, __ATOMIC_SEQ_CST);
		check_page(r, page, true, 0);
		r->flags[page] &= ~LAZY;
		r->lazy--;
	}
}

/*
 * Locks
 */
void lock_all(struct region *r)
{
	pthread_rwlock_wrlock(&r->cpu);
	pthread_rwlock_wrlock(&r->device);
}

void unlock_all(struct region *r)
{
	pthread_rwlock_unlock(&r->device);
	pthread_rwlock_unlock(&r->cpu);
}

/* For an access, before which no page may be LAZY */
void lock_access(struct region *r, pthread_rwlock_t *lock)
{
	for (;;) {
		pthread_rwlock_rdlock(lock);
		if (!r->lazy)
			return;
		pthread_rwlock_unlock(lock);
		lock_all(r);
		settle(r);
		unlock_all(r);
	}
}

/* Change what is mapped, while devices are at work */
void change_begin(struct region *r)
{
	pthread_rwlock_wrlock(&r->cpu);
	__atomic_add_fetch(&r->changes, 1, __ATOMIC_SEQ_CST);
}

/* The same without any LAZY page */
void change_begin_settled(struct region *r)
{
	change_begin(r);
	if (!r->lazy)
		return;
	pthread_rwlock_wrlock(&r->device);
	settle(r);
	pthread_rwlock_unlock(&r->device);
}

void change_wait(struct region *r)
{
	pthread_rwlock_wrlock(&r->device);
}

void change_end(struct region *r)
{
	__atomic_add_fetch(&r->changes, 1, __ATOMIC_SEQ_CST);
	unlock_all(r);
}

void check_region(struct region *r)
{
	size_t page;

	lock_all(r);
	settle(r);
	for (page = 0; page < r->mem.nr; page++)
		check_page(r, page, false, 0);
	unlock_all(r);
}

/*
 * A part of a region
 */
struct region *any_region(void)
{
	return &me.regions[below(REGIONS)];
}

struct span any_span(unsigned int max)
{
	struct span s = { .r = any_region() };

	s.nr = 1 + below(max < s.r->mem.nr ? max : s.r->mem.nr);
	s.first = below(s.r->mem.nr - s.nr + 1);
	return s;
}

struct span whole_region(size_t index)
{
	struct span s = { .r = &me.regions[index] };

	s.nr = s.r->mem.nr;
	return s;
}

/* A small one, or all of it: that makes one mapping of the pieces again. */
struct span any_span_at_all(void)
{
	return below(3) ? any_span(1 << below(10)) : whole_region(below(REGIONS));
}

/*
 * For what may make several mappings of one. Where huge pages are to be that is
 * the exception: MADV_COLLAPSE and khugepaged need a mapping of that size.
 */
struct span any_span_to_split(void)
{
	struct span s = any_span_at_all();

	return s.r->index == HUGE_REGION && below(8) ?
	       whole_region(HUGE_REGION) : s;
}

void span_locked(struct span *s, enum op op)
{
	s->mem = memory_part(&s->r->mem, s->first, s->nr);
	note(s->r, op, s->first, s->nr);
}

bool any_flag(const struct span *s, uint8_t flags)
{
	size_t i;

	for (i = 0; i < s->nr; i++)
		if (s->r->flags[s->first + i] & flags)
			return true;
	return false;
}
