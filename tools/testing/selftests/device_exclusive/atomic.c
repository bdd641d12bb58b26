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

TEST_F_TIMEOUT(atomic, pages, 55)
{
	on_pages(_metadata, self->dev, &self->mem, false);
}

TEST_F_TIMEOUT(atomic, words, 55)
{
	on_a_page(_metadata, self->dev, &self->mem, false);
}

TEST_F_TIMEOUT(atomic, pages_fork, 55)
{
	on_pages(_metadata, self->dev, &self->mem, true);
}

TEST_F_TIMEOUT(atomic, words_fork, 55)
{
	on_a_page(_metadata, self->dev, &self->mem, true);
}

TEST_HARNESS_MAIN
