// SPDX-License-Identifier: GPL-2.0
/*
 * The first process of the test VM. It mounts what tests need, turns on swap,
 * loads the module, and then, by what VM_MODE on the kernel's command line
 * says,
 *
 * test:  runs every test case of every program in /tests in a session and a
 *	  cgroup of its own, under a time limit, and kills all that it leaves
 *	  behind. A splat in the kernel's log fails the case. Before that, it
 *	  reads the results of the KUnit suites that /kunit lists, which ran
 *	  when the kernel booted. TESTS is a glob for "program:case" and
 *	  "suite:case"; AFTER is a case to go on behind, after a VM that died in
 *	  it. With SLOW, all takes that many times as long; with KMEMLEAK, the
 *	  last test is that nothing has leaked. The verdict goes as KTAP to a
 *	  virtio port. With COLLECT, all files below that directory go to a
 *	  second port in the end.
 * demo:  runs /programs/demo with its output on that port.
 * bench: runs /programs/bench with its output on that port, and the value of
 *	  BENCH as its argument.
 * stress: runs /programs/stress in the same way, with the arguments in STRESS.
 * upstream: runs the kernel's own test programs that /upstream lists, each as a
 *	  whole, and prints all that they say, and the results of all KUnit
 *	  suites that ran when the kernel booted.
 * shell: runs a shell on the console.
 *
 * Then it ends the VM. What comes last on the port tells the host that nothing
 * got lost: "# done", or "# exit N".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <linux/types.h>
#include <poll.h>
#include <regex.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define VERDICT_PORT	"/dev/vport0p1"
#define COLLECT_PORT	"/dev/vport0p2"
#define CGROUP		"/sys/fs/cgroup/test"
#define KUNIT_DIR	"/sys/kernel/debug/kunit"
#define CASE_SECONDS	60	/* time limit of one test case */
#define KILL_SECONDS	45	/* for what it left behind to die */
#define SLOW_SECONDS	10	/* worth a remark */
#define LEAK_SECONDS	10	/* before a lost object counts as one */
#define MAX_CASES	1024
#define MAX_SUITES	16	/* of KUnit */
#define MAX_LINES	50	/* of output of one test case */
#define MAX_LEAK_LINES	200
#define MAX_SPLATS	3	/* of them that are shown */

/* SLOW is how many times as long things may take as those above. */
static unsigned int slow = 1;

/* What setting up the machine gave: 0 or -errno */
static int swap_error, cgroup_error;

/* Where programs run */
static const char *workdir = "/tmp";

static FILE *verdict;
static int kmsg = -1;
static regex_t splat;

/* Where we are in the current subtest, and how it went */
static struct {
	const char *name;
	unsigned int nr;	/* of the subtest */
	unsigned int cases;
	unsigned int splats;	/* in the current case */
	bool failed;
} sub;

/* One test case: what is known of it */
struct testcase {
	const char *program;
	char name[256];
};

