// SPDX-License-Identifier: GPL-2.0
/*
 * fork() of a process that has memory pinned for DMA, of every kind. The pages
 * stay with the parent, as they are mapped there, and the child gets copies.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>

#include "kselftest_harness.h"

#include "devex_util.h"

#define PARENT_SEED	0x10
#define CHILD_SEED	0x20
#define DEVICE_SEED	0x30

/* Where pages take part one by one, that many of them do, */
#define WINDOW		64

/* and where many children do, that many at most. */
#define PART		256

FIXTURE(pin)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(pin)
{
	enum memory_kind kind;
	bool small;	/* each page is a folio, and nobody else has it */
	bool file;	/* the mapping is one of a file */
};

FIXTURE_VARIANT_ADD(pin, small)
{
	.kind = SMALL,
	.small = true,
};

FIXTURE_VARIANT_ADD(pin, many)
{
	.kind = MANY,
	.small = true,
};

FIXTURE_VARIANT_ADD(pin, mremapped)
{
	.kind = MREMAPPED,
	.small = true,
};

FIXTURE_VARIANT_ADD(pin, file)
{
	.kind = FILE_COPY,
	.small = true,
	.file = true,
};

FIXTURE_VARIANT_ADD(pin, ksm)
{
	.kind = KSM,
};

FIXTURE_VARIANT_ADD(pin, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_VARIANT_ADD(pin, mthp_16k)
{
	.kind = MTHP_16K,
};

FIXTURE_VARIANT_ADD(pin, mthp_64k)
{
	.kind = MTHP_64K,
};

FIXTURE_VARIANT_ADD(pin, mthp_512k)
{
	.kind = MTHP_512K,
};

FIXTURE_VARIANT_ADD(pin, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(pin, partial)
{
	.kind = PARTIAL,
};

FIXTURE_VARIANT_ADD(pin, ptemap_moved)
{
	.kind = PTEMAP_MOVED,
};

FIXTURE_VARIANT_ADD(pin, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(pin, thp_moved)
{
	.kind = THP_MOVED,
};

FIXTURE_VARIANT_ADD(pin, hugetlb)
{
	.kind = HUGETLB,
	.file = true,
};

FIXTURE_SETUP(pin)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
}

FIXTURE_TEARDOWN(pin)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* The device writes all of it, as memory_fill() would. */
static void dma_fill(struct __test_metadata *_metadata, int dev,
		     const struct memory *mem, uint32_t seed)
{
	struct memory buf = *mem;

	buf.addr = malloc(mem->size);
	ASSERT_NE(NULL, buf.addr);
	memory_fill(&buf, seed);
	ASSERT_EQ(0, device_write(dev, mem->addr, buf.addr, mem->size));
	free(buf.addr);
}

/* In how many pages does the device read anything else? */
static size_t dma_wrong(int dev, const struct memory *mem, uint32_t seed)
{
	struct memory buf = *mem;
	size_t wrong = mem->nr;

	buf.addr = malloc(mem->size);
	if (buf.addr && !device_read(dev, mem->addr, buf.addr, mem->size))
		wrong = memory_wrong(&buf, seed);
	free(buf.addr);
	return wrong;
}

/* Pinned memory is where it was, and the device and we see the same there. */
static void expect_kept(struct __test_metadata *_metadata, int dev,
			const struct memory *mem, const uint64_t *pfns)
{
	dma_fill(_metadata, dev, mem, DEVICE_SEED);
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	memory_fill(mem, PARENT_SEED);
	EXPECT_EQ(0, dma_wrong(dev, mem, PARENT_SEED));
	EXPECT_EQ(0, memory_moved(mem, pfns));
}

/* The child has copies of all of it, as it was at fork. */
static void expect_copies(struct __test_metadata *_metadata,
			  const struct memory *mem, const uint64_t *pfns)
{
	EXPECT_EQ(mem->nr, memory_count(mem, PAGE_PRESENT));
	EXPECT_EQ(mem->nr, memory_moved(mem, pfns));
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
}

/*
 * DMA reaches the parent, and never the child; what the child writes does not
 * reach the parent.
 */
TEST_F(pin, dma)
{
	const struct memory *mem = &self->mem;
	uint64_t pfns[mem->nr];
	struct peer peer;

	ASSERT_EQ(0, device_pin(self->dev, mem));
	memory_pfns(mem, pfns);

	ASSERT_LE(0, peer_fork(&peer))
		TH_LOG("fork failed: %s", strerror(errno));
	if (!peer.pid) {
		/* By now the device and the parent have written. */
		EXPECT_TRUE(peer_wait(&peer));
		expect_copies(_metadata, mem, pfns);
		memory_fill(mem, CHILD_SEED);
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED));
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED));
		_exit(0);
	}
	expect_kept(_metadata, self->dev, mem, pfns);
	dma_fill(_metadata, self->dev, mem, DEVICE_SEED);
	peer_tell(&peer);

	/* The child has written. */
	EXPECT_TRUE(peer_wait(&peer));
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	EXPECT_EQ(0, dma_wrong(self->dev, mem, DEVICE_SEED));
	memory_fill(mem, PARENT_SEED);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));

	expect_kept(_metadata, self->dev, mem, pfns);
	EXPECT_EQ(0, device_unpin(self->dev, mem));
}

