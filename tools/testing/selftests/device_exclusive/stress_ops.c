// SPDX-License-Identifier: GPL-2.0
/* The operations of the stress test; see stress.c. */
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stress.h"

#define LRU_GEN		"/sys/kernel/mm/lru_gen/enabled"
#define PAGE_IDLE	"/sys/kernel/mm/page_idle/bitmap"

/* What a pager puts into each word of every second page that is missing */
#define PAGER		0x7061676572000000UL

int any_device(void)
{
	return me.dev[below(DEVICES)];
}

static unsigned int any_slot(void)
{
	return below(2) ? SHARED : self->thread;
}

/*
 * What CPUs do
 */
static void cpu_add(void)
{
	struct span s = any_span(16);
	unsigned int slot = any_slot();
	uint64_t by = 1 + below(1000);
	size_t page;

	lock_access(s.r, &s.r->cpu);
	span_locked(&s, CPU_ADD);
	for (page = s.first; page < s.first + s.nr; page++) {
		if (s.r->flags[page] & READONLY)
			continue;
		will_add(model(s.r, page, slot), by);
		__atomic_fetch_add(word_at(s.r, page, slot), by,
				   __ATOMIC_SEQ_CST);
		has_added(model(s.r, page, slot), by, 0);
		if (options.mistake == STRAY && !below(50))
			*word_at(s.r, page, below(WORDS)) += 1;
	}
	pthread_rwlock_unlock(&s.r->cpu);
	result(CPU_ADD, 0);
}

static void cpu_store(void)
{
	struct span s = any_span(16);
	uint64_t by = 1 + below(1000);
	struct word *word;
	size_t page;

	lock_access(s.r, &s.r->cpu);
	span_locked(&s, CPU_STORE);
	for (page = s.first; page < s.first + s.nr; page++) {
		if (s.r->flags[page] & READONLY)
			continue;
		word = model(s.r, page, self->thread);
		will_add(word, by);
		write_word(word_at(s.r, page, self->thread), word->hi);
		has_added(word, by, 0);
	}
	pthread_rwlock_unlock(&s.r->cpu);
	result(CPU_STORE, 0);
}

/* Nobody else changes the word of this thread. */
static void cpu_read(void)
{
	struct span s = any_span(64);
	struct word *word;
	uint64_t found;
	size_t page;

	lock_access(s.r, &s.r->cpu);
	span_locked(&s, CPU_READ);
	for (page = s.first; page < s.first + s.nr; page++) {
		found = read_word(word_at(s.r, page, self->thread));
		word = model(s.r, page, self->thread);
		if (found == word->lo)
			continue;
		mismatch(s.r, page, self->thread, word, found);
		set_model(word, found);
	}
	pthread_rwlock_unlock(&s.r->cpu);
	result(CPU_READ, 0);
}

static void check(void)
{
	check_region(any_region());
	result(CHECK, 0);
}

/* The same for each page, so that KSM can merge them, or something else */
static void fill(void)
{
	struct span s = any_span(64);
	bool same = below(2);
	unsigned int slot;
	uint64_t value;
	size_t page;

	lock_all(s.r);
	settle(s.r);
	span_locked(&s, FILL);
	for (page = s.first; page < s.first + s.nr; page++) {
		for (slot = 0; slot < WORDS; slot++) {
			if (s.r->flags[page] & READONLY)
				continue;
			value = same ? self->step : tag(s.r, page, slot);
			write_word(word_at(s.r, page, slot), value);
			set_model(model(s.r, page, slot), value);
		}
	}
	unlock_all(s.r);
	result(FILL, 0);
}

/* Entries of a kind that there is not must not be touched: that may not end. */
static void look(void)
{
	struct region *r = any_region();
	size_t broken;

	pthread_rwlock_rdlock(&r->cpu);
	note(r, LOOK, 0, r->mem.nr);
	broken = memory_count(&r->mem, PAGE_OTHER);
	pthread_rwlock_unlock(&r->cpu);
	if (broken)
		fail("region %d has %zu broken entries", r->index, broken);
	result(LOOK, 0);
}

/*
 * What devices do
 */

/* Has what is mapped been changed meanwhile? @changes: what it was before */
static bool has_changed(const struct region *r, unsigned int changes)
{
	return (changes & 1) ||
	       changes != __atomic_load_n(&r->changes, __ATOMIC_SEQ_CST);
}

