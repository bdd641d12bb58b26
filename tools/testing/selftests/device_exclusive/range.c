// SPDX-License-Identifier: GPL-2.0
/*
 * Whole ranges made exclusive with one call: what the call takes, where it
 * stops, and what it tells other devices about.
 */
#include "kselftest_harness.h"
#include "devex_util.h"

#define SEED		0x10

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#endif

static struct devex_counters counters_of(struct __test_metadata *_metadata,
					 int dev)
{
	struct devex_counters counters;

	ASSERT_EQ(0, device_counters(dev, &counters));
	return counters;
}

/* These pages are exclusive and in the hands of the device. */
static void expect_exclusive(struct __test_metadata *_metadata, int dev,
			     const struct memory *mem, size_t nr)
{
	EXPECT_EQ(nr, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ((long)nr, device_held(dev, mem));
	EXPECT_TRUE(device_agrees(dev, mem));
}

/*
 * Make all of it exclusive in one call, that is in one notifier section of the
 * device's own. If the call itself causes other notifier events, by what it
 * has to copy first, a driver has to call it once more: so not @quiet.
 */
static void make_once(struct __test_metadata *_metadata, int dev,
		      const struct memory *mem, bool quiet)
{
	struct devex_counters before, after;

	before = counters_of(_metadata, dev);
	ASSERT_EQ((long)mem->nr, device_make(dev, mem, DEVEX_RANGE_ONCE));
	after = counters_of(_metadata, dev);

	EXPECT_EQ(before.conversions + mem->nr, after.conversions);
	EXPECT_EQ(before.invalidated, after.invalidated);
	EXPECT_EQ(after.calls - before.calls,
		  after.own_events - before.own_events);
	if (quiet) {
		EXPECT_EQ(before.calls + 1, after.calls);
		EXPECT_EQ(all_events(&before), all_events(&after));
	} else {
		EXPECT_LE(before.calls + 1, after.calls);
		EXPECT_GE(before.calls + 2, after.calls);
	}
	EXPECT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ((long)mem->nr, device_held(dev, mem));
}

/*
 * Memory of each kind
 */
FIXTURE(range)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(range)
{
	enum memory_kind kind;
	bool ready;	/* nothing has to be copied first */
};

FIXTURE_VARIANT_ADD(range, small)
{
	.kind = SMALL,
	.ready = true,
};

FIXTURE_VARIANT_ADD(range, many)
{
	.kind = MANY,
	.ready = true,
};

FIXTURE_VARIANT_ADD(range, ptemap)
{
	.kind = PTEMAP,
	.ready = true,
};

FIXTURE_VARIANT_ADD(range, thp)
{
	.kind = THP,
	.ready = true,
};

FIXTURE_VARIANT_ADD(range, lazyfree)
{
	.kind = LAZYFREE,
	.ready = true,
};

FIXTURE_VARIANT_ADD(range, lazyfree_thp)
{
	.kind = LAZYFREE_THP,
	.ready = true,
};

FIXTURE_VARIANT_ADD(range, ksm)
{
	.kind = KSM,
};

FIXTURE_VARIANT_ADD(range, mremapped)
{
	.kind = MREMAPPED,
	.ready = true,
};

FIXTURE_VARIANT_ADD(range, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_SETUP(range)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, own_all_pages());
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
}

FIXTURE_TEARDOWN(range)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* One call, one notifier section */
TEST_F(range, once)
{
	make_once(_metadata, self->dev, &self->mem, variant->ready);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
	expect_exclusive(_metadata, self->dev, &self->mem, 0);
}