static struct testcase cases[MAX_CASES];
static unsigned int nr_cases;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void __attribute__((noreturn)) end_vm(void)
{
	fflush(NULL);
	sync();
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

/* Give up: the host shows this line, and counts it as a failure. */
static void __attribute__((noreturn, format(printf, 1, 2)))
bail_out(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("Bail out! ", verdict);
	vfprintf(verdict, fmt, args);
	fputc('\n', verdict);
	va_end(args);
	end_vm();
}

/* A diagnostic line of the running subtest */
static void __attribute__((format(printf, 1, 2))) diag(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fputs("    # ", verdict);
	vfprintf(verdict, fmt, args);
	fputc('\n', verdict);
	va_end(args);
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, text, strlen(text)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static const char *read_file(const char *path)
{
	static char text[256];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return text;
}

/* A remark in the kernel's log, for whoever reads the console */
static void mark(const char *what, const char *program, const char *name)
{
	char text[512];

	snprintf(text, sizeof(text), "<6>%s %s:%s\n", what, program, name);
	write_file("/dev/kmsg", text);
}

/*
 * Splats
 */

/* One regular expression from all the lines of /splats */
static void compile_splats(void)
{
	static char all[4096], line[256];
	FILE *f = fopen("/splats", "r");

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (!line[0] || line[0] == '#')
			continue;
		if (strlen(all) + strlen(line) + 4 > sizeof(all))
			bail_out("/splats is too long for init");
		if (all[0])
			strcat(all, "|");
		strcat(all, line);
	}
	if (!all[0] || regcomp(&splat, all, REG_EXTENDED | REG_NOSUB))
		bail_out("/splats is not a list of regular expressions");
	fclose(f);
}

/* The console gets the first splats of a case; more would take minutes. */
static void quiet_console(bool quiet)
{
	write_file("/proc/sys/kernel/printk", quiet ? "1" : "7");
}

static void add_splat(const char *text)
{
	if (!sub.splats++)
		quiet_console(true);
	if (sub.splats <= MAX_SPLATS)
		diag("kernel: %s", text);
}

/* Look for splats in what the kernel has logged since the last call. */
static void read_kmsg(void)
{
	char record[8192], *text;
	ssize_t n;

	for (;;) {
		n = read(kmsg, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE) {
			add_splat("(it logged more than its buffer can hold)");
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return;
		record[n] = '\0';
		text = strchr(record, ';');
		text = text ? text + 1 : record;
		text[strcspn(text, "\n")] = '\0';
		if (!regexec(&splat, text, 0, NULL, 0))
			add_splat(text);
	}
}

/*
 * An idle CPU may still hold the last user of a dead mm. Visit every CPU, so
 * that what the kernel has to say about the counters of that mm is said now.
 */
static void visit_cpus(void)
{
	cpu_set_t all, one;
	int cpu;

	sched_getaffinity(0, sizeof(all), &all);
	for (cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

/*
 * KTAP
 */

static void sub_begin(const char *name, unsigned int plan)
{
	sub.name = name;
	sub.nr++;
	sub.cases = 0;
	sub.failed = false;
	fprintf(verdict, "    KTAP version 1\n    # Subtest: %s\n    1..%u\n",
		name, plan);
}

static void sub_end(void)
{
	fprintf(verdict, "%s %u %s\n", sub.failed ? "not ok" : "ok", sub.nr,
		sub.name);
}

/* Before anything that can take the kernel down */
static void case_begin(const char *name)
{
	write_file("/sys/kernel/debug/clear_warn_once", "1");
	mark("RUN", sub.name, name);
	fprintf(verdict, "    # RUN %s:%s\n", sub.name, name);
}

/* @directive: " # SKIP reason" and the like, or "" */
static void case_end(const char *name, bool ok, const char *directive)
{
	visit_cpus();
	read_kmsg();
	if (sub.splats > MAX_SPLATS)
		diag("kernel: and %u more", sub.splats - MAX_SPLATS);
	if (sub.splats) {
		ok = false;
		sub.splats = 0;
		quiet_console(false);
	}
	if (!ok) {
		sub.failed = true;
		directive = "";
	}
	fprintf(verdict, "    %s %u %s%s\n", ok ? "ok" : "not ok",
		++sub.cases, name, directive);
}

/*
 * The machine
 */

static void mounts(void)
{
	static const struct {
		const char *type, *where;
	} fs[] = {
		{ "proc", "/proc" },
		{ "sysfs", "/sys" },
		{ "devtmpfs", "/dev" },
		{ "tmpfs", "/dev/shm" },
		{ "tmpfs", "/tmp" },
		{ "cgroup2", "/sys/fs/cgroup" },
		{ "debugfs", "/sys/kernel/debug" },
	};
	size_t i;

	for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++) {
		mkdir(fs[i].where, 0755);
		if (mount(fs[i].type, fs[i].where, fs[i].type, 0, NULL))
			printf("init: cannot mount %s: %m\n", fs[i].where);
	}
}

/* A swap header is the page that mkswap(8) would write. */
static int swap_on(void)
{
	size_t size = sysconf(_SC_PAGESIZE);
	struct {
		char boot[1024];
		__u32 version;
		__u32 last_page;
		__u32 nr_badpages;
	} *header = calloc(1, size);
	int fd, ret;

	ret = write_file("/sys/block/zram0/disksize", "1G");
	if (ret)
		return ret;
	header->version = 1;
	header->last_page = (1UL << 30) / size - 1;
	memcpy((char *)header + size - 10, "SWAPSPACE2", 10);
	fd = open("/dev/zram0", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, header, size) != (ssize_t)size || fsync(fd))
		return -errno;
	close(fd);
	free(header);
	return swapon("/dev/zram0", 0) ? -errno : 0;
}

/* The module's file, /modules/<name>.ko, and its name */
static const char *module_path(char *name, size_t size)
{
	static char path[512];
	struct dirent *entry;
	DIR *dir = opendir("/modules");

	path[0] = '\0';
	while (dir && (entry = readdir(dir))) {
		size_t len = strlen(entry->d_name);

		if (len < 4 || strcmp(entry->d_name + len - 3, ".ko"))
			continue;
		snprintf(path, sizeof(path), "/modules/%s", entry->d_name);
		snprintf(name, size, "%.*s", (int)len - 3, entry->d_name);
	}
	if (dir)
		closedir(dir);
	return path;
}

static int load_module(void)
{
	char name[256];
	int fd = open(module_path(name, sizeof(name)), O_RDONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		ret = -errno;
	if (fd >= 0)
		close(fd);
	return ret;
}

static int unload_module(void)
{
	char name[256];

	module_path(name, sizeof(name));
	return syscall(SYS_delete_module, name, O_NONBLOCK) ? -errno : 0;
}

/*
 * Processes
 */

/*
 * Kill everything but us and wait until it is gone. Returns the wait status of
 * @main. What does not die is stuck in the kernel, and nothing that would run
 * after it can be trusted.
 */
static int kill_all(pid_t main)
{
	double deadline = now() + KILL_SECONDS * slow;
	int status, main_status = 0;
	pid_t pid;

	for (;;) {
		kill(-1, SIGKILL);
		pid = waitpid(-1, &status, WNOHANG);
		if (pid < 0)
			return main_status;
		if (pid == main)
			main_status = status;
		if (pid > 0)
			continue;
		if (now() > deadline) {
			write_file("/proc/sysrq-trigger", "w");
			write_file("/proc/sysrq-trigger", "l");
			bail_out("a process cannot be killed; the console tells where it is");
		}
		usleep(10000);
	}
}

/* Cgroups that a test made, and its own */
static void remove_cgroups(const char *path, bool self)
{
	char child[512];
	struct dirent *entry;
	DIR *dir = opendir(path);

	while (dir && (entry = readdir(dir))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
		remove_cgroups(child, true);
	}
	if (dir)
		closedir(dir);
	if (self)
		rmdir(path);
}

/* Run the program argv[0] of @dir. */
static pid_t spawn(const char *dir, const char * const argv[], int output)
{
	char path[512];

	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	setsid();
	write_file(CGROUP "/cgroup.procs", "0");
	dup2(output, 1);
	dup2(output, 2);
	if (chdir(workdir))
		_exit(126);
	snprintf(path, sizeof(path), "%s/%s", dir, argv[0]);
	execv(path, (char * const *)argv);
	fprintf(stderr, "cannot run %s: %m\n", path);
	_exit(127);
}

/*
 * Test programs, which are made with kselftest_harness.h
 */

/* What a program says about the one test case that it runs */
struct output {
	const char *name;
	char line[1024];
	size_t len;
	unsigned int lines;
	bool reported, ok;
	char directive[512];
};

/* Is this what the harness says about every test case? */
static bool is_boilerplate(const char *line)
{
	static const char * const start[] = {
		"TAP version 13", "1..1", "# Starting 1 tests", "#  RUN  ",
		"#            OK  ", "#          FAIL  ", "# PASSED: ",
		"# FAILED: ", "# Totals: ", "#      SKIP  ",
		"# 1 skipped test(s) detected.",
	};
	size_t i;

	for (i = 0; i < sizeof(start) / sizeof(start[0]); i++)
		if (!strncmp(line, start[i], strlen(start[i])))
			return true;
	return false;
}

static void output_line(struct output *out)
{
	char *line = out->line;
	size_t len = strlen(out->name);
	bool ok;

	ok = !strncmp(line, "ok 1 ", 5);
	if (ok || !strncmp(line, "not ok 1 ", 9)) {
		line += ok ? 5 : 9;
		if (!strncmp(line, out->name, len)) {
			out->reported = true;
			out->ok = ok;
			snprintf(out->directive, sizeof(out->directive), "%s",
				 line + len);
			return;
		}
		line = out->line;
	}
	if (is_boilerplate(line))
		return;
	if (++out->lines > MAX_LINES)
		return;
	diag("%s", line[0] == '#' && line[1] == ' ' ? line + 2 : line);
}

static void output_read(struct output *out, int fd)
{
	char buf[4096];
	ssize_t n, i;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (i = 0; i < n; i++) {
			if (buf[i] != '\n' && out->len < sizeof(out->line) - 1) {
				out->line[out->len++] = buf[i];
				continue;
			}
			out->line[out->len] = '\0';
			output_line(out);
			out->len = 0;
			if (buf[i] != '\n')
				out->line[out->len++] = buf[i];
		}
		fflush(verdict);
	}
}

static void output_end(struct output *out, int fd)
{
	output_read(out, fd);
	if (out->len) {
		out->line[out->len] = '\0';
		output_line(out);
	}
	if (out->lines > MAX_LINES)
		diag("%u more lines of output", out->lines - MAX_LINES);
}

static void run_case(const struct testcase *t)
{
	const char * const argv[] = { t->program, "-r", t->name, NULL };
	struct output out = { .name = t->name };
	double start = now(), left;
	bool timed_out = true;
	struct pollfd fds[3];
	int pipes[2], status;
	bool ok;
	pid_t pid;

	case_begin(t->name);
	mkdir(CGROUP, 0755);
	if (pipe2(pipes, O_CLOEXEC))
		bail_out("pipe: %m");
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	pid = spawn("/tests", argv, pipes[1]);
	close(pipes[1]);
	if (pid < 0)
		bail_out("fork: %m");

	/*
	 * Until the program itself ends (its children may keep the pipe), or
	 * the kernel has failed it: what would follow is more of the same.
	 */
	fds[0] = (struct pollfd){ .fd = pipes[0], .events = POLLIN };
	fds[1] = (struct pollfd){ .events = POLLIN };
	fds[1].fd = syscall(SYS_pidfd_open, pid, 0);
	fds[2] = (struct pollfd){ .fd = kmsg, .events = POLLIN };
	while ((left = start + CASE_SECONDS * slow - now()) > 0) {
		poll(fds, 3, left * 1000 + 1);
		output_read(&out, pipes[0]);
		read_kmsg();
		if (fds[0].revents & POLLHUP)
			fds[0].fd = -1;
		if (fds[1].revents || sub.splats) {
			timed_out = false;
			break;
		}
	}
	close(fds[1].fd);
	status = kill_all(pid);
	output_end(&out, pipes[0]);
	close(pipes[0]);
	remove_cgroups("/sys/fs/cgroup", false);

	ok = out.reported && out.ok;
	if (timed_out) {
		diag("killed after its time limit of %u s",
		     CASE_SECONDS * slow);
		ok = false;
	} else if (sub.splats) {
		ok = false;
	} else if (WIFSIGNALED(status)) {
		diag("the test program was killed by signal %d", WTERMSIG(status));
		ok = false;
	} else if (!out.reported) {
		diag("the test program gave no result and exit status %d",
		     WEXITSTATUS(status));
	}
	if (now() - start > SLOW_SECONDS * slow)
		diag("it took %.0f s", now() - start);
	case_end(t->name, ok, out.directive);
}

/* Is this one of those that TESTS asks for? */
static bool selected(const char *program, const char *name)
{
	const char *glob = getenv("TESTS");
	char full[512];

	snprintf(full, sizeof(full), "%s:%s", program, name);
	return !glob || !glob[0] || !fnmatch(glob, full, FNM_EXTMATCH);
}

static void add_case(const char *program, const char *fixture,
		     const char *variant, const char *test)
{
	static const char *after;
	struct testcase *t = &cases[nr_cases];
	char full[512];

	if (nr_cases == MAX_CASES)
		bail_out("more than %d test cases", MAX_CASES);
	snprintf(t->name, sizeof(t->name), "%s%s%s.%s", fixture,
		 variant[0] ? "." : "", variant, test);
	snprintf(full, sizeof(full), "%s:%s", program, t->name);
	if (!after)
		after = getenv("AFTER") ?: "";
	if (after[0]) {
		if (!strcmp(after, full))
			after = "";
		return;
	}
	if (!selected(program, t->name))
		return;
	t->program = program;
	nr_cases++;
}

/* All combinations of the variants and the tests of one fixture */
static void add_fixture(const char *program, const char *fixture,
			char (*variants)[128], unsigned int nr_variants,
			char (*tests)[128], unsigned int nr_tests)
{
	unsigned int v, t;

	if (!nr_variants)
		variants[nr_variants++][0] = '\0';
	for (v = 0; v < nr_variants; v++)
		for (t = 0; t < nr_tests; t++)
			add_case(program, fixture, variants[v], tests[t]);
}

/*
 * Read a program's list of test cases. It is a table ("%-20s %-25s %s"): the
 * fixture is in its first line only, and the variants stand beside the tests,
 * though each variant goes with each test. A line of dashes ends a fixture.
 */
static void list_cases(const char *program)
{
	const char * const argv[] = { program, "-l", NULL };
	static char variants[64][128], tests[128][128];
	unsigned int nr_variants = 0, nr_tests = 0;
	char line[512], fixture[128] = "", *p;
	bool any = false;
	int pipes[2];
	FILE *list;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC))
		bail_out("pipe: %m");
	pid = spawn("/tests", argv, pipes[1]);
	close(pipes[1]);
	list = fdopen(pipes[0], "r");
	while (pid > 0 && fgets(line, sizeof(line), list)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "# FIXTURE", 9))
			continue;
		if (!strncmp(line, "-----", 5)) {
			add_fixture(program, fixture, variants, nr_variants,
				    tests, nr_tests);
			nr_variants = 0;
			nr_tests = 0;
			continue;
		}
		p = line;
		if (*p != ' ') {
			p += strcspn(p, " ");
			snprintf(fixture, sizeof(fixture), "%.*s",
				 (int)(p - line), line);
		}
		/* to the second column */
		p = line + (p - line > 20 ? p - line + 1 : 21);
		if (strlen(line) < 21 || nr_variants == 64 || nr_tests == 128)
			bail_out("%s has a list of tests that init cannot read",
				 program);
		if (*p != ' ')
			snprintf(variants[nr_variants++], 128, "%.*s",
				 (int)strcspn(p, " "), p);
		/* to the third column */
		p += strcspn(p, " ");
		p += strspn(p, " ");
		if (*p) {
			snprintf(tests[nr_tests++], 128, "%s", p);
			any = true;
		}
	}
	fclose(list);
	kill_all(pid);
	add_fixture(program, fixture, variants, nr_variants, tests, nr_tests);
	if (!any)
		bail_out("%s lists no tests", program);
}