/* Is there a reason for EFAULT? */
static bool may_fault(const struct region *r, unsigned int changes)
{
	return r->uffd || has_changed(r, changes);
}

static void make(void)
{
	static const uint32_t flags[] = {
		0, 0, DEVEX_RANGE_ONCE, DEVEX_RANGE_SINGLE,
	};
	struct span s = any_span_at_all();
	unsigned int changes;
	bool readonly;
	long ret;

	lock_access(s.r, &s.r->device);
	changes = __atomic_load_n(&s.r->changes, __ATOMIC_SEQ_CST);
	span_locked(&s, MAKE);
	readonly = s.r->flags[s.first] & READONLY;
	ret = device_make(any_device(), &s.mem, flags[below(ARRAY_SIZE(flags))]);
	if (ret == -EFAULT && !readonly && !may_fault(s.r, changes))
		fail("EFAULT without a reason, region %d page %zu", s.r->index,
		     s.first);
	if (!ret || ret > (long)s.nr)
		fail("%ld of %zu pages are exclusive", ret, s.nr);
	pthread_rwlock_unlock(&s.r->device);
	result(MAKE, ret);
}

/* Returns 0 or -errno; in any case, how often it was done is in add->done. */
static int add_by_device(int dev, struct devex_add *add)
{
	if (options.mistake == LOSE && !below(20)) {
		add->done = add->count;
		return 0;
	}
	add->done = 0;
	return ioctl(dev, DEVEX_IOC_ADD, add) ? -errno : 0;
}

static void add_to_page(struct region *r, size_t page, unsigned int slot,
			int dev)
{
	struct devex_add add = {
		.addr = (uintptr_t)word_at(r, page, slot),
		.value = 1 + below(1000),
		.count = 1 + below(16),
	};
	bool readonly = r->flags[page] & READONLY;
	unsigned int changes;
	int ret;

	changes = __atomic_load_n(&r->changes, __ATOMIC_SEQ_CST);
	will_add(model(r, page, slot), add.value * add.count);
	ret = add_by_device(dev, &add);
	has_added(model(r, page, slot), add.value * add.count,
		  add.value * (add.count - add.done));
	if (ret == -EFAULT && !readonly && !may_fault(r, changes))
		fail("EFAULT without a reason, region %d page %zu", r->index,
		     page);
	/* Where something else is mapped by now, that may be writable. */
	if (readonly && add.done && !has_changed(r, changes) &&
	    options.mistake != LOSE)
		fail("a device has written to region %d page %zu, which is read-only",
		     r->index, page);
	if (!ret && add.done != add.count)
		fail("%llu of %llu additions", add.done, add.count);
	result(ADD, ret);
}

static void device_adds(void)
{
	struct span s = any_span(4);
	unsigned int slot = any_slot();
	int dev = any_device();
	size_t page;

	lock_access(s.r, &s.r->device);
	span_locked(&s, ADD);
	for (page = s.first; page < s.first + s.nr; page++)
		add_to_page(s.r, page, slot, dev);
	pthread_rwlock_unlock(&s.r->device);
}

/*
 * To the device's own memory. Linux 7.3 loses pages that KSM has merged there:
 * KSM forgets who has mapped them, as they are not present.
 */
static void migrate(void)
{
	struct span s = any_span(32);
	long ret;

	if (s.r->index == KSM_REGION) {
		skip(MIGRATE);
		return;
	}
	lock_access(s.r, &s.r->cpu);
	span_locked(&s, MIGRATE);
	ret = device_migrate(any_device(), &s.mem);
	pthread_rwlock_unlock(&s.r->cpu);
	result(MIGRATE, ret);
}

static void unpin(struct region *r)
{
	size_t page;

	result(UNPIN, device_unpin(r->pin_dev, &r->pin));
	r->pin.nr = 0;
	for (page = 0; page < r->mem.nr; page++) {
		if (r->flags[page] & FREED) {
			r->flags[page] |= LAZY;
			r->lazy++;
		}
		r->flags[page] &= ~(PINNED | FREED);
	}
}

