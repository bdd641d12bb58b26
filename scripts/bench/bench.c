// SPDX-License-Identifier: GPL-2.0
/*
 * The benchmarks of `make bench`: see MEASURING.md for what each one is. The
 * same program runs on both kernels.
 *
 * bench icount: on one CPU whose clock counts instructions, 1 ns each
 * bench smp:    on two CPUs, where only ratios mean something
 *
 * Every metric runs in a process of its own: a process that has pinned memory
 * once pays for that in each fork() thereafter.
 *
 * What it prints, one item a line:
 *
 * metric NAME UNIT VALUE...	of each run
 * pages NAME COUNT		that one run of the metric works on
 * event NAME EVENT COUNT	in one run of the metric
 * point NAME PAGES VALUE...	the metric, a page, for another amount of memory
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "module/device_exclusive_bench.h"

#define PAGE		4096UL
#define HUGE		(2UL << 20)
#define HUGE_PAGES	(HUGE / PAGE)
#define METRIC_PAGES	(8 * HUGE_PAGES)	/* 16 MiB */
#define ICOUNT_RUNS	5
#define SMP_RUNS	41
#define MAX_RUNS	SMP_RUNS
#define SYSCALLS	100000
#define COPIES		4096

#define THP_SYSFS	"/sys/kernel/mm/transparent_hugepage/"

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))

#define PM_FRAME_MASK	((1ULL << 55) - 1)

/* What the memory is made of */
enum kind {
	SMALL,	/* 4 KiB pages */
	THP,	/* huge pages, mapped by PMDs */
	PTEMAP,	/* huge pages, mapped by PTEs */
	NR_KINDS,
};

static const char * const kind_name[] = { "4k", "thp", "ptemap" };

/* What has been done to it */
enum state {
	UNTOUCHED,	/* nothing: it is not even there */
	PLAIN,
	EXCLUSIVE,
	PINNED,
	URING,		/* pinned as a registered buffer of io_uring */
	ONE_PINNED,
	MOST_PINNED,	/* all but one page of each 2 MiB */
	HALF_PINNED,	/* every second page */
	SPARSE_PINNED,	/* one page of each 2 MiB, and no others are there */
};

/* Huge pages that are allowed when it comes to the operation */
enum allowed {
	NONE,
	PMD_SIZE,
	ALL_SIZES,
};

static bool is_pinned(enum state state)
{
	return state == PINNED || state == URING || state == ONE_PINNED ||
	       state == MOST_PINNED || state == HALF_PINNED ||
	       state == SPARSE_PINNED;
}

/* What is measured */
enum op {
	MAKE,
	MAKE_ONE,
	TOUCH,		/* write to every page */
	FORK,
	COW,		/* write to every page behind a fork */
	EXIT,		/* of a child */
	MUNMAP,
	COPY,		/* of pages, with the function that fork uses */
	SYSCALL,
};

/**
 * struct test - one benchmark
 * @name: what the name of the metric begins with
 * @op: what is measured
 * @state: of the memory before
 * @kinds: with each kind of memory, or with 4 KiB pages alone
 * @allowed: huge pages when it comes to @op
 * @divisor: of the result, where that is not a page's share
 */
struct test {
	const char *name;
	enum op op;
	enum state state;
	bool kinds;
	enum allowed allowed;
	unsigned int divisor;
};

static const struct test tests[] = {
	{ "make",		MAKE,		PLAIN,		.kinds = true },
	{ "make_one",		MAKE_ONE,	PLAIN,		.kinds = true },
	{ "restore",		TOUCH,		EXCLUSIVE,	.kinds = true },
	{ "fork_plain",		FORK,		PLAIN,		.kinds = true },
	{ "fork_exclusive",	FORK,		EXCLUSIVE,	.kinds = true },
	{ "fork_pinned",	FORK,		PINNED,		.kinds = true },
	{ "fork_pinned",	FORK,		PINNED,		.kinds = true,
		.allowed = ALL_SIZES },
	{ "fork_pinned",	FORK,		URING,		.kinds = true },
	{ "fork_pinned",	FORK,		URING,		.kinds = true,
		.allowed = ALL_SIZES },
	{ "fork_onepin",	FORK,		ONE_PINNED,	.kinds = true },
	{ "fork_mostpin",	FORK,		MOST_PINNED,
		.allowed = PMD_SIZE },
	{ "fork_halfpin",	FORK,		HALF_PINNED },
	{ "fork_sparsepin",	FORK,		SPARSE_PINNED,
		.allowed = PMD_SIZE, .divisor = 1 },
	{ "copy",		COPY,		UNTOUCHED,	.divisor = COPIES },
	{ "anon_fault",		TOUCH,		UNTOUCHED },
	{ "cow_fault",		COW,		PLAIN },
	{ "exit",		EXIT,		PLAIN },
	{ "munmap",		MUNMAP,		PLAIN },
	{ "fork_empty",		FORK,		UNTOUCHED,	.divisor = 1 },
	{ "getppid",		SYSCALL,	UNTOUCHED,	.divisor = SYSCALLS },
};