/*
 * KUnit
 */

/* One suite, and how its tests went when the kernel booted */
struct suite {
	char name[64];
	char *results;	/* in KTAP, or NULL */
	int error;	/* why there are none: -errno */
	unsigned int plan, done, selected;
};

static struct suite suites[MAX_SUITES];
static unsigned int nr_suites;

/* All of a file, of @len bytes; NULL, and errno, if it cannot be read. */
static char *read_bytes(const char *path, size_t *len)
{
	size_t size = 0;
	char *text = NULL;
	ssize_t n = 0;
	int fd, ret;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	*len = 0;
	do {
		*len += n;
		if (size - *len < 4096) {
			size += 65536;
			text = realloc(text, size);
			if (!text)
				bail_out("no memory for %s", path);
		}
		n = read(fd, text + *len, size - *len - 1);
	} while (n > 0);
	ret = n < 0 ? errno : 0;
	close(fd);
	if (ret) {
		free(text);
		errno = ret;
		return NULL;
	}
	text[*len] = '\0';
	return text;
}

/* The same of a file of text */
static char *read_all(const char *path)
{
	size_t len;

	return read_bytes(path, &len);
}

/* The result of a test case, in a line as "    not ok 3 name # SKIP reason" */
static bool suite_case(const char *line, bool *ok, char *name, size_t size,
		       const char **directive)
{
	if (strncmp(line, "    ", 4))
		return false;
	line += 4;
	*ok = !strncmp(line, "ok ", 3);
	if (!*ok && strncmp(line, "not ok ", 7))
		return false;
	line += *ok ? 3 : 7;
	line += strspn(line, "0123456789");
	line += strspn(line, " ");
	*directive = strstr(line, " #") ?: line + strlen(line);
	snprintf(name, size, "%.*s", (int)(*directive - line), line);
	return true;
}