/* What fork must leave alone: how the parent's memory is mapped */
struct thp_counts {
	size_t huge;
	long split_pmd;
	long split_page;
};

static struct thp_counts count_thp(const struct memory *mem)
{
	struct thp_counts counts = {
		.huge = memory_huge(mem),
		.split_pmd = vm_counter("thp_split_pmd"),
		.split_page = vm_counter("thp_split_page"),
	};

	return counts;
}

static void expect_same_thp(struct __test_metadata *_metadata,
			    const struct memory *mem,
			    const struct thp_counts *before)
{
	struct thp_counts after = count_thp(mem);

	EXPECT_EQ(before->huge, after.huge)
		TH_LOG("AnonHugePages: %zu bytes before, %zu after fork",
		       before->huge, after.huge);
	EXPECT_EQ(before->split_pmd, after.split_pmd)
		TH_LOG("thp_split_pmd has risen by %ld",
		       after.split_pmd - before->split_pmd);
	EXPECT_EQ(before->split_page, after.split_page)
		TH_LOG("thp_split_page has risen by %ld",
		       after.split_page - before->split_page);
}

static void fork_intact(struct __test_metadata *_metadata, int dev,
			const struct memory *mem, const struct memory *pinned)
{
	uint64_t pfns[pinned->nr];
	struct thp_counts before;
	struct peer peer;

	ASSERT_EQ(0, device_pin(dev, pinned));
	memory_pfns(pinned, pfns);
	before = count_thp(mem);
	if (mem->kind == THP || mem->kind == THP_MOVED)
		ASSERT_EQ(mem->size, before.huge);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		expect_copies(_metadata, pinned, pfns);
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		_exit(0);
	}
	expect_same_thp(_metadata, mem, &before);
	memory_fill(pinned, DEVICE_SEED);
	EXPECT_EQ(0, memory_moved(pinned, pfns));
	EXPECT_EQ(0, dma_wrong(dev, pinned, DEVICE_SEED));
	expect_same_thp(_metadata, mem, &before);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	expect_same_thp(_metadata, mem, &before);
}

/* Nothing changes for the parent when all of its memory is pinned, */
TEST_F(pin, intact)
{
	fork_intact(_metadata, self->dev, &self->mem, &self->mem);
}

/* or a single page. */
TEST_F(pin, intact_one)
{
	struct memory one = memory_part(&self->mem, self->mem.nr * 2 / 3, 1);

	fork_intact(_metadata, self->dev, &self->mem, &one);
}

/* Pages that are not pinned are shared, until somebody writes to them. */
TEST_F(pin, some)
{
	const struct memory *mem = &self->mem;
	struct memory pinned = memory_part(mem, mem->nr / 3, mem->nr / 4);
	struct memory rest = memory_part(mem, mem->nr / 3 + mem->nr / 4,
					 mem->nr / 4);
	uint64_t pfns[pinned.nr], others[rest.nr];
	struct peer peer;

	ASSERT_EQ(0, device_pin(self->dev, &pinned));
	memory_pfns(&pinned, pfns);
	memory_pfns(&rest, others);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		if (variant->small)
			EXPECT_EQ(0, memory_moved(&rest, others));
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));
		expect_copies(_metadata, &pinned, pfns);
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		memory_fill(mem, CHILD_SEED);
		_exit(0);
	}
	EXPECT_TRUE(peer_wait(&peer));
	memory_fill(&rest, DEVICE_SEED);
	expect_kept(_metadata, self->dev, &pinned, pfns);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));

	EXPECT_EQ(0, memory_wrong(&rest, DEVICE_SEED));
	expect_kept(_metadata, self->dev, &pinned, pfns);
	memory_fill(&rest, PARENT_SEED);
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
}

