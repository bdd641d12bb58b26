// SPDX-License-Identifier: GPL-2.0
/* What the device-exclusive selftests share: memory, device, processes. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest.h"
#include "devex_util.h"

/* Pages of the kinds that are made of 4 KiB pages, folios of the others */
#define NR_SMALL	64
#define NR_LARGE	2

/* How often to try what the kernel only does when it suits it */
#define TRIES		500

#define BIT_ULL(nr)	(1ULL << (nr))

#define PM_FRAME_MASK	(BIT_ULL(55) - 1)
#define PM_SWAP		BIT_ULL(62)
#define PM_PRESENT	BIT_ULL(63)
#define PM_TYPE_BITS	5

/* What device_use() adds to a word */
#define USED		5

/*
 * SWP_DEVICE_EXCLUSIVE: the last type but PTE markers, of 32. The types of
 * device-private memory come before it, and those of migration before these.
 */
#define TYPE_EXCLUSIVE	30
#define TYPE_PRIVATE_WRITE	28
#define TYPE_PRIVATE_READ	29
#define TYPE_MIGRATION_FIRST	25
#define TYPE_MIGRATION_LAST	27

#define KPF_HEAD	BIT_ULL(15)
#define KPF_TAIL	BIT_ULL(16)
#define KPF_HUGE	BIT_ULL(17)
#define KPF_KSM		BIT_ULL(21)
#define KPF_THP		BIT_ULL(22)

#define KSM_SYSFS	"/sys/kernel/mm/ksm/"
#define THP_SYSFS	"/sys/kernel/mm/transparent_hugepage/"
#define CGROUP_ROOT	"/sys/fs/cgroup"

static __printf(1, 2) int complain(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("# ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	return -1;
}

size_t page_size(void)
{
	static size_t size;

	if (!size)
		size = sysconf(_SC_PAGESIZE);
	return size;
}

size_t thp_size(void)
{
	static long size;

	if (!size)
		size = read_number(THP_SYSFS "hpage_pmd_size");
	return size;
}

/*
 * Files of the kernel
 */
int write_file(const char *path, const char *value)
{
	ssize_t len = strlen(value);
	ssize_t ret = -1;
	int fd;

	fd = open(path, O_WRONLY);
	if (fd >= 0) {
		ret = write(fd, value, len);
		close(fd);
	}
	if (ret != len)
		return complain("cannot write '%s' to %s: %s", value, path,
				strerror(errno));
	return 0;
}

long read_number(const char *path)
{
	char buf[32] = "";
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		complain("cannot read %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return strtol(buf, NULL, 0);
}

int write_number(const char *path, long value)
{
	char buf[32];

	snprintf(buf, sizeof(buf), "%ld", value);
	return write_file(path, buf);
}

/* In files that list what there is to choose from, [the choice] has brackets. */
int setting_change(struct setting *setting, const char *path, const char *value)
{
	char buf[256] = "", *from = buf, *to;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, buf, sizeof(buf) - 1) <= 0)
		complain("cannot read %s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	to = strchr(buf, ']');
	if (to)
		from = strchr(buf, '[') + 1;
	else
		to = buf + strcspn(buf, "\n");
	snprintf(setting->path, sizeof(setting->path), "%s", path);
	snprintf(setting->old, sizeof(setting->old), "%.*s", (int)(to - from),
		 from);
	return write_file(path, value);
}

/* Nothing to do for one that has never been changed */
int setting_restore(const struct setting *setting)
{
	return setting->old[0] ? write_file(setting->path, setting->old) : 0;
}

int thp_allow(struct setting *setting, size_t size, const char *value)
{
	char path[sizeof(setting->path)];

	snprintf(path, sizeof(path), THP_SYSFS "hugepages-%zukB/enabled",
		 size / 1024);
	return setting_change(setting, path, value);
}

/* The number that follows @name in a line of a file, or -1 */
static long read_named(const char *path, const char *name)
{
	size_t len = strlen(name);
	char line[256];
	long value = -1;
	FILE *file;

	file = fopen(path, "r");
	while (file && fgets(line, sizeof(line), file))
		if (!strncmp(line, name, len) && isblank(line[len]))
			value = strtol(line + len, NULL, 10);
	if (file)
		fclose(file);
	if (value < 0)
		complain("%s has no %s", path, name);
	return value;
}

/* A counter of /proc/vmstat */
long vm_counter(const char *name)
{
	return read_named("/proc/vmstat", name);
}

/* A line of /proc/self/status: what this process has of something, in KiB */
long process_kib(const char *name)
{
	return read_named("/proc/self/status", name);
}

/* How many free pages CPUs keep for themselves: nr_free_pages is without them */
long pages_cached(void)
{
	long count, sum = 0;
	char line[256];
	FILE *file;

	file = fopen("/proc/zoneinfo", "r");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, " count: %ld", &count) == 1)
			sum += count;
	if (file)
		fclose(file);
	else
		complain("cannot read /proc/zoneinfo: %s", strerror(errno));
	return sum;
}