/* Of all that KUnit says: why a test failed */
static bool suite_tells(const char *line)
{
	static const char * const other[] = {
		"KTAP version ", "1..", "ok ", "# Subtest: ", "# Totals: ",
		"# module: ",
	};
	const char *text = line + strspn(line, " ");
	size_t i;

	for (i = 0; i < sizeof(other) / sizeof(other[0]); i++)
		if (!strncmp(text, other[i], strlen(other[i])))
			return false;
	/* Not that of the suite itself, and not how many there were of each */
	return line != text && !strstr(text, ": pass:");
}

/*
 * Go through the results of a suite, and call @report for each test case that
 * is selected, and @tell for what was said about it before.
 */
static void suite_walk(struct suite *suite,
		       void (*tell)(const char *line),
		       void (*report)(const char *name, bool ok,
				      const char *directive))
{
	char *text = strdup(suite->results ?: ""), *next = text, *line, *told;
	const char *directive;
	char name[256];
	bool ok;

	suite->plan = 0;
	suite->done = 0;
	suite->selected = 0;
	for (told = text; (line = strsep(&next, "\n"));) {
		if (!strncmp(line, "    1..", 7))
			suite->plan = atoi(line + 7);
		if (!suite_case(line, &ok, name, sizeof(name), &directive))
			continue;
		suite->done++;
		if (selected(suite->name, name)) {
			suite->selected++;
			/* strsep() has made strings of the lines before. */
			for (; tell && told < line; told += strlen(told) + 1)
				if (suite_tells(told))
					tell(told);
			if (report)
				report(name, ok, directive);
		}
		told = next ?: line;
	}
	free(text);
}

