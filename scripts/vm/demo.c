// SPDX-License-Identifier: GPL-2.0
/*
 * The demo: what device-exclusive memory is and what works of it, in words and
 * numbers, on the simulated device. It says nothing that it has not checked.
 *
 * Exit status: 0 if all parts are as they should be, 1 if parts are broken that
 * are known to be in Linux 7.3, 2 if anything else is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test_device_exclusive_uapi.h"

#define PAGE		4096UL
#define HUGE		(2UL << 20)
#define HUGE_PAGES	(HUGE / PAGE)
#define KPF_THP		22

#define PM_PRESENT	(1ULL << 63)
#define PM_SWAP		(1ULL << 62)
#define PM_PFN_MASK	((1ULL << 55) - 1)
#define PM_TYPE_MASK	31
#define TYPE_EXCLUSIVE	30	/* SWP_DEVICE_EXCLUSIVE */

#define CGROUP		"/sys/fs/cgroup/demo"

/* So many pages from @start on; each begins with a number of its own. */
struct area {
	char *start;
	size_t pages;
};

static void __attribute__((noreturn, format(printf, 1, 2)))
give_up(const char *fmt, ...)
{
	va_list args;

	fputs("The demo cannot go on: ", stdout);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
	_exit(2);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* @what, dots, and what came of it */
static void __attribute__((format(printf, 2, 3)))
line(const char *what, const char *fmt, ...)
{
	va_list args;
	int n;

	n = printf("    %s ", what);
	while (n++ < 54)
		putchar('.');
	putchar(' ');
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static uint64_t read_u64(const char *path, uint64_t index)
{
	int fd = open(path, O_RDONLY);
	uint64_t value;

	if (fd < 0 || pread(fd, &value, 8, index * 8) != 8)
		give_up("cannot read %s: %s", path, strerror(errno));
	close(fd);
	return value;
}

/*
 * Who owns a page?
 */
enum owner { NOBODY, CPU, DEVICE, SWAPPED, CORRUPT, NR_OWNERS };

static unsigned int swap_areas(void)
{
	FILE *file = fopen("/proc/swaps", "r");
	unsigned int lines = 0;
	char text[256];

	while (file && fgets(text, sizeof(text), file))
		lines++;
	if (file)
		fclose(file);
	return lines ? lines - 1 : 0;
}

/* What the kernel's page table says */
static enum owner page_owner(const void *addr)
{
	uint64_t entry = read_u64("/proc/self/pagemap", (uintptr_t)addr / PAGE);

	if (entry & PM_PRESENT)
		return CPU;
	if (!(entry & PM_SWAP))
		return NOBODY;
	if ((entry & PM_TYPE_MASK) == TYPE_EXCLUSIVE)
		return DEVICE;
	return (entry & PM_TYPE_MASK) < swap_areas() ? SWAPPED : CORRUPT;
}

static size_t count_owner(const struct area *area, enum owner owner)
{
	size_t i, count = 0;

	for (i = 0; i < area->pages; i++)
		count += page_owner(area->start + i * PAGE) == owner;
	return count;
}

/* What the device says: how many pages does it hold? */
static size_t count_held(int dev, const struct area *area)
{
	uint8_t held[area->pages];
	struct devex_query query = {
		.addr = (uintptr_t)area->start,
		.size = area->pages * PAGE,
		.held = (uintptr_t)held,
	};
	size_t i, count = 0;

	if (ioctl(dev, DEVEX_IOC_QUERY, &query))
		give_up("DEVEX_IOC_QUERY: %s", strerror(errno));
	for (i = 0; i < area->pages; i++)
		count += held[i];
	return count;
}

static bool is_huge(const void *addr)
{
	uint64_t entry = read_u64("/proc/self/pagemap", (uintptr_t)addr / PAGE);

	return read_u64("/proc/kpageflags", entry & PM_PFN_MASK) >>
	       KPF_THP & 1;
}

/*
 * Memory
 */
static volatile uint64_t *page_number(const struct area *area, size_t i)
{
	return (uint64_t *)(area->start + i * PAGE);
}

static void fill(const struct area *area, uint64_t first)
{
	size_t i;

	for (i = 0; i < area->pages; i++)
		*page_number(area, i) = first + i;
}

/* How many pages have what fill() has put there? */
static size_t count_right(const struct area *area, uint64_t first)
{
	size_t i, count = 0;

	for (i = 0; i < area->pages; i++)
		count += *page_number(area, i) == first + i;
	return count;
}

/* @small pages of 4 KiB and, right behind them, one of 2 MiB */
static struct area map_area(size_t small, uint64_t first)
{
	struct area area = { .pages = small + HUGE_PAGES };
	char *map, *huge;

	map = mmap(NULL, small * PAGE + 2 * HUGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	huge = map + small * PAGE + HUGE - 1;
	huge -= (uintptr_t)huge % HUGE;
	area.start = huge - small * PAGE;
	if (madvise(area.start, small * PAGE, MADV_NOHUGEPAGE) ||
	    madvise(huge, HUGE, MADV_HUGEPAGE))
		give_up("madvise: %s", strerror(errno));
	fill(&area, first);
	if (!is_huge(huge) || is_huge(area.start))
		give_up("there is no huge page to be had");
	return area;
}

static void *map_shared(size_t size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	return map;
}

/*
 * The device
 */
static int device_open(void)
{
	int dev = open(DEVEX_DEVICE, O_RDWR | O_CLOEXEC);

	if (dev < 0)
		give_up("%s: %s; is the module loaded?", DEVEX_DEVICE,
			strerror(errno));
	return dev;
}

static void device_make(int dev, const struct area *area, uint32_t flags)
{
	struct devex_range range = {
		.addr = (uintptr_t)area->start,
		.size = area->pages * PAGE,
		.flags = flags,
	};

	if (ioctl(dev, DEVEX_IOC_MAKE, &range))
		give_up("DEVEX_IOC_MAKE: %s", strerror(errno));
	if (range.npages != area->pages)
		give_up("the device got %llu of %zu pages",
			(unsigned long long)range.npages, area->pages);
}

static void device_unlock(int dev)
{
	if (ioctl(dev, DEVEX_IOC_UNLOCK))
		give_up("DEVEX_IOC_UNLOCK: %s", strerror(errno));
}

static struct devex_add device_add(int dev, uint64_t *word, uint64_t count)
{
	struct devex_add add = {
		.addr = (uintptr_t)word,
		.value = 1,
		.count = count,
	};

	if (ioctl(dev, DEVEX_IOC_ADD, &add))
		give_up("DEVEX_IOC_ADD: %s", strerror(errno));
	return add;
}

static struct devex_counters device_counters(int dev)
{
	struct devex_counters counters = {};

	if (ioctl(dev, DEVEX_IOC_COUNTERS, &counters))
		give_up("DEVEX_IOC_COUNTERS: %s", strerror(errno));
	return counters;
}

/* A page of memory for one number */
static struct area map_number(uint64_t value)
{
	struct area area = { .pages = 1 };

	area.start = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area.start == MAP_FAILED)
		give_up("mmap: %s", strerror(errno));
	fill(&area, value);
	return area;
}

/*
 * 1
 */
static bool owner_is(int dev, const struct area *area, enum owner expected,
		     const char *what)
{
	static const char * const names[NR_OWNERS] = {
		"nobody", "CPU", "device", "swap", "corrupt",
	};
	enum owner owner = page_owner(area->start);
	bool held = count_held(dev, area);

	printf("    %-32s %-12s %s\n", what, names[owner],
	       held ? "has the page" : "does not have it");
	return owner == expected && held == (expected == DEVICE);
}

static bool demo_owner(void)
{
	struct area area = map_number(41);
	int dev = device_open();
	struct devex_add add;
	char text[64];
	uint64_t value;
	bool ok;

	printf("    %-32s %-12s %s\n", "", "page table", "device");
	ok = owner_is(dev, &area, CPU, "The process writes 41.");
	device_make(dev, &area, 0);
	ok &= owner_is(dev, &area, DEVICE, "The device asks for the page.");
	add = device_add(dev, (uint64_t *)area.start, 1);
	ok &= owner_is(dev, &area, DEVICE, "The device adds 1.");
	value = *page_number(&area, 0);
	snprintf(text, sizeof(text), "The process reads %llu.",
		 (unsigned long long)value);
	ok &= owner_is(dev, &area, CPU, text);
	close(dev);
	return ok && value == 42 && add.done == 1;
}

/*
 * 2
 */
#define CPU_THREADS		2
#define CPU_ADDITIONS		100	/* then a pause, for the device */
#define DEVICE_ADDITIONS	20	/* in one command to it */
#define TURNS			200	/* how often the page is to go forth and back */
#define TURNS_SECONDS		20	/* or it is not contended at all */

struct adder {
	pthread_t thread;
	uint64_t *word;
	volatile bool *stop;
	uint64_t done;
};

static void *cpu_adds(void *data)
{
	struct adder *adder = data;
	int i;

	while (!*adder->stop) {
		for (i = 0; i < CPU_ADDITIONS; i++)
			__atomic_fetch_add(adder->word, 1, __ATOMIC_RELAXED);
		adder->done += CPU_ADDITIONS;
		usleep(100);
	}
	return NULL;
}

static bool demo_counter(void)
{
	struct area area = map_number(0);
	uint64_t by_cpu = 0, by_device = 0, sum, expected;
	struct adder adders[CPU_THREADS];
	struct devex_counters counters;
	volatile bool stop = false;
	int dev = device_open();
	double start = now();
	int i;

	for (i = 0; i < CPU_THREADS; i++) {
		adders[i] = (struct adder){
			.word = (uint64_t *)area.start,
			.stop = &stop,
		};
		if (pthread_create(&adders[i].thread, NULL, cpu_adds,
				   &adders[i]))
			give_up("there is no thread to be had");
	}
	do {
		by_device += device_add(dev, (uint64_t *)area.start,
					DEVICE_ADDITIONS).done;
		counters = device_counters(dev);
	} while (counters.invalidated < TURNS &&
		 now() < start + TURNS_SECONDS);
	stop = true;
	for (i = 0; i < CPU_THREADS; i++) {
		pthread_join(adders[i].thread, NULL);
		by_cpu += adders[i].done;
	}
	sum = *page_number(&area, 0);
	expected = by_cpu + by_device;

	line("additions by the device (load, add, store)", "%llu",
	     (unsigned long long)by_device);
	line("atomic additions by 2 CPU threads meanwhile", "%llu",
	     (unsigned long long)by_cpu);
	line("the counter should be", "%llu", (unsigned long long)expected);
	line("the counter is", "%llu", (unsigned long long)sum);
	line("additions lost", "%lld", (long long)(expected - sum));
	line("the device took the page", "%llu times",
	     (unsigned long long)counters.conversions);
	line("a CPU took it back", "%llu times",
	     (unsigned long long)counters.invalidated);
	close(dev);
	return sum == expected && counters.invalidated >= TURNS;
}

/*
 * 3
 */
#define FORK_SMALL	16
#define FORKS		100
#define OLD		1000000
#define BY_CHILD	2000000
#define BY_PARENT	3000000

/* What the child finds */
struct child_view {
	size_t right, exclusive, kept;
};

static void tell(int fd)
{
	if (write(fd, "", 1) != 1)
		give_up("the other process is gone");
}

static void wait_for(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		give_up("the other process is gone");
}

static void __attribute__((noreturn))
fork_child(const struct area *area, struct child_view *view, int in, int out)
{
	view->exclusive = count_owner(area, DEVICE);
	view->right = count_right(area, OLD);
	fill(area, BY_CHILD);
	tell(out);
	wait_for(in);
	view->kept = count_right(area, BY_CHILD);
	_exit(0);
}

/* @pid is a child that runs fork_child() at the other end of the pipes. */
static bool fork_parent(const struct area *area, int dev, int in, int out,
			pid_t pid, struct child_view *view)
{
	size_t n = area->pages, held, right, kept;
	int status;

	held = count_held(dev, area);
	wait_for(in);
	right = count_right(area, OLD);
	fill(area, BY_PARENT);
	tell(out);
	if (waitpid(pid, &status, 0) != pid || status)
		give_up("the child has died");
	kept = count_right(area, BY_PARENT);

	line("pages where the child reads what was there", "%zu", view->right);
	line("pages that in the child belong to a device", "%zu",
	     view->exclusive);
	line("pages that the device still has", "%zu", held);
	line("pages where the parent sees what the child wrote", "%zu",
	     n - right);
	line("pages where the child sees what the parent wrote", "%zu",
	     n - view->kept);
	return !held && !view->exclusive && view->right == n && right == n &&
	       view->kept == n && kept == n;
}

/* How many forks fail while the device holds the locks? */
static int count_failed_forks(int dev)
{
	struct area area = map_area(FORK_SMALL, OLD);
	int i, status, failed = 0;
	pid_t pid;

	for (i = 0; i < FORKS; i++) {
		device_make(dev, &area, DEVEX_RANGE_LOCKED);
		pid = fork();
		if (!pid)
			_exit(0);
		device_unlock(dev);
		if (pid < 0)
			failed++;
		else if (waitpid(pid, &status, 0) != pid || status)
			give_up("a child has died");
	}
	return failed;
}

static bool demo_fork(void)
{
	struct area area = map_area(FORK_SMALL, OLD);
	struct child_view *view = map_shared(sizeof(*view));
	int to_child[2], to_parent[2], dev = device_open(), failed, error;
	size_t held, exclusive, right;
	bool ok = false;
	pid_t pid;

	if (pipe(to_child) || pipe(to_parent))
		give_up("pipe: %s", strerror(errno));

	device_make(dev, &area, DEVEX_RANGE_LOCKED);
	held = count_held(dev, &area);
	exclusive = count_owner(&area, DEVICE);
	line("pages that belong to the device, and are locked", "%zu of %zu",
	     exclusive, area.pages);

	fflush(stdout);
	pid = fork();
	error = errno;
	if (!pid) {
		close(to_child[1]);
		close(to_parent[0]);
		fork_child(&area, view, to_child[0], to_parent[1]);
	}
	close(to_child[0]);
	close(to_parent[1]);
	device_unlock(dev);
	if (pid < 0) {
		line("fork fails", "%s", strerror(error));
		right = count_right(&area, OLD);
		line("pages where the process reads what was there", "%zu",
		     right);
	} else {
		line("fork", "works");
		ok = fork_parent(&area, dev, to_parent[0], to_child[1], pid,
				 view);
	}
	close(to_child[1]);
	close(to_parent[0]);

	failed = count_failed_forks(dev);
	line("the same again and again: forks that failed", "%d of %d", failed,
	     FORKS);
	close(dev);
	return ok && held == area.pages && exclusive == area.pages && !failed;
}

/*
 * 4
 */
#define RECLAIM_SMALL	64
#define RECLAIM_HUGE	3
#define STUCK_SECONDS	3

/* What the process finds whose memory is reclaimed */
struct reclaim_view {
	size_t owners[NR_OWNERS];
	size_t both;		/* have the page: the device and another */
	size_t right;
	volatile bool reads;	/* now it reads its pages */
	volatile bool done;
};

static void __attribute__((noreturn)) reclaim_child(struct reclaim_view *view)
{
	struct area area, one = { .pages = 1 };
	int dev = device_open();
	enum owner owner;
	char text[16];
	size_t i;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(text, sizeof(text), "%d", getpid());
	ret = write_file(CGROUP "/cgroup.procs", text);
	if (ret)
		give_up("%s: %s", CGROUP, strerror(-ret));

	area = map_area(RECLAIM_SMALL, OLD);
	if (madvise(area.start, area.pages * PAGE, MADV_FREE))
		give_up("MADV_FREE: %s", strerror(errno));
	area.pages = RECLAIM_SMALL + RECLAIM_HUGE;
	device_make(dev, &area, 0);
	/* Pages must not sit in a CPU's batch, where reclaim finds none. */
	write_file("/proc/sys/vm/drop_caches", "1");
	ret = write_file(CGROUP "/memory.reclaim", "16M");
	/* EAGAIN: there was less than that to reclaim */
	if (ret && ret != -EAGAIN)
		give_up("memory.reclaim: %s", strerror(-ret));

	for (i = 0; i < area.pages; i++) {
		one.start = area.start + i * PAGE;
		owner = page_owner(one.start);
		view->owners[owner]++;
		view->both += owner != DEVICE && count_held(dev, &one);
	}
	view->reads = true;
	view->right = count_right(&area, OLD);
	view->done = true;
	_exit(0);
}

/* Wait for @pid, not forever: false if it is stuck, and had to be killed. */
static bool wait_unless_stuck(pid_t pid, const struct reclaim_view *view)
{
	double since = 0;
	int status;
	pid_t ret;

	while (!(ret = waitpid(pid, &status, WNOHANG))) {
		if (view->reads && !since)
			since = now();
		if (since && now() > since + STUCK_SECONDS) {
			kill(pid, SIGKILL);
			waitpid(pid, &status, 0);
			return false;
		}
		usleep(10000);
	}
	if (ret != pid || status || !view->done)
		give_up("the process whose memory is reclaimed has died");
	return true;
}

/* How many lines of complaint has the kernel logged? The first in @first. */
static size_t count_complaints(int kmsg, char *first, size_t size)
{
	char record[8192], *text;
	size_t count = 0;
	ssize_t n;

	while ((n = read(kmsg, record, sizeof(record) - 1)) > 0 ||
	       errno == EPIPE || errno == EINTR) {
		if (n <= 0)
			continue;
		record[n] = '\0';
		text = strchr(record, ';');
		text = text ? text + 1 : record;
		text[strcspn(text, "\n")] = '\0';
		if (!strstr(text, "WARNING:") && !strstr(text, "BUG:") &&
		    !strstr(text, "Bad "))
			continue;
		if (!count++)
			snprintf(first, size, "%.*s", (int)size - 1, text);
	}
	return count;
}

static bool demo_reclaim(void)
{
	struct reclaim_view *view = map_shared(sizeof(*view));
	size_t n = RECLAIM_SMALL + RECLAIM_HUGE, complaints;
	bool returned;
	char first[52];
	pid_t pid;
	int kmsg;

	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg < 0 || lseek(kmsg, 0, SEEK_END))
		give_up("/dev/kmsg: %s", strerror(errno));
	if (mkdir(CGROUP, 0755) && errno != EEXIST)
		give_up("%s: %s", CGROUP, strerror(errno));
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		give_up("fork: %s", strerror(errno));
	if (!pid)
		reclaim_child(view);
	returned = wait_unless_stuck(pid, view);
	rmdir(CGROUP);
	complaints = count_complaints(kmsg, first, sizeof(first));
	close(kmsg);

	line("pages that the device had", "%zu", n);
	line("page table entries that are as they were", "%zu", view->owners[DEVICE]);
	line("pages properly taken away (swapped out)", "%zu",
	     view->owners[SWAPPED]);
	line("page table entries that are corrupt", "%zu", view->owners[CORRUPT]);
	line("pages that the device uses without owning them", "%zu", view->both);
	if (returned)
		line("pages where the process reads what was there", "%zu",
		     view->right);
	else
		line("the process reads its pages", "STUCK: killed after %d s",
		     STUCK_SECONDS);
	line("complaints in the kernel's log", "%zu", complaints);
	if (complaints)
		printf("        the first: %s\n", first);
	return view->owners[DEVICE] + view->owners[SWAPPED] == n &&
	       !view->both && returned && view->right == n && !complaints;
}

static const struct {
	const char *title;
	const char *text;
	bool (*run)(void);
	bool broken_in_7_3;
} parts[] = {
	{
		.title = "Who owns a page",
		.text =
"A process and a device share a page. It belongs to one of them at a time:\n"
"the device asks the kernel for it, an access by the CPU takes it back.\n",
		.run = demo_owner,
	}, {
		.title = "One counter, two sides",
		.text =
"The device's additions are not atomic. That it has the page to itself is all\n"
"that keeps it from overwriting what the CPUs add at the same time.\n",
		.run = demo_counter,
	}, {
		.title = "fork while the device has the memory",
		.text =
"16 pages of 4 KiB and one of 2 MiB (512 times 4 KiB) go to the device, which\n"
"keeps them locked, as a driver does while it tells its device of them.\n",
		.run = demo_fork,
		.broken_in_7_3 = true,
	}, {
		.title = "Memory gets short",
		.text =
"The kernel looks for pages that it can take away, and finds some that the\n"
"device has: 64 pages of 4 KiB and 3 parts of a huge one. Their process has\n"
"told the kernel that it may drop them (MADV_FREE), before the device got them.\n",
		.run = demo_reclaim,
		.broken_in_7_3 = true,
	},
};

#define NR_PARTS	(sizeof(parts) / sizeof(parts[0]))

int main(void)
{
	const char *flavour = getenv("FLAVOUR") ?: "";
	bool base = !strcmp(flavour, "base");
	unsigned int i, good = 0, known = 0;
	struct utsname uts;
	bool ok;

	setvbuf(stdout, NULL, _IOLBF, 0);
	uname(&uts);
	printf("Linux %s on %s%s\n", uts.release, uts.machine,
	       base ? ", without the series" :
	       !strcmp(flavour, "patched") ? ", with the series" : "");

	for (i = 0; i < NR_PARTS; i++) {
		printf("\n%u. %s\n%s", i + 1, parts[i].title, parts[i].text);
		ok = parts[i].run();
		printf("    => %s\n", ok ? "as it should be" : "BROKEN");
		if (ok)
			good++;
		else if (parts[i].broken_in_7_3)
			known++;
	}

	putchar('\n');
	if (base && known)
		puts("What is broken here are bugs of Linux 7.3 that the series fixes.");
	printf("%u of %zu as they should be\n", good, NR_PARTS);
	if (good == NR_PARTS)
		return 0;
	return good + known == NR_PARTS ? 1 : 2;
}