/* Runs of 1, 2, 3 and more pages are pinned, one page between them is not. */
TEST_F(pin, runs)
{
	struct memory mem = memory_part(&self->mem, self->mem.nr / 2 - WINDOW / 2,
					WINDOW);
	uint64_t pfns[WINDOW];
	struct memory runs[12];
	size_t i, at = 0;
	struct peer peer;

	for (i = 0; at + i + 1 < WINDOW; i++) {
		runs[i] = memory_part(&mem, at, i + 1);
		ASSERT_EQ(0, device_pin(self->dev, &runs[i]));
		at += i + 2;
	}
	memory_pfns(&mem, pfns);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		while (i--)
			expect_copies(_metadata, &runs[i], pfns +
				      (runs[i].addr - mem.addr) / page_size());
		EXPECT_EQ(0, memory_wrong(&self->mem, PARENT_SEED));
		_exit(0);
	}
	ASSERT_LT(8, i);
	while (i--)
		expect_kept(_metadata, self->dev, &runs[i], pfns +
			    (runs[i].addr - mem.addr) / page_size());
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_wrong(&self->mem, PARENT_SEED));
}

/* Each of many children is on its own, and so is a grandchild. */
TEST_F(pin, again)
{
	size_t nr = self->mem.nr < PART ? self->mem.nr : PART;
	struct memory part = memory_part(&self->mem, (self->mem.nr - nr) / 2,
					 nr);
	const struct memory *mem = &part;
	uint64_t pfns[nr];
	struct peer peers[3];
	pid_t pid;
	size_t i;

	ASSERT_EQ(0, device_pin(self->dev, mem));
	memory_pfns(mem, pfns);
	/* Three sets of 2 MiB pages may be more than the pool has. */
	for (i = 0; i < (mem->kind == HUGETLB ? 1 : ARRAY_SIZE(peers)); i++) {
		ASSERT_LE(0, peer_fork(&peers[i]));
		if (peers[i].pid) {
			expect_kept(_metadata, self->dev, mem, pfns);
			continue;
		}
		EXPECT_TRUE(peer_wait(&peers[i]));
		expect_copies(_metadata, mem, pfns);
		if (mem->kind != HUGETLB) {
			/* What we got is ordinary memory. */
			memory_pfns(mem, pfns);
			pid = fork();
			if (!pid) {
				EXPECT_EQ(0, memory_moved(mem, pfns));
				memory_fill(mem, DEVICE_SEED);
				_exit(0);
			}
			EXPECT_EQ(0, child_exit(pid));
			EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		}
		memory_fill(mem, CHILD_SEED + i);
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED + i));
		_exit(0);
	}
	dma_fill(_metadata, self->dev, mem, DEVICE_SEED);
	while (i--) {
		peer_tell(&peers[i]);
		EXPECT_EQ(0, peer_exit(&peers[i]));
	}
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	expect_kept(_metadata, self->dev, mem, pfns);
}

/* When it is not pinned any more it is shared as any other memory. */
TEST_F(pin, unpinned)
{
	const struct memory *mem = &self->mem;
	uint64_t pfns[mem->nr];
	struct thp_counts before;
	struct peer peer;

	ASSERT_EQ(0, device_pin(self->dev, mem));
	dma_fill(_metadata, self->dev, mem, DEVICE_SEED);
	memory_fill(mem, PARENT_SEED);
	ASSERT_EQ(0, device_unpin(self->dev, mem));
	memory_pfns(mem, pfns);
	before = count_thp(mem);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_EQ(0, memory_moved(mem, pfns));
		EXPECT_EQ(before.huge, memory_huge(mem));
		peer_tell(&peer);
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		_exit(0);
	}
	EXPECT_TRUE(peer_wait(&peer));
	expect_same_thp(_metadata, mem, &before);
	memory_fill(mem, DEVICE_SEED);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
}

/* The process itself may not write to it now; the device may. */
TEST_F(pin, read_only)
{
	const struct memory *mem = &self->mem;
	uint64_t pfns[mem->nr];
	struct peer peer;

	ASSERT_EQ(0, device_pin(self->dev, mem));
	ASSERT_EQ(0, mprotect(mem->addr, mem->size, PROT_READ));
	memory_pfns(mem, pfns);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		/* The kernel writes for us, or rather does not. */
		EXPECT_EQ(-1, read(peer.in, mem->addr, 1));
		EXPECT_EQ(EFAULT, errno);
		EXPECT_TRUE(peer_wait(&peer));
		expect_copies(_metadata, mem, pfns);
		EXPECT_EQ(0, mprotect(mem->addr, mem->size,
				      PROT_READ | PROT_WRITE));
		memory_fill(mem, CHILD_SEED);
		_exit(0);
	}
	dma_fill(_metadata, self->dev, mem, DEVICE_SEED);
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	EXPECT_EQ(0, memory_moved(mem, pfns));
	peer_tell(&peer);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	ASSERT_EQ(0, mprotect(mem->addr, mem->size, PROT_READ | PROT_WRITE));
	expect_kept(_metadata, self->dev, mem, pfns);
}