/* What is exclusive already stays so: the device keeps it meanwhile. */
TEST_F(range, again)
{
	struct memory part = memory_part(&self->mem, 7, self->mem.nr / 2);
	uint64_t pfns[self->mem.nr];

	make_once(_metadata, self->dev, &self->mem, variant->ready);
	memory_pfns(&self->mem, pfns);
	make_once(_metadata, self->dev, &self->mem, true);
	make_once(_metadata, self->dev, &part, true);
	EXPECT_EQ(0, memory_moved(&self->mem, pfns));
	expect_exclusive(_metadata, self->dev, &self->mem, self->mem.nr);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* The same where the CPU has taken back some pages: one of three is written. */
TEST_F(range, some_touched)
{
	const struct memory *mem = &self->mem;
	size_t i;

	make_once(_metadata, self->dev, mem, variant->ready);
	for (i = 0; i < mem->nr; i += 2)
		touch(memory_page(mem, i));
	for (i = 0; i < mem->nr; i += 6)
		write_word(memory_word(mem, i), memory_value(SEED, i, 0));
	expect_exclusive(_metadata, self->dev, mem, mem->nr / 2);

	make_once(_metadata, self->dev, mem, true);
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/* Another device loses it by that device's one event, and nobody else's. */
TEST_F(range, other_device)
{
	struct memory part = memory_part(&self->mem, 1, 5);
	const struct memory *mem = &self->mem;
	struct devex_counters before, after;
	int other;

	other = device_open();
	ASSERT_LE(0, other);
	make_once(_metadata, self->dev, mem, variant->ready);
	before = counters_of(_metadata, self->dev);

	make_once(_metadata, other, mem, true);
	after = counters_of(_metadata, self->dev);
	EXPECT_EQ(before.events[DEVEX_EVENT_EXCLUSIVE] + 1,
		  after.events[DEVEX_EVENT_EXCLUSIVE]);
	EXPECT_EQ(all_events(&before) + 1, all_events(&after));
	EXPECT_EQ(before.own_events, after.own_events);
	EXPECT_EQ(before.invalidated + mem->nr, after.invalidated);
	EXPECT_EQ(0, device_held(self->dev, mem));

	/* And back, in part */
	make_once(_metadata, self->dev, &part, true);
	EXPECT_EQ((long)mem->nr - 5, device_held(other, mem));
	EXPECT_EQ(0, memory_wrong(mem, SEED));
	close(other);
}

/* make_device_exclusive() does the same, page by page. */
TEST_F(range, single)
{
	struct devex_counters before, after;
	const struct memory *mem = &self->mem;
	struct memory part = memory_part(mem, 3, 8);

	ASSERT_EQ(1, device_make(self->dev, &part,
				 DEVEX_RANGE_SINGLE | DEVEX_RANGE_ONCE));
	expect_exclusive(_metadata, self->dev, mem, 1);
	ASSERT_EQ(8, device_make(self->dev, &part, DEVEX_RANGE_SINGLE));
	expect_exclusive(_metadata, self->dev, mem, 8);
	ASSERT_EQ((long)mem->nr, device_make(self->dev, mem, 0));

	before = counters_of(_metadata, self->dev);
	ASSERT_EQ((long)mem->nr,
		  device_make(self->dev, mem, DEVEX_RANGE_SINGLE));
	after = counters_of(_metadata, self->dev);
	EXPECT_EQ(before.calls + mem->nr, after.calls);
	EXPECT_EQ(before.own_events + mem->nr, after.own_events);
	expect_exclusive(_metadata, self->dev, mem, mem->nr);
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/* Pages of the range are locked until the device lets go of them. */
TEST_F(range, locked)
{
	const struct memory *mem = &self->mem;

	ASSERT_EQ((long)mem->nr, device_make(self->dev, mem,
					     DEVEX_RANGE_LOCKED |
					     DEVEX_RANGE_ONCE));
	EXPECT_EQ(mem->folios, counters_of(_metadata, self->dev).locked);
	expect_exclusive(_metadata, self->dev, mem, mem->nr);
	ASSERT_EQ(0, device_unlock(self->dev));
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/*
 * Sizes and places
 */
FIXTURE(sizes)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(sizes)
{
	enum memory_kind kind;
	bool ready;
};

FIXTURE_VARIANT_ADD(sizes, many)
{
	.kind = MANY,
	.ready = true,
};

FIXTURE_VARIANT_ADD(sizes, ptemap)
{
	.kind = PTEMAP,
	.ready = true,
};

FIXTURE_VARIANT_ADD(sizes, thp)
{
	.kind = THP,
	.ready = true,
};

FIXTURE_SETUP(sizes)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, own_all_pages());
}

FIXTURE_TEARDOWN(sizes)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/*
 * So many pages at the beginning of a page table, at odd places in it, and over
 * its end: all of them become exclusive, and no other ones.
 */
static void at_all_places(struct __test_metadata *_metadata, int dev,
			  struct memory *mem, enum memory_kind kind, bool ready,
			  size_t nr)
{
	const size_t last = thp_size() / page_size() - 1;
	const size_t first[] = { 0, 1, 255, last };
	struct memory part;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(first); i++) {
		/* New memory each time: a THP is mapped by PTEs afterwards. */
		ASSERT_EQ(0, memory_map(mem, kind, SEED));
		part = memory_part(mem, first[i], nr);
		make_once(_metadata, dev, &part, ready);
		expect_exclusive(_metadata, dev, mem, nr);
		EXPECT_EQ(0, memory_wrong(mem, SEED));
		expect_exclusive(_metadata, dev, mem, 0);
		memory_unmap(mem);
	}
}

TEST_F(sizes, one_page)
{
	at_all_places(_metadata, self->dev, &self->mem, variant->kind,
		      variant->ready, 1);
}

TEST_F(sizes, two_pages)
{
	at_all_places(_metadata, self->dev, &self->mem, variant->kind,
		      variant->ready, 2);
}

TEST_F(sizes, less_than_a_table)
{
	at_all_places(_metadata, self->dev, &self->mem, variant->kind,
		      variant->ready, thp_size() / page_size() - 1);
}

TEST_F(sizes, a_table)
{
	at_all_places(_metadata, self->dev, &self->mem, variant->kind,
		      variant->ready, thp_size() / page_size());
}

TEST_F(sizes, more_than_a_table)
{
	at_all_places(_metadata, self->dev, &self->mem, variant->kind,
		      variant->ready, thp_size() / page_size() + 1);
}

/* The device writes to what is at both ends, the CPU to what is around it. */
TEST_F(sizes, ends)
{
	struct memory *mem = &self->mem, part;
	size_t last;

	ASSERT_EQ(0, memory_map(mem, variant->kind, SEED));
	part = memory_part(mem, 3, thp_size() / page_size());
	last = 3 + part.nr - 1;
	make_once(_metadata, self->dev, &part, variant->ready);

	write_word(memory_word(mem, 2), 1);
	write_word(memory_word(mem, last + 1), 2);
	ASSERT_EQ(0, device_add(self->dev, memory_word(mem, 3), 5, 1));
	ASSERT_EQ(0, device_add(self->dev, memory_word(mem, last), 5, 1));
	expect_exclusive(_metadata, self->dev, mem, part.nr);

	EXPECT_EQ(1, read_word(memory_word(mem, 2)));
	EXPECT_EQ(2, read_word(memory_word(mem, last + 1)));
	EXPECT_EQ(memory_value(SEED, 3, 0) + 5,
		  read_word(memory_word(mem, 3)));
	EXPECT_EQ(memory_value(SEED, last, 0) + 5,
		  read_word(memory_word(mem, last)));
}

/*
 * Memory that nobody has written to
 */

/* @nr pages of it, @first pages behind the beginning of a page table */
static void map_fresh(struct __test_metadata *_metadata, struct memory *mem,
		      size_t first, size_t nr, int advice)
{
	size_t huge = thp_size();

	mem->nr = nr;
	mem->size = nr * page_size();
	mem->map_size = mem->size + 2 * huge;
	mem->map = mmap(NULL, mem->map_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, mem->map);
	ASSERT_EQ(0, madvise(mem->map, mem->map_size, advice));
	mem->addr = (char *)(((uintptr_t)mem->map + huge - 1) / huge * huge) +
		    first * page_size();
}

/* How many of the pages do not hold this, or anything else behind it? */
static size_t not_value(const struct memory *mem, uint64_t value)
{
	size_t i, word, wrong = 0;
	uint64_t seen, rest;

	for (i = 0; i < mem->nr; i++) {
		seen = read_word(memory_word(mem, i));
		rest = 0;
		for (word = 1; word < page_size() / sizeof(rest); word++)
			rest |= memory_word(mem, i)[word];
		wrong += seen != value || rest;
	}
	return wrong;
}

FIXTURE(fresh)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(fresh)
{
	int advice;
	bool read_first;	/* so that the zero page is there */
};

FIXTURE_VARIANT_ADD(fresh, untouched)
{
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_VARIANT_ADD(fresh, untouched_thp)
{
	.advice = MADV_HUGEPAGE,
};

FIXTURE_VARIANT_ADD(fresh, zero)
{
	.advice = MADV_NOHUGEPAGE,
	.read_first = true,
};

FIXTURE_VARIANT_ADD(fresh, zero_thp)
{
	.advice = MADV_HUGEPAGE,
	.read_first = true,
};

FIXTURE_SETUP(fresh)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, own_all_pages());
	map_fresh(_metadata, &self->mem, 5, 1000, variant->advice);
	if (variant->read_first) {
		ASSERT_EQ(0, not_value(&self->mem, 0));
		ASSERT_EQ(1000, memory_count(&self->mem, PAGE_PRESENT));
	} else {
		ASSERT_EQ(1000, memory_count(&self->mem, PAGE_NONE));
	}
}