static void pin_span(struct span *s)
{
	int dev = any_device();
	size_t page;

	if (any_flag(s, READONLY)) {
		skip(PIN);
		return;
	}
	if (result(PIN, device_pin(dev, &s->mem)))
		return;
	s->r->pin_dev = dev;
	s->r->pin = s->mem;
	for (page = s->first; page < s->first + s->nr; page++)
		s->r->flags[page] |= PINNED;
}

/* Pin, or take back the pin that there is */
static void pin(void)
{
	struct span s = any_span_at_all();
	bool pinned;

	change_begin_settled(s.r);
	span_locked(&s, PIN);
	pinned = s.r->pin.nr;
	if (!pinned)
		pin_span(&s);
	change_wait(s.r);
	/* What becomes LAZY now must not be written meanwhile. */
	if (pinned)
		unpin(s.r);
	change_end(s.r);
}

/*
 * The word of this thread, in a page that was pinned. If that is not the page
 * that is mapped any more, nothing happens to what is.
 */
static void dma_word(struct region *r, size_t page, bool read)
{
	char *addr = r->pin.addr + (page - r->pin.first) * page_size();
	struct word *word = model(r, page, self->thread);
	bool pinned = r->flags[page] & PINNED;
	uint64_t value, by = 1 + below(1000);

	addr += (char *)word_at(r, page, self->thread) -
		memory_page(&r->mem, page);
	if (read) {
		result(DMA_READ, device_read(r->pin_dev, addr, &value,
					     sizeof(value)));
		if (pinned && value != word->lo)
			mismatch(r, page, self->thread, word, value);
		return;
	}
	if (pinned)
		will_add(word, by);
	value = pinned ? word->hi : ~by;
	result(DMA_WRITE, device_write(r->pin_dev, addr, &value, sizeof(value)));
	if (pinned)
		has_added(word, by, 0);
}

static void dma(enum op op)
{
	struct region *r = any_region();
	size_t page, nr = 1 + below(8), end;

	lock_access(r, &r->cpu);
	if (!r->pin.nr) {
		skip(op);
		pthread_rwlock_unlock(&r->cpu);
		return;
	}
	page = r->pin.first + below(r->pin.nr);
	end = r->pin.first + r->pin.nr;
	if (end > page + nr)
		end = page + nr;
	note(r, op, page, end - page);
	for (; page < end; page++)
		dma_word(r, page, op == DMA_READ);
	pthread_rwlock_unlock(&r->cpu);
}

static void dma_write(void)
{
	dma(DMA_WRITE);
}

static void dma_read(void)
{
	dma(DMA_READ);
}

/*
 * Userfaultfd
 */
static struct region *region_at(uint64_t addr)
{
	struct region *r;

	for (r = me.regions; r < me.regions + REGIONS; r++)
		if (addr - (uintptr_t)r->mem.addr < r->mem.size)
			return r;
	return NULL;
}

/* What the pager gives for a page: see resolve() */
static uint64_t missing_value(const struct region *r, size_t page)
{
	return (r->uffd & UFFDIO_REGISTER_MODE_MISSING) && page % 2 ? PAGER : 0;
}

static void wake(uint64_t addr)
{
	struct uffdio_range range = { addr, page_size() };

	ioctl(me.uffd, UFFDIO_WAKE, &range);
}

static void resolve_missing(uint64_t addr)
{
	uint64_t page[page_size() / sizeof(uint64_t)];
	struct uffdio_zeropage zero = { .range = { addr, sizeof(page) } };
	struct uffdio_copy copy = {
		.dst = addr,
		.src = (uintptr_t)page,
		.len = sizeof(page),
	};
	const struct region *r = region_at(addr);
	size_t i;
	long ret;

	if (!r) {
		fail("a fault at %#llx, where no region is",
		     (unsigned long long)addr);
		return;
	}
	if ((addr - (uintptr_t)r->mem.addr) / page_size() % 2) {
		for (i = 0; i < ARRAY_SIZE(page); i++)
			page[i] = PAGER;
		ret = called(UFFD_COPY, ioctl(me.uffd, UFFDIO_COPY, &copy));
	} else {
		ret = called(UFFD_ZEROPAGE,
			     ioctl(me.uffd, UFFDIO_ZEROPAGE, &zero));
	}
	if (ret < 0)
		wake(addr);
}