/* Advice on what a child gets of the first half of the memory */
static void fork_advised(struct __test_metadata *_metadata, int dev,
			 const struct memory *mem, int advice)
{
	struct memory first = memory_part(mem, 0, mem->nr / 2);
	struct memory second = memory_part(mem, mem->nr / 2, mem->nr / 2);
	uint64_t pfns[mem->nr];
	struct peer peer;
	size_t i, zero = 0;

	ASSERT_EQ(0, device_pin(dev, mem));
	ASSERT_EQ(0, madvise(first.addr, first.size, advice))
		TH_LOG("madvise failed: %s", strerror(errno));
	memory_pfns(mem, pfns);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(first.nr, memory_count(&first, PAGE_NONE));
		expect_copies(_metadata, &second, pfns + first.nr);
		if (advice == MADV_DONTFORK) {
			/* The addresses are free. */
			EXPECT_EQ(first.addr,
				  mmap(first.addr, first.size, PROT_READ,
				       MAP_PRIVATE | MAP_ANONYMOUS |
				       MAP_FIXED_NOREPLACE, -1, 0));
		}
		for (i = 0; i < first.size; i += sizeof(uint64_t))
			zero += !*(uint64_t *)(first.addr + i);
		EXPECT_EQ(first.size / sizeof(uint64_t), zero);
		_exit(0);
	}
	expect_kept(_metadata, dev, mem, pfns);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	expect_kept(_metadata, dev, mem, pfns);
}

TEST_F(pin, dontfork)
{
	fork_advised(_metadata, self->dev, &self->mem, MADV_DONTFORK);
}

TEST_F(pin, wipeonfork)
{
	if (variant->file) {
		/* Only anonymous memory can be wiped. */
		EXPECT_EQ(-1, madvise(self->mem.addr, self->mem.size,
				      MADV_WIPEONFORK));
		EXPECT_EQ(EINVAL, errno);
		return;
	}
	fork_advised(_metadata, self->dev, &self->mem, MADV_WIPEONFORK);
}

/* Shared memory is not copied: DMA reaches both. */
TEST(shared)
{
	struct memory mem;
	struct peer peer;
	int dev;

	dev = device_open();
	ASSERT_LE(0, dev);
	ASSERT_EQ(0, memory_map(&mem, SMALL, PARENT_SEED));
	ASSERT_EQ(mem.addr, mmap(mem.addr, mem.size, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1,
				 0));
	memory_fill(&mem, PARENT_SEED);
	ASSERT_EQ(0, device_pin(dev, &mem));

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(&mem, DEVICE_SEED));
		memory_fill(&mem, CHILD_SEED);
		_exit(0);
	}
	dma_fill(_metadata, dev, &mem, DEVICE_SEED);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, dma_wrong(dev, &mem, CHILD_SEED));
	close(dev);
}

/*
 * Memory that is both exclusive and pinned, or one of these, or neither, in one
 * folio and one page table
 */