FIXTURE_TEARDOWN(fresh)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* It is there when it is needed, and zero. */
TEST_F(fresh, once)
{
	const struct memory *mem = &self->mem;
	uint64_t pfns[mem->nr];
	size_t i, same = 0;

	make_once(_metadata, self->dev, mem, false);

	/* No two pages are the same, as they are with the zero page. */
	memory_pfns(mem, pfns);
	for (i = 1; i < mem->nr; i++)
		same += pfns[i] == pfns[i - 1];
	EXPECT_EQ(0, same);

	ASSERT_EQ(0, device_add(self->dev, memory_word(mem, 500), 7, 1));
	expect_exclusive(_metadata, self->dev, mem, mem->nr);
	EXPECT_EQ(7, read_word(memory_word(mem, 500)));
	write_word(memory_word(mem, 500), 0);
	EXPECT_EQ(0, not_value(mem, 0));
}

/* Some of it is written already. */
TEST_F(fresh, mixed)
{
	const struct memory *mem = &self->mem;
	size_t i;

	for (i = 0; i < mem->nr; i += 3)
		write_word(memory_word(mem, i), 7);
	make_once(_metadata, self->dev, mem, false);
	for (i = 0; i < mem->nr; i += 3)
		write_word(memory_word(mem, i), 0);
	EXPECT_EQ(0, not_value(mem, 0));
}

