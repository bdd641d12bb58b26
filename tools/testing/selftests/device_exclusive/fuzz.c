// SPDX-License-Identifier: GPL-2.0
/*
 * What the device does with nonsense: every field of every command at its
 * limits, one past them, and random. The right errno or success, and nothing
 * else happens.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "devex_util.h"

#define SEED		0x10
#define OTHER_SEED	0x20

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#endif

/*
 * The arena: a few pages of each kind of memory, numbered from its start. What
 * is between them is not mapped, so no range goes on into memory of others.
 */
#define WRITTEN		0
#define NR_WRITTEN	16
#define READ_ONLY	17
#define FRESH		20
#define NO_ACCESS	28
#define SHARED		29
#define PRIVATE_FILE	33
#define PFNMAP		37
#define GUARDED		38
#define GUARD		42
#define SCRATCH		47
#define NR_SCRATCH	16
#define ARENA_PAGES	64

struct segment {
	size_t first;
	size_t nr;
	int prot;
	int flags;
};

#define ANON		(MAP_PRIVATE | MAP_ANONYMOUS)
#define READ_WRITE	(PROT_READ | PROT_WRITE)

static const struct segment segments[] = {
	{ WRITTEN, NR_WRITTEN, READ_WRITE, ANON },
	{ READ_ONLY, 2, PROT_READ, ANON },
	{ FRESH, 8, READ_WRITE, ANON },
	{ NO_ACCESS, 1, PROT_NONE, ANON },
	{ SHARED, 4, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS },
	{ PRIVATE_FILE, 4, READ_WRITE, MAP_PRIVATE },
	{ PFNMAP, 1, READ_WRITE, MAP_SHARED },
	{ GUARDED, 8, READ_WRITE, ANON },
	{ SCRATCH, NR_SCRATCH, READ_WRITE, ANON },
};

static void map_segment(struct __test_metadata *_metadata, char *arena,
			const struct segment *segment, int fd)
{
	char *addr = arena + segment->first * page_size();

	ASSERT_EQ(addr, mmap(addr, segment->nr * page_size(), segment->prot,
			     segment->flags | MAP_FIXED, fd, 0))
		TH_LOG("mmap failed: %s", strerror(errno));
}

static char *map_arena(struct __test_metadata *_metadata, int dev)
{
	size_t size = ARENA_PAGES * page_size(), i;
	char *arena;
	int file, fd;

	file = memfd_create("device-exclusive", 0);
	ASSERT_LE(0, file);
	ASSERT_EQ(0, ftruncate(file, 4 * page_size()));
	/* Room for it, and nothing that is mapped around it */
	arena = mmap(NULL, size + 2 * page_size(), PROT_NONE, ANON, -1, 0);
	ASSERT_NE(MAP_FAILED, arena);
	arena += page_size();
	ASSERT_EQ(0, munmap(arena, size));
	for (i = 0; i < ARRAY_SIZE(segments); i++) {
		fd = segments[i].first == PRIVATE_FILE ? file :
		     segments[i].first == PFNMAP ? dev : -1;
		map_segment(_metadata, arena, &segments[i], fd);
	}
	close(file);
	ASSERT_EQ(0, madvise(arena + GUARD * page_size(), page_size(),
			     MADV_GUARD_INSTALL));
	return arena;
}

static struct memory arena_part(char *arena, size_t first, size_t nr)
{
	struct memory all = { .addr = arena };

	return memory_part(&all, first, nr);
}

/*
 * Where user space ends. All the architectures have a power of two there, or
 * one page less; what can be mapped last tells which.
 */
static uint64_t user_end(void)
{
	uint64_t end, less;
	void *addr;
	int bits;

	for (bits = 63; bits > 30; bits--) {
		for (less = 0; less <= page_size(); less += page_size()) {
			end = (1ULL << bits) - less;
			addr = (void *)(end - page_size());
			if (mmap(addr, page_size(), PROT_NONE,
				 ANON | MAP_FIXED_NOREPLACE, -1, 0) == addr) {
				munmap(addr, page_size());
				return end;
			}
		}
	}
	return 0;
}

/* Give the command a copy of @arg: what it writes back must not be used again. */
static int try_ioctl(int dev, unsigned long cmd, const void *arg, size_t size)
{
	char copy[256];

	memcpy(copy, arg, size);
	return ioctl(dev, cmd, copy) ? -errno : 0;
}

#define TRY(dev, cmd, arg)	try_ioctl(dev, cmd, &(arg), sizeof(arg))

/*
 * Limits
 */
FIXTURE(limits)
{
	char *arena;
	struct memory mem;	/* the pages of it that are written */
	uint64_t end;		/* of user space */
	uint64_t page;		/* size of one */
	int dev;
};

FIXTURE_SETUP(limits)
{
	self->page = page_size();
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	self->arena = map_arena(_metadata, self->dev);
	self->mem = arena_part(self->arena, WRITTEN, NR_WRITTEN);
	memory_fill(&self->mem, SEED);
	self->end = user_end();
	ASSERT_NE(0, self->end);
}

FIXTURE_TEARDOWN(limits)
{
	if (self->dev >= 0)
		close(self->dev);
}

/* Nothing is left of what was tried. */
static void expect_idle(struct __test_metadata *_metadata, int dev,
			const struct memory *mem)
{
	struct devex_counters counters;

	EXPECT_EQ(0, memory_wrong(mem, SEED));
	EXPECT_EQ(0, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(0, device_counters(dev, &counters));
	EXPECT_EQ(0, counters.held);
	EXPECT_EQ(0, counters.locked);
	EXPECT_EQ(0, counters.pinned);
	EXPECT_EQ(0, counters.stored);
}

/* Nor was anything done that has been taken back since. */
static void expect_untouched(struct __test_metadata *_metadata, int dev,
			     const struct memory *mem)
{
	struct devex_counters counters;

	EXPECT_EQ(0, device_counters(dev, &counters));
	EXPECT_EQ(0, counters.conversions);
	expect_idle(_metadata, dev, mem);
}

static const unsigned long range_commands[] = {
	DEVEX_IOC_MAKE,
	DEVEX_IOC_PIN,
	DEVEX_IOC_UNPIN,
	DEVEX_IOC_POISON,
	DEVEX_IOC_MIGRATE,
};

/* None of the commands accepts the range. */
static void expect_bad_range(struct __test_metadata *_metadata, int dev,
			     uint64_t addr, uint64_t size, int error)
{
	struct devex_range range = { .addr = addr, .size = size };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(range_commands); i++) {
		EXPECT_EQ(error, TRY(dev, range_commands[i], range))
			TH_LOG("command %#lx, %#llx bytes at %#llx",
			       range_commands[i], (unsigned long long)size,
			       (unsigned long long)addr);
	}
}