/* Folios that wait in a per-CPU batch are on no LRU list: many walks skip them */
int drain_lru(void)
{
	return write_file("/proc/sys/vm/drop_caches", "1");
}

/* How many swap areas there are: swap types from there on are wrong */
static unsigned int swap_areas(void)
{
	unsigned int lines = 0;
	char line[256];
	FILE *file;

	file = fopen("/proc/swaps", "r");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file))
		lines++;
	fclose(file);
	return lines ? lines - 1 : 0;
}

/*
 * What the page table says
 */
static void read_pagemap(const char *addr, size_t nr, uint64_t *entries)
{
	size_t size = nr * sizeof(*entries);
	ssize_t ret = -1;
	int fd;

	fd = open("/proc/self/pagemap", O_RDONLY);
	if (fd >= 0) {
		ret = pread(fd, entries, size,
			    (uintptr_t)addr / page_size() * sizeof(*entries));
		close(fd);
	}
	if (ret != (ssize_t)size) {
		complain("cannot read /proc/self/pagemap: %s", strerror(errno));
		abort();
	}
}

static enum page_state entry_state(uint64_t entry, unsigned int areas)
{
	unsigned int type = entry & ((1 << PM_TYPE_BITS) - 1);

	if (entry & PM_PRESENT)
		return PAGE_PRESENT;
	if (!(entry & PM_SWAP))
		return PAGE_NONE;
	if (type == TYPE_EXCLUSIVE)
		return PAGE_EXCLUSIVE;
	if (type == TYPE_PRIVATE_WRITE || type == TYPE_PRIVATE_READ)
		return PAGE_PRIVATE;
	if (type >= TYPE_MIGRATION_FIRST && type <= TYPE_MIGRATION_LAST)
		return PAGE_MIGRATING;
	if (type < areas)
		return PAGE_SWAPPED;
	complain("an entry of swap type %u, which does not exist", type);
	return PAGE_OTHER;
}

enum page_state page_state(const char *addr)
{
	uint64_t entry;

	read_pagemap(addr, 1, &entry);
	return entry_state(entry, swap_areas());
}

/* In how many entries is @bit set? */
size_t memory_count_bit(const struct memory *mem, uint64_t bit)
{
	uint64_t entries[mem->nr];
	size_t i, count = 0;

	read_pagemap(mem->addr, mem->nr, entries);
	for (i = 0; i < mem->nr; i++)
		count += !!(entries[i] & bit);
	return count;
}

static uint64_t entry_pfn(uint64_t entry)
{
	uint64_t frame = entry & PM_FRAME_MASK;

	return entry & PM_SWAP ? frame >> PM_TYPE_BITS : frame;
}

bool is_exclusive(const char *addr)
{
	return page_state(addr) == PAGE_EXCLUSIVE;
}

/* How many pages are in @state? */
size_t memory_count(const struct memory *mem, enum page_state state)
{
	unsigned int areas = swap_areas();
	uint64_t entries[mem->nr];
	size_t i, count = 0;

	read_pagemap(mem->addr, mem->nr, entries);
	for (i = 0; i < mem->nr; i++)
		count += entry_state(entries[i], areas) == state;
	return count;
}

/* The page frames, also of what is exclusive */
void memory_pfns(const struct memory *mem, uint64_t *pfns)
{
	size_t i;

	read_pagemap(mem->addr, mem->nr, pfns);
	for (i = 0; i < mem->nr; i++)
		pfns[i] = entry_pfn(pfns[i]);
}

/* How many pages are in another page frame now? */
size_t memory_moved(const struct memory *mem, const uint64_t *pfns)
{
	uint64_t now[mem->nr];
	size_t i, count = 0;

	memory_pfns(mem, now);
	for (i = 0; i < mem->nr; i++)
		count += now[i] != pfns[i];
	return count;
}

/* What /proc/kpageflags says of the pages, which have to be present */
static void memory_flags(const struct memory *mem, uint64_t *flags)
{
	uint64_t pfns[mem->nr];
	ssize_t ret = 0;
	size_t i;
	int fd;

	fd = open("/proc/kpageflags", O_RDONLY);
	memory_pfns(mem, pfns);
	for (i = 0; fd >= 0 && i < mem->nr; i++) {
		ret = pread(fd, &flags[i], sizeof(*flags),
			    pfns[i] * sizeof(*flags));
		if (ret != sizeof(*flags))
			break;
	}
	if (fd < 0 || i < mem->nr) {
		complain("cannot read /proc/kpageflags: %s", strerror(errno));
		abort();
	}
	close(fd);
}