/*
 * As much as 1 GiB in one call, at an odd place
 */
FIXTURE(gib)
{
	struct memory mem;
	int dev;
};

FIXTURE_SETUP(gib)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, own_all_pages());
	map_fresh(_metadata, &self->mem, 3, (1UL << 30) / page_size(),
		  MADV_HUGEPAGE);
}

FIXTURE_TEARDOWN(gib)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

TEST_F(gib, once)
{
	const struct memory *mem = &self->mem;
	struct devex_counters before, after;
	size_t step = mem->nr / 64, i;

	make_once(_metadata, self->dev, mem, false);

	/* CPU and device write to pages here and there. */
	before = counters_of(_metadata, self->dev);
	for (i = 0; i < mem->nr; i += step)
		write_word(memory_word(mem, i), 7);
	for (i = 1; i < mem->nr; i += step)
		ASSERT_EQ(0, device_add(self->dev, memory_word(mem, i), 9, 1));
	after = counters_of(_metadata, self->dev);
	EXPECT_EQ(before.invalidated + 64, after.invalidated);
	EXPECT_EQ(before.held - 64, after.held);
	for (i = 0; i < mem->nr; i += step) {
		EXPECT_EQ(7, read_word(memory_word(mem, i)));
		EXPECT_EQ(9, read_word(memory_word(mem, i + 1)));
	}
}

