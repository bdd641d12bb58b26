// SPDX-License-Identifier: GPL-2.0
/*
 * Everything that can happen to memory that a device has, at random and at the
 * same time, while a model knows what each word must be.
 *
 * There are some processes, each with regions of private memory, devices, and
 * threads. A thread makes steps: each is one of the operations in the table
 * below. What it does depends on the seed, the name of the thread and the number
 * of the step alone, so a seed gives the same steps again. When they happen is
 * another matter. A child that fork() makes has all of the parent's memory and
 * one thread, whose name says where it comes from: "0.2/17" was made by the step
 * 17 of thread 2 of process 0. One more process disturbs the system.
 *
 * The model has a range for each word that is looked at: from @lo, which it has
 * reached for sure, to @hi, which somebody may be about to make of it. Words
 * only grow until they are written anew as a whole. When nobody is at work @lo
 * and @hi are the same. A child is checked against what @lo was before the fork
 * and @hi behind it. The model is in shared memory, which no device can have.
 *
 * Each page has a word for each thread, which that thread alone changes, by
 * itself or by a device, and one that all of them add to. So CPUs and devices
 * work on the same page, and on the same word, at any time.
 *
 * A region has two locks, taken in this order. Who accesses it from a CPU holds
 * @cpu for reading, who lets a device do so holds @device. Who changes what is
 * mapped holds @cpu for writing, and takes @device only behind that, to wait for
 * the devices: they have to live with it while they work. An addition says how
 * often it was done before it failed, and that is exact.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define KSM_SYSFS	"/sys/kernel/mm/ksm/"
#define KHUGEPAGED	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

struct board *board;
struct process me;
__thread struct actor *self;
struct cgroup cgroup;
struct options options = {
	.seconds = 60,
	.processes = 2,
	.hang = 60,
};

static const size_t region_pages[REGIONS] = { 64, 64, 160, MAX_PAGES };

/*
 * Processes
 */
static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

static struct slot *claim_slot(const char *name)
{
	struct slot *slot;
	pid_t none = 0;

	for (slot = board->slots; slot < board->slots + MAX_SLOTS; slot++) {
		none = 0;
		if (!__atomic_compare_exchange_n(&slot->pid, &none, getpid(),
						 false, __ATOMIC_SEQ_CST,
						 __ATOMIC_SEQ_CST))
			continue;
		slot->tid = 0;
		snprintf(slot->name, sizeof(slot->name), "%s", name);
		return slot;
	}
	return NULL;
}

static void free_slots(pid_t pid)
{
	struct slot *slot;

	for (slot = board->slots; slot < board->slots + MAX_SLOTS; slot++)
		if (slot->pid == pid)
			__atomic_store_n(&slot->pid, 0, __ATOMIC_SEQ_CST);
}

static void become(struct actor *actor, struct slot *slot)
{
	const char *c;

	self = actor;
	actor->slot = slot;
	actor->step = 0;
	actor->key = options.seed;
	for (c = slot->name; *c; c++)
		actor->key = mix(actor->key ^ *c);
	slot->since = now();
	slot->step = 0;
	slot->pid = getpid();
	slot->tid = syscall(SYS_gettid);
}

/* One that has found a failure has said so, and its exit code is 1. */
static void judge_exit(int status, bool killed)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) <= 1)
		return;
	if (killed && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
		return;
	fail("a process has ended with status %#x", status);
}

static void start_op(enum op op)
{
	self->slot->op = op;
	self->slot->since = now();
}

static void reap_child(unsigned int i)
{
	bool killed = !below(3);
	int status;

	if (!self->children[i])
		return;
	start_op(WAIT);
	if (killed)
		called(KILL, kill(self->children[i], SIGKILL));
	if (called(WAIT, waitpid(self->children[i], &status, 0)) > 0)
		judge_exit(status, killed);
	free_slots(self->children[i]);
	self->children[i] = 0;
}

static void choose_op(bool system)
{
	unsigned int sum = 0, i, n;

	for (i = 0; i < NR_OPS; i++)
		if (ops[i].run && ops[i].system == system)
			sum += ops[i].weight;
	n = below(sum);
	for (i = 0; i < NR_OPS; i++) {
		if (!ops[i].run || ops[i].system != system)
			continue;
		if (n < ops[i].weight)
			break;
		n -= ops[i].weight;
	}
	start_op(i);
}

static void steps(unsigned int nr, bool system)
{
	unsigned int i;

	while (!stopped() && (!nr || self->step < nr)) {
		self->step++;
		self->slot->step = self->step;
		self->random = mix(self->key + self->step);
		choose_op(system);
		ops[self->slot->op].run();
		__atomic_add_fetch(&board->steps, 1, __ATOMIC_RELAXED);
	}
	for (i = 0; i < MAX_CHILDREN; i++)
		reap_child(i);
}

