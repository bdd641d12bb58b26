// SPDX-License-Identifier: GPL-2.0
/*
 * fork() of a process that has device-exclusive memory: it must not fail, the
 * entries must be gone afterwards, and parent and child must be on their own.
 */
#include "kselftest_harness.h"
#include <spawn.h>

#include "devex_util.h"

#define PARENT_SEED	0x10
#define CHILD_SEED	0x20
#define DEVICE_SEED	0x30

/* What a program that is executed by a test exits with */
#define EXEC_OK		42

FIXTURE(fork)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(fork)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(fork, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(fork, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(fork, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(fork, lazyfree)
{
	.kind = LAZYFREE,
};

FIXTURE_VARIANT_ADD(fork, ksm)
{
	.kind = KSM,
};

FIXTURE_VARIANT_ADD(fork, mremapped)
{
	.kind = MREMAPPED,
};

FIXTURE_VARIANT_ADD(fork, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_SETUP(fork)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
}

FIXTURE_TEARDOWN(fork)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* Give all of the memory to the device. */
static void make_all(struct __test_metadata *_metadata, int dev,
		     const struct memory *mem)
{
	ASSERT_EQ((long)mem->nr, device_make(dev, mem, 0));
	ASSERT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	ASSERT_EQ((long)mem->nr, device_held(dev, mem));
}

/* Nothing is left of it, neither in the page table nor in the device. */
static void expect_reverted(struct __test_metadata *_metadata, int dev,
			    const struct memory *mem)
{
	struct devex_counters counters;

	EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(mem->nr, memory_count(mem, PAGE_PRESENT));
	EXPECT_EQ(0, device_held(dev, mem));
	EXPECT_EQ(0, device_counters(dev, &counters));
	EXPECT_EQ(0, counters.held);
}

static void fork_while_locked(struct __test_metadata *_metadata, int dev,
			      const struct memory *mem,
			      const struct memory *locked, size_t folios)
{
	struct devex_counters counters;
	pid_t pid;

	/* The device takes everything, and keeps some folios locked. */
	make_all(_metadata, dev, mem);
	ASSERT_EQ((long)locked->nr,
		  device_make(dev, locked, DEVEX_RANGE_LOCKED));
	ASSERT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	ASSERT_EQ(0, device_counters(dev, &counters));
	ASSERT_EQ(folios, counters.locked);

	/* Whoever holds a folio lock, fork succeeds. */
	pid = fork();
	if (!pid) {
		/* The child needs no folio lock for its memory either. */
		EXPECT_EQ(mem->nr, memory_count(mem, PAGE_PRESENT));
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		memory_fill(mem, CHILD_SEED);
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED));
		_exit(0);
	}
	ASSERT_LE(0, pid)
		TH_LOG("fork failed: %s", strerror(errno));
	ASSERT_EQ(0, child_exit(pid));

	expect_reverted(_metadata, dev, mem);
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
	EXPECT_EQ(0, device_unlock(dev));
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
}

/* The lock of a single folio is held. */
TEST_F(fork, locked_one)
{
	struct memory one = memory_part(&self->mem, self->mem.nr / 3, 1);

	fork_while_locked(_metadata, self->dev, &self->mem, &one, 1);
}

/* The lock of each and every folio is held. */
TEST_F(fork, locked_all)
{
	fork_while_locked(_metadata, self->dev, &self->mem, &self->mem,
			  self->mem.folios);
}

/* After fork neither has an exclusive entry, and the device was told. */
TEST_F(fork, child_state)
{
	const struct memory *mem = &self->mem;
	struct devex_counters before, after;
	struct peer peer;

	make_all(_metadata, self->dev, mem);
	ASSERT_EQ(0, device_counters(self->dev, &before));

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		/* Look before anything is touched, by either of the two. */
		EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
		EXPECT_EQ(mem->nr, memory_count(mem, PAGE_PRESENT));
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		_exit(0);
	}
	EXPECT_TRUE(peer_wait(&peer));
	expect_reverted(_metadata, self->dev, mem);
	EXPECT_EQ(0, device_counters(self->dev, &after));
	EXPECT_EQ(before.invalidated + mem->nr, after.invalidated);
	peer_tell(&peer);
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
	EXPECT_EQ(0, peer_exit(&peer));
}

/* Of eight pages in a row, the first three are exclusive, and one is not there. */
static size_t mixed_wrong(const struct memory *mem)
{
	size_t i, wrong = 0;
	struct memory page;

	for (i = 0; i < mem->nr; i++) {
		page = memory_part(mem, i, 1);
		if (i % 8 == 5)
			wrong += read_word(memory_word(mem, i)) != 0;
		else
			wrong += memory_wrong(&page, PARENT_SEED);
	}
	return wrong;
}