/*
 * Ranges that something is in the way of
 */

/* Pages to the left of it that can be made exclusive */
#define LEFT	8

enum obstacle {
	HOLE,
	READ_ONLY,
	NO_ACCESS,
	GUARD,
	SHARED,
	SHARED_FILE,
	HUGETLB_VMA,
	PFNMAP,
};

FIXTURE(obstacle)
{
	struct memory all;	/* LEFT pages, the obstacle, as many pages */
	struct memory left;
	struct memory obstacle;
	struct memory right;
	char *map;
	int dev;
};

FIXTURE_VARIANT(obstacle)
{
	enum obstacle kind;
	long error;
};

FIXTURE_VARIANT_ADD(obstacle, hole)
{
	.kind = HOLE,
	.error = -EFAULT,
};

FIXTURE_VARIANT_ADD(obstacle, read_only)
{
	.kind = READ_ONLY,
	.error = -EFAULT,
};

FIXTURE_VARIANT_ADD(obstacle, no_access)
{
	.kind = NO_ACCESS,
	.error = -EFAULT,
};

FIXTURE_VARIANT_ADD(obstacle, guard)
{
	.kind = GUARD,
	.error = -EFAULT,
};

FIXTURE_VARIANT_ADD(obstacle, shared)
{
	.kind = SHARED,
	.error = -EOPNOTSUPP,
};

FIXTURE_VARIANT_ADD(obstacle, shared_file)
{
	.kind = SHARED_FILE,
	.error = -EOPNOTSUPP,
};

FIXTURE_VARIANT_ADD(obstacle, hugetlb)
{
	.kind = HUGETLB_VMA,
	.error = -EOPNOTSUPP,
};

FIXTURE_VARIANT_ADD(obstacle, pfnmap)
{
	.kind = PFNMAP,
	.error = -EOPNOTSUPP,
};

static void map_over(struct __test_metadata *_metadata, struct memory *mem,
		     int flags, int fd)
{
	ASSERT_EQ(mem->addr, mmap(mem->addr, mem->size, PROT_READ | PROT_WRITE,
				  flags | MAP_FIXED, fd, 0))
		TH_LOG("mmap failed: %s", strerror(errno));
}

static void make_obstacle(struct __test_metadata *_metadata,
			  struct memory *mem, enum obstacle kind, int dev)
{
	struct memory first;
	int fd;

	switch (kind) {
	case HOLE:
		ASSERT_EQ(0, munmap(mem->addr, mem->size));
		break;
	case READ_ONLY:
		ASSERT_EQ(0, mprotect(mem->addr, mem->size, PROT_READ));
		break;
	case NO_ACCESS:
		ASSERT_EQ(0, mprotect(mem->addr, mem->size, PROT_NONE));
		break;
	case GUARD:
		ASSERT_EQ(0, madvise(mem->addr, mem->size, MADV_GUARD_INSTALL));
		break;
	case SHARED:
		map_over(_metadata, mem, MAP_SHARED | MAP_ANONYMOUS, -1);
		memory_fill(mem, SEED);
		break;
	case SHARED_FILE:
		fd = memfd_create("device-exclusive", 0);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, ftruncate(fd, mem->size));
		map_over(_metadata, mem, MAP_SHARED, fd);
		memory_fill(mem, SEED);
		close(fd);
		break;
	case HUGETLB_VMA:
		map_over(_metadata, mem, MAP_PRIVATE | MAP_ANONYMOUS |
			 MAP_HUGETLB, -1);
		memory_fill(mem, SEED);
		break;
	case PFNMAP:
		/* One page is all that there is. */
		first = memory_part(mem, 0, 1);
		ASSERT_EQ(0, munmap(mem->addr, mem->size));
		map_over(_metadata, &first, MAP_SHARED, dev);
		break;
	}
}