/* How many pages have any of these flags? None if they are not all present. */
static size_t count_flags(const struct memory *mem, uint64_t mask)
{
	uint64_t flags[mem->nr];
	size_t i, count = 0;

	if (memory_count(mem, PAGE_PRESENT) != mem->nr)
		return 0;
	memory_flags(mem, flags);
	for (i = 0; i < mem->nr; i++)
		count += !!(flags[i] & mask);
	return count;
}

static bool has_flag(const struct memory *mem, uint64_t flag)
{
	return count_flags(mem, flag) == mem->nr;
}

/* How many pages are part of a large folio? */
size_t memory_large(const struct memory *mem)
{
	return count_flags(mem, KPF_HEAD | KPF_TAIL);
}

static bool is_folio(const uint64_t *pfns, const uint64_t *flags, size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++) {
		if (pfns[i] != pfns[0] + i ||
		    !(flags[i] & (i ? KPF_TAIL : KPF_HEAD)))
			return false;
	}
	return true;
}

/* How many folios of exactly @nr pages are mapped as a whole and aligned? */
size_t memory_blocks(const struct memory *mem, size_t nr)
{
	uint64_t pfns[mem->nr], flags[mem->nr];
	size_t i, count = 0;

	if (memory_count(mem, PAGE_PRESENT) != mem->nr)
		return 0;
	memory_pfns(mem, pfns);
	memory_flags(mem, flags);
	i = -((uintptr_t)mem->addr / page_size()) % nr;
	for (; i + nr <= mem->nr; i += nr) {
		if (!is_folio(pfns + i, flags + i, nr))
			continue;
		/* What follows must not be a part of the same. */
		count += i + nr == mem->nr || pfns[i + nr] != pfns[i] + nr ||
			 !(flags[i + nr] & KPF_TAIL);
	}
	return count;
}

/* On which NUMA node is each page? */
int memory_nodes(const struct memory *mem, int *nodes)
{
	const void *pages[mem->nr];
	size_t i;

	for (i = 0; i < mem->nr; i++)
		pages[i] = memory_page(mem, i);
	if (syscall(SYS_move_pages, 0, mem->nr, pages, NULL, nodes, 0))
		return complain("move_pages: %s", strerror(errno));
	return 0;
}

/* Is every page in a large folio, in the place where it was at first? */
bool memory_is_large(const struct memory *mem)
{
	size_t nr = thp_size() / page_size();
	uint64_t pfns[mem->nr];
	size_t i;

	memory_pfns(mem, pfns);
	for (i = 0; i < mem->nr; i++) {
		if (pfns[i] % nr != i % nr || pfns[i] - i % nr != pfns[i / nr * nr])
			return false;
	}
	return true;
}

/* AnonHugePages of the mapping that begins with the memory, in bytes */
size_t memory_huge(const struct memory *mem)
{
	unsigned long start, end, kib = 0;
	bool found = false;
	char line[512];
	FILE *file;

	file = fopen("/proc/self/smaps", "r");
	if (!file)
		return 0;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			found = start == (unsigned long)mem->addr;
		if (found && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
			break;
	}
	fclose(file);
	return kib * 1024;
}

/*
 * Memory
 */
char *memory_page(const struct memory *mem, size_t i)
{
	return mem->addr + i * page_size();
}

/* The first word of a page */
uint64_t *memory_word(const struct memory *mem, size_t page)
{
	return (uint64_t *)memory_page(mem, page);
}

uint64_t memory_value(uint32_t seed, size_t page, size_t word)
{
	return (uint64_t)seed << 32 | page << 16 | word;
}

void memory_fill(const struct memory *mem, uint32_t seed)
{
	size_t words = page_size() / sizeof(uint64_t);
	uint64_t *p = (uint64_t *)mem->addr;
	size_t page, word;

	for (page = 0; page < mem->nr; page++)
		for (word = 0; word < words; word++)
			*p++ = memory_value(seed, mem->first + page, word);
}

/* How many pages hold anything else than memory_fill() has put there? */
size_t memory_wrong(const struct memory *mem, uint32_t seed)
{
	size_t words = page_size() / sizeof(uint64_t);
	const uint64_t *p = (uint64_t *)mem->addr;
	size_t page, word, wrong = 0;
	uint64_t expected, seen;

	for (page = 0; page < mem->nr; page++, p += words) {
		for (word = 0; word < words; word++) {
			expected = memory_value(seed, mem->first + page,
						word);
			seen = read_word(p + word);
			if (seen == expected)
				continue;
			if (!wrong)
				complain("page %zu word %zu is %#llx, not %#llx",
					 mem->first + page, word,
					 (unsigned long long)seen,
					 (unsigned long long)expected);
			wrong++;
			break;
		}
	}
	return wrong;
}

struct memory memory_part(const struct memory *mem, size_t first, size_t nr)
{
	struct memory part = {
		.kind = mem->kind,
		.addr = memory_page(mem, first),
		.first = mem->first + first,
		.size = nr * page_size(),
		.nr = nr,
	};

	return part;
}