/* How the cost grows with the memory: which tests, up to 1 GiB */
static const struct {
	struct test test;
	bool small;	/* also from one page to 2 MiB */
} growth[] = {
	{ { "make",		MAKE,	PLAIN,		.kinds = true }, true },
	{ { "restore",		TOUCH,	EXCLUSIVE,	.kinds = true }, true },
	{ { "fork_plain",	FORK,	PLAIN,		.kinds = true }, false },
	{ { "fork_exclusive",	FORK,	EXCLUSIVE,	.kinds = true }, false },
	{ { "fork_pinned",	FORK,	PINNED,		.kinds = true }, false },
};

static const struct test smp_tests[] = {
	{ "make",		MAKE,		PLAIN,		.kinds = true },
	{ "make_one",		MAKE_ONE,	PLAIN,		.kinds = true },
	{ "restore",		TOUCH,		EXCLUSIVE,	.kinds = true },
	{ "fork_exclusive",	FORK,		EXCLUSIVE,	.kinds = true },
};

/* The memory that a test works on */
struct memory {
	enum kind kind;
	size_t size;
	char *addr;
	char *map;
	size_t map_size;
};

/* What happens in the kernel while something runs */
enum event {
	SECTIONS,
	PTL_LOCKS,
	FLUSHES,
	REMOTE_FLUSHES,
	FAULTS,
	ALLOCATED,
	SPLITS,
	COPIED,
	NR_EVENTS,
};

static const char * const event_name[] = {
	"notifier_sections", "ptl_locks", "tlb_flushes", "remote_flushes",
	"page_faults", "pages_allocated", "thp_splits", "pages_copied",
};

/* What the lines of /proc/vmstat count that begin with one of these */
static const struct {
	const char *name;
	enum event event;
} vmstat_event[] = {
	{ "nr_tlb_local_flush_all ", FLUSHES },
	{ "nr_tlb_local_flush_one ", FLUSHES },
	{ "nr_tlb_remote_flush ", REMOTE_FLUSHES },
	{ "pgfault ", FAULTS },
	{ "pgalloc_", ALLOCATED },
	{ "thp_split_page ", SPLITS },
	{ "thp_split_pmd ", SPLITS },
};

/* Between the processes */
static struct {
	double value[MAX_RUNS];
	uint64_t event[NR_EVENTS];
	bool failed;
	/* of the child of a fork */
	bool compare, compared;
	uint64_t copied;
} *shared;

static int device = -1;
static int ring = -1;

static void __attribute__((noreturn, format(printf, 1, 2)))
fail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("# failed: ");
	vprintf(fmt, args);
	printf("\n");
	fflush(stdout);
	shared->failed = true;
	_exit(1);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* Let the kernel's threads do what they have to do. */
static void settle(void)
{
	usleep(20000);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail("cannot write '%s' to %s: %m", text, path);
	close(fd);
}

/* Allow huge pages that are smaller than a PMD, where MADV_HUGEPAGE is set. */
static void allow_mthp(bool allow)
{
	struct dirent *entry;
	char path[512];
	DIR *dir = opendir(THP_SYSFS);

	while (dir && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, "hugepages-", 10) ||
		    !strcmp(entry->d_name, "hugepages-2048kB"))
			continue;
		snprintf(path, sizeof(path), THP_SYSFS "%s/enabled",
			 entry->d_name);
		/* There is none where only files can have that size. */
		if (!access(path, F_OK))
			write_file(path, allow ? "madvise" : "never");
	}
	if (dir)
		closedir(dir);
}