/* Exclusive entries next to others, and to none at all */
TEST_F(fork, mixed)
{
	const struct memory *mem = &self->mem;
	struct memory part;
	pid_t pid;
	size_t i;

	for (i = 0; i < mem->nr; i += 8) {
		part = memory_part(mem, i + 5, 1);
		ASSERT_EQ(0, madvise(part.addr, part.size, MADV_DONTNEED));
		part = memory_part(mem, i, 3);
		ASSERT_EQ(3, device_make(self->dev, &part, 0));
	}
	ASSERT_EQ(mem->nr / 8 * 3, memory_count(mem, PAGE_EXCLUSIVE));
	ASSERT_EQ(mem->nr / 8, memory_count(mem, PAGE_NONE));

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
		EXPECT_EQ(mem->nr / 8, memory_count(mem, PAGE_NONE));
		EXPECT_EQ(0, mixed_wrong(mem));
		memory_fill(mem, CHILD_SEED);
		_exit(0);
	}
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, device_held(self->dev, mem));
	EXPECT_EQ(0, mixed_wrong(mem));
}

/* Every page is copied on write, whichever of the two writes first. */
TEST_F(fork, write_protected)
{
	const struct memory *mem = &self->mem;
	size_t i, wrong = 0;
	struct memory page;
	struct peer peer;

	make_all(_metadata, self->dev, mem);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		/* The parent has written to the even pages: not to ours. */
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));

		/* We are the first to write to the odd ones. */
		memory_fill(mem, CHILD_SEED);
		peer_tell(&peer);

		/* By now the parent has written to all. */
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED));
		_exit(0);
	}
	for (i = 0; i < mem->nr; i += 2) {
		page = memory_part(mem, i, 1);
		memory_fill(&page, DEVICE_SEED);
	}
	peer_tell(&peer);

	/* What the child has written is not in our pages. */
	EXPECT_TRUE(peer_wait(&peer));
	for (i = 0; i < mem->nr; i++) {
		page = memory_part(mem, i, 1);
		wrong += memory_wrong(&page, i % 2 ? PARENT_SEED : DEVICE_SEED);
	}
	EXPECT_EQ(0, wrong);

	memory_fill(mem, DEVICE_SEED);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
}

/* That many pages of a range take part in what takes long. */
#define SAMPLES		64

/* Add as the device, to the first words of these pages. */
static void add_everywhere(struct __test_metadata *_metadata, int dev,
			   const struct memory *mem, uint64_t value)
{
	size_t i;

	for (i = 0; i < mem->nr; i += mem->nr / SAMPLES)
		ASSERT_EQ(0, device_add(dev, memory_word(mem, i), value, 1));
}

/* How many of these first words are right? */
static size_t count_first(const struct memory *mem, uint32_t seed,
			  uint64_t added)
{
	size_t i, count = 0;

	for (i = 0; i < mem->nr; i += mem->nr / SAMPLES)
		count += read_word(memory_word(mem, i)) ==
			 memory_value(seed, i, 0) + added;
	return count;
}

/* Both make the same addresses exclusive: each has a page of its own there. */
TEST_F(fork, own_pages)
{
	const struct memory *mem = &self->mem;
	struct peer peer;
	uint64_t *pfns;
	int dev;

	pfns = mmap(NULL, mem->nr * sizeof(*pfns), PROT_READ | PROT_WRITE,
		    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pfns);
	make_all(_metadata, self->dev, mem);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		/* The inherited device is the parent's: open another one. */
		dev = device_open();
		EXPECT_LE(0, dev);
		make_all(_metadata, dev, mem);
		memory_pfns(mem, pfns);
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));

		/* Both devices add at the same addresses. */
		add_everywhere(_metadata, dev, mem, 1000);
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(SAMPLES, count_first(mem, PARENT_SEED, 1000));
		_exit(0);
	}
	ASSERT_TRUE(peer_wait(&peer));
	make_all(_metadata, self->dev, mem);
	EXPECT_EQ(mem->nr, memory_moved(mem, pfns));
	peer_tell(&peer);

	add_everywhere(_metadata, self->dev, mem, 1);
	EXPECT_TRUE(peer_wait(&peer));
	EXPECT_EQ(SAMPLES, count_first(mem, PARENT_SEED, 1));
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
}

/* Memory pinned for DMA stays with the parent, exclusive or not. */
static void keep_pinned(struct __test_metadata *_metadata, int dev,
			const struct memory *mem, bool exclusive)
{
	uint64_t pfns[mem->nr], word;
	struct peer peer;
	size_t i;

	ASSERT_EQ(0, device_pin(dev, mem));
	if (exclusive)
		make_all(_metadata, dev, mem);
	memory_pfns(mem, pfns);

	ASSERT_LE(0, peer_fork(&peer))
		TH_LOG("fork failed: %s", strerror(errno));
	if (!peer.pid) {
		EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
		/* A pinned page is never shared: we got copies. */
		EXPECT_EQ(mem->nr, memory_moved(mem, pfns));

		/* Neither the parent's writes nor DMA reach them. */
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		memory_fill(mem, CHILD_SEED);
		_exit(0);
	}
	EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));

	/* We write, and keep the pages that we had. */
	memory_fill(mem, DEVICE_SEED);
	EXPECT_EQ(0, memory_moved(mem, pfns));

	/* So DMA still goes to, and comes from, what we see. */
	for (i = 0; i < mem->nr; i++) {
		word = ~i;
		EXPECT_EQ(0, device_write(dev, memory_word(mem, i), &word,
					  sizeof(word)));
		EXPECT_EQ(word, read_word(memory_word(mem, i)));
		word = 0;
		EXPECT_EQ(0, device_read(dev, memory_word(mem, i), &word,
					 sizeof(word)));
		EXPECT_EQ(~i, word);
	}
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));

	/* And what the child wrote did not come here. */
	for (i = 0; i < mem->nr; i++)
		EXPECT_EQ(~i, read_word(memory_word(mem, i)));
	EXPECT_EQ(0, device_unpin(dev, mem));
}