static void tell_line(const char *line)
{
	line += strspn(line, " ");
	diag("%s", line[0] == '#' && line[1] == ' ' ? line + 2 : line);
}

/* It ran long ago, but the log of the host knows test cases that begin and end. */
static void report_case(const char *name, bool ok, const char *directive)
{
	case_begin(name);
	case_end(name, ok, directive);
}

/* A suite that is not all there has one more test case, which fails. */
static bool suite_complete(const struct suite *suite)
{
	return suite->results && suite->plan && suite->done == suite->plan;
}

static void list_suites(void)
{
	char *list = read_all("/kunit"), *next = list, *name, path[256];
	struct suite *suite;

	/* A VM that has died before has told what is in there. */
	if (!list || getenv("AFTER"))
		return;
	while ((name = strsep(&next, "\n"))) {
		if (!name[0])
			continue;
		if (nr_suites == MAX_SUITES)
			bail_out("more than %d KUnit suites", MAX_SUITES);
		suite = &suites[nr_suites];
		snprintf(suite->name, sizeof(suite->name), "%s", name);
		snprintf(path, sizeof(path), KUNIT_DIR "/%s/results", name);
		suite->results = read_all(path);
		suite->error = suite->results ? 0 : -errno;
		suite_walk(suite, NULL, NULL);
		if (!suite_complete(suite))
			suite->selected += selected(name, "results");
		if (suite->selected)
			nr_suites++;
	}
	free(list);
}