/*
 * The device
 */

static void range_ioctl(unsigned long cmd, const char *name, const char *addr,
			size_t size)
{
	struct bench_range range = { .addr = (uintptr_t)addr, .size = size };

	if (ioctl(device, cmd, &range))
		fail("%s of %zu bytes: %m", name, size);
}

#define device_ioctl(cmd, addr, size)	range_ioctl(cmd, #cmd, addr, size)

static void device_open(bool subscribe)
{
	device = open(BENCH_DEVICE, O_RDWR);
	if (device < 0)
		fail("cannot open " BENCH_DEVICE ": %m");
	if (subscribe && ioctl(device, BENCH_IOC_SUBSCRIBE))
		fail("BENCH_IOC_SUBSCRIBE: %m");
}

/* At most 1 GiB fits into one registered buffer. */
static void uring_pin(const struct memory *mem)
{
	struct iovec iov = { .iov_base = mem->addr, .iov_len = mem->size };
	struct io_uring_params params = {};

	ring = syscall(SYS_io_uring_setup, 1, &params);
	if (ring < 0)
		fail("io_uring_setup: %m");
	if (syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov,
		    1))
		fail("IORING_REGISTER_BUFFERS: %m");
}

static void uring_unpin(void)
{
	if (syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS,
		    NULL, 0))
		fail("IORING_UNREGISTER_BUFFERS: %m");
	close(ring);
}

/*
 * Memory
 */

static void touch(const struct memory *mem)
{
	size_t i;

	for (i = 0; i < mem->size; i += PAGE)
		*(volatile char *)(mem->addr + i) = 1;
}

/* AnonHugePages of the process, in bytes */
static size_t anon_huge(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	unsigned long kib = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib * 1024;
}

static void memory_map(struct memory *mem, enum kind kind, size_t pages)
{
	mem->kind = kind;
	mem->size = pages * PAGE;
	mem->map_size = mem->size + 2 * HUGE;
	mem->map = mmap(NULL, mem->map_size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem->map == MAP_FAILED)
		fail("mmap of %zu bytes: %m", mem->map_size);
	mem->addr = (char *)(((uintptr_t)mem->map + HUGE) / HUGE * HUGE);
	if (madvise(mem->map, mem->map_size, kind == SMALL ?
		    MADV_NOHUGEPAGE : MADV_HUGEPAGE))
		fail("madvise: %m");
}

static void memory_populate(struct memory *mem)
{
	size_t i;

	/* A part of a huge page is there with all of it. */
	touch(mem);
	if (mem->kind == SMALL)
		return;
	if (anon_huge() < mem->size / HUGE * HUGE)
		fail("only %zu of %zu bytes are huge pages", anon_huge(),
		     mem->size);
	if (mem->kind == THP)
		return;
	/* Another protection for one page splits the PMD. */
	for (i = 0; i < mem->size; i += HUGE)
		if (mprotect(mem->addr + i, PAGE, PROT_READ) ||
		    mprotect(mem->addr + i, PAGE, PROT_READ | PROT_WRITE))
			fail("mprotect: %m");
	if (anon_huge())
		fail("huge pages are mapped by PMDs");
}

/* Pin all of it, and replace a page in the middle of so many bytes by another. */
static void pin_with_holes(const struct memory *mem, size_t bytes)
{
	size_t i;

	device_ioctl(BENCH_IOC_PIN, mem->addr, mem->size);
	for (i = bytes / 2; i < mem->size; i += bytes)
		if (madvise(mem->addr + i, PAGE, MADV_DONTNEED))
			fail("madvise: %m");
	touch(mem);
}

/* Pin all of it, and keep one page of each 2 MiB, in the middle. */
static void pin_sparse(const struct memory *mem)
{
	const size_t half = HUGE / 2;
	size_t i;

	device_ioctl(BENCH_IOC_PIN, mem->addr, mem->size);
	for (i = 0; i < mem->size; i += HUGE)
		if (madvise(mem->addr + i, half, MADV_DONTNEED) ||
		    madvise(mem->addr + i + half + PAGE, half - PAGE,
			    MADV_DONTNEED))
			fail("madvise: %m");
}