TEST_F(limits, range_alignment)
{
	const uint64_t addr = (uintptr_t)self->mem.addr, page = self->page;
	const uint64_t off[] = { 1, 2, 8, page / 2, page - 8, page - 1 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(off); i++) {
		expect_bad_range(_metadata, self->dev, off[i], page, -EINVAL);
		expect_bad_range(_metadata, self->dev, addr + off[i], page,
				 -EINVAL);
		expect_bad_range(_metadata, self->dev, addr, off[i], -EINVAL);
		expect_bad_range(_metadata, self->dev, addr, page + off[i],
				 -EINVAL);
		/* What is wrong with it first, rather than where it ends */
		expect_bad_range(_metadata, self->dev, self->end + off[i],
				 page, -EINVAL);
	}
	expect_bad_range(_metadata, self->dev, -1ULL, page, -EINVAL);
	expect_bad_range(_metadata, self->dev, addr, -1ULL, -EINVAL);
	expect_untouched(_metadata, self->dev, &self->mem);
}

TEST_F(limits, range_end)
{
	const uint64_t addr = (uintptr_t)self->mem.addr, page = self->page;
	const uint64_t end = self->end;
	const struct {
		uint64_t addr;
		uint64_t size;
		int error;
	} bad[] = {
		{ addr, 0, -EINVAL },
		{ 0, 0, -EINVAL },
		{ end, 0, -EINVAL },
		/* The end wraps, also to zero. */
		{ addr, -page, -EINVAL },
		{ page, -page, -EINVAL },
		{ -page, page, -EINVAL },
		{ -2 * page, 2 * page, -EINVAL },
		{ -2 * page, 4 * page, -EINVAL },
		{ 1ULL << 63, 1ULL << 63, -EINVAL },
		/* It is not in user space. */
		{ 0, -page, -EFAULT },
		{ 0, end + page, -EFAULT },
		{ page, end, -EFAULT },
		{ addr, end, -EFAULT },
		{ addr, end - addr + page, -EFAULT },
		{ addr, 1ULL << 62, -EFAULT },
		{ addr, 1ULL << 63, -EFAULT },
		{ end - page, 2 * page, -EFAULT },
		{ end, page, -EFAULT },
		{ end + page, page, -EFAULT },
		{ 1ULL << 62, page, -EFAULT },
		{ 1ULL << 63, page, -EFAULT },
		{ -2 * page, page, -EFAULT },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		expect_bad_range(_metadata, self->dev, bad[i].addr, bad[i].size,
				 bad[i].error);
	expect_untouched(_metadata, self->dev, &self->mem);
}

/* One of @cmd's flags, or of its reserved bits, is not known. */
static void expect_bad_bits(struct __test_metadata *_metadata, int dev,
			    unsigned long cmd, struct devex_range range)
{
	EXPECT_EQ(-EINVAL, TRY(dev, cmd, range))
		TH_LOG("command %#lx, flags %#x, reserved %#x", cmd,
		       range.flags, range.reserved);
}

TEST_F(limits, range_bits)
{
	struct devex_range good = {
		.addr = (uintptr_t)self->mem.addr,
		.size = 2 * self->page,
	};
	struct devex_range range;
	unsigned int bit;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(range_commands); i++) {
		unsigned long cmd = range_commands[i];

		for (bit = 0; bit < 32; bit++) {
			range = good;
			range.reserved = 1U << bit;
			expect_bad_bits(_metadata, self->dev, cmd, range);
			/* Only DEVEX_IOC_MAKE takes any flags. */
			if (cmd == DEVEX_IOC_MAKE && bit < 4)
				continue;
			range = good;
			range.flags = 1U << bit;
			expect_bad_bits(_metadata, self->dev, cmd, range);
			range.flags |= DEVEX_RANGE_ONCE;
			expect_bad_bits(_metadata, self->dev, cmd, range);
		}
		range = good;
		range.flags = -1;
		expect_bad_bits(_metadata, self->dev, cmd, range);
		range.reserved = -1;
		expect_bad_bits(_metadata, self->dev, cmd, range);
	}
	expect_untouched(_metadata, self->dev, &self->mem);
}

/* Each combination of the flags that there are */
TEST_F(limits, make_flags)
{
	const uint32_t locked_wait = DEVEX_RANGE_LOCKED | DEVEX_RANGE_WAIT;
	struct memory two = memory_part(&self->mem, 3, 2);
	bool can_wait;
	uint32_t flags;
	long expected;

	can_wait = device_make(self->dev, &two, DEVEX_RANGE_WAIT) != -EOPNOTSUPP;
	for (flags = 0; flags < 16; flags++) {
		expected = 2;
		if ((flags & locked_wait) == locked_wait)
			expected = -EINVAL;
		else if ((flags & DEVEX_RANGE_WAIT) && !can_wait)
			expected = -EOPNOTSUPP;
		else if ((flags & DEVEX_RANGE_SINGLE) &&
			 (flags & DEVEX_RANGE_ONCE))
			expected = 1;
		EXPECT_EQ(expected, device_make(self->dev, &two, flags))
			TH_LOG("flags %#x", flags);
		EXPECT_EQ(0, device_unlock(self->dev));
	}
	expect_idle(_metadata, self->dev, &self->mem);
}

/* -EFAULT, or -ENOMEM if there is not even room for that many pointers */
#define TOO_FAR		1

/* Ranges that are none of the above, but that the memory does not fill */
TEST_F(limits, range_of_holes)
{
	const uint64_t addr = (uintptr_t)self->mem.addr, page = self->page;
	const uint64_t fresh = (uintptr_t)self->arena + FRESH * page;
	const uint64_t end = self->end;
	const int nr = NR_WRITTEN;
	/* What the commands return: @make and @migrate, if positive, pages */
	const struct {
		uint64_t addr;
		uint64_t size;
		int make;
		int pin;
		int unpin;
		int migrate;
	} ranges[] = {
		{ 0, page, -EFAULT, -EFAULT, -ENOENT, -EFAULT },
		{ page, page, -EFAULT, -EFAULT, -ENOENT, -EFAULT },
		{ end - page, page, -EFAULT, -EFAULT, -ENOENT, -EFAULT },
		{ 0, end, -EFAULT, -ENOMEM, -ENOENT, -EFAULT },
		{ 0, addr, -EFAULT, -ENOMEM, -ENOENT, -EFAULT },
		{ fresh - page, 2 * page, -EFAULT, -EFAULT, -ENOENT, -EFAULT },
		{ addr, (nr + 1) * page, nr, -EFAULT, -ENOENT, -EFAULT },
		{ addr, 1024 * page, nr, -EFAULT, -ENOENT, -EFAULT },
		{ addr, end - addr, nr, TOO_FAR, -ENOENT, -EFAULT },
	};
	struct devex_range range;
	size_t i;
	int ret;

	for (i = 0; i < ARRAY_SIZE(ranges); i++) {
		range = (struct devex_range){
			.addr = ranges[i].addr,
			.size = ranges[i].size,
			.npages = -1,
		};
		ret = TRY(self->dev, DEVEX_IOC_PIN, range);
		if (ranges[i].pin == TOO_FAR && ret == -ENOMEM)
			ret = -EFAULT;
		EXPECT_EQ(ranges[i].pin == TOO_FAR ? -EFAULT : ranges[i].pin,
			  ret)
			TH_LOG("number %zu", i);
		EXPECT_EQ(ranges[i].unpin,
			  TRY(self->dev, DEVEX_IOC_UNPIN, range))
			TH_LOG("number %zu", i);
		EXPECT_EQ(ranges[i].migrate,
			  TRY(self->dev, DEVEX_IOC_MIGRATE, range))
			TH_LOG("number %zu", i);
		EXPECT_EQ(ranges[i].make > 0 ? 0 : ranges[i].make,
			  ioctl(self->dev, DEVEX_IOC_MAKE, &range) ? -errno : 0)
			TH_LOG("number %zu", i);
		if (ranges[i].make > 0)
			EXPECT_EQ(ranges[i].make, range.npages);
		expect_idle(_metadata, self->dev, &self->mem);
	}
}