/* Protect from writes or, where that is the mode, from any access */
static int protect(uint64_t addr, size_t size, bool on, bool any_access)
{
	struct uffdio_writeprotect wp = {
		.range = { addr, size },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};
	struct uffdio_rwprotect rwp = {
		.range = { addr, size },
		.mode = on ? UFFDIO_RWPROTECT_MODE_RWP : 0,
	};

	return any_access ? ioctl(me.uffd, UFFDIO_RWPROTECT, &rwp) :
			    ioctl(me.uffd, UFFDIO_WRITEPROTECT, &wp);
}

static void resolve(const struct uffd_msg *msg)
{
	uint64_t addr = msg->arg.pagefault.address & -page_size();
	uint64_t flags = msg->arg.pagefault.flags;

	if (!(flags & (UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_RWP)))
		resolve_missing(addr);
	else if (called(UFFD_RESOLVE, protect(addr, page_size(), false, flags &
					      UFFD_PAGEFAULT_FLAG_RWP)) < 0)
		wake(addr);
}

static void *pager_thread(void *data)
{
	struct pollfd fd = { .fd = me.uffd, .events = POLLIN };
	struct uffd_msg msg;

	(void)data;
	while (!__atomic_load_n(&me.pager_ends, __ATOMIC_RELAXED))
		if (poll(&fd, 1, 100) == 1 &&
		    read(me.uffd, &msg, sizeof(msg)) == sizeof(msg))
			resolve(&msg);
	return NULL;
}

/* Each process gets a pager when it needs one. */
static int uffd(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_RWP,
	};

	pthread_mutex_lock(&me.uffd_lock);
	if (me.uffd < 0) {
		me.uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
		if (me.uffd < 0 || ioctl(me.uffd, UFFDIO_API, &api) ||
		    pthread_create(&me.pager, NULL, pager_thread, NULL))
			fail("no userfaultfd: %s", strerror(errno));
	}
	pthread_mutex_unlock(&me.uffd_lock);
	return me.uffd;
}

void end_pager(void)
{
	if (me.uffd < 0)
		return;
	me.pager_ends = true;
	pthread_join(me.pager, NULL);
	close(me.uffd);
}

static int uffd_register(char *addr, size_t size, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)addr, size },
		.mode = mode,
	};

	return ioctl(uffd(), UFFDIO_REGISTER, &reg);
}

/* What is zero because there is no page is not for the pager to fill. */
static void touch_all(const struct region *r)
{
	size_t page;

	for (page = 0; page < r->mem.nr; page++)
		touch(memory_page(&r->mem, page));
}

/* Pages that nobody has asked for yet would be gone without the pager. */
static void unregister(struct region *r)
{
	struct uffdio_range range = { (uintptr_t)r->mem.addr, r->mem.size };
	size_t page;

	if (!r->uffd)
		return;
	for (page = 0; page < r->mem.nr; page++) {
		if (r->flags[page] & UNFILLED)
			touch(memory_page(&r->mem, page));
		r->flags[page] &= ~UNFILLED;
	}
	called(UFFD_UNREGISTER, ioctl(me.uffd, UFFDIO_UNREGISTER, &range));
	r->uffd = 0;
}

static void protect_memory(const struct region *r, const struct memory *mem,
			   bool on)
{
	if (r->uffd & (UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_RWP))
		called(UFFD_PROTECT,
		       protect((uintptr_t)mem->addr, mem->size, on,
			       r->uffd & UFFDIO_REGISTER_MODE_RWP));
	else
		skip(UFFD_PROTECT);
}

static void uffd_switch(void)
{
	static const uint64_t modes[] = {
		UFFDIO_REGISTER_MODE_MISSING,
		UFFDIO_REGISTER_MODE_WP,
		UFFDIO_REGISTER_MODE_RWP,
		UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
		UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_RWP,
	};
	uint64_t mode = modes[below(ARRAY_SIZE(modes))];
	struct region *r = any_region();

	change_begin_settled(r);
	if (r->uffd) {
		note(r, UFFD_UNREGISTER, 0, r->mem.nr);
		unregister(r);
	} else {
		note(r, UFFD_REGISTER, 0, r->mem.nr);
		touch_all(r);
		if (!called(UFFD_REGISTER,
			    uffd_register(r->mem.addr, r->mem.size, mode)))
			r->uffd = mode;
		if (below(2))
			protect_memory(r, &r->mem, true);
	}
	change_wait(r);
	change_end(r);
}