static void memory_prepare(struct memory *mem, enum state state)
{
	if (state != UNTOUCHED)
		memory_populate(mem);
	switch (state) {
	case UNTOUCHED:
	case PLAIN:
		break;
	case EXCLUSIVE:
		device_ioctl(BENCH_IOC_MAKE, mem->addr, mem->size);
		break;
	case PINNED:
		device_ioctl(BENCH_IOC_PIN, mem->addr, mem->size);
		break;
	case URING:
		uring_pin(mem);
		break;
	case ONE_PINNED:
		device_ioctl(BENCH_IOC_PIN, mem->addr + mem->size / 2, PAGE);
		break;
	case MOST_PINNED:
		pin_with_holes(mem, HUGE);
		break;
	case HALF_PINNED:
		pin_with_holes(mem, 2 * PAGE);
		break;
	case SPARSE_PINNED:
		pin_sparse(mem);
		break;
	}
}

static void memory_release(struct memory *mem, enum state state)
{
	if (state == URING)
		uring_unpin();
	else if (is_pinned(state) && ioctl(device, BENCH_IOC_UNPIN))
		fail("BENCH_IOC_UNPIN: %m");
	munmap(mem->map, mem->map_size);
}

/* Where the pages are */
static uint64_t *memory_frames(const struct memory *mem)
{
	size_t i, nr = mem->size / PAGE, size = nr * sizeof(uint64_t);
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t *frames = malloc(size);

	if (fd < 0 || !frames ||
	    pread(fd, frames, size, (uintptr_t)mem->addr / PAGE * 8) !=
	    (ssize_t)size)
		fail("cannot read /proc/self/pagemap");
	close(fd);
	for (i = 0; i < nr; i++)
		frames[i] &= PM_FRAME_MASK;
	return frames;
}

/*
 * Events
 */

static void read_vmstat(uint64_t *event)
{
	static char text[65536];
	int fd = open("/proc/vmstat", O_RDONLY);
	size_t len = 0, i;
	char *line;
	ssize_t n;

	while ((n = read(fd, text + len, sizeof(text) - 1 - len)) > 0)
		len += n;
	close(fd);
	text[len] = '\0';
	for (line = text; *line; line += strcspn(line, "\n") + 1)
		for (i = 0; i < ARRAY_SIZE(vmstat_event); i++) {
			const char *name = vmstat_event[i].name;

			if (!strncmp(line, name, strlen(name)))
				event[vmstat_event[i].event] +=
					strtoull(strchr(line, ' '), NULL, 10);
		}
}

/* What happens between two calls of this, with @sign -1 and 1 */
static void count_events(uint64_t *event, int sign)
{
	uint64_t is[NR_EVENTS] = {};
	struct bench_counts counts = {};
	int i;

	if (sign > 0 && ioctl(device, BENCH_IOC_COUNTS, &counts))
		fail("BENCH_IOC_COUNTS: %m");
	read_vmstat(is);
	is[SECTIONS] = counts.sections;
	is[PTL_LOCKS] = counts.ptl_locks;
	for (i = 0; i < NR_EVENTS; i++)
		event[i] += sign * is[i];
	if (sign < 0 && ioctl(device, BENCH_IOC_WATCH))
		fail("BENCH_IOC_WATCH: %m");
}

/*
 * Running
 */