static void run_suite(struct suite *suite)
{
	sub_begin(suite->name, suite->selected);
	suite_walk(suite, tell_line, report_case);
	if (!suite_complete(suite) && selected(suite->name, "results")) {
		case_begin("results");
		if (suite->error)
			diag("no results of this KUnit suite: %s",
			     strerror(-suite->error));
		else
			diag("%u results of %u", suite->done, suite->plan);
		case_end("results", false, "");
	}
	sub_end();
}

/* Are the things there that the host and the kernel's command line ask for? */
static void check_environment(void)
{
	static const struct {
		const char *file, *want;
	} expect[] = {
		{ "/sys/devices/system/cpu/online", "0-1" },
		{ "/sys/devices/system/node/online", "0-1" },
		{ "/proc/sys/vm/nr_hugepages", "8" },
	};
	bool ok = true;
	int ret;
	size_t i;

	case_begin("environment");
	for (i = 0; i < sizeof(expect) / sizeof(expect[0]); i++) {
		const char *is = read_file(expect[i].file);

		if (!strcmp(is, expect[i].want))
			continue;
		diag("%s says \"%s\" and should say \"%s\"", expect[i].file, is,
		     expect[i].want);
		ok = false;
	}
	if (swap_error) {
		diag("no swap: %s", strerror(-swap_error));
		ok = false;
	}
	if (cgroup_error) {
		diag("no memory cgroups: %s", strerror(-cgroup_error));
		ok = false;
	}
	ret = write_file("/sys/kernel/debug/clear_warn_once", "1");
	if (ret) {
		diag("clear_warn_once: %s", strerror(-ret));
		ok = false;
	}
	case_end("environment", ok, "");
}

/* Nothing may have been lost, neither here nor when KUnit ran. */
static void check_leaks(void)
{
	static const char file[] = "/sys/kernel/debug/kmemleak";
	unsigned int lines = 0;
	char *leaks, *next, *line;
	int ret = 0, i;

	case_begin("kmemleak");
	/* What is on its way from one list to another is found again. */
	for (i = 0; i < 3 && !ret; i++) {
		sleep(LEAK_SECONDS);
		ret = write_file(file, "scan");
	}
	leaks = ret ? NULL : read_all(file);
	if (!leaks)
		diag("kmemleak: %s", strerror(ret ? -ret : errno));
	for (next = leaks; (line = strsep(&next, "\n"));)
		if (line[0] && ++lines <= MAX_LEAK_LINES)
			diag("%s", line);
	case_end("kmemleak", leaks && !lines, "");
	free(leaks);
}

/*
 * Files for the host, such as what gcov has counted. Each has a line with its
 * size and its name before it; the line "end" tells that nothing got lost.
 */

static FILE *collected;

#define UNUSED __attribute__((unused))

static int collect_file(const char *path, const struct stat *st UNUSED,
			int type, struct FTW *ftw UNUSED)
{
	size_t size;
	char *data;

	if (type == FTW_D || type == FTW_SL)
		return 0;
	data = read_bytes(path, &size);
	if (!data) {
		diag("%s: %m", path);
		return -1;
	}
	fprintf(collected, "%zu %s\n", size, path);
	fwrite(data, 1, size, collected);
	free(data);
	return 0;
}

static void collect(const char *dir)
{
	bool ok = false;

	case_begin("collect");
	collected = fopen(COLLECT_PORT, "we");
	if (!collected) {
		diag(COLLECT_PORT ": %m");
	} else if (nftw(dir, collect_file, 16, FTW_PHYS)) {
		diag("not all of %s can be read", dir);
		fclose(collected);
	} else {
		fputs("end\n", collected);
		ok = !ferror(collected);
		ok = !fclose(collected) && ok;
		if (!ok)
			diag(COLLECT_PORT " does not take it");
	}
	case_end("collect", ok, "");
}