static void check_all(void)
{
	size_t i;

	start_op(CHECK);
	for (i = 0; i < REGIONS; i++)
		check_region(&me.regions[i]);
}

static void open_devices(void)
{
	size_t i;

	for (i = 0; i < DEVICES; i++) {
		me.dev[i] = device_open();
		if (me.dev[i] < 0)
			fail("no device");
	}
}

static void init_locks(struct region *r)
{
	pthread_rwlock_init(&r->cpu, NULL);
	pthread_rwlock_init(&r->device, NULL);
}

static struct shadow *map_shadow(void)
{
	struct shadow *shadow;

	shadow = mmap(NULL, sizeof(*shadow), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shadow == MAP_FAILED) {
		fail("no memory for the model: %s", strerror(errno));
		_exit(1);
	}
	return shadow;
}

/* A child has the memory, but neither the devices, pins nor the pager. */
static void leave_parent(void)
{
	struct region *r;
	size_t i;

	for (i = 0; i < DEVICES; i++)
		if (below(4))
			close(me.dev[i]);
	open_devices();
	if (me.uffd >= 0)
		close(me.uffd);
	me.uffd = -1;
	pthread_mutex_init(&me.uffd_lock, NULL);
	pthread_mutex_init(&me.move_lock, NULL);
	for (r = me.regions; r < me.regions + REGIONS; r++) {
		init_locks(r);
		r->changes = 0;
		r->uffd = 0;
		r->pin.nr = 0;
	}
	for (i = 0; i < MAX_CHILDREN; i++)
		self->children[i] = 0;
}

/* Is what it got from its parent what that had? */
static void check_inherited(void)
{
	struct region *r;
	uint8_t *flags;
	size_t page;

	start_op(CHECK);
	for (r = me.regions; r < me.regions + REGIONS; r++) {
		settle(r);
		for (page = 0; page < r->mem.nr; page++) {
			flags = &r->flags[page];
			check_page(r, page, *flags & UNFILLED, 0);
			*flags &= READONLY;
		}
	}
}

static void run_child(struct slot *slot, struct shadow *shadow, pid_t parent)
{
	unsigned int i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
	become(self, slot);
	self->random = mix(self->key);
	me.depth++;
	while (!__atomic_load_n(&shadow->ready, __ATOMIC_SEQ_CST))
		usleep(1000);
	leave_parent();
	munmap(me.shadow, sizeof(*me.shadow));
	me.shadow = shadow;
	check_inherited();
	i = 1 + below(30);
	steps(i, false);
	check_all();
	end_pager();
	self->random = mix(self->key + 1);
	for (i = 0; i < DEVICES; i++)
		if (below(2))
			close(me.dev[i]);
	_exit(0);
}

static void copy_bounds(struct shadow *to, bool high)
{
	unsigned int slot;
	struct region *r;
	struct word *word;
	size_t page;

	for (r = me.regions; r < me.regions + REGIONS; r++) {
		for (page = 0; page < r->mem.nr; page++) {
			for (slot = 0; slot < WORDS; slot++) {
				word = &to->words[r->index][page][slot];
				if (high)
					word->hi = model(r, page, slot)->hi;
				else
					word->lo = model(r, page, slot)->lo;
			}
		}
	}
}

/* Have some folios locked by a device meanwhile. */
static bool lock_some(int dev)
{
	struct span s = any_span(8);
	long ret;

	span_locked(&s, FORK_LOCKED);
	ret = result(FORK_LOCKED, device_make(dev, &s.mem, DEVEX_RANGE_LOCKED));
	return ret > 0;
}

/*
 * All but those who change mappings may go on meanwhile. When fork() returns
 * we know what everybody may have been about to do until then.
 */
static void fork_locked(struct slot *slot, struct shadow *shadow,
			unsigned int child)
{
	int dev = any_device();
	bool locked = !below(3) && lock_some(dev);
	pid_t pid, parent = getpid();

	copy_bounds(shadow, false);
	pid = fork();
	if (!pid)
		run_child(slot, shadow, parent);
	called(FORK, pid);
	if (locked)
		device_unlock(dev);
	copy_bounds(shadow, true);
	__atomic_store_n(&shadow->ready, 1, __ATOMIC_SEQ_CST);
	if (pid > 0)
		self->children[child] = pid;
	__atomic_store_n(&slot->pid, pid > 0 ? pid : 0, __ATOMIC_SEQ_CST);
}