static void uffd_protect(void)
{
	struct span s = any_span_at_all();
	bool on = below(4);

	lock_access(s.r, &s.r->cpu);
	span_locked(&s, UFFD_PROTECT);
	protect_memory(s.r, &s.mem, on);
	pthread_rwlock_unlock(&s.r->cpu);
}

/* UFFDIO_MOVE away, and mremap() back what has moved */
static void move_and_back(struct span *s)
{
	char *scratch = WINDOW(REGIONS);
	struct uffdio_move move = {
		.dst = (uintptr_t)scratch,
		.src = (uintptr_t)s->mem.addr,
		.len = s->mem.size,
		.mode = UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES,
	};

	if (mmap(scratch, s->mem.size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		 MAP_ANONYMOUS | MAP_FIXED, -1, 0) != scratch ||
	    uffd_register(scratch, s->mem.size, UFFDIO_REGISTER_MODE_MISSING)) {
		fail("no place to move to: %s", strerror(errno));
		return;
	}
	called(UFFD_MOVE, ioctl(me.uffd, UFFDIO_MOVE, &move));
	if (move.move > 0 &&
	    mremap(scratch, move.move, move.move, MREMAP_MAYMOVE |
		   MREMAP_FIXED, s->mem.addr) != s->mem.addr)
		fail("mremap back: %s", strerror(errno));
	munmap(scratch, s->mem.size);
}

static void uffd_move(void)
{
	struct span s = any_span(MOVE_PAGES);
	bool write = below(4), keep = below(8);
	size_t i;

	/* To move parts splits the mapping. */
	if (s.r->index == HUGE_REGION && keep) {
		skip(UFFD_MOVE);
		return;
	}
	uffd();
	lock_all(s.r);
	settle(s.r);
	__atomic_add_fetch(&s.r->changes, 1, __ATOMIC_SEQ_CST);
	span_locked(&s, UFFD_MOVE);
	if (any_flag(&s, READONLY)) {
		skip(UFFD_MOVE);
	} else {
		unregister(s.r);
		/* Only what is not shared can be moved. */
		for (i = 0; write && i < s.nr; i++)
			__atomic_fetch_add(word_at(s.r, s.first + i, 0), 0,
					   __ATOMIC_SEQ_CST);
		pthread_mutex_lock(&me.move_lock);
		move_and_back(&s);
		pthread_mutex_unlock(&me.move_lock);
		for (i = 0; i < s.nr; i++)
			check_page(s.r, s.first + i, false, 0);
	}
	change_end(s.r);
}

/*
 * What changes the mappings
 */

/* What is mapped there is gone, but for what devices have added meanwhile. */
static void check_zapped(struct region *r, size_t page,
			 const struct word *before)
{
	uint64_t value = missing_value(r, page), more;
	bool late = false;
	struct word *word;
	unsigned int slot;

	for (slot = 0; slot < WORDS; slot++) {
		word = model(r, page, slot);
		more = word->hi - before[slot].lo;
		late |= more;
		word->lo = value;
		word->hi = value + more;
	}
	if (r->flags[page] & LAZY)
		r->lazy--;
	r->flags[page] &= ~(LAZY | PINNED | FREED | UNFILLED);
	if (late)
		check_page(r, page, false, 0);
	else if (value)
		r->flags[page] |= UNFILLED;
}

static void unmap_and_map(struct span *s)
{
	size_t i;

	if (called(MUNMAP, munmap(s->mem.addr, s->mem.size)))
		return;
	if (below(2))
		usleep(below(1000));
	if (mmap(s->mem.addr, s->mem.size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) !=
	    s->mem.addr)
		fail("mmap: %s", strerror(errno));
	for (i = 0; i < s->nr; i++)
		s->r->flags[s->first + i] &= ~READONLY;
}

static void zap(enum op op)
{
	struct span s = op == MUNMAP ? any_span_to_split() :
				       any_span_at_all();
	struct word before[s.nr][WORDS];
	size_t i;

	change_begin(s.r);
	span_locked(&s, op);
	memcpy(before, model(s.r, s.first, 0), sizeof(before));
	if (op == MUNMAP) {
		unregister(s.r);
		unmap_and_map(&s);
	} else {
		called(op, madvise(s.mem.addr, s.mem.size, MADV_DONTNEED));
	}
	change_wait(s.r);
	for (i = 0; i < s.nr; i++)
		check_zapped(s.r, s.first + i, before[i]);
	change_end(s.r);
}