static char *map_anon(size_t size)
{
	char *addr;

	addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (addr == MAP_FAILED) {
		complain("cannot map %zu bytes: %s", size, strerror(errno));
		return NULL;
	}
	return addr;
}

static int advise(const struct memory *mem, int advice, const char *name)
{
	if (madvise(mem->addr, mem->size, advice))
		return complain("%s failed: %s", name, strerror(errno));
	return 0;
}

static int map_small(struct memory *mem, uint32_t seed)
{
	mem->nr = NR_SMALL;
	mem->folios = NR_SMALL;
	mem->size = mem->nr * page_size();
	mem->map_size = mem->size;
	mem->map = map_anon(mem->map_size);
	if (!mem->map)
		return -1;
	mem->addr = mem->map;
	if (advise(mem, MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE"))
		return -1;
	memory_fill(mem, seed);
	return 0;
}

/* NR_LARGE page tables of it, filled after it was given @advice */
static int map_tables(struct memory *mem, int advice, uint32_t seed)
{
	size_t huge = thp_size();

	if (!huge)
		return complain("this kernel has no transparent huge pages");
	mem->size = NR_LARGE * huge;
	mem->nr = mem->size / page_size();
	/* A mapping of its own that begins and ends inside of @map */
	mem->map_size = mem->size + 2 * huge;
	mem->map = map_anon(mem->map_size);
	if (!mem->map)
		return -1;
	mem->addr = (char *)(((uintptr_t)mem->map + huge) / huge * huge);
	if (advise(mem, advice, "MADV_HUGEPAGE or MADV_NOHUGEPAGE"))
		return -1;
	memory_fill(mem, seed);
	/* khugepaged must not put together what the test takes apart. */
	if (advise(mem, MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE"))
		return -1;
	/* The rest of @map must not become a part of the same mapping. */
	if (mprotect(mem->map, mem->addr - mem->map, PROT_NONE) ||
	    mprotect(mem->addr + mem->size,
		     mem->map + mem->map_size - mem->addr - mem->size,
		     PROT_NONE))
		return complain("mprotect failed: %s", strerror(errno));
	return 0;
}

static int map_many(struct memory *mem, uint32_t seed)
{
	if (map_tables(mem, MADV_NOHUGEPAGE, seed))
		return -1;
	mem->folios = mem->nr;
	return 0;
}

static int map_thp(struct memory *mem, uint32_t seed)
{
	if (map_tables(mem, MADV_HUGEPAGE, seed))
		return -1;
	mem->folios = NR_LARGE;
	if (memory_huge(mem) != mem->size)
		return complain("got %zu of %zu bytes as huge pages",
				memory_huge(mem), mem->size);
	return 0;
}

static int map_ptemap(struct memory *mem, uint32_t seed)
{
	size_t i;

	if (map_thp(mem, seed))
		return -1;
	/* Another protection for one page splits the PMD that maps it. */
	for (i = 0; i < mem->size; i += thp_size()) {
		if (mprotect(mem->addr + i, page_size(), PROT_READ) ||
		    mprotect(mem->addr + i, page_size(),
			     PROT_READ | PROT_WRITE))
			return complain("mprotect failed: %s", strerror(errno));
	}
	if (memory_huge(mem) || !memory_is_large(mem) ||
	    !has_flag(mem, KPF_THP))
		return complain("the huge pages are not mapped by PTEs");
	return 0;
}

static int make_lazyfree(struct memory *mem)
{
	return advise(mem, MADV_FREE, "MADV_FREE");
}

/* The second half of the map is a twin of the first. */
static int map_ksm(struct memory *mem, uint32_t seed)
{
	long pages, sleep;
	struct memory twin;
	int i, ret = 0;

	mem->nr = NR_SMALL;
	mem->folios = NR_SMALL;
	mem->size = mem->nr * page_size();
	mem->map_size = 2 * mem->size;
	mem->map = map_anon(mem->map_size);
	if (!mem->map)
		return -1;
	mem->addr = mem->map;
	twin = *mem;
	twin.addr += mem->size;
	if (madvise(mem->map, mem->map_size, MADV_NOHUGEPAGE) ||
	    madvise(mem->map, mem->map_size, MADV_MERGEABLE))
		return complain("MADV_MERGEABLE failed: %s", strerror(errno));
	memory_fill(mem, seed);
	memory_fill(&twin, seed);

	pages = read_number(KSM_SYSFS "pages_to_scan");
	sleep = read_number(KSM_SYSFS "sleep_millisecs");
	if (write_file(KSM_SYSFS "pages_to_scan", "1000") ||
	    write_file(KSM_SYSFS "sleep_millisecs", "1") ||
	    write_file(KSM_SYSFS "run", "1"))
		ret = -1;
	for (i = 0; !ret && !has_flag(mem, KPF_KSM); i++) {
		if (i == TRIES)
			ret = complain("KSM has not merged the pages");
		usleep(10000);
	}
	/* Keep what is merged, merge no more. */
	if (write_file(KSM_SYSFS "run", "0") ||
	    write_number(KSM_SYSFS "sleep_millisecs", sleep) ||
	    write_number(KSM_SYSFS "pages_to_scan", pages))
		ret = -1;
	return ret;
}

static int map_mremapped(struct memory *mem, uint32_t seed)
{
	size_t huge = thp_size();
	char *target, *addr;

	if (map_small(mem, seed))
		return -1;
	/* To another page table, at another offset in it */
	mem->map_size = 2 * huge + mem->size;
	mem->map = map_anon(mem->map_size);
	if (!mem->map)
		return -1;
	target = (char *)((uintptr_t)mem->map / huge * huge) + huge;
	target += (uintptr_t)mem->addr % huge;
	target += (target - mem->map + 3 * page_size() <= 2 * huge ? 3 : -3) *
		  (long)page_size();
	addr = mremap(mem->addr, mem->size, mem->size,
		      MREMAP_MAYMOVE | MREMAP_FIXED, target);
	if (addr != target)
		return complain("mremap failed: %s", strerror(errno));
	mem->addr = addr;
	return 0;
}

static int make_swapped(struct memory *mem)
{
	int i;

	if (!swap_areas())
		return complain("no swap area is in use; see /proc/swaps");
	for (i = 0; memory_count(mem, PAGE_SWAPPED) != mem->nr; i++) {
		if (i == TRIES)
			return complain("only %zu of %zu pages went to swap",
					memory_count(mem, PAGE_SWAPPED),
					mem->nr);
		/* What another CPU has in its batch is left out at first. */
		if (drain_lru() || advise(mem, MADV_PAGEOUT, "MADV_PAGEOUT"))
			return -1;
	}
	return 0;
}

static int map_file(struct memory *mem, uint32_t seed)
{
	int fd;

	mem->nr = NR_SMALL;
	mem->folios = NR_SMALL;
	mem->size = mem->nr * page_size();
	fd = memfd_create("file", 0);
	if (fd < 0 || ftruncate(fd, mem->size))
		return complain("no file in memory: %s", strerror(errno));
	mem->addr = mmap(NULL, mem->size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
			 fd, 0);
	close(fd);
	if (mem->addr == MAP_FAILED)
		return complain("cannot map a file: %s", strerror(errno));
	mem->map = mem->addr;
	mem->map_size = mem->size;
	memory_fill(mem, seed);
	return 0;
}

static int map_mthp(struct memory *mem, size_t size, uint32_t seed)
{
	struct setting pmd = {}, mthp = {};
	int ret;

	ret = thp_allow(&pmd, thp_size(), "never") ?:
	      thp_allow(&mthp, size, "madvise") ?:
	      map_tables(mem, MADV_HUGEPAGE, seed);
	if (setting_restore(&mthp) || setting_restore(&pmd) || ret)
		return -1;
	mem->folios = mem->size / size;
	if (memory_blocks(mem, size / page_size()) != mem->folios)
		return complain("got %zu of %zu folios of %zu bytes",
				memory_blocks(mem, size / page_size()),
				mem->folios, size);
	return 0;
}

/* The end of one folio and the beginning of the next */
static int map_partial(struct memory *mem, uint32_t seed)
{
	struct memory all;
	size_t nr;

	if (map_ptemap(mem, seed))
		return -1;
	nr = mem->nr;
	all = *mem;
	*mem = memory_part(&all, nr / 2 - 103, 210);
	mem->folios = NR_LARGE;
	mem->map = all.map;
	mem->map_size = all.map_size;
	if (munmap(all.addr, mem->addr - all.addr) ||
	    munmap(mem->addr + mem->size,
		   all.addr + all.size - mem->addr - mem->size))
		return complain("munmap failed: %s", strerror(errno));
	return 0;
}

/* To an address that is @pages pages behind one where a page table begins */
static int move_large(struct memory *mem, size_t pages)
{
	size_t huge = thp_size();
	char *map, *target;

	map = mmap(NULL, mem->size + 3 * huge, PROT_NONE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return complain("cannot map: %s", strerror(errno));
	target = (char *)(((uintptr_t)map + huge) / huge * huge) +
		 pages * page_size();
	if (mremap(mem->addr, mem->size, mem->size,
		   MREMAP_MAYMOVE | MREMAP_FIXED, target) != target)
		return complain("mremap failed: %s", strerror(errno));
	munmap(mem->map, mem->map_size);
	mem->addr = target;
	mem->map = map;
	mem->map_size = mem->size + 3 * huge;
	return 0;
}

static int map_thp_moved(struct memory *mem, uint32_t seed)
{
	if (map_thp(mem, seed) || move_large(mem, 0))
		return -1;
	if (memory_huge(mem) != mem->size)
		return complain("the huge pages fell apart when they moved");
	return 0;
}

static int map_hugetlb(struct memory *mem, uint32_t seed)
{
	mem->folios = NR_LARGE;
	mem->size = NR_LARGE * thp_size();
	mem->nr = mem->size / page_size();
	mem->map_size = mem->size;
	mem->addr = mmap(NULL, mem->size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (mem->addr == MAP_FAILED)
		return complain("cannot map huge pages: %s; boot with hugepages=8",
				strerror(errno));
	mem->map = mem->addr;
	memory_fill(mem, seed);
	if (!has_flag(mem, KPF_HUGE))
		return complain("this is not hugetlb memory");
	return 0;
}

int memory_map(struct memory *mem, enum memory_kind kind, uint32_t seed)
{
	memset(mem, 0, sizeof(*mem));
	mem->kind = kind;
	switch (kind) {
	case SMALL:
		return map_small(mem, seed);
	case MANY:
		return map_many(mem, seed);
	case PTEMAP:
		return map_ptemap(mem, seed);
	case THP:
		return map_thp(mem, seed);
	case LAZYFREE:
		return map_small(mem, seed) ?: make_lazyfree(mem);
	case LAZYFREE_THP:
		return map_thp(mem, seed) ?: make_lazyfree(mem);
	case KSM:
		return map_ksm(mem, seed);
	case MREMAPPED:
		return map_mremapped(mem, seed);
	case SWAPPED:
		return map_small(mem, seed) ?: make_swapped(mem);
	case FILE_COPY:
		return map_file(mem, seed);
	case MTHP_16K:
		return map_mthp(mem, 16 << 10, seed);
	case MTHP_64K:
		return map_mthp(mem, 64 << 10, seed);
	case MTHP_512K:
		return map_mthp(mem, 512 << 10, seed);
	case PARTIAL:
		return map_partial(mem, seed);
	case PTEMAP_MOVED:
		return map_ptemap(mem, seed) ?: move_large(mem, 5);
	case THP_MOVED:
		return map_thp_moved(mem, seed);
	case HUGETLB:
		return map_hugetlb(mem, seed);
	}
	return -1;
}

/*
 * A large folio falls apart when its pages are swapped out or copied. Replace
 * the first one if it has, and fill the first @nr pages of it.
 */
int memory_renew(struct memory *mem, size_t nr, uint32_t seed)
{
	struct memory folio = memory_part(mem, 0, thp_size() / page_size());
	struct memory part = memory_part(mem, 0, nr);

	if (memory_is_large(&part))
		return 0;
	if (advise(&folio, MADV_DONTNEED, "MADV_DONTNEED") ||
	    advise(mem, MADV_HUGEPAGE, "MADV_HUGEPAGE"))
		return -1;
	memory_fill(&part, seed);
	if (advise(mem, MADV_NOHUGEPAGE, "MADV_NOHUGEPAGE"))
		return -1;
	if (!memory_is_large(&part))
		return complain("there is no new huge page");
	return 0;
}

void memory_unmap(struct memory *mem)
{
	if (mem->map)
		munmap(mem->map, mem->map_size);
	mem->map = NULL;
}

/*
 * The device
 */
int device_open(void)
{
	int dev;

	dev = open(DEVEX_DEVICE, O_RDWR);
	if (dev < 0)
		complain("cannot open %s: %s; is the module test_device_exclusive loaded?",
			 DEVEX_DEVICE, strerror(errno));
	return dev;
}

/*
 * After fork() the first write to each page of the process's own data copies
 * it, which is an event that a device is told about. Have that done before
 * events are counted, and before there is memory that must stay as it is.
 */
int own_all_pages(void)
{
	if (mlockall(MCL_CURRENT) || munlockall())
		return complain("mlockall failed: %s", strerror(errno));
	return 0;
}

static int device_range(int dev, unsigned long cmd, const struct memory *mem,
			struct devex_range *range)
{
	range->addr = (uintptr_t)mem->addr;
	range->size = mem->size;
	return ioctl(dev, cmd, range) ? -errno : 0;
}

/* Like get_user_pages(): how many pages from the first on, or -errno */
long device_make(int dev, const struct memory *mem, uint32_t flags)
{
	struct devex_range range = { .flags = flags };
	int ret;

	ret = device_range(dev, DEVEX_IOC_MAKE, mem, &range);
	return ret ?: (long)range.npages;
}

/* How many pages were moved to the device's own memory, or -errno */
long device_migrate(int dev, const struct memory *mem)
{
	struct devex_range range = {};
	int ret;

	ret = device_range(dev, DEVEX_IOC_MIGRATE, mem, &range);
	return ret ?: (long)range.npages;
}

int device_unlock(int dev)
{
	return ioctl(dev, DEVEX_IOC_UNLOCK) ? -errno : 0;
}

int device_add(int dev, uint64_t *word, uint64_t value, uint64_t count)
{
	struct devex_add add = {
		.addr = (uintptr_t)word,
		.value = value,
		.count = count,
	};

	if (ioctl(dev, DEVEX_IOC_ADD, &add))
		return -errno;
	return add.done == count ? 0 : -EIO;
}

int device_pin(int dev, const struct memory *mem)
{
	struct devex_range range = {};

	return device_range(dev, DEVEX_IOC_PIN, mem, &range);
}

int device_unpin(int dev, const struct memory *mem)
{
	struct devex_range range = {};

	return device_range(dev, DEVEX_IOC_UNPIN, mem, &range);
}

int device_poison(int dev, const struct memory *mem)
{
	struct devex_range range = {};

	return device_range(dev, DEVEX_IOC_POISON, mem, &range);
}

static int device_dma(int dev, const void *addr, const void *buf, size_t size,
		      uint32_t flags)
{
	struct devex_dma dma = {
		.addr = (uintptr_t)addr,
		.size = size,
		.buf = (uintptr_t)buf,
		.flags = flags,
	};

	return ioctl(dev, DEVEX_IOC_DMA, &dma) ? -errno : 0;
}

int device_write(int dev, void *addr, const void *buf, size_t size)
{
	return device_dma(dev, addr, buf, size, 0);
}

int device_read(int dev, const void *addr, void *buf, size_t size)
{
	return device_dma(dev, addr, buf, size, DEVEX_DMA_READ);
}

/* Which pages of @mem does the device hold? One byte a page in @held */
int device_query(int dev, const struct memory *mem, uint8_t *held)
{
	struct devex_query query = {
		.addr = (uintptr_t)mem->addr,
		.size = mem->size,
		.held = (uintptr_t)held,
	};

	return ioctl(dev, DEVEX_IOC_QUERY, &query) ? -errno : 0;
}

/* How many pages of @mem does the device hold, or -errno */
long device_held(int dev, const struct memory *mem)
{
	uint8_t held[mem->nr];
	long count = 0;
	size_t i;
	int ret;

	ret = device_query(dev, mem, held);
	if (ret)
		return ret;
	for (i = 0; i < mem->nr; i++)
		count += held[i];
	return count;
}

int device_counters(int dev, struct devex_counters *counters)
{
	memset(counters, 0, sizeof(*counters));
	return ioctl(dev, DEVEX_IOC_COUNTERS, counters) ? -errno : 0;
}

/* Those of the device itself apart */
uint64_t all_events(const struct devex_counters *counters)
{
	uint64_t sum = 0;
	int i;

	for (i = 0; i < DEVEX_NR_EVENTS; i++)
		sum += counters->events[i];
	return sum;
}

/* Nothing may be in the hands of the device unless it was taken from the CPU */
bool device_agrees(int dev, const struct memory *mem)
{
	uint8_t before[mem->nr], after[mem->nr];
	const unsigned int areas = swap_areas();
	uint64_t entries[mem->nr];
	size_t i;

	/* Memory may be reclaimed meanwhile, also for the stack. */
	if (device_query(dev, mem, before))
		return false;
	read_pagemap(mem->addr, mem->nr, entries);
	if (device_query(dev, mem, after))
		return false;
	for (i = 0; i < mem->nr; i++) {
		if (before[i] && after[i] &&
		    entry_state(entries[i], areas) != PAGE_EXCLUSIVE) {
			complain("page %zu: the device holds it, and it is not exclusive",
				 i);
			return false;
		}
	}
	return true;
}

/* The device writes to every page or, as that takes long, to every eighth. */
static uint64_t use_of(const struct memory *mem, size_t page)
{
	bool many = mem->kind == MANY || mem->kind == PTEMAP ||
		    mem->kind == THP || mem->kind == LAZYFREE_THP;

	return many && (mem->first + page) % 8 != 3 ? 0 : USED;
}

int device_use(int dev, const struct memory *mem)
{
	long made;
	size_t i;
	int ret;

	made = device_make(dev, mem, 0);
	if (made < 0)
		return made;
	for (i = 0; i < mem->nr; i++) {
		if (!use_of(mem, i))
			continue;
		ret = device_add(dev, memory_word(mem, i), USED, 1);
		if (ret)
			return ret;
	}
	if (memory_count(mem, PAGE_EXCLUSIVE) != mem->nr ||
	    device_held(dev, mem) != (long)mem->nr)
		return complain("of %zu pages the device holds %ld", mem->nr,
				device_held(dev, mem));
	return 0;
}

size_t memory_wrong_after_use(const struct memory *mem, uint32_t seed)
{
	uint64_t *word;
	size_t i;

	for (i = 0; i < mem->nr; i++) {
		word = memory_word(mem, i);
		write_word(word, read_word(word) - use_of(mem, i));
	}
	return memory_wrong(mem, seed);
}

/*
 * Processes
 */
pid_t peer_fork(struct peer *peer)
{
	int to_child[2], to_parent[2];

	if (pipe(to_child))
		return -1;
	if (pipe(to_parent)) {
		close(to_child[0]);
		close(to_child[1]);
		return -1;
	}
	peer->pid = fork();
	peer->in = peer->pid ? to_parent[0] : to_child[0];
	peer->out = peer->pid ? to_child[1] : to_parent[1];
	close(peer->pid ? to_child[0] : to_child[1]);
	close(peer->pid ? to_parent[1] : to_parent[0]);
	if (peer->pid < 0) {
		close(peer->in);
		close(peer->out);
	}
	return peer->pid;
}

void peer_tell(const struct peer *peer)
{
	if (write(peer->out, "", 1) != 1)
		complain("the other process is gone");
}

/* False if the other end died instead of telling us anything */
bool peer_wait(const struct peer *peer)
{
	char c;

	return read(peer->in, &c, 1) == 1;
}

char thread_state(pid_t tid)
{
	char path[64], state = '?';
	FILE *file;

	/* Any thread is found there, also one of another process. */
	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	file = fopen(path, "r");
	if (!file)
		return state;
	if (fscanf(file, "%*d %*s %c", &state) != 1)
		state = '?';
	fclose(file);
	return state;
}

/* The exit code of a child; 128 + signal when killed */
int child_exit(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int peer_exit(struct peer *peer)
{
	close(peer->in);
	close(peer->out);
	return child_exit(peer->pid);
}

pid_t helper_start(void (*work)(void *data), void *data)
{
	pid_t pid;

	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		work(data);
}

int helper_stop(pid_t pid)
{
	if (waitpid(pid, NULL, WNOHANG))
		return complain("the helper has not run until the end");
	kill(pid, SIGKILL);
	child_exit(pid);
	return 0;
}

/*
 * A control group of the test's own: what the process maps from now on can be
 * reclaimed without touching anybody else's memory.
 */
int cgroup_set(const struct cgroup *cg, const char *file, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cg->path, file);
	return write_file(path, value);
}

int cgroup_enter(struct cgroup *cg)
{
	char pid[16], line[200] = "";
	FILE *file;

	file = fopen("/proc/self/cgroup", "r");
	if (!file || !fgets(line, sizeof(line), file) ||
	    strncmp(line, "0::/", 4)) {
		if (file)
			fclose(file);
		return complain("no cgroup2 in /proc/self/cgroup");
	}
	fclose(file);
	line[strcspn(line, "\n")] = '\0';
	snprintf(cg->old, sizeof(cg->old), CGROUP_ROOT "%s/cgroup.procs",
		 line + strlen("0::"));

	if (write_file(CGROUP_ROOT "/cgroup.subtree_control", "+memory"))
		return -1;
	snprintf(pid, sizeof(pid), "%d", getpid());
	snprintf(cg->path, sizeof(cg->path), CGROUP_ROOT "/device-exclusive-%s",
		 pid);
	if (mkdir(cg->path, 0755))
		return complain("cannot make %s: %s", cg->path,
				strerror(errno));
	return cgroup_set(cg, "cgroup.procs", pid);
}

void cgroup_leave(struct cgroup *cg)
{
	char pid[16];

	if (!cg->path[0])
		return;
	snprintf(pid, sizeof(pid), "%d", getpid());
	write_file(cg->old, pid);
	rmdir(cg->path);
}

/* Up to date numbers for reclaim, which otherwise only come now and then */
void cgroup_flush(const struct cgroup *cg)
{
	char path[128], buf[4096];
	ssize_t ret;
	int fd;

	snprintf(path, sizeof(path), "%s/memory.stat", cg->path);
	fd = open(path, O_RDONLY);
	do {
		ret = read(fd, buf, sizeof(buf));
	} while (ret > 0);
	if (fd < 0 || ret < 0) {
		complain("cannot read %s: %s", path, strerror(errno));
		abort();
	}
	close(fd);
}

/* As much as it gets: less than asked is EAGAIN, and no error here */
void cgroup_reclaim(const struct cgroup *cg, const char *amount)
{
	char path[128];
	ssize_t ret;
	int fd;

	cgroup_flush(cg);
	snprintf(path, sizeof(path), "%s/memory.reclaim", cg->path);
	fd = open(path, O_WRONLY);
	if (fd < 0) {
		complain("cannot open %s: %s", path, strerror(errno));
		abort();
	}
	ret = write(fd, amount, strlen(amount));
	if (ret < 0 && errno != EAGAIN) {
		complain("cannot write %s: %s", path, strerror(errno));
		abort();
	}
	close(fd);
}

long cgroup_read(const struct cgroup *cg, const char *file)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cg->path, file);
	return read_number(path);
}

/* What follows @name in @file */
long cgroup_stat(const struct cgroup *cg, const char *file, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", cg->path, file);
	return read_named(path, name);
}