FIXTURE(mixed)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(mixed)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(mixed, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(mixed, ksm)
{
	.kind = KSM,
};

FIXTURE_VARIANT_ADD(mixed, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_VARIANT_ADD(mixed, mthp_64k)
{
	.kind = MTHP_64K,
};

FIXTURE_VARIANT_ADD(mixed, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(mixed, partial)
{
	.kind = PARTIAL,
};

FIXTURE_VARIANT_ADD(mixed, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(mixed)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
}

FIXTURE_TEARDOWN(mixed)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* What becomes of page @i */
enum use {
	USE_PIN		= 1 << 0,
	USE_EXCLUSIVE	= 1 << 1,	/* after it has been pinned */
	USE_TAKEN_BACK	= 1 << 2,	/* before it is pinned */
	USE_DROP	= 1 << 3,	/* it is not there any more */
};

static unsigned int use_of(size_t i)
{
	static const unsigned int uses[] = {
		USE_PIN,
		USE_PIN,
		USE_PIN | USE_EXCLUSIVE,
		USE_PIN | USE_EXCLUSIVE,
		USE_EXCLUSIVE,
		USE_PIN,
		USE_EXCLUSIVE,
		0,
		USE_PIN | USE_TAKEN_BACK,
		USE_DROP,
		USE_PIN | USE_EXCLUSIVE,
	};

	return uses[i % ARRAY_SIZE(uses)];
}

static void use_pages(struct __test_metadata *_metadata, int dev,
		      const struct memory *mem)
{
	struct memory page;
	size_t i;

	for (i = 0; i < mem->nr; i++) {
		page = memory_part(mem, i, 1);
		if (use_of(i) & USE_TAKEN_BACK)
			ASSERT_EQ(1, device_make(dev, &page, 0));
		if (use_of(i) & USE_PIN)
			ASSERT_EQ(0, device_pin(dev, &page));
		if (use_of(i) & USE_EXCLUSIVE)
			ASSERT_EQ(1, device_make(dev, &page, 0));
		if (use_of(i) & USE_DROP)
			ASSERT_EQ(0, madvise(page.addr, page.size,
					     MADV_DONTNEED));
		EXPECT_EQ(!!(use_of(i) & USE_EXCLUSIVE),
			  is_exclusive(page.addr));
	}
}

/* How many pages are not as they were before fork? */
static size_t used_wrong(const struct memory *mem)
{
	size_t i, wrong = 0;
	struct memory page;

	for (i = 0; i < mem->nr; i++) {
		page = memory_part(mem, i, 1);
		if (use_of(i) & USE_DROP)
			wrong += page_state(page.addr) != PAGE_NONE;
		else
			wrong += memory_wrong(&page, PARENT_SEED);
	}
	return wrong;
}

/* How many of the pinned pages are in another page frame now? */
static size_t pinned_moved(const struct memory *mem, const uint64_t *pfns)
{
	size_t i, count = 0;
	struct memory page;

	for (i = 0; i < mem->nr; i++) {
		page = memory_part(mem, i, 1);
		if (use_of(i) & USE_PIN)
			count += memory_moved(&page, &pfns[i]);
	}
	return count;
}

static size_t pinned_count(const struct memory *mem)
{
	size_t i, count = 0;

	for (i = 0; i < mem->nr; i++)
		count += !!(use_of(i) & USE_PIN);
	return count;
}

/* Page by page something else */
TEST_F(mixed, pages)
{
	struct memory mem = memory_part(&self->mem, self->mem.nr / 2 - WINDOW / 2,
					WINDOW);
	struct memory page;
	uint64_t pfns[WINDOW];
	struct peer peer;
	size_t i;

	use_pages(_metadata, self->dev, &mem);
	memory_pfns(&mem, pfns);

	ASSERT_LE(0, peer_fork(&peer))
		TH_LOG("fork failed: %s", strerror(errno));
	if (!peer.pid) {
		EXPECT_EQ(0, memory_count(&mem, PAGE_EXCLUSIVE));
		EXPECT_EQ(pinned_count(&mem), pinned_moved(&mem, pfns));
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, used_wrong(&mem));
		memory_fill(&self->mem, CHILD_SEED);
		_exit(0);
	}
	EXPECT_EQ(0, memory_count(&mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, device_held(self->dev, &mem));
	EXPECT_EQ(0, used_wrong(&mem));
	for (i = 0; i < mem.nr; i++) {
		page = memory_part(&mem, i, 1);
		if (use_of(i) & USE_PIN)
			expect_kept(_metadata, self->dev, &page, &pfns[i]);
	}
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));

	EXPECT_EQ(0, used_wrong(&mem));
	EXPECT_EQ(0, pinned_moved(&mem, pfns));
}

/* The first pages are pinned, the last are exclusive, those between are both. */
TEST_F(mixed, overlap)
{
	const struct memory *mem = &self->mem;
	struct memory pinned = memory_part(mem, 3, mem->nr * 2 / 3 - 3);
	struct memory taken = memory_part(mem, mem->nr / 3, mem->nr * 2 / 3 - 3);
	uint64_t pfns[pinned.nr];
	struct peer peer;

	ASSERT_EQ(0, device_pin(self->dev, &pinned));
	ASSERT_EQ((long)taken.nr, device_make(self->dev, &taken, 0));
	ASSERT_EQ(taken.nr, memory_count(&taken, PAGE_EXCLUSIVE));
	memory_pfns(&pinned, pfns);

	ASSERT_LE(0, peer_fork(&peer))
		TH_LOG("fork failed: %s", strerror(errno));
	if (!peer.pid) {
		EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
		EXPECT_TRUE(peer_wait(&peer));
		expect_copies(_metadata, &pinned, pfns);
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		memory_fill(mem, CHILD_SEED);
		_exit(0);
	}
	EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, device_held(self->dev, mem));
	expect_kept(_metadata, self->dev, &pinned, pfns);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));

	/* The device can have it again, and the next fork is as good. */
	ASSERT_EQ((long)taken.nr, device_make(self->dev, &taken, 0));
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		expect_copies(_metadata, &pinned, pfns);
		_exit(memory_wrong(mem, PARENT_SEED) != 0);
	}
	EXPECT_EQ(0, peer_exit(&peer));
	expect_kept(_metadata, self->dev, &pinned, pfns);
}

