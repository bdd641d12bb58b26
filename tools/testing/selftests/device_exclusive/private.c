// SPDX-License-Identifier: GPL-2.0
/*
 * Device-private memory beside device-exclusive memory: a device may also have
 * pages in memory of its own. Where a range begins there the page comes back
 * first; where it meets such a page later it ends.
 */
#include "kselftest_harness.h"

#include "devex_util.h"

#define SEED		0x10

/* What the tests are about: so many pages of the memory, */
#define PAGES		16

/* and the first of those that are moved, where they are in the middle. */
#define MIDDLE		5

#define TRIES		20

static struct devex_counters counters_of(struct __test_metadata *_metadata,
					 int dev)
{
	struct devex_counters counters;

	ASSERT_EQ(0, device_counters(dev, &counters));
	return counters;
}

/* Move all of it. What somebody uses at the moment is not moved at once. */
static void store(struct __test_metadata *_metadata, int dev,
		  const struct memory *mem)
{
	uint64_t before = counters_of(_metadata, dev).stored;
	long moved, sum = 0;
	int i;

	for (i = 0; i < TRIES && sum < (long)mem->nr; i++) {
		ASSERT_EQ(0, drain_lru());
		moved = device_migrate(dev, mem);
		ASSERT_LE(0, moved)
			TH_LOG("cannot move: %s", strerror(-moved));
		sum += moved;
	}
	ASSERT_EQ((long)mem->nr, sum);
	ASSERT_EQ(mem->nr, memory_count(mem, PAGE_PRIVATE));
	ASSERT_EQ(before + mem->nr, counters_of(_metadata, dev).stored);
}

/* All of it is exclusive and in the hands of the device. */
static void expect_exclusive(struct __test_metadata *_metadata, int dev,
			     const struct memory *mem)
{
	EXPECT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ((long)mem->nr, device_held(dev, mem));
	EXPECT_TRUE(device_agrees(dev, mem));
}

FIXTURE(private)
{
	struct memory mem;
	struct memory part;
	int dev;	/* makes exclusive */
	int owner;	/* has the device-private memory */
	int other;
};

FIXTURE_VARIANT(private)
{
	enum memory_kind kind;
	bool other_owner;
};