static pid_t bare_fork(void)
{
	return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

/* In the child: which pages are not those of the parent? */
static void compare(const struct memory *mem, const uint64_t *frames)
{
	uint64_t *own = memory_frames(mem);
	size_t i;

	for (i = 0; i < mem->size / PAGE; i++)
		shared->copied += own[i] != frames[i];
	shared->compared = true;
}

/* A child that waits to be killed or, for EXIT, does not */
static pid_t spawn(const struct memory *mem, enum op op, const uint64_t *frames)
{
	pid_t pid = bare_fork();

	if (pid < 0)
		fail("fork: %m");
	if (pid)
		return pid;
	if (op == EXIT)
		_exit(0);
	if (frames)
		compare(mem, frames);
	for (;;)
		pause();
}

/* Begin to count, and leave out what counting itself does. */
static void begin_events(uint64_t *event)
{
	int i;

	for (i = 0; i < 2; i++) {
		memset(event, 0, NR_EVENTS * sizeof(*event));
		count_events(event, -1);
		count_events(event, 1);
	}
	for (i = 0; i < NR_EVENTS; i++)
		event[i] = -event[i];
	count_events(event, -1);
}

static void run_op(enum op op, struct memory *mem, const uint64_t *frames,
		   pid_t *pid)
{
	int i;

	switch (op) {
	case MAKE:
		device_ioctl(BENCH_IOC_MAKE, mem->addr, mem->size);
		break;
	case MAKE_ONE:
		device_ioctl(BENCH_IOC_MAKE_ONE, mem->addr, mem->size);
		break;
	case TOUCH:
	case COW:
		touch(mem);
		break;
	case FORK:
		*pid = spawn(mem, op, frames);
		break;
	case EXIT:
		waitpid(*pid, NULL, 0);
		*pid = 0;
		break;
	case MUNMAP:
		munmap(mem->addr, mem->size);
		break;
	case COPY:
		if (ioctl(device, BENCH_IOC_COPY, COPIES))
			fail("BENCH_IOC_COPY: %m");
		break;
	case SYSCALL:
		for (i = 0; i < SYSCALLS; i++)
			syscall(SYS_getppid);
		break;
	}
}

/* Returns how long it took. With @event, count what happens meanwhile. */
static uint64_t run_once(const struct test *test, enum kind kind, size_t pages,
			 uint64_t *event)
{
	uint64_t *frames = NULL, start, end;
	struct memory mem;
	pid_t pid = 0;

	memory_map(&mem, kind, pages);
	memory_prepare(&mem, test->state);
	if (test->allowed == ALL_SIZES)
		allow_mthp(true);
	if (test->allowed != NONE &&
	    madvise(mem.map, mem.map_size, MADV_HUGEPAGE))
		fail("madvise: %m");
	if (event && is_pinned(test->state))
		frames = memory_frames(&mem);
	if (test->op == COW)
		pid = spawn(&mem, COW, NULL);
	settle();
	/* Does not run before we sleep: see real_time(). */
	if (test->op == EXIT)
		pid = spawn(&mem, EXIT, NULL);

	if (event)
		begin_events(event);
	start = now();
	run_op(test->op, &mem, frames, &pid);
	end = now();
	if (event)
		count_events(event, 1);

	while (frames && !*(volatile bool *)&shared->compared)
		usleep(1000);
	if (event)
		event[COPIED] = shared->copied;
	if (pid) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	memory_release(&mem, test->state);
	if (test->allowed == ALL_SIZES)
		allow_mthp(false);
	free(frames);
	settle();
	return end - start;
}

/* The sibling: a thread on the other CPU, so that a TLB flush must reach it */
static void *spin(void *arg)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(1, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		fail("sched_setaffinity: %m");
	for (;;)
		*(volatile bool *)arg = true;
}

static void start_sibling(void)
{
	static volatile bool runs;
	pthread_t thread;

	errno = pthread_create(&thread, NULL, spin, (void *)&runs);
	if (errno)
		fail("pthread_create: %m");
	while (!runs)
		usleep(1000);
}

/*
 * Nothing else runs before we sleep, children included: they have the same
 * priority.
 */
static void real_time(void)
{
	struct sched_param param = { .sched_priority = 1 };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) ||
	    sched_setscheduler(0, SCHED_FIFO, &param))
		fail("sched_setscheduler: %m");
}

/*
 * Run a test in a process of its own, which leaves what it measures in @shared.
 * The events come from one more run.
 */
static void run_test(const struct test *test, enum kind kind, size_t pages,
		     int runs, bool events, bool sibling)
{
	double divisor = test->divisor ?: pages;
	int i, status;
	pid_t pid;

	memset(shared, 0, sizeof(*shared));
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail("fork: %m");
	if (pid) {
		if (waitpid(pid, &status, 0) != pid || status || shared->failed)
			fail("%s with %zu pages of kind %s", test->name, pages,
			     kind_name[kind]);
		return;
	}
	if (sibling)
		start_sibling();
	real_time();
	/* Who only pins or forks has no MMU notifier. */
	device_open(test->op == MAKE || test->op == MAKE_ONE ||
		    test->state == EXCLUSIVE);
	for (i = 0; i < runs; i++)
		shared->value[i] = run_once(test, kind, pages, NULL) / divisor;
	close(device);
	if (events) {
		device_open(true);
		run_once(test, kind, pages, shared->event);
	}
	_exit(0);
}