FIXTURE_SETUP(obstacle)
{
	size_t huge = thp_size(), table = huge / page_size();
	struct memory map = { .size = 3 * huge, .nr = 3 * table };

	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, own_all_pages());
	self->map = mmap(NULL, 4 * huge, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->map);
	map.addr = (char *)(((uintptr_t)self->map + huge - 1) / huge * huge);
	ASSERT_EQ(0, madvise(map.addr, map.size, MADV_NOHUGEPAGE));
	memory_fill(&map, SEED);

	/* The obstacle is a page table: hugetlb memory has to be. */
	self->all = memory_part(&map, table - LEFT, LEFT + table + LEFT);
	self->left = memory_part(&self->all, 0, LEFT);
	self->obstacle = memory_part(&self->all, LEFT, table);
	self->right = memory_part(&self->all, LEFT + table, LEFT);
	make_obstacle(_metadata, &self->obstacle, variant->kind, self->dev);
}

FIXTURE_TEARDOWN(obstacle)
{
	if (self->dev >= 0)
		close(self->dev);
	if (self->map)
		munmap(self->map, 4 * thp_size());
}

/* A range ends in front of it. */
TEST_F(obstacle, stop)
{
	ASSERT_EQ(LEFT, device_make(self->dev, &self->all, DEVEX_RANGE_ONCE));
	expect_exclusive(_metadata, self->dev, &self->left, LEFT);
	expect_exclusive(_metadata, self->dev, &self->right, 0);
	EXPECT_EQ(1, counters_of(_metadata, self->dev).calls);
	EXPECT_EQ(1, counters_of(_metadata, self->dev).own_events);
	EXPECT_EQ(LEFT, counters_of(_metadata, self->dev).held);

	ASSERT_EQ(LEFT, device_make(self->dev, &self->all, 0));
	EXPECT_EQ(LEFT, counters_of(_metadata, self->dev).held);
	EXPECT_EQ(0, memory_wrong(&self->left, SEED));
	EXPECT_EQ(0, memory_wrong(&self->right, SEED));
}

/* Nothing happens if it begins there, */
TEST_F(obstacle, first)
{
	struct memory rest = memory_part(&self->all, LEFT, self->all.nr - LEFT);
	struct devex_counters counters;

	EXPECT_EQ(variant->error,
		  device_make(self->dev, &rest, DEVEX_RANGE_ONCE));
	EXPECT_EQ(variant->error, device_make(self->dev, &rest, 0));
	counters = counters_of(_metadata, self->dev);
	EXPECT_EQ(0, counters.conversions);
	EXPECT_EQ(0, counters.own_events);
	EXPECT_EQ(0, counters.held);
	expect_exclusive(_metadata, self->dev, &self->right, 0);
	EXPECT_EQ(0, memory_wrong(&self->right, SEED));
}

/* and all is well behind it. */
TEST_F(obstacle, behind)
{
	make_once(_metadata, self->dev, &self->right, true);
	EXPECT_EQ(0, memory_wrong(&self->right, SEED));
}

/*
 * Mappings next to each other that are not one mapping
 */
FIXTURE(mappings)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(mappings)
{
	enum memory_kind kind;
	bool ready;
};

FIXTURE_VARIANT_ADD(mappings, many)
{
	.kind = MANY,
	.ready = true,
};

FIXTURE_VARIANT_ADD(mappings, ptemap)
{
	.kind = PTEMAP,
	.ready = true,
};

FIXTURE_VARIANT_ADD(mappings, thp)
{
	.kind = THP,
	.ready = true,
};

FIXTURE_SETUP(mappings)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, own_all_pages());
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
}