/* Much is asked for at once, and little is there. */
TEST_F(limits, make_once)
{
	struct devex_range range = {
		.addr = (uintptr_t)self->mem.addr,
		.size = 8192 * self->page,
		.flags = DEVEX_RANGE_ONCE,
	};

	ASSERT_EQ(0, ioctl(self->dev, DEVEX_IOC_MAKE, &range));
	EXPECT_LE(1, range.npages);
	EXPECT_GE(NR_WRITTEN, range.npages);
	expect_idle(_metadata, self->dev, &self->mem);
}

/* Who asks for all that there can be need not wait for it to be dead. */
TEST_F(limits, make_once_killed)
{
	struct peer peer;

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		struct devex_range range = {
			.addr = (uintptr_t)self->mem.addr,
			.size = self->end - (uintptr_t)self->mem.addr,
			.flags = DEVEX_RANGE_ONCE,
		};
		int dev = device_open();

		peer_tell(&peer);
		for (;;)
			ioctl(dev, DEVEX_IOC_MAKE, &range);
	}
	ASSERT_TRUE(peer_wait(&peer));
	usleep(100000);
	ASSERT_EQ(0, kill(peer.pid, SIGKILL));
	EXPECT_EQ(128 + SIGKILL, peer_exit(&peer));
	expect_untouched(_metadata, self->dev, &self->mem);
}

TEST_F(limits, add)
{
	const uint64_t addr = (uintptr_t)self->mem.addr, page = self->page;
	const uint64_t read_only = (uintptr_t)self->arena + READ_ONLY * page;
	const struct {
		struct devex_add add;
		int error;
	} bad[] = {
		{ { .addr = addr, .value = 1, .count = 0 }, -EINVAL },
		{ { .addr = -1ULL, .value = 1, .count = 1 }, -EINVAL },
		{ { .addr = self->end - 1, .value = 1, .count = 1 }, -EINVAL },
		{ { .addr = self->end + 1, .value = 1, .count = 1 }, -EINVAL },
		{ { .addr = 0, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = 8, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = addr - 8, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = addr + NR_WRITTEN * page, .count = 1 }, -EFAULT },
		{ { .addr = read_only, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = read_only, .value = 0, .count = 1 }, -EFAULT },
		{ { .addr = self->end - 8, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = self->end, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = 1ULL << 63, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = -8ULL, .value = 1, .count = 1 }, -EFAULT },
		{ { .addr = -8ULL, .value = 1, .count = -1ULL }, -EFAULT },
	};
	struct devex_add add;
	unsigned int bit;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		add = bad[i].add;
		EXPECT_EQ(bad[i].error, TRY(self->dev, DEVEX_IOC_ADD, add))
			TH_LOG("number %zu", i);
	}
	for (bit = 0; bit < 64; bit++) {
		add = (struct devex_add){ .addr = addr, .count = 1 };
		add.reserved = 1ULL << bit;
		EXPECT_EQ(-EINVAL, TRY(self->dev, DEVEX_IOC_ADD, add))
			TH_LOG("reserved bit %u", bit);
	}
	for (i = 1; i < 8; i++) {
		add = (struct devex_add){ .addr = addr + i, .count = 1 };
		EXPECT_EQ(-EINVAL, TRY(self->dev, DEVEX_IOC_ADD, add))
			TH_LOG("%zu bytes behind a word", i);
	}
	expect_untouched(_metadata, self->dev, &self->mem);
}

/* What can be added, and that what comes back does not depend on what was there */
TEST_F(limits, add_values)
{
	const uint64_t values[] = {
		0, 1, -1, 1ULL << 32, 1ULL << 63, (1ULL << 63) - 1,
	};
	/* The first word of the memory, and the last */
	uint64_t *words[] = {
		memory_word(&self->mem, 0),
		memory_word(&self->mem, NR_WRITTEN) - 1,
	};
	struct devex_add add;
	uint64_t before;
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(words); i++) {
		before = read_word(words[i]);
		for (j = 0; j < ARRAY_SIZE(values); j++) {
			write_word(words[i], before);
			add = (struct devex_add){
				.addr = (uintptr_t)words[i],
				.value = values[j],
				.count = 3,
				.done = -1,
				.faults = -1,
			};
			ASSERT_EQ(0, ioctl(self->dev, DEVEX_IOC_ADD, &add));
			EXPECT_EQ(3, add.done);
			EXPECT_LE(1, add.faults);
			EXPECT_GE(3, add.faults);
			EXPECT_EQ(before + 3 * values[j], read_word(words[i]));
		}
		write_word(words[i], before);
	}
	expect_idle(_metadata, self->dev, &self->mem);
}

/* As many additions as there can be take centuries, but not to end them. */
TEST_F(limits, add_killed)
{
	uint64_t *word = memory_word(&self->mem, 0);
	uint64_t before = read_word(word);
	struct peer peer;
	int dev;

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		dev = device_open();
		peer_tell(&peer);
		device_add(dev, word, 1, -1);
		_exit(0);
	}
	ASSERT_TRUE(peer_wait(&peer));
	usleep(100000);
	ASSERT_EQ(0, kill(peer.pid, SIGKILL));
	EXPECT_EQ(128 + SIGKILL, peer_exit(&peer));
	EXPECT_EQ(before, read_word(word));
	expect_untouched(_metadata, self->dev, &self->mem);
}