static int select_entry(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static void run_tests(void)
{
	struct dirent **programs;
	unsigned int i, j, subtests = 2;
	int n, ret;

	n = scandir("/tests", &programs, select_entry, alphasort);
	if (n < 0)
		bail_out("/tests: %m");
	for (i = 0; i < (unsigned int)n; i++)
		list_cases(programs[i]->d_name);
	for (i = 0; i < nr_cases; i++)
		if (!i || cases[i].program != cases[i - 1].program)
			subtests++;
	list_suites();
	subtests += nr_suites;

	fprintf(verdict, "KTAP version 1\n1..%u\n", subtests);
	sub_begin("boot", 2);
	check_environment();
	case_begin("module.load");
	ret = load_module();
	if (ret)
		diag("the module cannot be loaded: %s", strerror(-ret));
	case_end("module.load", !ret, "");
	sub_end();

	for (i = 0; i < nr_suites; i++)
		run_suite(&suites[i]);
	for (i = 0; i < nr_cases; i = j) {
		for (j = i; j < nr_cases; j++)
			if (cases[j].program != cases[i].program)
				break;
		sub_begin(cases[i].program, j - i);
		for (; i < j; i++)
			run_case(&cases[i]);
		sub_end();
	}

	sub_begin("end", 1 + !!getenv("KMEMLEAK") + !!getenv("COLLECT"));
	case_begin("module.unload");
	ret = unload_module();
	if (ret)
		diag("the module cannot be unloaded: %s", strerror(-ret));
	case_end("module.unload", !ret, "");
	if (getenv("KMEMLEAK"))
		check_leaks();
	if (getenv("COLLECT"))
		collect(getenv("COLLECT"));
	sub_end();
	fprintf(verdict, "# done\n");
}

/* Run one program that says itself how it went. */
static void run_program(const char *name, const char *args)
{
	char *words = strdup(args ?: ""), *next = words;
	const char *argv[16] = { name };
	int ret = load_module();
	int status;
	size_t i = 1;
	pid_t pid;

	while (i < 15 && (argv[i] = strsep(&next, " ")))
		i += !!argv[i][0];
	argv[i] = NULL;

	if (ret)
		bail_out("the module cannot be loaded: %s", strerror(-ret));
	read_kmsg();
	mkdir(CGROUP, 0755);
	pid = spawn("/programs", argv, fileno(verdict));
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		bail_out("%s cannot be run: %m", name);
	kill_all(0);
	visit_cpus();
	read_kmsg();
	fprintf(verdict, "# exit %d\n", WIFEXITED(status) ?
		WEXITSTATUS(status) : 128 + WTERMSIG(status));
	free(words);
}

/*
 * The kernel's own tests. What they say is passed on as it is, indented: they
 * speak TAP, so that makes them subtests. The host compares two kernels.
 */

/* TESTS is a glob for programs with their arguments. */
static bool upstream_selected(const char *name)
{
	const char *glob = getenv("TESTS");

	return !glob || !glob[0] || !fnmatch(glob, name, FNM_EXTMATCH);
}

static void upstream_begin(const char *name)
{
	sub.name = name;
	sub.nr++;
	fprintf(verdict, "    KTAP version 1\n    # Subtest: %s\n", name);
	case_begin("all");
}

/* @how: the exit status, or why there is none */
static void upstream_end(bool ok, const char *how)
{
	visit_cpus();
	read_kmsg();
	if (sub.splats)
		ok = false;
	sub.splats = 0;
	quiet_console(false);
	fprintf(verdict, "%s %u %s # %s\n", ok ? "ok" : "not ok", sub.nr,
		sub.name, how);
}

/* Pass on what is in the pipe; returns whether the last line is complete. */
static bool upstream_output(int fd, bool complete)
{
	char buf[4096];
	ssize_t n, i;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (i = 0; i < n; i++) {
			if (complete)
				fputs("    ", verdict);
			fputc(buf[i], verdict);
			complete = buf[i] == '\n';
		}
	}
	return complete;
}

/* @name: the program and its arguments, separated by spaces */
static void upstream_run(const char *name, unsigned int limit)
{
	char *words = strdup(name), *next = words;
	const char *argv[16] = { NULL };
	bool complete = true, done = false;
	double start = now(), left;
	struct pollfd fds[2];
	int pipes[2], status;
	char how[64];
	size_t i = 0;
	pid_t pid;

	while (i < 15 && (argv[i] = strsep(&next, " ")))
		i++;
	upstream_begin(name);
	mkdir(CGROUP, 0755);
	if (pipe2(pipes, O_CLOEXEC))
		bail_out("pipe: %m");
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	pid = spawn("/tests", argv, pipes[1]);
	close(pipes[1]);
	if (pid < 0)
		bail_out("fork: %m");
	fds[0] = (struct pollfd){ .fd = pipes[0], .events = POLLIN };
	fds[1] = (struct pollfd){ .events = POLLIN };
	fds[1].fd = syscall(SYS_pidfd_open, pid, 0);
	while (!done && (left = start + limit - now()) > 0) {
		poll(fds, 2, left * 1000 + 1);
		complete = upstream_output(pipes[0], complete);
		if (fds[0].revents & POLLHUP)
			fds[0].fd = -1;
		done = fds[1].revents;
	}
	close(fds[1].fd);
	status = kill_all(pid);
	complete = upstream_output(pipes[0], complete);
	close(pipes[0]);
	if (!complete)
		fputc('\n', verdict);
	remove_cgroups("/sys/fs/cgroup", false);
	diag("it took %.0f s", now() - start);

	if (!done)
		snprintf(how, sizeof(how), "TIMEOUT %u seconds", limit);
	else if (WIFSIGNALED(status))
		snprintf(how, sizeof(how), "killed by signal %d",
			 WTERMSIG(status));
	else
		snprintf(how, sizeof(how), "exit=%d", WEXITSTATUS(status));
	upstream_end(done && !status, how);
	free(words);
}