void do_fork(void)
{
	unsigned int child = below(MAX_CHILDREN);
	struct slot *slot = NULL;
	struct shadow *shadow;
	char name[sizeof(slot->name)];
	size_t i;

	reap_child(child);
	start_op(FORK);
	snprintf(name, sizeof(name), "%.50s/%u", self->slot->name, self->step);
	if (me.depth < MAX_DEPTH)
		slot = claim_slot(name);
	if (!slot) {
		skip(FORK);
		return;
	}
	shadow = map_shadow();
	for (i = 0; i < REGIONS; i++)
		pthread_rwlock_rdlock(&me.regions[i].cpu);
	fork_locked(slot, shadow, child);
	for (i = 0; i < REGIONS; i++)
		pthread_rwlock_unlock(&me.regions[i].cpu);
	munmap(shadow, sizeof(*shadow));
}

/*
 * From beginning to end
 */
static void map_region(struct region *r, int index)
{
	char *addr = WINDOW(index);
	unsigned int slot;
	size_t page;

	init_locks(r);
	r->index = index;
	r->mem.nr = region_pages[index];
	r->mem.size = r->mem.nr * page_size();
	r->mem.addr = mmap(addr, r->mem.size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			   -1, 0);
	if (r->mem.addr != addr) {
		fail("no memory for region %d: %s", index, strerror(errno));
		_exit(1);
	}
	madvise(addr, r->mem.size, index ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (index == KSM_REGION)
		madvise(addr, r->mem.size, MADV_MERGEABLE);
	for (page = 0; page < r->mem.nr; page++) {
		for (slot = 0; slot < WORDS; slot++) {
			*word_at(r, page, slot) = tag(r, page, slot);
			set_model(model(r, page, slot), tag(r, page, slot));
		}
	}
}

static void *thread_main(void *data)
{
	struct actor *actor = data;

	become(actor, actor->slot);
	steps(options.steps, false);
	actor->slot->tid = 0;
	return NULL;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)context;
	fail("signal %d at %p", sig, info->si_addr);
	_exit(1);
}

static void run_process(unsigned int number)
{
	static struct actor actors[THREADS], last = { .thread = SHARED };
	pthread_t threads[THREADS];
	char name[16];
	size_t i;

	snprintf(name, sizeof(name), "%u", number);
	become(&last, claim_slot(name));
	me.uffd = -1;
	pthread_mutex_init(&me.uffd_lock, NULL);
	pthread_mutex_init(&me.move_lock, NULL);
	me.shadow = map_shadow();
	open_devices();
	for (i = 0; i < REGIONS; i++)
		map_region(&me.regions[i], i);
	for (i = 0; i < THREADS; i++) {
		snprintf(name, sizeof(name), "%u.%zu", number, i);
		actors[i].slot = claim_slot(name);
		actors[i].thread = i;
		pthread_create(&threads[i], NULL, thread_main, &actors[i]);
	}
	start_op(WAIT);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	check_all();
	end_pager();
}

static void run_system(void)
{
	static struct actor actor;

	become(&actor, claim_slot("system"));
	steps(0, true);
}

/* Where does it hang? */
static void tell_hang(const struct slot *slot)
{
	static const char * const files[] = { "wchan", "stack" };
	char path[64], text[2048];
	ssize_t len;
	size_t i;
	int fd;

	for (i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", slot->pid,
			 slot->tid, files[i]);
		fd = open(path, O_RDONLY);
		len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		if (fd >= 0)
			close(fd);
		dprintf(1, "%s: %.*s\n", path, len < 0 ? 0 : (int)len, text);
	}
}

/* Somebody who waits for a child is not the one who hangs. */
static bool watch(void)
{
	const struct slot *slot;
	bool hangs = false;

	for (slot = board->slots; slot < board->slots + MAX_SLOTS; slot++) {
		if (!slot->pid || !slot->tid || slot->op == WAIT ||
		    now() - slot->since < (time_t)options.hang)
			continue;
		hangs = true;
		fail("%s makes no step: it hangs in step %u, %s", slot->name,
		     slot->step, ops[slot->op].name);
		tell_hang(slot);
	}
	return hangs;
}

static void kill_everybody(void)
{
	const struct slot *slot;

	for (slot = board->slots; slot < board->slots + MAX_SLOTS; slot++)
		if (slot->pid)
			kill(slot->pid, SIGKILL);
}

/* Children whose parent was killed come to us. */
static unsigned int reap(unsigned int running)
{
	unsigned int i;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		free_slots(pid);
		for (i = 0; i <= options.processes; i++) {
			if (board->processes[i] == pid)
				break;
		}
		if (i <= options.processes)
			running--;
		judge_exit(status, i > options.processes);
	}
	return running;
}