/*
 * The folios that the child gets: as large as it could have had by a fault of
 * its own, and no larger
 */
FIXTURE(large)
{
	struct setting pmd, mthp;
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(large)
{
	enum memory_kind kind;
	size_t size;	/* allowed when the process forks */
};

FIXTURE_VARIANT_ADD(large, small_to_16k)
{
	.kind = MANY,
	.size = 16 << 10,
};

FIXTURE_VARIANT_ADD(large, small_to_64k)
{
	.kind = MANY,
	.size = 64 << 10,
};

FIXTURE_VARIANT_ADD(large, mthp_to_64k)
{
	.kind = MTHP_512K,
	.size = 64 << 10,
};

FIXTURE_VARIANT_ADD(large, ptemap_to_64k)
{
	.kind = PTEMAP,
	.size = 64 << 10,
};

FIXTURE_SETUP(large)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
	/* From here on large folios of that size only */
	ASSERT_EQ(0, thp_allow(&self->pmd, thp_size(), "never"));
	ASSERT_EQ(0, thp_allow(&self->mthp, variant->size, "madvise"));
	ASSERT_EQ(0, madvise(self->mem.addr, self->mem.size, MADV_HUGEPAGE));
}

FIXTURE_TEARDOWN(large)
{
	setting_restore(&self->mthp);
	setting_restore(&self->pmd);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* Fork with all of it pinned; are @blocks folios of @size in the child? */
static void fork_blocks(struct __test_metadata *_metadata, int dev,
			const struct memory *mem, size_t size, size_t blocks)
{
	size_t nr = size / page_size();
	uint64_t pfns[mem->nr];
	struct peer peer;

	ASSERT_EQ(0, device_pin(dev, mem));
	memory_pfns(mem, pfns);
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_TRUE(peer_wait(&peer));
		expect_copies(_metadata, mem, pfns);
		EXPECT_EQ(blocks, memory_blocks(mem, nr))
			TH_LOG("%zu folios of %zu bytes in the child, %zu wanted",
			       memory_blocks(mem, nr), size, blocks);
		EXPECT_EQ(blocks * nr, memory_large(mem))
			TH_LOG("%zu pages are in large folios, %zu wanted",
			       memory_large(mem), blocks * nr);
		memory_fill(mem, CHILD_SEED);
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED));
		_exit(0);
	}
	expect_kept(_metadata, dev, mem, pfns);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	expect_kept(_metadata, dev, mem, pfns);
}

TEST_F(large, given)
{
	fork_blocks(_metadata, self->dev, &self->mem, variant->size,
		    self->mem.size / variant->size);
}

/* Not beyond the ends of the mapping */
TEST_F(large, edges)
{
	struct memory inner = memory_part(&self->mem, 3, self->mem.nr - 6);

	ASSERT_EQ(0, munmap(self->mem.addr, 3 * page_size()));
	ASSERT_EQ(0, munmap(inner.addr + inner.size, 3 * page_size()));
	fork_blocks(_metadata, self->dev, &inner, variant->size,
		    self->mem.size / variant->size - 2);
}

/* The process does not want any, or the system does not give any. */
TEST_F(large, not_wanted)
{
	ASSERT_EQ(0, madvise(self->mem.addr, self->mem.size, MADV_NOHUGEPAGE));
	fork_blocks(_metadata, self->dev, &self->mem, variant->size, 0);
}

TEST_F(large, not_allowed)
{
	struct setting mthp;

	ASSERT_EQ(0, thp_allow(&mthp, variant->size, "never"));
	fork_blocks(_metadata, self->dev, &self->mem, variant->size, 0);
}

/*
 * What is not there is not there in the child either, and the page behind that,
 * which is not pinned, is shared.
 */