/* What KUnit has said of a suite is indented, all but its result. */
static void upstream_suite(const char *suite)
{
	char path[512], name[256], *text, *next, *line;
	bool ok = false;

	snprintf(name, sizeof(name), "kunit:%s", suite);
	if (!upstream_selected(name))
		return;
	upstream_begin(name);
	snprintf(path, sizeof(path), KUNIT_DIR "/%s/results", suite);
	text = read_all(path);
	for (next = text; (line = strsep(&next, "\n"));) {
		if (!strncmp(line, "ok ", 3))
			ok = true;
		else if (line[0] == ' ' || line[0] == '#')
			fprintf(verdict, "%s\n", line);
	}
	upstream_end(ok, !text ? "no results" : ok ? "exit=0" : "exit=1");
	free(text);
}

static void run_upstream(void)
{
	char *list = read_all("/upstream"), *next = list, *line;
	struct dirent **suites;
	unsigned int limit;
	int n, i, ret;

	ret = load_module();
	if (ret)
		bail_out("the module cannot be loaded: %s", strerror(-ret));
	if (swap_error || cgroup_error)
		bail_out("no swap or no memory cgroups");
	/* Some start themselves again, as ./name. */
	workdir = "/tests";
	fprintf(verdict, "KTAP version 1\n");
	n = scandir(KUNIT_DIR, &suites, select_entry, alphasort);
	for (i = 0; i < n; i++)
		upstream_suite(suites[i]->d_name);
	while ((line = strsep(&next, "\n"))) {
		limit = strtoul(line, &line, 10);
		line += strspn(line, " ");
		if (limit && upstream_selected(line))
			upstream_run(line, limit);
	}
	free(list);
	fprintf(verdict, "# done\n");
}

static void run_shell(void)
{
	char console[64];
	int fd, ret;
	pid_t pid;

	/* /dev/console cannot be a controlling terminal. */
	snprintf(console, sizeof(console), "/dev/%s",
		 read_file("/sys/class/tty/console/active"));
	pid = fork();
	if (!pid) {
		setsid();
		fd = open(console, O_RDWR);
		ioctl(fd, TIOCSCTTY, 1);
		dup2(fd, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		write_file("/proc/sys/kernel/printk", "4");
		ret = load_module();
		setenv("PATH", "/bin:/tests:/programs", 1);
		setenv("HOME", "/tmp", 1);
		setenv("PS1", "device-exclusive# ", 1);
		system("/bin/busybox --install -s /bin");
		printf("\n"
		       "The %s kernel, with%s the module%s%s.\n"
		       "  /tests          the kselftests: `fork -l` lists, `fork -r NAME` runs one\n"
		       "  /programs/demo  the demo\n"
		       "  /modules        the module\n"
		       "  /sys/fs/cgroup  cgroups; /sys/kernel/debug debugfs; swap is on\n"
		       "`exit` ends the VM.\n\n",
		       getenv("FLAVOUR") ?: "", ret ? "out" : "", ret ? ": " : "",
		       ret ? strerror(-ret) : "");
		chdir("/tmp");
		execl("/bin/busybox", "sh", NULL);
		printf("cannot run /bin/busybox: %m\n");
		_exit(127);
	}
	while (wait(NULL) != pid)
		;
}

int main(void)
{
	const char *mode = getenv("VM_MODE") ?: "";
	int tries = 200, fd = -1;

	slow = atoi(getenv("SLOW") ?: "1");
	mounts();
	while (strcmp(mode, "shell") && tries--) {
		fd = open(VERDICT_PORT, O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			break;
		usleep(50000);
	}
	verdict = fd < 0 ? stdout : fdopen(fd, "w");
	setvbuf(verdict, NULL, _IOLBF, 0);
	compile_splats();
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg < 0)
		bail_out("/dev/kmsg: %m");
	if (strcmp(mode, "bench"))
		swap_error = swap_on();
	cgroup_error = write_file("/sys/fs/cgroup/cgroup.subtree_control",
				  "+memory");

	if (!strcmp(mode, "test"))
		run_tests();
	else if (!strcmp(mode, "demo"))
		run_program("demo", NULL);
	else if (!strcmp(mode, "bench"))
		run_program("bench", getenv("BENCH"));
	else if (!strcmp(mode, "stress"))
		run_program("stress", getenv("STRESS"));
	else if (!strcmp(mode, "upstream"))
		run_upstream();
	else if (!strcmp(mode, "shell"))
		run_shell();
	else
		bail_out("VM_MODE=%s is not known", mode);
	end_vm();
}
