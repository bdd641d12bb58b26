// SPDX-License-Identifier: GPL-2.0
/*
 * Lost updates: CPU threads add atomically to the same words that the device
 * adds to without atomics, which is only right while it has them to itself.
 */
#include "kselftest_harness.h"
#include <pthread.h>

#include "devex_util.h"

#define WORDS		4
#define CPU_THREADS	2

/*
 * Additions to each word by each CPU thread, and by the device. All begin each
 * round together, so that they really are in each other's way.
 */
#define ROUNDS		50
#define CPU_ADDS	20000
#define DEVICE_ADDS	100

/* The device counts in the upper half of a word, the CPUs in the lower. */
#define DEVICE_VALUE	0x100000000ULL
#define CPU_VALUE	1ULL

FIXTURE(atomic)
{
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(atomic)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(atomic, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(atomic, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(atomic, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(atomic)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, 0));
}

FIXTURE_TEARDOWN(atomic)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

struct work {
	pthread_barrier_t *barrier;
	pthread_t thread;
	uint64_t **words;
	uint64_t *word;
	int dev;
	int error;
	bool *stop;
	unsigned int forks;
	unsigned int failed;
};

static void *cpu_thread(void *data)
{
	struct work *work = data;
	int round, i, word;

	for (round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(work->barrier);
		for (i = 0; i < CPU_ADDS; i++)
			for (word = 0; word < WORDS; word++)
				__atomic_fetch_add(work->words[word], CPU_VALUE,
						   __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *device_thread(void *data)
{
	struct work *work = data;
	int round;

	for (round = 0; round < ROUNDS; round++) {
		pthread_barrier_wait(work->barrier);
		work->error = device_add(work->dev, work->word, DEVICE_VALUE,
					 DEVICE_ADDS) ?: work->error;
	}
	return NULL;
}

static void *fork_thread(void *data)
{
	struct work *work = data;
	pid_t pid;

	while (!__atomic_load_n(work->stop, __ATOMIC_RELAXED)) {
		pid = fork();
		if (!pid)
			_exit(0);
		work->forks++;
		if (pid < 0 || child_exit(pid))
			work->failed++;
	}
	return NULL;
}

static void run(struct __test_metadata *_metadata, int dev, uint64_t **words,
		bool forking)
{
	struct work cpu[CPU_THREADS] = {}, device[WORDS] = {}, forker = {};
	struct devex_counters counters;
	pthread_barrier_t barrier;
	bool stop = false;
	int i;

	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, WORDS + CPU_THREADS));
	for (i = 0; i < WORDS; i++)
		write_word(words[i], 0);
	for (i = 0; i < WORDS; i++) {
		device[i].barrier = &barrier;
		device[i].dev = dev;
		device[i].word = words[i];
		ASSERT_EQ(0, pthread_create(&device[i].thread, NULL,
					    device_thread, &device[i]));
	}
	for (i = 0; i < CPU_THREADS; i++) {
		cpu[i].barrier = &barrier;
		cpu[i].words = words;
		ASSERT_EQ(0, pthread_create(&cpu[i].thread, NULL, cpu_thread,
					    &cpu[i]));
	}
	if (forking) {
		forker.stop = &stop;
		ASSERT_EQ(0, pthread_create(&forker.thread, NULL, fork_thread,
					    &forker));
	}

	for (i = 0; i < CPU_THREADS; i++)
		ASSERT_EQ(0, pthread_join(cpu[i].thread, NULL));
	for (i = 0; i < WORDS; i++) {
		ASSERT_EQ(0, pthread_join(device[i].thread, NULL));
		EXPECT_EQ(0, device[i].error);
	}
	if (forking) {
		__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
		ASSERT_EQ(0, pthread_join(forker.thread, NULL));
		TH_LOG("%u forks, %u failed", forker.forks, forker.failed);
		EXPECT_LT(0, forker.forks);
		EXPECT_EQ(0, forker.failed);
	}
	ASSERT_EQ(0, device_counters(dev, &counters));
	TH_LOG("the device took a page %llu times",
	       (unsigned long long)counters.conversions);

	for (i = 0; i < WORDS; i++)
		EXPECT_EQ(CPU_THREADS * ROUNDS * CPU_ADDS * CPU_VALUE +
			  ROUNDS * DEVICE_ADDS * DEVICE_VALUE,
			  read_word(words[i]))
			TH_LOG("word %d", i);
}

/* A page for each word, next to each other */
static void on_pages(struct __test_metadata *_metadata, int dev,
		     const struct memory *mem, bool forking)
{
	uint64_t *words[WORDS];
	int i;

	for (i = 0; i < WORDS; i++)
		words[i] = memory_word(mem, 3 + i);
	run(_metadata, dev, words, forking);
}

/* All words on one page, next to each other */
static void on_a_page(struct __test_metadata *_metadata, int dev,
		      const struct memory *mem, bool forking)
{
	uint64_t *words[WORDS];
	int i;

	for (i = 0; i < WORDS; i++)
		words[i] = memory_word(mem, 3) + i;
	run(_metadata, dev, words, forking);
}

TEST_F(atomic, pages)
{
	on_pages(_metadata, self->dev, &self->mem, false);
}

TEST_F(atomic, words)
{
	on_a_page(_metadata, self->dev, &self->mem, false);
}

TEST_F(atomic, pages_fork)
{
	on_pages(_metadata, self->dev, &self->mem, true);
}

TEST_F(atomic, words_fork)
{
	on_a_page(_metadata, self->dev, &self->mem, true);
}

/*
 * A range that everybody wants all the time: everybody must get it that often,
 * while all the others go on, and within that time.
 */
#define CROWD_TURNS	3
#define CROWD_MIN	2	/* seconds */
#define CROWD_MAX	20

/* Pages whose first words are added to by a device each turn */
#define CROWD_PAGES	4

FIXTURE(crowd)
{
	struct memory mem;
	int dev[2];
};

FIXTURE_VARIANT(crowd)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(crowd, small)
{
	.kind = SMALL,
};

FIXTURE_VARIANT_ADD(crowd, many)
{
	.kind = MANY,
};

FIXTURE_VARIANT_ADD(crowd, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(crowd, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(crowd)
{
	size_t i;

	self->dev[0] = device_open();
	ASSERT_LE(0, self->dev[0]);
	self->dev[1] = device_open();
	ASSERT_LE(0, self->dev[1]);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, 0));
	for (i = 0; i < self->mem.nr; i++)
		write_word(memory_word(&self->mem, i), 0);
}

FIXTURE_TEARDOWN(crowd)
{
	close(self->dev[0]);
	close(self->dev[1]);
	memory_unmap(&self->mem);
}

struct crowd {
	const struct memory *mem;
	int dev;
	bool *stop;
	unsigned int turns;
	uint64_t adds;		/* of a device, in all; of a CPU, to each page */
	int error;
	pthread_t thread;
};

static bool goes_on(const struct crowd *crowd)
{
	return !__atomic_load_n(crowd->stop, __ATOMIC_RELAXED);
}

/* Take the whole range; fewer pages than asked for is normal: ask again. */
static int take_all(const struct crowd *crowd)
{
	struct memory rest;
	size_t done = 0;
	long made;

	while (done < crowd->mem->nr) {
		rest = memory_part(crowd->mem, done, crowd->mem->nr - done);
		made = device_make(crowd->dev, &rest, 0);
		/* On 7.3 it may have to be tried again. */
		if (made < 0 && made != -EBUSY)
			return made;
		if (made > 0)
			done += made;
	}
	return 0;
}

static void *crowd_device(void *data)
{
	struct crowd *crowd = data;
	size_t i, page;

	while (!crowd->error && goes_on(crowd)) {
		crowd->error = take_all(crowd);
		for (i = 0; !crowd->error && i < CROWD_PAGES; i++) {
			page = crowd->mem->nr / CROWD_PAGES * i + 1;
			crowd->error = device_add(crowd->dev,
						  memory_word(crowd->mem, page),
						  DEVICE_VALUE, 10);
			crowd->adds += 10;
		}
		__atomic_fetch_add(&crowd->turns, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static void *crowd_cpu(void *data)
{
	struct crowd *crowd = data;
	size_t i;

	while (goes_on(crowd)) {
		for (i = 0; i < crowd->mem->nr; i++)
			__atomic_fetch_add(memory_word(crowd->mem, i),
					   CPU_VALUE, __ATOMIC_RELAXED);
		crowd->adds++;
		__atomic_fetch_add(&crowd->turns, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static bool all_have_turns(const struct crowd *crowds, size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++)
		if (__atomic_load_n(&crowds[i].turns, __ATOMIC_RELAXED) <
		    CROWD_TURNS)
			return false;
	return true;
}

static void run_crowd(struct __test_metadata *_metadata,
		      const struct memory *mem, struct crowd *crowds,
		      void *(**work)(void *data), size_t nr)
{
	unsigned int seconds, turns[nr];
	bool stop = false;
	size_t i;

	for (i = 0; i < nr; i++) {
		crowds[i].mem = mem;
		crowds[i].stop = &stop;
		ASSERT_EQ(0, pthread_create(&crowds[i].thread, NULL, work[i],
					    &crowds[i]));
	}
	for (seconds = 0; seconds < CROWD_MIN ||
	     (seconds < CROWD_MAX && !all_have_turns(crowds, nr)); seconds++)
		sleep(1);
	for (i = 0; i < nr; i++)
		turns[i] = __atomic_load_n(&crowds[i].turns, __ATOMIC_RELAXED);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	/* The turn that each of them is in comes to an end, too. */
	for (i = 0; i < nr; i++)
		ASSERT_EQ(0, pthread_join(crowds[i].thread, NULL));
	for (i = 0; i < nr; i++) {
		TH_LOG("%s: %u turns in %u s",
		       work[i] == crowd_cpu ? "CPU" : "device", turns[i],
		       seconds);
		EXPECT_EQ(0, crowds[i].error);
		EXPECT_LE(CROWD_TURNS, turns[i]);
	}
}

/* No update is lost: of these pages all that was added is there. */
static void expect_sums(struct __test_metadata *_metadata,
			const struct memory *mem, uint64_t by_devices,
			uint64_t by_cpus)
{
	size_t i, step = mem->nr / CROWD_PAGES, wrong = 0;
	uint64_t expected;

	for (i = 0; i < mem->nr; i++) {
		expected = by_cpus * CPU_VALUE;
		if (i % step == 1)
			expected += by_devices / CROWD_PAGES * DEVICE_VALUE;
		wrong += read_word(memory_word(mem, i)) != expected;
	}
	EXPECT_EQ(0, wrong);
}

/* Two devices take it from each other. */
TEST_F(crowd, devices)
{
	void *(*work[])(void *data) = { crowd_device, crowd_device };
	struct crowd crowds[2] = { { .dev = self->dev[0] },
				   { .dev = self->dev[1] } };

	run_crowd(_metadata, &self->mem, crowds, work, 2);
	expect_sums(_metadata, &self->mem, crowds[0].adds + crowds[1].adds, 0);
}

/* A device, and CPUs that touch each page of it all the time */
TEST_F(crowd, cpus)
{
	void *(*work[])(void *data) = { crowd_device, crowd_cpu, crowd_cpu };
	struct crowd crowds[3] = { { .dev = self->dev[0] } };

	run_crowd(_metadata, &self->mem, crowds, work, 3);
	expect_sums(_metadata, &self->mem, crowds[0].adds,
		    crowds[1].adds + crowds[2].adds);
}

/* All of them */
TEST_F(crowd, all)
{
	void *(*work[])(void *data) = { crowd_device, crowd_device, crowd_cpu,
					crowd_cpu };
	struct crowd crowds[4] = { { .dev = self->dev[0] },
				   { .dev = self->dev[1] } };

	run_crowd(_metadata, &self->mem, crowds, work, 4);
	expect_sums(_metadata, &self->mem, crowds[0].adds + crowds[1].adds,
		    crowds[2].adds + crowds[3].adds);
}

TEST_HARNESS_MAIN
