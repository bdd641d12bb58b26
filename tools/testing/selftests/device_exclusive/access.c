// SPDX-License-Identifier: GPL-2.0
/*
 * Who owns a page when: making it exclusive, taking it back by touching it,
 * one device taking it from another.
 */
#include "kselftest_harness.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "devex_util.h"

#define SEED		0x10
#define OTHER_SEED	0x20

FIXTURE(access)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(access)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(access, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(access, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(access, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(access, lazyfree)
{
	.kind = LAZYFREE,
};

FIXTURE_VARIANT_ADD(access, ksm)
{
	.kind = KSM,
};

FIXTURE_VARIANT_ADD(access, mremapped)
{
	.kind = MREMAPPED,
};

FIXTURE_VARIANT_ADD(access, swapped)
{
	.kind = SWAPPED,
};

FIXTURE_SETUP(access)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, SEED));
}

FIXTURE_TEARDOWN(access)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

static void expect_exclusive(struct __test_metadata *_metadata, int dev,
			     const struct memory *mem, size_t nr)
{
	EXPECT_EQ(nr, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ((long)nr, device_held(dev, mem));
	EXPECT_TRUE(device_agrees(dev, mem));
}

/* All of it goes to the device, and comes back as it was. */
TEST_F(access, make_all)
{
	struct devex_counters before, after;
	const struct memory *mem = &self->mem;

	ASSERT_EQ(0, device_counters(self->dev, &before));
	EXPECT_EQ(0, before.conversions);
	EXPECT_EQ(0, before.held);

	ASSERT_EQ((long)mem->nr, device_make(self->dev, mem, 0));
	expect_exclusive(_metadata, self->dev, mem, mem->nr);
	ASSERT_EQ(0, device_counters(self->dev, &after));
	EXPECT_EQ(mem->nr, after.conversions);
	EXPECT_EQ(mem->nr, after.held);
	EXPECT_LT(0, after.own_events);
	EXPECT_EQ(0, after.locked);

	EXPECT_EQ(0, memory_wrong(mem, SEED));
	expect_exclusive(_metadata, self->dev, mem, 0);
	ASSERT_EQ(0, device_counters(self->dev, &after));
	EXPECT_EQ(0, after.held);
	EXPECT_LE(mem->nr, after.invalidated);
}

/* The pages around the range are left alone. */
TEST_F(access, make_some)
{
	struct memory some = memory_part(&self->mem, 5, 3);

	ASSERT_EQ(3, device_make(self->dev, &some, 0));
	expect_exclusive(_metadata, self->dev, &some, 3);
	expect_exclusive(_metadata, self->dev, &self->mem, 3);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* Making exclusive what is exclusive already changes nothing to be seen. */
TEST_F(access, make_again)
{
	struct memory some = memory_part(&self->mem, 2, 4);

	ASSERT_EQ((long)self->mem.nr, device_make(self->dev, &self->mem, 0));
	ASSERT_EQ(4, device_make(self->dev, &some, 0));
	expect_exclusive(_metadata, self->dev, &self->mem, self->mem.nr);
	ASSERT_EQ((long)self->mem.nr, device_make(self->dev, &self->mem, 0));
	expect_exclusive(_metadata, self->dev, &self->mem, self->mem.nr);
	EXPECT_EQ(0, memory_wrong(&self->mem, SEED));
}

/* Touching a page takes back that page and no other. */
static void touch_one(struct __test_metadata *_metadata, int dev,
		      const struct memory *mem, bool write)
{
	struct devex_counters before, after;
	uint64_t *word = memory_word(mem, 4);

	ASSERT_EQ((long)mem->nr, device_make(dev, mem, 0));
	ASSERT_EQ(0, device_counters(dev, &before));

	if (write)
		write_word(word, memory_value(OTHER_SEED, 4, 0));
	else
		EXPECT_EQ(memory_value(SEED, 4, 0), read_word(word));

	ASSERT_EQ(0, device_counters(dev, &after));
	EXPECT_EQ(PAGE_PRESENT, page_state(memory_page(mem, 4)));
	EXPECT_TRUE(is_exclusive(memory_page(mem, 3)));
	EXPECT_TRUE(is_exclusive(memory_page(mem, 5)));
	expect_exclusive(_metadata, dev, mem, mem->nr - 1);

	/* The device was told once, and about this page alone. */
	EXPECT_EQ(before.events[DEVEX_EVENT_CLEAR] + 1,
		  after.events[DEVEX_EVENT_CLEAR]);
	EXPECT_EQ(all_events(&before) + 1, all_events(&after));
	EXPECT_EQ(before.invalidated + 1, after.invalidated);
	EXPECT_EQ(before.held - 1, after.held);
	EXPECT_EQ(before.conversions, after.conversions);

	if (write) {
		EXPECT_EQ(memory_value(OTHER_SEED, 4, 0), *word);
		*word = memory_value(SEED, 4, 0);
	}
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

TEST_F(access, read_one)
{
	touch_one(_metadata, self->dev, &self->mem, false);
}

TEST_F(access, write_one)
{
	touch_one(_metadata, self->dev, &self->mem, true);
}

/* The kernel touches it, for the process or for another one. */
TEST_F(access, syscalls)
{
	const struct memory *mem = &self->mem;
	size_t size = 16 * sizeof(uint64_t);
	uint64_t buf[16];
	int fds[2], fd;

	ASSERT_EQ(0, pipe(fds));
	fd = open("/proc/self/mem", O_RDONLY);
	ASSERT_LE(0, fd);
	ASSERT_EQ((long)mem->nr, device_make(self->dev, mem, 0));

	/* Out of page 1, and into page 2. */
	ASSERT_EQ((ssize_t)size, write(fds[1], memory_word(mem, 1), size));
	ASSERT_EQ((ssize_t)size, read(fds[0], memory_word(mem, 2), size));
	expect_exclusive(_metadata, self->dev, mem, mem->nr - 2);
	EXPECT_EQ(0, memcmp(memory_word(mem, 1), memory_word(mem, 2), size));

	/* And page 3, as a debugger would. */
	ASSERT_EQ((ssize_t)size, pread(fd, buf, size,
				       (uintptr_t)memory_word(mem, 3)));
	EXPECT_EQ(memory_value(SEED, 3, 15), buf[15]);
	expect_exclusive(_metadata, self->dev, mem, mem->nr - 3);
}

/* What the device adds is there when the CPU looks. */
TEST_F(access, add)
{
	const struct memory *mem = &self->mem;
	uint64_t *word = memory_word(mem, 7);
	struct devex_add add = {
		.addr = (uintptr_t)word,
		.value = 3,
		.count = 10,
	};

	/* It takes the page when it does not have it, */
	ASSERT_EQ(0, ioctl(self->dev, DEVEX_IOC_ADD, &add));
	EXPECT_EQ(10, add.done);
	EXPECT_EQ(1, add.faults);
	EXPECT_TRUE(is_exclusive((char *)word));

	/* and goes on with it when it has. */
	ASSERT_EQ(0, ioctl(self->dev, DEVEX_IOC_ADD, &add));
	EXPECT_EQ(10, add.done);
	EXPECT_EQ(0, add.faults);

	EXPECT_EQ(memory_value(SEED, 7, 0) + 60, *word);
	EXPECT_FALSE(is_exclusive((char *)word));

	/* The CPU has it: the device has to take it again. */
	write_word(word, memory_value(SEED, 7, 0) - 30);
	ASSERT_EQ(0, ioctl(self->dev, DEVEX_IOC_ADD, &add));
	EXPECT_EQ(1, add.faults);
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/* A second device takes it from the first, and back. */
TEST_F(access, two_devices)
{
	const struct memory *mem = &self->mem;
	struct devex_counters counters;
	int other;

	other = device_open();
	ASSERT_LE(0, other);
	ASSERT_EQ((long)mem->nr, device_make(self->dev, mem, 0));
	ASSERT_EQ((long)mem->nr, device_make(other, mem, 0));
	EXPECT_EQ(0, device_held(self->dev, mem));
	expect_exclusive(_metadata, other, mem, mem->nr);
	ASSERT_EQ(0, device_counters(self->dev, &counters));
	EXPECT_EQ(0, counters.held);
	EXPECT_EQ(mem->nr, counters.invalidated);
	EXPECT_LT(0, all_events(&counters));

	/* Both add to the same words, in turn. */
	ASSERT_EQ(0, device_add(self->dev, memory_word(mem, 0), 100, 2));
	ASSERT_EQ(0, device_add(other, memory_word(mem, 0), 1000, 2));
	ASSERT_EQ(0, device_add(self->dev, memory_word(mem, 0), 1, 2));
	EXPECT_EQ(1, device_held(self->dev, mem));
	EXPECT_EQ((long)mem->nr - 1, device_held(other, mem));
	EXPECT_EQ(mem->nr, memory_count(mem, PAGE_EXCLUSIVE));
	EXPECT_EQ(memory_value(SEED, 0, 0) + 2202, *memory_word(mem, 0));
	close(other);
}

/* Closing the device gives everything back. */
TEST_F(access, close)
{
	const struct memory *mem = &self->mem;
	int other;

	ASSERT_EQ((long)mem->nr, device_make(self->dev, mem, 0));
	ASSERT_EQ(0, device_add(self->dev, memory_word(mem, 0), 5, 1));
	ASSERT_EQ(0, close(self->dev));
	self->dev = -1;
	EXPECT_EQ(memory_value(SEED, 0, 0) + 5, *memory_word(mem, 0));
	*memory_word(mem, 0) -= 5;

	/* The next one may have it. */
	other = device_open();
	ASSERT_LE(0, other);
	ASSERT_EQ((long)mem->nr, device_make(other, mem, 0));
	close(other);
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

/* Closing it releases the folios that it keeps locked, too. */
TEST_F(access, close_locked)
{
	const struct memory *mem = &self->mem;

	ASSERT_EQ((long)mem->nr,
		  device_make(self->dev, mem, DEVEX_RANGE_LOCKED));
	ASSERT_EQ(0, close(self->dev));
	self->dev = -1;
	EXPECT_EQ(0, memory_wrong(mem, SEED));
}

struct toucher {
	const char *addr;
	pid_t tid;
	bool done;
};

static void *touch_thread(void *data)
{
	struct toucher *toucher = data;

	__atomic_store_n(&toucher->tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	touch(toucher->addr);
	__atomic_store_n(&toucher->done, true, __ATOMIC_RELEASE);
	return NULL;
}

/* While the folio is locked a CPU that touches it has to wait. */
TEST_F(access, touch_waits)
{
	struct memory one = memory_part(&self->mem, 9, 1);
	struct toucher toucher = { .addr = one.addr };
	pthread_t thread;
	pid_t tid = 0;

	ASSERT_EQ(1, device_make(self->dev, &one, DEVEX_RANGE_LOCKED));
	ASSERT_EQ(0, pthread_create(&thread, NULL, touch_thread, &toucher));

	/* It is waiting when it sleeps uninterruptibly. */
	while (!tid || thread_state(tid) != 'D') {
		tid = __atomic_load_n(&toucher.tid, __ATOMIC_ACQUIRE);
		ASSERT_FALSE(__atomic_load_n(&toucher.done, __ATOMIC_ACQUIRE));
	}
	EXPECT_TRUE(is_exclusive(one.addr));
	expect_exclusive(_metadata, self->dev, &one, 1);

	/* The device may work in the meantime. */
	EXPECT_EQ(0, device_add(self->dev, memory_word(&one, 0), 1, 8));
	EXPECT_FALSE(__atomic_load_n(&toucher.done, __ATOMIC_ACQUIRE));

	ASSERT_EQ(0, device_unlock(self->dev));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	expect_exclusive(_metadata, self->dev, &one, 0);
	EXPECT_EQ(memory_value(SEED, 9, 0) + 8, *memory_word(&one, 0));
}

TEST_HARNESS_MAIN