TEST_F(fork, pinned)
{
	keep_pinned(_metadata, self->dev, &self->mem, false);
}

TEST_F(fork, pinned_exclusive)
{
	keep_pinned(_metadata, self->dev, &self->mem, true);
}

/* A child with exclusive memory of its own forks as well. */
TEST_F(fork, nested)
{
	const struct memory *mem = &self->mem;
	pid_t pid, grandchild;
	int dev;

	make_all(_metadata, self->dev, mem);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		dev = device_open();
		EXPECT_LE(0, dev);
		make_all(_metadata, dev, mem);
		add_everywhere(_metadata, dev, mem, 5);

		grandchild = fork();
		EXPECT_LE(0, grandchild);
		if (!grandchild) {
			EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
			EXPECT_EQ(SAMPLES, count_first(mem, PARENT_SEED, 5));
			memory_fill(mem, DEVICE_SEED);
			_exit(0);
		}
		EXPECT_EQ(0, child_exit(grandchild));
		expect_reverted(_metadata, dev, mem);
		EXPECT_EQ(SAMPLES, count_first(mem, PARENT_SEED, 5));
		memory_fill(mem, CHILD_SEED);
		_exit(0);
	}
	EXPECT_EQ(0, child_exit(pid));
	expect_reverted(_metadata, self->dev, mem);
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
}

/* vfork and exec copy no page table, and take nothing from the device. */
TEST_F(fork, vfork_exec)
{
	char *const argv[] = { "/proc/self/exe", "exec-ok", NULL };
	const struct memory *mem = &self->mem;
	pid_t pid;

	make_all(_metadata, self->dev, mem);
	/* The C library's posix_spawn() is vfork and exec. */
	ASSERT_EQ(0, posix_spawn(&pid, argv[0], NULL, NULL, argv, environ));
	EXPECT_EQ(EXEC_OK, child_exit(pid));
	EXPECT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ((long)mem->nr, device_held(self->dev, mem));
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
}

/* fork has to copy a pinned page that cannot be read: it says so. */
TEST(unreadable)
{
	struct memory mem, one;
	pid_t pid;
	int dev;
	int ret;

	dev = device_open();
	ASSERT_LE(0, dev);
	ASSERT_EQ(0, memory_map(&mem, SMALL, PARENT_SEED));
	one = memory_part(&mem, 6, 1);
	ASSERT_EQ(0, device_pin(dev, &one));
	ret = device_poison(dev, &one);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "no simulated memory errors on this architecture");
	ASSERT_EQ(0, ret);

	pid = fork();
	if (!pid)
		_exit(0);
	EXPECT_EQ(-1, pid);
	EXPECT_EQ(EHWPOISON, errno);

	/* It can be read again, and all is well. */
	ASSERT_EQ(0, device_unpin(dev, &one));
	pid = fork();
	if (!pid)
		_exit(memory_wrong(&mem, PARENT_SEED) != 0);
	ASSERT_LE(0, pid);
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(0, memory_wrong(&mem, PARENT_SEED));
	close(dev);
}

/*
 * A swap entry has room to count so many references only; for more, fork has to
 * allocate memory. The kselftest inject has what happens if there is none.
 */
#define MANY_CHILDREN	64

TEST(many_swapped)
{
	pid_t pids[MANY_CHILDREN];
	struct memory mem;
	int hold[2], i;
	char c;

	ASSERT_EQ(0, memory_map(&mem, SWAPPED, PARENT_SEED));
	ASSERT_EQ(0, pipe(hold));
	for (i = 0; i < MANY_CHILDREN; i++) {
		pids[i] = fork();
		ASSERT_LE(0, pids[i]);
		if (pids[i])
			continue;
		/* Until all children are there: the end of the file */
		close(hold[1]);
		if (read(hold[0], &c, 1))
			_exit(2);
		_exit(memory_wrong(&mem, PARENT_SEED) != 0);
	}
	EXPECT_EQ(mem.nr, memory_count(&mem, PAGE_SWAPPED));
	close(hold[1]);
	for (i = 0; i < MANY_CHILDREN; i++)
		EXPECT_EQ(0, child_exit(pids[i]));
	EXPECT_EQ(0, memory_wrong(&mem, PARENT_SEED));
	close(hold[0]);
	memory_unmap(&mem);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "exec-ok"))
		return EXEC_OK;
	return test_harness_run(argc, argv);
}