static void print_values(int runs)
{
	int i;

	for (i = 0; i < runs; i++)
		printf(" %.3f", shared->value[i]);
	printf("\n");
	fflush(stdout);
}

static void full_name(char *name, size_t size, const struct test *test,
		      enum kind kind, const char *suffix)
{
	snprintf(name, size, "%s%s%s%s%s%s", test->name, test->kinds ? "_" : "",
		 test->kinds ? kind_name[kind] : "",
		 test->state == URING ? "_uring" : "",
		 test->allowed == ALL_SIZES ? "_mthp" : "", suffix);
}

static void print_events(const char *name)
{
	int i;

	for (i = 0; i < NR_EVENTS; i++)
		printf("event %s %s %llu\n", name, event_name[i],
		       (unsigned long long)shared->event[i]);
}

static void run_metric(const struct test *test, enum kind kind)
{
	char name[64];

	full_name(name, sizeof(name), test, kind, "");
	run_test(test, kind, METRIC_PAGES, ICOUNT_RUNS, true, false);
	printf("metric %s %s", name, test->divisor && test->divisor != COPIES ?
	       "instructions" : "instructions/page");
	print_values(ICOUNT_RUNS);
	printf("pages %s %lu\n", name, METRIC_PAGES);
	print_events(name);
}

static void run_point(const struct test *test, enum kind kind, size_t pages)
{
	int runs = pages <= METRIC_PAGES ? 3 : 1;
	char name[64];

	full_name(name, sizeof(name), test, kind, "");
	run_test(test, kind, pages, runs, false, false);
	printf("point %s %zu", name, pages);
	print_values(runs);
}

static void run_icount(void)
{
	static const size_t small[] = { 1, 4, 16, 64, 256 };
	static const size_t large[] = { HUGE_PAGES, 4 * HUGE_PAGES,
					32 * HUGE_PAGES, 512 * HUGE_PAGES };
	enum kind kind;
	size_t i, j;

	for (i = 0; i < ARRAY_SIZE(tests); i++)
		for (kind = 0; kind < (tests[i].kinds ? NR_KINDS : 1); kind++)
			run_metric(&tests[i], kind);
	for (i = 0; i < ARRAY_SIZE(growth); i++) {
		const struct test *test = &growth[i].test;

		for (kind = 0; kind < NR_KINDS; kind++) {
			for (j = 0; growth[i].small && j < ARRAY_SIZE(small);
			     j++)
				run_point(test, kind, small[j]);
			for (j = 0; j < ARRAY_SIZE(large); j++)
				run_point(test, kind, large[j]);
		}
	}
}

/* One call's worth of memory, without and with a sibling */
static void run_smp(void)
{
	enum kind kind;
	char name[64];
	size_t i;
	int s;

	for (i = 0; i < ARRAY_SIZE(smp_tests); i++) {
		for (kind = 0; kind < NR_KINDS; kind++) {
			for (s = 0; s < 2; s++) {
				full_name(name, sizeof(name), &smp_tests[i],
					  kind, s ? "_sibling" : "_alone");
				run_test(&smp_tests[i], kind, HUGE_PAGES,
					 SMP_RUNS, true, s);
				printf("metric %s ns/page", name);
				print_values(SMP_RUNS);
				printf("pages %s %lu\n", name, HUGE_PAGES);
				print_events(name);
			}
		}
	}
}

int main(int argc, char **argv)
{
	bool smp = argc == 2 && !strcmp(argv[1], "smp");

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 1;
	if (!smp && (argc != 2 || strcmp(argv[1], "icount")))
		fail("usage: bench icount|smp");
	write_file(THP_SYSFS "enabled", "madvise");
	write_file(THP_SYSFS "defrag", "madvise");
	write_file(THP_SYSFS "khugepaged/scan_sleep_millisecs", "4000000000");
	write_file("/proc/sys/kernel/sched_rt_runtime_us", "-1");
	allow_mthp(false);
	settle();
	if (smp)
		run_smp();
	else
		run_icount();
	return 0;
}