TEST_F(limits, dma)
{
	struct memory part = memory_part(&self->mem, 2, 4);
	const uint64_t addr = (uintptr_t)part.addr, size = part.size;
	char *scratch = self->arena + SCRATCH * self->page;
	const uint64_t page = self->page, buf = (uintptr_t)scratch;
	const uint64_t hole = buf + NR_SCRATCH * page;
	const uint64_t read_only = (uintptr_t)self->arena + READ_ONLY * page;
	const uint32_t read = DEVEX_DMA_READ;
	const struct {
		struct devex_dma dma;
		int error;
	} tests[] = {
		{ { addr, 0, buf, read, 0 }, -EINVAL },
		{ { addr, -1ULL, buf, read, 0 }, -EINVAL },
		{ { -1ULL, 1, buf, read, 0 }, -EINVAL },
		{ { -1ULL, -1ULL, buf, read, 0 }, -EINVAL },
		{ { 0, -1ULL, buf, read, 0 }, -ENOENT },
		{ { 0, 1, buf, read, 0 }, -ENOENT },
		{ { self->end - 1, 1, buf, read, 0 }, -ENOENT },
		{ { -2ULL, 1, buf, read, 0 }, -ENOENT },
		/* Around what is pinned */
		{ { addr - 1, 1, buf, read, 0 }, -ENOENT },
		{ { addr - 1, 2, buf, read, 0 }, -ENOENT },
		{ { addr - 1, size + 1, buf, read, 0 }, -ENOENT },
		{ { addr, size + 1, buf, read, 0 }, -ENOENT },
		{ { addr, 1ULL << 62, buf, read, 0 }, -ENOENT },
		{ { addr + size - 1, 2, buf, read, 0 }, -ENOENT },
		{ { addr + size, 1, buf, read, 0 }, -ENOENT },
		{ { addr, 1, buf, read, 0 }, 0 },
		{ { addr, size, buf, read, 0 }, 0 },
		{ { addr + size - 1, 1, buf, read, 0 }, 0 },
		{ { addr + page - 1, 2, buf, read, 0 }, 0 },
		/* The buffer */
		{ { addr, 1, 0, 0, 0 }, -EFAULT },
		{ { addr, 1, 0, read, 0 }, -EFAULT },
		{ { addr, 1, hole, read, 0 }, -EFAULT },
		{ { addr, 8, hole - 8, read, 0 }, 0 },
		{ { addr, 9, hole - 8, read, 0 }, -EFAULT },
		{ { addr, size, hole - 1, read, 0 }, -EFAULT },
		{ { addr, 1, read_only, read, 0 }, -EFAULT },
		{ { addr, 1, self->end - 1, read, 0 }, -EFAULT },
		{ { addr, 8, self->end - 4, read, 0 }, -EFAULT },
		{ { addr, 1, self->end, read, 0 }, -EFAULT },
		{ { addr, 1, 1ULL << 63, 0, 0 }, -EFAULT },
		{ { addr, 1, 1ULL << 63, read, 0 }, -EFAULT },
		{ { addr, 1, -1ULL, read, 0 }, -EFAULT },
		{ { addr, 8, -4ULL, read, 0 }, -EFAULT },
	};
	struct devex_dma dma;
	unsigned int bit;
	size_t i;

	dma = (struct devex_dma){ addr, 1, buf, read, 0 };
	EXPECT_EQ(-ENOENT, TRY(self->dev, DEVEX_IOC_DMA, dma));
	ASSERT_EQ(0, device_pin(self->dev, &part));
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		dma = tests[i].dma;
		EXPECT_EQ(tests[i].error, TRY(self->dev, DEVEX_IOC_DMA, dma))
			TH_LOG("number %zu", i);
	}
	for (bit = 0; bit < 32; bit++) {
		dma = (struct devex_dma){ addr, 1, buf, 0, 1U << bit };
		EXPECT_EQ(-EINVAL, TRY(self->dev, DEVEX_IOC_DMA, dma))
			TH_LOG("reserved bit %u", bit);
		dma = (struct devex_dma){ addr, 1, buf, 1U << bit, 0 };
		if (dma.flags != DEVEX_DMA_READ) {
			EXPECT_EQ(-EINVAL, TRY(self->dev, DEVEX_IOC_DMA, dma))
				TH_LOG("flag bit %u", bit);
		}
	}
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));

	/* What was read is what is there; what cannot be written can be read. */
	ASSERT_EQ(0, device_read(self->dev, part.addr, scratch, size));
	EXPECT_EQ(0, memcmp(scratch, part.addr, size));
	ASSERT_EQ(0, device_write(self->dev, part.addr, (void *)read_only, 8));
	EXPECT_EQ(0, read_word(memory_word(&part, 0)));
	memory_fill(&part, SEED);
	ASSERT_EQ(0, device_unpin(self->dev, &part));
	expect_idle(_metadata, self->dev, &self->mem);
}

TEST_F(limits, query)
{
	const uint64_t addr = (uintptr_t)self->mem.addr, page = self->page;
	char *scratch = self->arena + SCRATCH * page;
	const uint64_t held = (uintptr_t)scratch;
	const uint64_t hole = held + NR_SCRATCH * page;
	const uint64_t read_only = (uintptr_t)self->arena + READ_ONLY * page;
	const uint64_t end = self->end;
	const struct {
		struct devex_query query;
		int error;
	} tests[] = {
		{ { addr + 1, page, held, 0 }, -EINVAL },
		{ { addr + page - 1, page, held, 0 }, -EINVAL },
		{ { -1ULL, page, held, 0 }, -EINVAL },
		{ { addr, 0, held, 0 }, -EINVAL },
		{ { addr, 1, held, 0 }, -EINVAL },
		{ { addr, page - 1, held, 0 }, -EINVAL },
		{ { addr, page + 1, held, 0 }, -EINVAL },
		{ { addr, -1ULL, held, 0 }, -EINVAL },
		{ { addr, -page, held, 0 }, -EINVAL },
		{ { -page, page, held, 0 }, -EINVAL },
		{ { 0, -page, held, 0 }, -EFAULT },
		{ { page, end, held, 0 }, -EFAULT },
		{ { end, page, held, 0 }, -EFAULT },
		{ { end - page, 2 * page, held, 0 }, -EFAULT },
		{ { 1ULL << 63, page, held, 0 }, -EFAULT },
		/* Not mapped is not held. */
		{ { 0, page, held, 0 }, 0 },
		{ { end - page, page, held, 0 }, 0 },
		{ { addr, 1024 * page, held, 0 }, 0 },
		/* Where to put it */
		{ { addr, page, 0, 0 }, -EFAULT },
		{ { addr, page, hole - 1, 0 }, 0 },
		{ { addr, page, hole, 0 }, -EFAULT },
		{ { addr, 2 * page, hole - 1, 0 }, -EFAULT },
		{ { addr, 2 * page, hole - 2, 0 }, 0 },
		{ { 0, end, held, 0 }, -EFAULT },
		{ { addr, page, read_only, 0 }, -EFAULT },
		{ { addr, page, end - 1, 0 }, -EFAULT },
		{ { addr, page, end, 0 }, -EFAULT },
		{ { addr, page, 1ULL << 63, 0 }, -EFAULT },
		{ { addr, page, -1ULL, 0 }, -EFAULT },
		{ { addr, 2 * page, -1ULL, 0 }, -EFAULT },
	};
	struct devex_query query;
	unsigned int bit;
	size_t i;

	memset(scratch, 2, 1024);
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		query = tests[i].query;
		EXPECT_EQ(tests[i].error,
			  TRY(self->dev, DEVEX_IOC_QUERY, query))
			TH_LOG("number %zu", i);
	}
	for (bit = 0; bit < 64; bit++) {
		query = (struct devex_query){ addr, page, held, 1ULL << bit };
		EXPECT_EQ(-EINVAL, TRY(self->dev, DEVEX_IOC_QUERY, query))
			TH_LOG("reserved bit %u", bit);
	}
	expect_untouched(_metadata, self->dev, &self->mem);
	for (i = 0; i < 1024; i++)
		ASSERT_EQ(0, scratch[i]);
}