TEST(holes)
{
	struct setting pmd, mthp;
	struct memory mem, part;
	uint64_t *pfns;
	struct peer peer;
	size_t i;
	int dev;

	dev = device_open();
	ASSERT_LE(0, dev);
	ASSERT_EQ(0, memory_map(&mem, MANY, PARENT_SEED));
	ASSERT_EQ(0, thp_allow(&pmd, thp_size(), "never"));
	ASSERT_EQ(0, thp_allow(&mthp, 64 << 10, "madvise"));
	ASSERT_EQ(0, madvise(mem.addr, mem.size, MADV_HUGEPAGE));
	for (i = 0; i < mem.nr; i += 32) {
		part = memory_part(&mem, i, 21);
		ASSERT_EQ(0, device_pin(dev, &part));
		part = memory_part(&mem, i + 21, 1);
		ASSERT_EQ(0, madvise(part.addr, part.size, MADV_DONTNEED));
		part = memory_part(&mem, i + 23, 9);
		ASSERT_EQ(0, device_pin(dev, &part));
	}
	pfns = calloc(mem.nr, sizeof(*pfns));
	ASSERT_NE(NULL, pfns);
	memory_pfns(&mem, pfns);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_EQ(mem.nr / 32, memory_count(&mem, PAGE_NONE));
		EXPECT_EQ(mem.nr / 32 * 30, memory_moved(&mem, pfns));
		for (i = 0; i < mem.nr; i += 32) {
			part = memory_part(&mem, i + 21, 1);
			EXPECT_EQ(PAGE_NONE, page_state(part.addr));
			part = memory_part(&mem, i + 22, 1);
			EXPECT_EQ(0, memory_moved(&part, &pfns[i + 22]));
			part = memory_part(&mem, i, 21);
			EXPECT_EQ(0, memory_wrong(&part, PARENT_SEED));
			part = memory_part(&mem, i + 22, 10);
			EXPECT_EQ(0, memory_wrong(&part, PARENT_SEED));
		}
		_exit(0);
	}
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_moved(&mem, pfns));
	setting_restore(&mthp);
	setting_restore(&pmd);
	close(dev);
}

/* Have pipes with @nr references to the page at @addr. */
static int splice_page(char *addr, unsigned int nr)
{
	struct iovec iov[256];
	int fds[2];
	size_t i, n;

	for (i = 0; i < ARRAY_SIZE(iov); i++)
		iov[i] = (struct iovec){ addr, 1 };
	for (; nr; nr -= n) {
		n = nr < ARRAY_SIZE(iov) ? nr : ARRAY_SIZE(iov);
		if (pipe(fds) ||
		    fcntl(fds[1], F_SETPIPE_SZ, n * page_size()) < 0 ||
		    vmsplice(fds[1], iov, n, SPLICE_F_NONBLOCK) != (ssize_t)n)
			return -1;
	}
	return 0;
}

/*
 * Fork where some pages have @nr more references each, and others are pinned,
 * four of them behind one with references. Returns what the process is to exit
 * with.
 */
static int fork_referenced(unsigned int nr)
{
	static const char pages[] = "rprp rpppp r";
	struct memory mem, part;
	int dev, i;
	pid_t pid;

	dev = device_open();
	if (dev < 0 || memory_map(&mem, SMALL, PARENT_SEED))
		return 1;
	for (i = 0; pages[i]; i++) {
		part = memory_part(&mem, i, 1);
		if (pages[i] == 'p' && device_pin(dev, &part))
			return 2;
		if (pages[i] == 'r' && splice_page(part.addr, nr))
			return 2;
	}
	pid = fork();
	if (pid < 0)
		return 3;
	if (!pid) {
		if (memory_wrong(&mem, PARENT_SEED))
			_exit(4);
		memory_fill(&mem, CHILD_SEED);
		_exit(memory_wrong(&mem, CHILD_SEED) ? 5 : 0);
	}
	return child_exit(pid) ?: memory_wrong(&mem, PARENT_SEED) ? 6 : 0;
}

/*
 * 1024 references make a small page look pinned. fork adds one of its own, and
 * has to come to an end wherever that makes the difference.
 */
TEST(references)
{
	unsigned int nr, tries;
	int status;
	pid_t pid;

	for (nr = 1015; nr <= 1027; nr++) {
		pid = fork();
		ASSERT_LE(0, pid);
		if (!pid)
			_exit(fork_referenced(nr));
		/* Where it does not end, nobody can kill it. */
		for (tries = 0; !waitpid(pid, &status, WNOHANG); tries++) {
			ASSERT_GT(2000, tries)
				TH_LOG("fork with %u references does not end",
				       nr);
			usleep(10000);
		}
		EXPECT_EQ(0, status)
			TH_LOG("status 0x%x with %u references", status, nr);
	}
}