static void supervise(void)
{
	unsigned int running = options.processes + 1;
	time_t start = now(), told = start;

	while ((running = reap(running))) {
		usleep(200000);
		if (now() - start >= (time_t)options.seconds && !options.steps)
			board->stop = 1;
		/* The one who disturbs the system waits for the others. */
		if (running == 1)
			board->stop = 1;
		if (watch()) {
			kill_everybody();
			return;
		}
		if (now() - told < 10)
			continue;
		told = now();
		dprintf(1, "%5ld s: %lu steps, %lu forks, %u mismatches, %u other failures\n",
			(long)(told - start), board->steps, board->done[FORK],
			board->mismatches, board->failures);
	}
}

static pid_t start_process(unsigned int number)
{
	pid_t pid;

	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (number < options.processes)
		run_process(number);
	else
		run_system();
	_exit(0);
}

/* What was tried often and has never worked was not tested at all. */
static void tell_counts(void)
{
	unsigned long tried;
	size_t i, error;

	printf("%-20s %9s %9s\n", "operation", "done", "skipped");
	for (i = 0; i < NR_OPS; i++) {
		printf("%-20s %9lu %9lu ", ops[i].name, board->done[i],
		       board->skipped[i]);
		tried = board->skipped[i];
		for (error = 0; error < MAX_ERRNO; error++) {
			if (!board->errors[i][error])
				continue;
			tried += board->errors[i][error];
			printf(" %s %lu", strerrorname_np(error) ?: "?",
			       board->errors[i][error]);
		}
		printf("\n");
		if (!board->done[i] && tried >= 50)
			fail("%s has never worked", ops[i].name);
	}
}

static const struct {
	const char *path, *value;
} settings[] = {
	{ KSM_SYSFS "pages_to_scan", "500" },
	{ KSM_SYSFS "sleep_millisecs", "20" },
	{ KSM_SYSFS "run", "1" },
	{ KHUGEPAGED "pages_to_scan", "4096" },
	{ KHUGEPAGED "scan_sleep_millisecs", "50" },
	{ KHUGEPAGED "alloc_sleep_millisecs", "50" },
	{ "/proc/sys/kernel/numa_balancing", "1" },
};

static void show_usage(void)
{
	fputs("stress [-s SEED] [-t SECONDS] [-n STEPS] [-p PROCESSES] [-w SECONDS]\n"
	      "       [-b MISTAKE] [-v]\n"
	      "  -s  what happens depends on it; it is printed\n"
	      "  -t  for how long\n"
	      "  -n  each thread makes so many steps, however long that takes\n"
	      "  -w  who makes no step for so long hangs\n"
	      "  -b  do what must be noticed: \"lose\" additions, \"stray\" writes\n"
	      "  -v  print each step\n",
	      stderr);
	exit(2);
}

static void parse(int argc, char **argv)
{
	int opt;

	options.seed = time(NULL) ^ getpid();
	while ((opt = getopt(argc, argv, "s:t:p:n:w:b:v")) != -1) {
		if (opt == 's')
			options.seed = strtoull(optarg, NULL, 0);
		else if (opt == 't')
			options.seconds = atoi(optarg);
		else if (opt == 'p')
			options.processes = atoi(optarg);
		else if (opt == 'n')
			options.steps = atoi(optarg);
		else if (opt == 'w')
			options.hang = atoi(optarg);
		else if (opt == 'v')
			options.verbose = true;
		else if (opt == 'b' && !strcmp(optarg, "lose"))
			options.mistake = LOSE;
		else if (opt == 'b' && !strcmp(optarg, "stray"))
			options.mistake = STRAY;
		else
			show_usage();
	}
	if (optind < argc || !options.processes ||
	    options.processes >= MAX_PROCESSES)
		show_usage();
}

int main(int argc, char **argv)
{
	struct sigaction action = {
		.sa_sigaction = on_signal,
		.sa_flags = SA_SIGINFO,
	};
	struct setting old[ARRAY_SIZE(settings)];
	size_t i;

	parse(argc, argv);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("seed %llu\n", (unsigned long long)options.seed);
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED || cgroup_enter(&cgroup))
		return 2;
	for (i = 0; i < ARRAY_SIZE(settings); i++)
		if (setting_change(&old[i], settings[i].path, settings[i].value))
			return 2;
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	prctl(PR_SET_CHILD_SUBREAPER, 1);

	for (i = 0; i <= options.processes; i++)
		board->processes[i] = start_process(i);
	supervise();

	for (i = 0; i < ARRAY_SIZE(settings); i++)
		setting_restore(&old[i]);
	cgroup_leave(&cgroup);
	tell_counts();
	printf("seed %llu: %lu steps, %u mismatches, %u other failures\n",
	       (unsigned long long)options.seed, board->steps,
	       board->mismatches, board->failures);
	return board->mismatches || board->failures;
}