FIXTURE_VARIANT_ADD(private, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(private, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(private, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(private, other_small)
{
	.kind = SMALL,
	.other_owner = true,
};

FIXTURE_VARIANT_ADD(private, other_ptemap)
{
	.kind = PTEMAP,
	.other_owner = true,
};

FIXTURE_VARIANT_ADD(private, other_thp)
{
	.kind = THP,
	.other_owner = true,
};

FIXTURE_SETUP(private)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	self->other = device_open();
	ASSERT_LE(0, self->other);
	self->owner = variant->other_owner ? self->other : self->dev;
	ASSERT_EQ(0, own_all_pages());
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
	self->part = memory_part(&self->mem, 8, PAGES);
}

FIXTURE_TEARDOWN(private)
{
	if (self->dev >= 0)
		close(self->dev);
	if (self->other >= 0)
		close(self->other);
	memory_unmap(&self->mem);
}

/* The device without exclusive pages: a CPU gets back what it touches. */
TEST_F(private, access)
{
	const struct memory *part = &self->part;

	store(_metadata, self->owner, part);
	EXPECT_EQ(memory_value(SEED, 8 + 3, 0),
		  read_word(memory_word(part, 3)));
	write_word(memory_word(part, 4), 7);
	EXPECT_EQ(PAGES - 2, memory_count(part, PAGE_PRIVATE));
	EXPECT_EQ(PAGES - 2, counters_of(_metadata, self->owner).stored);

	EXPECT_EQ(7, read_word(memory_word(part, 4)));
	write_word(memory_word(part, 4), memory_value(SEED, 8 + 4, 0));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
	EXPECT_EQ(0, counters_of(_metadata, self->owner).stored);
}

/* A range begins with such a page: it comes back, and so all is exclusive. */
TEST_F(private, first)
{
	struct memory first = memory_part(&self->part, 0, 1);
	struct memory behind = memory_part(&self->part, PAGES, 2);

	store(_metadata, self->owner, &first);
	store(_metadata, self->owner, &behind);
	ASSERT_EQ(PAGES, device_make(self->dev, &self->part,
				     DEVEX_RANGE_ONCE));
	expect_exclusive(_metadata, self->dev, &self->part);

	/* What was not asked for stays where it is. */
	EXPECT_EQ(behind.nr, memory_count(&behind, PAGE_PRIVATE));
	EXPECT_EQ(behind.nr, counters_of(_metadata, self->owner).stored);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
	EXPECT_EQ(0, counters_of(_metadata, self->owner).stored);
}

/* A range has three of them in the middle: each of them takes a call. */
TEST_F(private, middle)
{
	struct memory left = memory_part(&self->part, 0, MIDDLE);
	struct memory middle = memory_part(&self->part, MIDDLE, 3);
	struct memory right = memory_part(&self->part, MIDDLE + 3,
					  PAGES - MIDDLE - 3);
	struct memory rest;

	store(_metadata, self->owner, &middle);
	ASSERT_EQ(MIDDLE, device_make(self->dev, &self->part,
				      DEVEX_RANGE_ONCE));
	expect_exclusive(_metadata, self->dev, &left);
	EXPECT_EQ(3, memory_count(&middle, PAGE_PRIVATE));
	EXPECT_EQ(3, counters_of(_metadata, self->owner).stored);
	EXPECT_EQ(right.nr, memory_count(&right, PAGE_PRESENT));

	rest = memory_part(&self->part, MIDDLE, PAGES - MIDDLE);
	ASSERT_EQ(1, device_make(self->dev, &rest, DEVEX_RANGE_ONCE));
	EXPECT_EQ(2, memory_count(&middle, PAGE_PRIVATE));
	EXPECT_EQ(2, counters_of(_metadata, self->owner).stored);

	rest = memory_part(&self->part, MIDDLE + 1, PAGES - MIDDLE - 1);
	ASSERT_EQ(1, device_make(self->dev, &rest, DEVEX_RANGE_ONCE));
	EXPECT_EQ(1, counters_of(_metadata, self->owner).stored);

	/* The last one, and all that is behind it */
	rest = memory_part(&self->part, MIDDLE + 2, PAGES - MIDDLE - 2);
	ASSERT_EQ(PAGES - MIDDLE - 2,
		  device_make(self->dev, &rest, DEVEX_RANGE_ONCE));
	EXPECT_EQ(0, counters_of(_metadata, self->owner).stored);
	expect_exclusive(_metadata, self->dev, &self->part);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* The same for who asks for the rest until it has all, as a driver does. */
TEST_F(private, all)
{
	const struct memory *part = &self->part;
	size_t i;

	store(_metadata, self->owner, part);
	ASSERT_EQ(PAGES, device_make(self->dev, part, 0));
	expect_exclusive(_metadata, self->dev, part);
	EXPECT_EQ(0, counters_of(_metadata, self->owner).stored);
	for (i = 0; i < PAGES; i++)
		ASSERT_EQ(0, device_add(self->dev, memory_word(part, i), 5, 1));
	expect_exclusive(_metadata, self->dev, part);
	for (i = 0; i < PAGES; i++)
		*memory_word(part, i) -= 5;
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* make_device_exclusive() gets each of them. */
TEST_F(private, single)
{
	const struct memory *part = &self->part;

	store(_metadata, self->owner, part);
	ASSERT_EQ(PAGES, device_make(self->dev, part, DEVEX_RANGE_SINGLE));
	expect_exclusive(_metadata, self->dev, part);
	EXPECT_EQ(0, counters_of(_metadata, self->owner).stored);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/*
 * What is exclusive is not moved. But moving other pages of the same folio
 * splits that, and then the CPU has it again.
 */
TEST_F(private, exclusive)
{
	struct memory left = memory_part(&self->part, 0, PAGES / 2);
	struct memory right = memory_part(&self->part, PAGES / 2, PAGES / 2);
	uint64_t pfns[PAGES];
	int i;

	ASSERT_EQ(PAGES / 2, device_make(self->dev, &left, 0));
	memory_pfns(&left, pfns);
	for (i = 0; i < TRIES && memory_count(&right, PAGE_PRIVATE) < right.nr;
	     i++) {
		ASSERT_EQ(0, drain_lru());
		ASSERT_LE(0, device_migrate(self->owner, &self->part));
	}
	EXPECT_EQ(left.nr, memory_count(&left, variant->kind == SMALL ?
						PAGE_EXCLUSIVE : PAGE_PRESENT));
	EXPECT_EQ(0, memory_moved(&left, pfns));
	EXPECT_EQ(right.nr, memory_count(&right, PAGE_PRIVATE));
	EXPECT_EQ(right.nr, counters_of(_metadata, self->owner).stored);
	EXPECT_TRUE(device_agrees(self->dev, &self->part));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* Every other page is exclusive, and the rest is in device-private memory. */
static void in_turn(struct __test_metadata *_metadata, int dev, int owner,
		    const struct memory *part)
{
	struct memory one;
	size_t i;

	for (i = 1; i < part->nr; i += 2) {
		one = memory_part(part, i, 1);
		store(_metadata, owner, &one);
	}
	for (i = 0; i < part->nr; i += 2) {
		one = memory_part(part, i, 1);
		ASSERT_EQ(1, device_make(dev, &one, 0));
	}
	ASSERT_EQ(part->nr / 2, memory_count(part, PAGE_EXCLUSIVE));
	ASSERT_EQ(part->nr / 2, memory_count(part, PAGE_PRIVATE));
}

/* A fork takes back the ones, and leaves the others where they are. */
TEST_F(private, fork)
{
	const struct memory *part = &self->part;
	struct peer peer;
	size_t i;

	in_turn(_metadata, self->dev, self->owner, part);
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_count(part, PAGE_EXCLUSIVE));
		EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
		for (i = 0; i < PAGES; i++)
			write_word(memory_word(part, i), 9);
		_exit(0);
	}
	EXPECT_EQ(0, memory_count(part, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, device_held(self->dev, part));
	EXPECT_EQ(PAGES / 2, memory_count(part, PAGE_PRIVATE));

	/* The parent writes before the child reads, */
	ASSERT_EQ(PAGES, device_make(self->dev, part, 0));
	expect_exclusive(_metadata, self->dev, part);
	for (i = 0; i < PAGES; i++)
		ASSERT_EQ(0, device_add(self->dev, memory_word(part, i), 5, 1));
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));

	/* and neither sees what the other one writes. */
	expect_exclusive(_metadata, self->dev, part);
	for (i = 0; i < PAGES; i++)
		*memory_word(part, i) -= 5;
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
	EXPECT_EQ(0, counters_of(_metadata, self->owner).stored);
}

TEST_F(private, unmap)
{
	struct memory part = self->part;
	struct devex_counters counters;

	in_turn(_metadata, self->dev, self->owner, &part);
	ASSERT_EQ(0, munmap(part.addr, part.size));
	counters = counters_of(_metadata, self->dev);
	EXPECT_EQ(0, counters.held);
	EXPECT_EQ(0, counters_of(_metadata, self->owner).stored);
	EXPECT_EQ(PAGES, memory_count(&part, PAGE_NONE));
}

/* Is there memory of such a device? */
static bool memory_exists(void)
{
	char line[256];
	bool found = false;
	FILE *file;

	file = fopen("/proc/iomem", "r");
	while (file && fgets(line, sizeof(line), file))
		found |= !!strstr(line, "test_device_exclusive");
	if (file)
		fclose(file);
	return found;
}

/* A device goes away: what it has comes back, also for a child. */
TEST_F(private, close)
{
	const struct memory *part = &self->part;
	struct peer peer;

	in_turn(_metadata, self->dev, self->owner, part);
	EXPECT_TRUE(memory_exists());
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		/* Files are closed when the last one closes them. */
		close(self->dev);
		close(self->other);
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(PAGES, memory_count(part, PAGE_PRESENT));
		EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
		_exit(0);
	}
	EXPECT_TRUE(peer_wait(&peer));
	EXPECT_EQ(PAGES / 2, memory_count(part, PAGE_PRIVATE));
	close(self->dev);
	close(self->other);
	self->dev = -1;
	self->other = -1;
	EXPECT_FALSE(memory_exists());
	EXPECT_EQ(PAGES, memory_count(part, PAGE_PRESENT));
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* The same with pages that are exclusive to a device which stays. */
TEST_F(private, close_owner)
{
	const struct memory *part = &self->part;

	if (!variant->other_owner) {
		/* Its own exclusive pages stay so when it is gone. */
		in_turn(_metadata, self->dev, self->owner, part);
		close(self->dev);
		self->dev = -1;
	} else {
		in_turn(_metadata, self->dev, self->owner, part);
		close(self->other);
		self->other = -1;
		EXPECT_EQ(PAGES / 2, device_held(self->dev, part));
	}
	EXPECT_FALSE(memory_exists());
	EXPECT_EQ(PAGES / 2, memory_count(part, PAGE_EXCLUSIVE));
	EXPECT_EQ(PAGES / 2, memory_count(part, PAGE_PRESENT));
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* A process dies with all of that. */
TEST_F(private, exit)
{
	struct memory *mem = &self->mem;
	struct peer peer;
	int dev, other;

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		dev = device_open();
		other = device_open();
		EXPECT_LE(0, dev);
		EXPECT_LE(0, other);
		memory_fill(mem, SEED);
		in_turn(_metadata, dev, variant->other_owner ? other : dev,
			&self->part);
		EXPECT_TRUE(memory_exists());
		_exit(0);
	}
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_FALSE(memory_exists());
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

TEST_HARNESS_MAIN