FIXTURE_TEARDOWN(mappings)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* A range goes over the border between two of them. */
TEST_F(mappings, neighbours)
{
	struct memory *mem = &self->mem, middle, part;

	middle = memory_part(mem, 100, 700);
	part = memory_part(mem, 50, 900);
	ASSERT_EQ(0, madvise(middle.addr, middle.size, MADV_DONTDUMP));
	/* Splitting a mapping inside of a THP has split that, too. */
	make_once(_metadata, self->dev, &part, true);
	expect_exclusive(_metadata, self->dev, mem, part.nr);
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/*
 * Pages of two folios take turns in one range: each folio can be locked once,
 * so one call does not get far. The device gets everything nevertheless.
 */
TEST_F(mappings, interleaved)
{
	const size_t table = thp_size() / page_size(), nr = 16;
	struct memory *mem = &self->mem;
	struct memory turns = { .nr = nr, .size = nr * page_size() };
	char *from;
	size_t i;

	turns.addr = mmap(NULL, turns.size, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, turns.addr);
	for (i = 0; i < nr; i++) {
		from = memory_page(mem, i / 2 + (i % 2 ? table : 0));
		ASSERT_EQ(memory_page(&turns, i),
			  mremap(from, page_size(), page_size(),
				 MREMAP_MAYMOVE | MREMAP_FIXED,
				 memory_page(&turns, i)));
	}

	ASSERT_EQ((long)nr, device_make(self->dev, &turns, 0));
	expect_exclusive(_metadata, self->dev, &turns, nr);
	ASSERT_EQ((long)nr, device_make(self->dev, &turns, DEVEX_RANGE_LOCKED));
	EXPECT_EQ(variant->kind == MANY ? nr : 2,
		  counters_of(_metadata, self->dev).locked);
	ASSERT_EQ(0, device_unlock(self->dev));
	for (i = 0; i < nr; i++)
		EXPECT_EQ(memory_value(SEED, i / 2 + (i % 2 ? table : 0), 1),
			  memory_word(&turns, i)[1]);
	ASSERT_EQ(0, munmap(turns.addr, turns.size));
}

/* The last page of a folio, and then its first one */
TEST_F(mappings, backwards)
{
	const size_t table = thp_size() / page_size();
	struct memory *mem = &self->mem, pair;
	char *addr;

	addr = memory_page(mem, table);
	ASSERT_EQ(addr, mremap(memory_page(mem, 0), page_size(), page_size(),
			       MREMAP_MAYMOVE | MREMAP_FIXED, addr));
	pair = memory_part(mem, table - 1, 2);
	ASSERT_EQ(2, device_make(self->dev, &pair, 0));
	expect_exclusive(_metadata, self->dev, &pair, 2);
	EXPECT_EQ(memory_value(SEED, table - 1, 1), memory_word(&pair, 0)[1]);
	EXPECT_EQ(memory_value(SEED, 0, 1), memory_word(&pair, 1)[1]);
}

/* Pages that a child shares: the parent takes its own, and so does the child. */
TEST_F(mappings, fork)
{
	struct memory *mem = &self->mem;
	struct peer peer;
	size_t i;
	int dev;

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, SEED));
		dev = device_open();
		EXPECT_LE(0, dev);
		make_once(_metadata, dev, mem, false);
		for (i = 0; i < mem->nr; i += 64)
			EXPECT_EQ(0, device_add(dev, memory_word(mem, i), 9, 1));
		EXPECT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
		for (i = 0; i < mem->nr; i += 64)
			*memory_word(mem, i) -= 9;
		EXPECT_EQ(0, memory_wrong(mem, SEED));
		_exit(0);
	}
	make_once(_metadata, self->dev, mem, false);
	for (i = 0; i < mem->nr; i += 64)
		ASSERT_EQ(0, device_add(self->dev, memory_word(mem, i), 5, 1));
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));

	expect_exclusive(_metadata, self->dev, mem, mem->nr);
	for (i = 0; i < mem->nr; i += 64)
		*memory_word(mem, i) -= 5;
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

TEST_HARNESS_MAIN