TEST_F(limits, counters)
{
	struct devex_counters counters;
	unsigned int bit;

	for (bit = 0; bit < 64; bit++) {
		memset(&counters, 0, sizeof(counters));
		counters.reserved = 1ULL << bit;
		EXPECT_EQ(-EINVAL, TRY(self->dev, DEVEX_IOC_COUNTERS, counters))
			TH_LOG("reserved bit %u", bit);
	}
	/* All else is for the way back only. */
	memset(&counters, -1, sizeof(counters));
	counters.reserved = 0;
	ASSERT_EQ(0, ioctl(self->dev, DEVEX_IOC_COUNTERS, &counters));
	EXPECT_EQ(0, counters.conversions);
	EXPECT_EQ(0, counters.held);
	EXPECT_EQ(0, counters.pinned);
	expect_untouched(_metadata, self->dev, &self->mem);
}

/*
 * The argument itself
 */
struct command {
	unsigned long cmd;
	size_t size;
};

static const struct command commands[] = {
	{ DEVEX_IOC_MAKE, sizeof(struct devex_range) },
	{ DEVEX_IOC_PIN, sizeof(struct devex_range) },
	{ DEVEX_IOC_UNPIN, sizeof(struct devex_range) },
	{ DEVEX_IOC_POISON, sizeof(struct devex_range) },
	{ DEVEX_IOC_MIGRATE, sizeof(struct devex_range) },
	{ DEVEX_IOC_ADD, sizeof(struct devex_add) },
	{ DEVEX_IOC_DMA, sizeof(struct devex_dma) },
	{ DEVEX_IOC_QUERY, sizeof(struct devex_query) },
	{ DEVEX_IOC_COUNTERS, sizeof(struct devex_counters) },
};

TEST_F(limits, argument)
{
	const uint64_t page = self->page;
	const uint64_t hole = (uintptr_t)self->arena +
			      (SCRATCH + NR_SCRATCH) * page;
	const uint64_t guard = (uintptr_t)self->arena + GUARD * page;
	const uint64_t no_access = (uintptr_t)self->arena + NO_ACCESS * page;
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		const uint64_t args[] = {
			0, 1, page, no_access, guard, hole, hole - 8,
			hole - commands[i].size + 1, self->end - 8, self->end,
			1ULL << 62, 1ULL << 63, -page, -8, -1,
		};

		for (j = 0; j < ARRAY_SIZE(args); j++) {
			EXPECT_EQ(-1, ioctl(self->dev, commands[i].cmd,
					    args[j]));
			EXPECT_EQ(EFAULT, errno)
				TH_LOG("command %#lx, argument %#llx: %s",
				       commands[i].cmd,
				       (unsigned long long)args[j],
				       strerror(errno));
		}
	}
	/* This one has none. */
	EXPECT_EQ(0, ioctl(self->dev, DEVEX_IOC_UNLOCK, -1UL));
	expect_untouched(_metadata, self->dev, &self->mem);
}

/* Up to the last byte before the hole; and where only a part can be written */
TEST_F(limits, argument_place)
{
	char *hole = self->arena + (SCRATCH + NR_SCRATCH) * self->page;
	struct devex_range range = {
		.addr = (uintptr_t)self->mem.addr,
		.size = 2 * self->page,
	};
	struct devex_range *arg = (void *)(hole - sizeof(range));
	struct memory two = memory_part(&self->mem, 0, 2);

	*arg = range;
	EXPECT_EQ(0, ioctl(self->dev, DEVEX_IOC_MAKE, arg));
	EXPECT_EQ(2, arg->npages);

	/* It cannot be told how far it got, but what was done is done. */
	ASSERT_EQ(0, mprotect((void *)((uintptr_t)arg & -self->page),
			      self->page, PROT_READ));
	EXPECT_EQ(-1, ioctl(self->dev, DEVEX_IOC_MAKE, arg));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(2, device_held(self->dev, &two));
	EXPECT_EQ(-1, ioctl(self->dev, DEVEX_IOC_PIN, arg));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(0, device_unpin(self->dev, &two));
	expect_idle(_metadata, self->dev, &self->mem);
}

/* Every number, direction and size of this type but those that there are */
TEST_F(limits, command)
{
	static const unsigned int sizes[] = {
		0, 1, 8, sizeof(struct devex_range), sizeof(struct devex_add),
		sizeof(struct devex_counters), _IOC_SIZEMASK,
	};
	struct devex_range range = {
		.addr = (uintptr_t)self->mem.addr,
		.size = self->page,
	};
	unsigned int i, nr, dir, known = 0;
	size_t j;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (nr = 0; nr < 256; nr++) {
			for (dir = 0; dir < 4; dir++) {
				unsigned long cmd = _IOC(dir, 'x', nr, sizes[i]);
				bool is_known = cmd == DEVEX_IOC_UNLOCK;

				for (j = 0; j < ARRAY_SIZE(commands); j++)
					is_known |= cmd == commands[j].cmd;
				known += is_known;
				if (is_known)
					continue;
				ASSERT_EQ(-ENOTTY, TRY(self->dev, cmd, range))
					TH_LOG("command %#lx", cmd);
			}
		}
	}
	EXPECT_EQ(ARRAY_SIZE(commands) + 1, known);
	EXPECT_EQ(-ENOTTY, TRY(self->dev,
			       _IOWR('y', 0x00, struct devex_range), range));
	EXPECT_EQ(-ENOTTY, TRY(self->dev, 0, range));
	EXPECT_EQ(-ENOTTY, TRY(self->dev, -1U, range));
	expect_untouched(_metadata, self->dev, &self->mem);
}

/* In another process nobody looks at the argument, but for two commands. */
TEST_F(limits, child)
{
	size_t i;
	pid_t pid;

	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		for (i = 0; i < ARRAY_SIZE(commands); i++) {
			bool any = commands[i].cmd == DEVEX_IOC_COUNTERS ||
				   commands[i].cmd == DEVEX_IOC_DMA;

			EXPECT_EQ(-1, ioctl(self->dev, commands[i].cmd, NULL));
			EXPECT_EQ(any ? EFAULT : EACCES, errno)
				TH_LOG("command %#lx: %s", commands[i].cmd,
				       strerror(errno));
		}
		_exit(0);
	}
	EXPECT_EQ(0, child_exit(pid));
	expect_untouched(_metadata, self->dev, &self->mem);
}