/* Somebody who truncates a file, so many nanoseconds after being told to */
struct truncator {
	int fd;
	long delay;
	bool go;
};

static long nanoseconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - start->tv_sec) * 1000000000L + now.tv_nsec -
	       start->tv_nsec;
}

static void *truncate_later(void *data)
{
	struct truncator *truncator = data;
	struct timespec start;

	while (!__atomic_load_n(&truncator->go, __ATOMIC_ACQUIRE))
		;
	clock_gettime(CLOCK_MONOTONIC, &start);
	while (nanoseconds_since(&start) < truncator->delay)
		;
	return ftruncate(truncator->fd, 0) ? truncator : NULL;
}

static long time_of_fork(struct __test_metadata *_metadata)
{
	struct timespec start;
	long time;
	pid_t pid;

	clock_gettime(CLOCK_MONOTONIC, &start);
	pid = fork();
	if (!pid)
		_exit(0);
	time = nanoseconds_since(&start);
	ASSERT_LE(0, pid);
	EXPECT_EQ(0, child_exit(pid));
	return time;
}

/*
 * What is mapped behind the end of a file goes when the file is truncated, also
 * while it is pinned, and also from a process that is just forking. The child
 * must not keep what fork was copying at that time.
 */
TEST(truncated_meanwhile)
{
	const int rounds = 50;
	struct truncator truncator = {};
	struct memory mem = { .nr = 512 };
	pthread_t thread;
	struct peer peer;
	long took = 0;
	void *error;
	int dev, i;

	dev = device_open();
	ASSERT_LE(0, dev);
	truncator.fd = memfd_create("truncated", 0);
	ASSERT_LE(0, truncator.fd);
	mem.size = mem.nr * page_size();
	mem.addr = mmap(NULL, mem.size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
			truncator.fd, 0);
	ASSERT_NE(MAP_FAILED, mem.addr);

	/* From the beginning of fork to its end */
	for (i = 0; i <= rounds; i++) {
		ASSERT_EQ(0, ftruncate(truncator.fd, mem.size));
		memory_fill(&mem, PARENT_SEED);
		ASSERT_EQ(0, device_pin(dev, &mem));
		if (!i)
			took = time_of_fork(_metadata);
		truncator.delay = took * i / rounds;
		truncator.go = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, truncate_later,
					    &truncator));
		__atomic_store_n(&truncator.go, true, __ATOMIC_RELEASE);
		ASSERT_LE(0, peer_fork(&peer));
		if (!peer.pid) {
			EXPECT_TRUE(peer_wait(&peer));
			_exit(memory_count(&mem, PAGE_NONE) != mem.nr);
		}
		ASSERT_EQ(0, pthread_join(thread, &error));
		ASSERT_EQ(NULL, error);
		EXPECT_EQ(mem.nr, memory_count(&mem, PAGE_NONE));
		peer_tell(&peer);
		EXPECT_EQ(0, peer_exit(&peer))
			TH_LOG("the child has pages that are no longer there, after %ld of %ld ns",
			       truncator.delay, took);
		EXPECT_EQ(0, device_unpin(dev, &mem));
	}
	munmap(mem.addr, mem.size);
	close(truncator.fd);
	close(dev);
}

/* A process that may have huge pages gets a huge page for each. */
TEST(thp_child)
{
	struct thp_counts before;
	uint64_t *pfns;
	struct memory mem;
	struct peer peer;
	int dev;

	dev = device_open();
	ASSERT_LE(0, dev);
	ASSERT_EQ(0, memory_map(&mem, THP, PARENT_SEED));
	ASSERT_EQ(0, madvise(mem.addr, mem.size, MADV_HUGEPAGE));
	ASSERT_EQ(0, device_pin(dev, &mem));
	pfns = calloc(mem.nr, sizeof(*pfns));
	ASSERT_NE(NULL, pfns);
	memory_pfns(&mem, pfns);
	before = count_thp(&mem);

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_EQ(mem.size, memory_huge(&mem))
			TH_LOG("%zu of %zu bytes are huge pages in the child",
			       memory_huge(&mem), mem.size);
		EXPECT_TRUE(peer_wait(&peer));
		expect_copies(_metadata, &mem, pfns);
		memory_fill(&mem, CHILD_SEED);
		EXPECT_EQ(0, memory_wrong(&mem, CHILD_SEED));
		_exit(0);
	}
	expect_kept(_metadata, dev, &mem, pfns);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	expect_same_thp(_metadata, &mem, &before);
	expect_kept(_metadata, dev, &mem, pfns);
	close(dev);
}

TEST_HARNESS_MAIN