static void do_munmap(void)
{
	zap(MUNMAP);
}

static void do_dontneed(void)
{
	zap(DONTNEED);
}

/*
 * Pages that are pinned must stay, for so long. Linux 7.3 loses pages that KSM
 * merges with one that is MADV_FREE: nobody takes that back.
 */
static void do_free(void)
{
	struct span s = any_span_at_all();
	uint8_t *flags;
	size_t i;

	if (s.r->index == KSM_REGION) {
		skip(FREE);
		return;
	}
	lock_all(s.r);
	settle(s.r);
	span_locked(&s, FREE);
	if (any_flag(&s, READONLY) ||
	    (s.r->uffd & UFFDIO_REGISTER_MODE_MISSING)) {
		skip(FREE);
	} else {
		called(FREE, madvise(s.mem.addr, s.mem.size, MADV_FREE));
		for (i = 0; i < s.nr; i++) {
			flags = &s.r->flags[s.first + i];
			if (*flags & PINNED) {
				*flags |= FREED;
				continue;
			}
			*flags |= LAZY;
			s.r->lazy++;
		}
	}
	unlock_all(s.r);
}

/* Page by page where it is not one mapping */
static void move_piece(char *to, char *from, size_t size)
{
	size_t i;

	if (mremap(from, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to) {
		result(MREMAP, 0);
		return;
	}
	called(MREMAP, -1);
	for (i = 0; i < size; i += page_size()) {
		if (mremap(from + i, page_size(), page_size(), MREMAP_MAYMOVE |
			   MREMAP_FIXED, to + i) == to + i)
			continue;
		/* A part of it may have been moved before. */
		if (errno != EFAULT || msync(to + i, page_size(), MS_ASYNC))
			fail("mremap of a page: %s", strerror(errno));
	}
}

static void do_mremap(void)
{
	struct region *r = any_region();
	bool pieces = !below(r->index == HUGE_REGION ? 8 : 2);
	size_t i, nr, shift;
	char *to;

	shift = below(2) ? 0 : below(thp_size() / page_size());
	change_begin(r);
	note(r, MREMAP, 0, r->mem.nr);
	to = WINDOW(r->index) + shift * page_size();
	if (r->mem.addr < WINDOW(r->index) + HALF)
		to += HALF;
	if (r->lazy && r->uffd) {
		pthread_rwlock_wrlock(&r->device);
		settle(r);
		pthread_rwlock_unlock(&r->device);
	}
	unregister(r);
	for (i = 0; i < r->mem.nr; i += nr) {
		nr = r->mem.nr - i;
		if (pieces)
			nr = 1 + below(nr);
		move_piece(to + i * page_size(), memory_page(&r->mem, i),
			   nr * page_size());
	}
	change_wait(r);
	r->mem.addr = to;
	change_end(r);
}

/* While a page is READONLY a device must not write to it. */
static void do_mprotect_read(void)
{
	struct span s = any_span_to_split();
	bool readonly;
	size_t i;

	change_begin_settled(s.r);
	span_locked(&s, MPROTECT_READ);
	/* What may be LAZY later has to be written then. */
	readonly = !any_flag(&s, FREED);
	if (!readonly)
		skip(MPROTECT_READ);
	if (readonly && below(2))
		called(MPROTECT_READ, mprotect(s.mem.addr, s.mem.size,
					       PROT_NONE));
	if (readonly)
		called(MPROTECT_READ, mprotect(s.mem.addr, s.mem.size,
					       PROT_READ));
	change_wait(s.r);
	for (i = 0; readonly && i < s.nr; i++)
		s.r->flags[s.first + i] |= READONLY;
	change_end(s.r);
}

static void do_mprotect_write(void)
{
	struct span s = any_span_to_split();
	size_t i;

	change_begin(s.r);
	change_wait(s.r);
	span_locked(&s, MPROTECT_WRITE);
	called(MPROTECT_WRITE, mprotect(s.mem.addr, s.mem.size,
					PROT_READ | PROT_WRITE));
	for (i = 0; i < s.nr; i++)
		s.r->flags[s.first + i] &= ~READONLY;
	change_end(s.r);
}

/*
 * What must not change anything that can be seen
 */
static void advise(void)
{
	static const struct {
		enum op op;
		int advice;
	} advices[] = {
		{ COLD, MADV_COLD },
		{ PAGEOUT, MADV_PAGEOUT },
		{ COLLAPSE, MADV_COLLAPSE },
		{ HUGEPAGE, MADV_HUGEPAGE },
		{ NOHUGEPAGE, MADV_NOHUGEPAGE },
		{ MERGEABLE, MADV_MERGEABLE },
		{ UNMERGEABLE, MADV_UNMERGEABLE },
	};
	struct span s = any_span_to_split();
	size_t i;

	for (i = 0; advices[i].op != self->slot->op; i++)
		;
	if (advices[i].op == COLLAPSE)
		s = whole_region(HUGE_REGION);
	if (advices[i].op == MERGEABLE && s.r->index != KSM_REGION) {
		skip(MERGEABLE);
		return;
	}
	pthread_rwlock_rdlock(&s.r->cpu);
	span_locked(&s, self->slot->op);
	called(self->slot->op, madvise(s.mem.addr, s.mem.size,
				       advices[i].advice));
	pthread_rwlock_unlock(&s.r->cpu);
}

static void offline(void)
{
	struct span s = any_span(1);

	if (__atomic_add_fetch(&board->offline, 1, __ATOMIC_RELAXED) >
	    MAX_OFFLINE) {
		skip(OFFLINE);
		return;
	}
	lock_access(s.r, &s.r->cpu);
	span_locked(&s, OFFLINE);
	called(OFFLINE, madvise(s.mem.addr, s.mem.size, MADV_SOFT_OFFLINE));
	pthread_rwlock_unlock(&s.r->cpu);
}

static void move_node(void)
{
	struct span s = any_span(64);
	int node = below(2), nodes[s.nr], status[s.nr];
	const void *pages[s.nr];
	size_t i;

	pthread_rwlock_rdlock(&s.r->cpu);
	span_locked(&s, MOVE_NODE);
	for (i = 0; i < s.nr; i++) {
		pages[i] = memory_page(&s.mem, i);
		nodes[i] = node;
	}
	called(MOVE_NODE, syscall(SYS_move_pages, 0, s.nr, pages, nodes,
				  status, MPOL_MF_MOVE));
	pthread_rwlock_unlock(&s.r->cpu);
}

static void do_mbind(void)
{
	struct span s = any_span_to_split();
	unsigned long nodes = below(4);

	pthread_rwlock_rdlock(&s.r->cpu);
	span_locked(&s, MBIND);
	called(MBIND, syscall(SYS_mbind, s.mem.addr, s.mem.size,
			      nodes ? MPOL_BIND : MPOL_DEFAULT, &nodes,
			      8 * sizeof(nodes), MPOL_MF_MOVE));
	pthread_rwlock_unlock(&s.r->cpu);
}

/*
 * What somebody does to the whole system
 */
static void compact(void)
{
	result(COMPACT, write_file("/proc/sys/vm/compact_memory", "1"));
}

static void reclaim(void)
{
	static const char * const amounts[] = { "64K", "256K", "1M" };

	cgroup_reclaim(&cgroup, amounts[below(ARRAY_SIZE(amounts))]);
	result(RECLAIM, 0);
}

static void migrate_process(void)
{
	pid_t pid = board->processes[below(options.processes)];
	unsigned long from = 1 + below(2), to = 3 - from;

	called(MIGRATE_PROCESS, syscall(SYS_migrate_pages, pid,
					8 * sizeof(from), &from, &to));
}

static void idle(void)
{
	uint64_t bits[64];
	off_t end;
	int fd;

	fd = open(PAGE_IDLE, O_WRONLY);
	memset(bits, 0xff, sizeof(bits));
	end = sysconf(_SC_PHYS_PAGES) / 64 / ARRAY_SIZE(bits);
	called(IDLE, pwrite(fd, bits, sizeof(bits), below(end) * sizeof(bits)));
	close(fd);
}

static void drain(void)
{
	result(DRAIN, drain_lru());
}

static void switch_lru(void)
{
	result(SWITCH_LRU, write_number(LRU_GEN, below(2) ? 7 : 0));
}

static void switch_mthp(void)
{
	struct setting setting;

	result(SWITCH_MTHP, thp_allow(&setting, (16 << 10) << below(6),
				      below(2) ? "madvise" : "never"));
}

const struct operation ops[NR_OPS] = {
	[CPU_ADD] = { "CPU add", cpu_add, 12 },
	[CPU_STORE] = { "CPU store", cpu_store, 8 },
	[CPU_READ] = { "CPU read", cpu_read, 8 },
	[CHECK] = { "check all words", check, 2 },
	[FILL] = { "fill", fill, 3 },
	[LOOK] = { "pagemap", look, 2 },
	[MAKE] = { "make exclusive", make, 20, false, { EFAULT, EBUSY } },
	[ADD] = { "device add", device_adds, 20, false, { EFAULT, EBUSY } },
	[MIGRATE] = { "to device memory", migrate, 2 },
	[PIN] = { "pin", pin, 4 },
	[UNPIN] = { "unpin" },
	[DMA_WRITE] = { "DMA write", dma_write, 6 },
	[DMA_READ] = { "DMA read", dma_read, 3 },
	[FORK] = { "fork", do_fork, 6 },
	[FORK_LOCKED] = { "lock at fork", NULL, 0, false, { EFAULT, EBUSY } },
	[KILL] = { "kill" },
	[WAIT] = { "exit" },
	[MREMAP] = { "mremap", do_mremap, 3, false, { EFAULT } },
	[MPROTECT_READ] = { "mprotect read", do_mprotect_read, 2 },
	[MPROTECT_WRITE] = { "mprotect write", do_mprotect_write, 4 },
	[MUNMAP] = { "munmap", do_munmap, 2 },
	[DONTNEED] = { "MADV_DONTNEED", do_dontneed, 3 },
	[FREE] = { "MADV_FREE", do_free, 3 },
	[COLD] = { "MADV_COLD", advise, 2 },
	[PAGEOUT] = { "MADV_PAGEOUT", advise, 4 },
	[COLLAPSE] = { "MADV_COLLAPSE", advise, 4, false,
		{ EINVAL, EAGAIN, EBUSY, ENOMEM } },
	[HUGEPAGE] = { "MADV_HUGEPAGE", advise, 3 },
	[NOHUGEPAGE] = { "MADV_NOHUGEPAGE", advise, 1 },
	[MERGEABLE] = { "MADV_MERGEABLE", advise, 2 },
	[UNMERGEABLE] = { "MADV_UNMERGEABLE", advise, 1 },
	[OFFLINE] = { "MADV_SOFT_OFFLINE", offline, 1, false,
		{ EBUSY, EAGAIN, EIO, ENOTRECOVERABLE } },
	[UFFD_REGISTER] = { "UFFDIO_REGISTER", uffd_switch, 4 },
	[UFFD_UNREGISTER] = { "UFFDIO_UNREGISTER" },
	[UFFD_PROTECT] = { "UFFDIO_*PROTECT", uffd_protect, 4, false,
		{ EAGAIN } },
	[UFFD_MOVE] = { "UFFDIO_MOVE", uffd_move, 3, false,
		{ EAGAIN, EBUSY, EFAULT, EINVAL } },
	[UFFD_RESOLVE] = { "resolve protected", NULL, 0, false, { EAGAIN, ENOENT } },
	[UFFD_COPY] = { "UFFDIO_COPY", NULL, 0, false, { EEXIST, EAGAIN, ENOENT } },
	[UFFD_ZEROPAGE] = { "UFFDIO_ZEROPAGE", NULL, 0, false,
		{ EEXIST, EAGAIN, ENOENT } },
	[MOVE_NODE] = { "move_pages", move_node, 3 },
	[MBIND] = { "mbind", do_mbind, 2 },
	[COMPACT] = { "compact", compact, 1, true },
	[RECLAIM] = { "reclaim", reclaim, 6, true },
	[MIGRATE_PROCESS] = { "migrate_pages", migrate_process, 3, true,
		{ ESRCH, EINVAL } },
	[IDLE] = { "page_idle", idle, 4, true },
	[DRAIN] = { "drop_caches", drain, 1, true },
	[SWITCH_LRU] = { "switch LRU", switch_lru, 1, true },
	[SWITCH_MTHP] = { "switch mTHP", switch_mthp, 1, true },
};