/* mmap() of the file: its first page, and only that */
TEST_F(limits, mmap)
{
	const uint64_t page = self->page;
	const struct {
		uint64_t offset;
		uint64_t size;
		int error;
	} tests[] = {
		{ 0, 0, EINVAL },
		{ 0, 1, 0 },
		{ 0, page - 1, 0 },
		{ 0, page, 0 },
		{ 0, page + 1, EINVAL },
		{ 0, 2 * page, EINVAL },
		{ 0, 1ULL << 30, EINVAL },
		{ 0, self->end, ENOMEM },
		{ 0, -page, ENOMEM },
		{ 1, page, EINVAL },
		{ page - 1, page, EINVAL },
		{ page, page, EINVAL },
		{ 1ULL << 32, page, EINVAL },
		{ (1ULL << 63) - page, page, EINVAL },
	};
	const int flags[] = { MAP_SHARED, MAP_PRIVATE };
	size_t i, j;
	char *addr;
	int prot;

	for (i = 0; i < ARRAY_SIZE(tests) * ARRAY_SIZE(flags); i++) {
		j = i / ARRAY_SIZE(flags);
		for (prot = 0; prot < 8; prot++) {
			addr = mmap(NULL, tests[j].size, prot,
				    flags[i % ARRAY_SIZE(flags)], self->dev,
				    tests[j].offset);
			EXPECT_EQ(tests[j].error, addr == MAP_FAILED ? errno : 0)
				TH_LOG("number %zu, protection %d", j, prot);
			if (addr == MAP_FAILED)
				continue;
			if (prot & PROT_READ)
				EXPECT_EQ(0, touch(addr + page - 1));
			/* It cannot grow. */
			EXPECT_EQ(MAP_FAILED, mremap(addr, page, 2 * page,
						     MREMAP_MAYMOVE));
			EXPECT_EQ(0, munmap(addr, page));
		}
	}
	expect_untouched(_metadata, self->dev, &self->mem);
}

/*
 * Random calls: 100,000 in all
 */
#define CALLS		6250	/* of each of 16 test cases */

enum kind {
	MAKE,
	UNLOCK,
	ADD,
	PIN,
	UNPIN,
	DMA,
	QUERY,
	POISON,
	MIGRATE,
	COUNTERS,
	NR_WHICH,
};

struct what {
	const char *name;
	unsigned long cmd;
	size_t size;
	int errors[6];	/* besides EFAULT and EINVAL, which all with a struct have */
};

/* ENOMEM is for ranges that are larger than the memory of the machine. */
static const struct what what[NR_WHICH] = {
	[MAKE] = { "MAKE", DEVEX_IOC_MAKE, sizeof(struct devex_range),
		   { EBUSY, EOPNOTSUPP } },
	[UNLOCK] = { "UNLOCK", DEVEX_IOC_UNLOCK, 0, { } },
	[ADD] = { "ADD", DEVEX_IOC_ADD, sizeof(struct devex_add),
		  { EBUSY, EOPNOTSUPP } },
	[PIN] = { "PIN", DEVEX_IOC_PIN, sizeof(struct devex_range),
		  { EEXIST, ENOMEM } },
	[UNPIN] = { "UNPIN", DEVEX_IOC_UNPIN, sizeof(struct devex_range),
		    { ENOENT } },
	[DMA] = { "DMA", DEVEX_IOC_DMA, sizeof(struct devex_dma), { ENOENT } },
	[QUERY] = { "QUERY", DEVEX_IOC_QUERY, sizeof(struct devex_query), { } },
	[POISON] = { "POISON", DEVEX_IOC_POISON, sizeof(struct devex_range),
		     { ENOENT, EBUSY, EOPNOTSUPP } },
	[MIGRATE] = { "MIGRATE", DEVEX_IOC_MIGRATE, sizeof(struct devex_range),
		      { EOPNOTSUPP } },
	[COUNTERS] = { "COUNTERS", DEVEX_IOC_COUNTERS,
		       sizeof(struct devex_counters), { } },
};

union argument {
	struct devex_range range;
	struct devex_add add;
	struct devex_dma dma;
	struct devex_query query;
	struct devex_counters counters;
	uint64_t words[20];
};

/**
 * struct fuzz - what random calls are made with
 * @arena: where they go
 * @huge: and where else
 * @others: memory that is never given to the device
 * @end: of user space
 * @seed: where the random numbers began
 * @state: and how far they got
 * @nr: the number of the call
 * @pin: a range that is pinned, if its size is not 0
 * @pinned: how many pages must be pinned
 * @locked: whether folios must be locked
 * @good: how many calls of each command were successful
 * @dev: the device
 */
struct fuzz {
	char *arena;
	struct memory huge;
	struct memory others;
	uint64_t end;
	uint64_t seed;
	uint64_t state;
	unsigned int nr;
	struct devex_range pin;
	uint64_t pinned;
	bool locked;
	unsigned int good[NR_WHICH];
	int dev;
};

FIXTURE(random)
{
	struct fuzz fuzz;
};

FIXTURE_VARIANT(random)
{
	uint64_t seed;
};

FIXTURE_VARIANT_ADD(random, seed_1)
{
	.seed = 1,
};

FIXTURE_VARIANT_ADD(random, seed_2)
{
	.seed = 2,
};

FIXTURE_VARIANT_ADD(random, seed_3)
{
	.seed = 3,
};

FIXTURE_VARIANT_ADD(random, seed_4)
{
	.seed = 4,
};

FIXTURE_VARIANT_ADD(random, seed_5)
{
	.seed = 5,
};

FIXTURE_VARIANT_ADD(random, seed_6)
{
	.seed = 6,
};

FIXTURE_VARIANT_ADD(random, seed_7)
{
	.seed = 7,
};

FIXTURE_VARIANT_ADD(random, seed_8)
{
	.seed = 8,
};

FIXTURE_VARIANT_ADD(random, seed_9)
{
	.seed = 9,
};

FIXTURE_VARIANT_ADD(random, seed_10)
{
	.seed = 10,
};

FIXTURE_VARIANT_ADD(random, seed_11)
{
	.seed = 11,
};

FIXTURE_VARIANT_ADD(random, seed_12)
{
	.seed = 12,
};

FIXTURE_VARIANT_ADD(random, seed_13)
{
	.seed = 13,
};

FIXTURE_VARIANT_ADD(random, seed_14)
{
	.seed = 14,
};

FIXTURE_VARIANT_ADD(random, seed_15)
{
	.seed = 15,
};

FIXTURE_VARIANT_ADD(random, seed_16)
{
	.seed = 16,
};

FIXTURE_SETUP(random)
{
	struct fuzz *f = &self->fuzz;
	struct memory written;

	f->dev = device_open();
	ASSERT_LE(0, f->dev);
	f->end = user_end();
	ASSERT_NE(0, f->end);
	f->arena = map_arena(_metadata, f->dev);
	written = arena_part(f->arena, WRITTEN, NR_WRITTEN);
	memory_fill(&written, SEED);
	ASSERT_EQ(0, memory_map(&f->huge, THP, SEED));
	ASSERT_EQ(0, memory_map(&f->others, SMALL, OTHER_SEED));
	f->seed = variant->seed;
	f->state = f->seed;
}

FIXTURE_TEARDOWN(random)
{
	struct fuzz *f = &self->fuzz;

	if (f->dev >= 0)
		close(f->dev);
	memory_unmap(&f->huge);
	memory_unmap(&f->others);
}

/* splitmix64: any seed will do, also small ones */
static uint64_t next(struct fuzz *f)
{
	uint64_t z = f->state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static uint64_t below(struct fuzz *f, uint64_t limit)
{
	return next(f) % limit;
}

/* One time in @n */
static bool rarely(struct fuzz *f, unsigned int n)
{
	return !below(f, n);
}

/* Where there never is anything of ours: limits, and what is behind them */
static uint64_t random_limit(struct fuzz *f)
{
	const uint64_t page = page_size();
	const uint64_t limits[] = {
		0, page, f->end - page, f->end, f->end + page,
		1ULL << 62, 1ULL << 63, -2 * page, -page,
	};

	return limits[below(f, ARRAY_SIZE(limits))];
}

/* The device may write there, and so may we: it is our memory, if there is any */
static uint64_t random_page(struct fuzz *f)
{
	if (rarely(f, 16))
		return random_limit(f);
	if (rarely(f, 4))
		return (uintptr_t)memory_page(&f->huge,
					      below(f, f->huge.nr));
	return (uintptr_t)f->arena + below(f, SCRATCH) * page_size();
}

/* For buffers; that they are well mapped is more likely. */
static uint64_t random_buffer(struct fuzz *f)
{
	uint64_t scratch = (uintptr_t)f->arena + SCRATCH * page_size();

	if (rarely(f, 4))
		return random_page(f) + below(f, page_size());
	return scratch + below(f, NR_SCRATCH * page_size());
}

/*
 * Sizes that are too large end where the mapping does. The huge one is the
 * largest that there is; it is never more than 512 pages away from its end.
 */
static uint64_t random_size(struct fuzz *f, uint64_t addr)
{
	const uint64_t page = page_size();
	const uint64_t large[] = {
		0, 1, page - 1, page + 1, 512 * page, 513 * page, 2048 * page,
		1ULL << 40, f->end - addr, f->end, 1ULL << 62,
		1ULL << 63, -addr, -page, -1,
	};

	if (rarely(f, 12))
		return large[below(f, ARRAY_SIZE(large))];
	if (rarely(f, 64))
		return next(f);
	return (1 + below(f, 8)) * page;
}

static uint64_t random_reserved(struct fuzz *f)
{
	return rarely(f, 24) ? next(f) : 0;
}

static void random_range(struct fuzz *f, enum kind which,
			 struct devex_range *range)
{
	range->addr = random_page(f);
	if (rarely(f, 32))
		range->addr += next(f) % page_size();
	range->size = which == POISON && !rarely(f, 8) ? page_size() :
		      random_size(f, range->addr);
	range->reserved = random_reserved(f);
	range->npages = next(f);
	if (which == MAKE)
		range->flags = below(f, 16);
	if (rarely(f, 24))
		range->flags = next(f);
	/* The kernel has to be prepared for as many pages as it is asked for. */
	if (range->size > (1ULL << 24))
		range->flags &= ~DEVEX_RANGE_ONCE;
	/* There is nobody else who could unlock what we would wait for. */
	if (f->locked)
		range->flags &= ~DEVEX_RANGE_WAIT;
}

static void random_add(struct fuzz *f, struct devex_add *add)
{
	add->addr = random_page(f) + below(f, page_size()) / 8 * 8;
	if (rarely(f, 16))
		add->addr += next(f) % 8;
	add->value = next(f);
	add->count = below(f, 16);
	add->done = next(f);
	add->faults = next(f);
	add->reserved = random_reserved(f);
}

static void random_dma(struct fuzz *f, struct devex_dma *dma)
{
	dma->addr = random_page(f);
	if (rarely(f, 2))
		dma->addr += below(f, page_size());
	dma->size = rarely(f, 4) ? random_size(f, dma->addr) :
		    below(f, page_size());
	dma->buf = random_buffer(f);
	dma->flags = rarely(f, 24) ? next(f) : below(f, 2);
	dma->reserved = random_reserved(f);
}

static void random_query(struct fuzz *f, struct devex_query *query)
{
	query->addr = random_page(f);
	query->size = random_size(f, query->addr);
	query->held = random_buffer(f);
	/* A byte a page: have the buffer end soon. */
	if (query->size > 512 * page_size())
		query->held = (uintptr_t)f->arena +
			      (SCRATCH + NR_SCRATCH) * page_size() -
			      below(f, 64);
	query->reserved = random_reserved(f);
}

static void random_argument(struct fuzz *f, enum kind which,
			    union argument *arg)
{
	memset(arg, 0, sizeof(*arg));
	switch (which) {
	case ADD:
		random_add(f, &arg->add);
		break;
	case DMA:
		random_dma(f, &arg->dma);
		break;
	case QUERY:
		random_query(f, &arg->query);
		break;
	case COUNTERS:
		arg->counters.held = next(f);
		arg->counters.reserved = random_reserved(f);
		break;
	case UNLOCK:
		break;
	default:
		random_range(f, which, &arg->range);
	}
}

static bool error_known(enum kind which, int error)
{
	size_t i;

	if (what[which].size && (error == EFAULT || error == EINVAL))
		return true;
	for (i = 0; i < ARRAY_SIZE(what[which].errors); i++)
		if (error && what[which].errors[i] == error)
			return true;
	return false;
}

/* What a successful call says: is that possible? */
static bool range_sane(struct fuzz *f, enum kind which,
		       const struct devex_range *in,
		       const struct devex_range *out)
{
	uint64_t nr = in->size / page_size();

	if (out->addr != in->addr || out->size != in->size ||
	    out->flags != in->flags || out->reserved)
		return false;
	switch (which) {
	case MAKE:
		return out->npages >= 1 && out->npages <= nr &&
		       is_exclusive((char *)in->addr) &&
		       is_exclusive((char *)in->addr +
				    (out->npages - 1) * page_size());
	case PIN:
		f->pinned += nr;
		return out->npages == nr;
	case UNPIN:
		f->pinned -= nr;
		return out->npages == nr;
	case POISON:
		return out->npages == 1 && nr == 1;
	default:
		return out->npages <= nr;
	}
}

static bool result_sane(struct fuzz *f, enum kind which,
			const union argument *in, const union argument *out)
{
	switch (which) {
	case ADD:
		return out->add.done == in->add.count &&
		       out->add.faults <= in->add.count;
	case COUNTERS:
		return out->counters.pinned == f->pinned &&
		       !!out->counters.locked == f->locked;
	case UNLOCK:
	case DMA:
	case QUERY:
		return true;
	default:
		return range_sane(f, which, &in->range, &out->range);
	}
}

/* What is printed is enough to do it again. */
static void report(struct __test_metadata *_metadata, const struct fuzz *f,
		   enum kind which, const union argument *in,
		   const union argument *out, int error)
{
	size_t i;

	TH_LOG("seed %llu, call %u: %s: %s", (unsigned long long)f->seed, f->nr,
	       what[which].name, error ? strerror(error) : "success");
	for (i = 0; i < what[which].size / 8; i++)
		TH_LOG("word %zu: %#llx, and back %#llx", i,
		       (unsigned long long)in->words[i],
		       (unsigned long long)out->words[i]);
}

/* Whether a call was as it has to be */
static bool call(struct fuzz *f, enum kind which, const union argument *in,
		 union argument *out, int *error)
{
	*out = *in;
	*error = ioctl(f->dev, what[which].cmd, out) ? errno : 0;
	if (which == UNLOCK)
		f->locked = false;
	if (which == ADD && *error)
		return error_known(which, *error) &&
		       (out->add.done < in->add.count ||
			out->add.done == in->add.done);
	if (*error)
		return error_known(which, *error);
	f->good[which]++;
	if (which == MAKE && (in->range.flags & DEVEX_RANGE_LOCKED))
		f->locked = true;
	return result_sane(f, which, in, out);
}

/* Where the argument cannot be read, nothing else is looked at. */
static bool bad_call(struct fuzz *f, enum kind which)
{
	uint64_t hole = (uintptr_t)f->arena +
			(SCRATCH + NR_SCRATCH) * page_size();
	const uint64_t args[] = {
		0, hole - 8, hole, f->end, 1ULL << 63, -8,
	};

	if (!what[which].size)
		return true;
	return ioctl(f->dev, what[which].cmd,
		     args[below(f, ARRAY_SIZE(args))]) == -1 &&
	       errno == EFAULT;
}

/*
 * While folios are locked, whoever accesses their pages waits, and nobody but
 * us can unlock them: only commands that do not access any memory of ours.
 */
static enum kind random_command(struct fuzz *f)
{
	static const enum kind safe[] = { MAKE, UNLOCK, ADD, COUNTERS };
	enum kind which;

	do {
		which = f->locked ? safe[below(f, ARRAY_SIZE(safe))] :
				    below(f, NR_WHICH);
		/* A kernel thread for each: that takes long. */
	} while (which == ADD && !rarely(f, 8));
	return which;
}

/* The process itself uses its memory, too. */
static void random_access(struct fuzz *f)
{
	char *page = f->arena;

	if (f->locked)
		return;
	if (rarely(f, 2))
		page += (FRESH + below(f, 8)) * page_size();
	else
		page += (WRITTEN + below(f, NR_WRITTEN)) * page_size();
	if (rarely(f, 8))
		madvise(page, page_size(), MADV_DONTNEED);
	else if (rarely(f, 2))
		touch(page);
	else
		write_word((uint64_t *)page, next(f));
}

/* What can only be done with what is pinned is done with it quite often. */
static void aim(struct fuzz *f, enum kind which, union argument *arg)
{
	if (!f->pin.size || rarely(f, 2))
		return;
	if (which == UNPIN || which == POISON)
		arg->range.addr = f->pin.addr;
	if (which == UNPIN)
		arg->range.size = f->pin.size;
	if (which == DMA)
		arg->dma.addr = f->pin.addr + below(f, 64);
}

static void make_call(struct __test_metadata *_metadata, struct fuzz *f)
{
	enum kind which = random_command(f);
	union argument in, out;
	int error;

	if (rarely(f, 24)) {
		ASSERT_TRUE(bad_call(f, which))
			TH_LOG("seed %llu, call %u: %s: %s",
			       (unsigned long long)f->seed, f->nr,
			       what[which].name, strerror(errno));
		return;
	}
	random_argument(f, which, &in);
	aim(f, which, &in);
	if (!call(f, which, &in, &out, &error)) {
		report(_metadata, f, which, &in, &out, error);
		ASSERT_TRUE(false);
	}
	if (which == PIN && !error)
		f->pin = in.range;
	if (which == UNPIN && !error)
		f->pin.size = 0;
}

static void make_calls(struct __test_metadata *_metadata, struct fuzz *f)
{
	for (f->nr = 0; f->nr < CALLS; f->nr++) {
		if (rarely(f, 4))
			random_access(f);
		make_call(_metadata, f);
	}
	EXPECT_EQ(0, device_unlock(f->dev));
}

/* Each command has succeeded sometimes, or this has not tested much. */
static void expect_tested(struct __test_metadata *_metadata,
			  struct fuzz *f)
{
	unsigned int i;

	for (i = 0; i < NR_WHICH; i++) {
		/* There may be no simulated memory errors. */
		if (i != POISON) {
			EXPECT_LE(CALLS / 1000, f->good[i])
				TH_LOG("%s succeeded %u times", what[i].name,
				       f->good[i]);
		}
	}
}

/* The device does what it is told, also in a fork. */
static void expect_works(struct __test_metadata *_metadata, int dev)
{
	struct memory mem;
	pid_t pid;

	ASSERT_EQ(0, memory_map(&mem, SMALL, SEED));
	EXPECT_EQ(0, device_use(dev, &mem));
	pid = fork();
	ASSERT_LE(0, pid)
		TH_LOG("fork failed: %s", strerror(errno));
	if (!pid)
		_exit(memory_wrong_after_use(&mem, SEED) != 0);
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(0, memory_wrong_after_use(&mem, SEED));
	EXPECT_EQ(0, device_pin(dev, &mem));
	EXPECT_EQ(0, device_unpin(dev, &mem));
	memory_unmap(&mem);
}

TEST_F_TIMEOUT(random, calls, 600)
{
	struct fuzz *f = &self->fuzz;

	make_calls(_metadata, f);
	expect_tested(_metadata, f);
	EXPECT_EQ(0, memory_wrong(&f->others, OTHER_SEED));
	EXPECT_EQ(f->others.nr, memory_count(&f->others, PAGE_PRESENT));
	EXPECT_TRUE(device_agrees(f->dev, &f->huge));

	/*
	 * There may still be pins, also of a page that fork cannot read. A
	 * mapping keeps the file open.
	 */
	EXPECT_EQ(0, munmap(f->arena + PFNMAP * page_size(), page_size()));
	close(f->dev);
	f->dev = device_open();
	ASSERT_LE(0, f->dev);
	expect_works(_metadata, f->dev);
	EXPECT_EQ(0, memory_wrong(&f->others, OTHER_SEED));
}

TEST_HARNESS_MAIN
