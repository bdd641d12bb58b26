// SPDX-License-Identifier: GPL-2.0
/*
 * Where fork() gets the memory for copies of pinned pages from, who is charged
 * for it, and what happens when fork cannot go on: there is no more memory, the
 * process is killed, a page cannot be read.
 */
#include "kselftest_harness.h"
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "devex_util.h"

#define PARENT_SEED	0x10
#define CHILD_SEED	0x20
#define DEVICE_SEED	0x30

/* What control groups charge in advance and page tables: about that much */
#define SLACK		(1024 * 1024)

static bool is_near(long a, long b)
{
	return labs(a - b) <= SLACK;
}

/*
 * Control groups
 */
FIXTURE(cgroup)
{
	struct cgroup cgroup;
	struct memory mem;
	long old_oom;
	int dev;
};

FIXTURE_VARIANT(cgroup)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(cgroup, many)
{
	.kind = MANY,
};

FIXTURE_VARIANT_ADD(cgroup, mthp_64k)
{
	.kind = MTHP_64K,
};

FIXTURE_VARIANT_ADD(cgroup, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(cgroup, thp)
{
	.kind = THP,
};

FIXTURE_SETUP(cgroup)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, cgroup_enter(&self->cgroup));
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
	ASSERT_EQ(0, device_pin(self->dev, &self->mem));
	self->old_oom = read_number("/proc/self/oom_score_adj");
	/* What runs out of memory with such a name was meant to. */
	ASSERT_EQ(0, prctl(PR_SET_NAME, "pin-oom"));
}

FIXTURE_TEARDOWN(cgroup)
{
	cgroup_set(&self->cgroup, "memory.max", "max");
	write_number("/proc/self/oom_score_adj", self->old_oom);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
	cgroup_leave(&self->cgroup);
}

/* The group may have half as much as fork is going to need. */
static void limit_memory(struct __test_metadata *_metadata,
			 const struct cgroup *cg, const struct memory *mem,
			 bool swap)
{
	char buf[32];

	snprintf(buf, sizeof(buf), "%ld",
		 cgroup_read(cg, "memory.current") + (long)mem->size / 2);
	ASSERT_EQ(0, cgroup_set(cg, "memory.max", buf));
	ASSERT_EQ(0, cgroup_set(cg, "memory.swap.max", swap ? "max" : "0"));
}

/* The group pays for the copies, and gets it back. */
TEST_F(cgroup, charge)
{
	const struct memory *mem = &self->mem;
	long anon, current, more;
	struct peer peer;
	int i;

	anon = cgroup_stat(&self->cgroup, "memory.stat", "anon");
	current = cgroup_read(&self->cgroup, "memory.current");
	for (i = 0; i < 3; i++) {
		ASSERT_LE(0, peer_fork(&peer));
		if (!peer.pid) {
			peer_wait(&peer);
			_exit(memory_wrong(mem, PARENT_SEED) != 0);
		}
		more = cgroup_stat(&self->cgroup, "memory.stat", "anon") - anon;
		EXPECT_TRUE(is_near(mem->size, more))
			TH_LOG("anon: %ld more bytes, %zu are pinned", more,
			       mem->size);
		more = cgroup_read(&self->cgroup, "memory.current") - current;
		EXPECT_TRUE(is_near(mem->size, more))
			TH_LOG("memory.current: %ld more bytes, %zu are pinned",
			       more, mem->size);
		peer_tell(&peer);
		EXPECT_EQ(0, peer_exit(&peer));
		more = cgroup_stat(&self->cgroup, "memory.stat", "anon") - anon;
		EXPECT_TRUE(is_near(0, more))
			TH_LOG("anon: %ld more bytes without a child", more);
		more = cgroup_read(&self->cgroup, "memory.current") - current;
		EXPECT_TRUE(is_near(0, more))
			TH_LOG("memory.current: %ld more bytes without a child",
			       more);
	}
}

/* There is not enough, and nobody who could be killed for it. */
TEST_F(cgroup, limit)
{
	const struct memory *mem = &self->mem;
	size_t huge = memory_huge(mem);
	uint64_t pfns[mem->nr];
	long anon, current, more;
	pid_t pid;
	int i;

	memory_pfns(mem, pfns);
	ASSERT_EQ(0, write_number("/proc/self/oom_score_adj", -1000));
	limit_memory(_metadata, &self->cgroup, mem, false);
	anon = cgroup_stat(&self->cgroup, "memory.stat", "anon");
	current = cgroup_read(&self->cgroup, "memory.current");
	for (i = 0; i < 3; i++) {
		pid = fork();
		if (!pid)
			_exit(0);
		ASSERT_EQ(-1, pid);
		EXPECT_EQ(ENOMEM, errno)
			TH_LOG("fork failed: %s", strerror(errno));
		more = cgroup_stat(&self->cgroup, "memory.stat", "anon") - anon;
		EXPECT_TRUE(is_near(0, more))
			TH_LOG("anon: %ld more bytes after a failed fork",
			       more);
		more = cgroup_read(&self->cgroup, "memory.current") - current;
		EXPECT_TRUE(is_near(0, more))
			TH_LOG("memory.current: %ld more bytes after a failed fork",
			       more);
	}
	EXPECT_EQ(0, cgroup_stat(&self->cgroup, "memory.events", "oom_kill"));

	/* Nothing happened to our memory. */
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
	memory_fill(mem, DEVICE_SEED);
	EXPECT_EQ(0, memory_moved(mem, pfns));
	EXPECT_EQ(huge, memory_huge(mem))
		TH_LOG("AnonHugePages: %zu bytes before, %zu after fork", huge,
		       memory_huge(mem));

	/* As soon as there is enough, fork succeeds. */
	ASSERT_EQ(0, cgroup_set(&self->cgroup, "memory.max", "max"));
	pid = fork();
	if (!pid)
		_exit(memory_wrong(mem, DEVICE_SEED) != 0);
	ASSERT_LE(0, pid);
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(0, device_unpin(self->dev, mem));
}

/* Somebody else is killed for it. */
TEST_F(cgroup, bystander)
{
	const struct memory *mem = &self->mem;
	struct memory other;
	struct peer peer;
	pid_t pid;

	ASSERT_EQ(0, device_unpin(self->dev, mem));
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_EQ(0, memory_map(&other, MANY, CHILD_SEED));
		EXPECT_EQ(0, write_number("/proc/self/oom_score_adj", 1000));
		peer_tell(&peer);
		peer_wait(&peer);
		_exit(0);
	}
	ASSERT_TRUE(peer_wait(&peer));
	ASSERT_EQ(0, device_pin(self->dev, mem));
	ASSERT_EQ(0, write_number("/proc/self/oom_score_adj", -1000));
	limit_memory(_metadata, &self->cgroup, mem, false);

	/*
	 * Fork may look once too often before what was killed has given back
	 * all of its memory.
	 */
	pid = fork();
	if (!pid)
		_exit(memory_wrong(mem, PARENT_SEED) != 0);
	if (pid < 0)
		EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(128 + SIGKILL, peer_exit(&peer));
	EXPECT_EQ(1, cgroup_stat(&self->cgroup, "memory.events", "oom_kill"));
	if (pid < 0)
		pid = fork();
	if (!pid)
		_exit(memory_wrong(mem, PARENT_SEED) != 0);
	ASSERT_LE(0, pid)
		TH_LOG("fork failed: %s", strerror(errno));
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
}

/* The process that forks is killed for it, and leaves nothing behind. */
TEST_F(cgroup, oom)
{
	const struct memory *mem = &self->mem;
	long current, more;
	pid_t pid;
	int dev;

	/* We must not be the one: we are still needed. */
	ASSERT_EQ(0, device_unpin(self->dev, mem));
	ASSERT_EQ(0, write_number("/proc/self/oom_score_adj", -1000));
	current = cgroup_read(&self->cgroup, "memory.current");
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		EXPECT_EQ(0, write_number("/proc/self/oom_score_adj", 1000));
		dev = device_open();
		EXPECT_LE(0, dev);
		EXPECT_EQ(0, device_pin(dev, mem));
		limit_memory(_metadata, &self->cgroup, mem, false);
		fork();
		_exit(1);
	}
	EXPECT_EQ(128 + SIGKILL, child_exit(pid));
	EXPECT_LE(1, cgroup_stat(&self->cgroup, "memory.events", "oom_kill"));
	more = cgroup_read(&self->cgroup, "memory.current") - current;
	EXPECT_TRUE(is_near(0, more))
		TH_LOG("memory.current: %ld more bytes afterwards", more);
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
}

static void fork_into_swap(struct __test_metadata *_metadata,
			   const struct cgroup *cg, const struct memory *mem)
{
	uint64_t pfns[mem->nr];
	struct peer peer;

	memory_pfns(mem, pfns);
	limit_memory(_metadata, cg, mem, true);
	ASSERT_LE(0, peer_fork(&peer))
		TH_LOG("fork failed: %s", strerror(errno));
	if (!peer.pid) {
		EXPECT_LT(0, memory_count(mem, PAGE_SWAPPED));
		EXPECT_TRUE(peer_wait(&peer));
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		memory_fill(mem, CHILD_SEED);
		EXPECT_EQ(0, memory_wrong(mem, CHILD_SEED));
		_exit(0);
	}
	memory_fill(mem, DEVICE_SEED);
	peer_tell(&peer);
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(0, memory_moved(mem, pfns));
	EXPECT_EQ(0, memory_wrong(mem, DEVICE_SEED));
	EXPECT_EQ(0, cgroup_stat(cg, "memory.events", "oom_kill"));
}

/* There is swap: the child's first copies go there while fork makes more. */
TEST_F(cgroup, swap)
{
	fork_into_swap(_metadata, &self->cgroup, &self->mem);
}

/* Nothing is swapped out only to make a THP: the rest is copied in pieces. */
TEST_F(cgroup, swap_thp)
{
	ASSERT_EQ(0, madvise(self->mem.addr, self->mem.size, MADV_HUGEPAGE));
	fork_into_swap(_metadata, &self->cgroup, &self->mem);
}

/*
 * NUMA policies: of the mapping, or of the process
 */
FIXTURE(numa)
{
	struct setting pmd, mthp;
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(numa)
{
	enum memory_kind kind;
	int mode;
	unsigned long nodes;
	bool task;	/* whose policy it is */
	bool large;	/* the child may have large folios */
};

FIXTURE_VARIANT_ADD(numa, many_bind)
{
	.kind = MANY,
	.mode = MPOL_BIND,
	.nodes = 2,
};

FIXTURE_VARIANT_ADD(numa, many_preferred)
{
	.kind = MANY,
	.mode = MPOL_PREFERRED,
	.nodes = 2,
};

FIXTURE_VARIANT_ADD(numa, many_interleave)
{
	.kind = MANY,
	.mode = MPOL_INTERLEAVE,
	.nodes = 3,
};

FIXTURE_VARIANT_ADD(numa, many_task)
{
	.kind = MANY,
	.mode = MPOL_BIND,
	.nodes = 2,
	.task = true,
};

FIXTURE_VARIANT_ADD(numa, ptemap_interleave)
{
	.kind = PTEMAP,
	.mode = MPOL_INTERLEAVE,
	.nodes = 3,
};

FIXTURE_VARIANT_ADD(numa, thp_bind)
{
	.kind = THP,
	.mode = MPOL_BIND,
	.nodes = 2,
};

FIXTURE_VARIANT_ADD(numa, thp_interleave)
{
	.kind = THP,
	.mode = MPOL_INTERLEAVE,
	.nodes = 3,
};

FIXTURE_VARIANT_ADD(numa, many_bind_large)
{
	.kind = MANY,
	.mode = MPOL_BIND,
	.nodes = 2,
	.large = true,
};

FIXTURE_VARIANT_ADD(numa, many_interleave_large)
{
	.kind = MANY,
	.mode = MPOL_INTERLEAVE,
	.nodes = 3,
	.large = true,
};

FIXTURE_VARIANT_ADD(numa, thp_bind_large)
{
	.kind = THP,
	.mode = MPOL_BIND,
	.nodes = 2,
	.large = true,
};

static int bind(const struct memory *mem, int mode, unsigned long nodes,
		unsigned int flags)
{
	return syscall(SYS_mbind, mem->addr, mem->size, mode, &nodes,
		       8 * sizeof(nodes), flags);
}

FIXTURE_SETUP(numa)
{
	ASSERT_EQ(0, access("/sys/devices/system/node/node1", F_OK))
		TH_LOG("there is one NUMA node only; boot with numa=fake=2");
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
	ASSERT_EQ(0, drain_lru());
	if (variant->large) {
		if (variant->kind != THP)
			ASSERT_EQ(0, thp_allow(&self->pmd, thp_size(),
					       "never"));
		ASSERT_EQ(0, thp_allow(&self->mthp, 64 << 10, "madvise"));
		ASSERT_EQ(0, madvise(self->mem.addr, self->mem.size,
				     MADV_HUGEPAGE));
	}
}

FIXTURE_TEARDOWN(numa)
{
	setting_restore(&self->mthp);
	setting_restore(&self->pmd);
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
}

/* How many pages are on @node? */
static size_t count_node(struct __test_metadata *_metadata,
			 const struct memory *mem, int node)
{
	int nodes[mem->nr];
	size_t i, count = 0;

	ASSERT_EQ(0, memory_nodes(mem, nodes));
	for (i = 0; i < mem->nr; i++)
		count += nodes[i] == node;
	return count;
}

/* Pages that a fault puts on another node than fork has done */
static size_t count_misplaced(struct __test_metadata *_metadata,
			      const struct memory *mem)
{
	int copied[mem->nr], faulted[mem->nr];
	size_t i, count = 0;

	ASSERT_EQ(0, memory_nodes(mem, copied));
	ASSERT_EQ(0, madvise(mem->addr, mem->size, MADV_DONTNEED));
	memory_fill(mem, CHILD_SEED);
	ASSERT_EQ(0, memory_nodes(mem, faulted));
	for (i = 0; i < mem->nr; i++)
		count += copied[i] != faulted[i];
	return count;
}

/* The parent's pages are on node 0. The copies are where the policy says. */
TEST_F(numa, fork)
{
	const struct memory *mem = &self->mem;
	bool both = variant->nodes == 3;
	struct peer peer;

	ASSERT_EQ(0, bind(mem, MPOL_BIND, 1, MPOL_MF_MOVE | MPOL_MF_STRICT))
		TH_LOG("mbind: %s", strerror(errno));
	ASSERT_EQ(mem->nr, count_node(_metadata, mem, 0));
	ASSERT_EQ(0, device_pin(self->dev, mem));
	if (variant->task) {
		ASSERT_EQ(0, bind(mem, MPOL_DEFAULT, 0, 0));
		ASSERT_EQ(0, syscall(SYS_set_mempolicy, variant->mode,
				     &variant->nodes,
				     8 * sizeof(variant->nodes)));
	} else {
		ASSERT_EQ(0, bind(mem, variant->mode, variant->nodes, 0));
	}

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		EXPECT_EQ(both ? mem->nr / 2 : mem->nr,
			  count_node(_metadata, mem, 1))
			TH_LOG("%zu of %zu pages are on node 1",
			       count_node(_metadata, mem, 1), mem->nr);
		EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
		/* A page each: the policy is that of each address. */
		if (!variant->large)
			EXPECT_EQ(0, count_misplaced(_metadata, mem));
		_exit(0);
	}
	EXPECT_EQ(0, peer_exit(&peer));
	EXPECT_EQ(mem->nr, count_node(_metadata, mem, 0));
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
	if (variant->task)
		ASSERT_EQ(0, syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0));
}

/*
 * Fatal signals
 */
#define MUCH		(128L << 20)

FIXTURE(kill)
{
	struct cgroup cgroup;
};

FIXTURE_VARIANT(kill)
{
	int advice;
};

FIXTURE_VARIANT_ADD(kill, small)
{
	.advice = MADV_NOHUGEPAGE,
};

FIXTURE_VARIANT_ADD(kill, thp)
{
	.advice = MADV_HUGEPAGE,
};

FIXTURE_SETUP(kill)
{
	ASSERT_EQ(0, cgroup_enter(&self->cgroup));
}

FIXTURE_TEARDOWN(kill)
{
	cgroup_leave(&self->cgroup);
}

/* Have much pinned memory, and fork */
static void fork_much(struct __test_metadata *_metadata,
		      const struct peer *peer, int advice)
{
	struct memory mem = {
		.size = MUCH,
		.nr = MUCH / page_size(),
	};
	size_t i;
	int dev;

	dev = device_open();
	mem.addr = mmap(NULL, mem.size, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT_NE(MAP_FAILED, mem.addr);
	EXPECT_EQ(0, madvise(mem.addr, mem.size, advice));
	for (i = 0; i < mem.nr; i++)
		*memory_page(&mem, i) = 1;
	EXPECT_EQ(0, device_pin(dev, &mem));
	peer_tell(peer);
	peer_wait(peer);
	fork();
	pause();
}

/* A process that is killed while it forks does not copy all of it first. */
TEST_F(kill, fork)
{
	long before, left, peak;
	struct peer peer;

	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		fork_much(_metadata, &peer, variant->advice);
		_exit(1);
	}
	ASSERT_TRUE(peer_wait(&peer));
	before = cgroup_read(&self->cgroup, "memory.current");
	ASSERT_LT(MUCH, before);
	peer_tell(&peer);
	while (cgroup_read(&self->cgroup, "memory.current") <
	       before + MUCH / 16)
		;
	ASSERT_EQ(0, kill(peer.pid, SIGKILL));
	EXPECT_EQ(128 + SIGKILL, peer_exit(&peer));
	peak = cgroup_read(&self->cgroup, "memory.peak");
	TH_LOG("%ld of %ld MiB were copied", (peak - before) >> 20, MUCH >> 20);
	EXPECT_GT(before + MUCH * 3 / 4, peak);
	left = cgroup_read(&self->cgroup, "memory.current");
	EXPECT_GT(before - MUCH + 8 * SLACK, left)
		TH_LOG("%ld bytes are left", left);
}

/*
 * Memory errors: a page that is pinned and cannot be read
 */
FIXTURE(broken)
{
	struct cgroup cgroup;
	struct memory mem;
	int dev;
};

FIXTURE_VARIANT(broken)
{
	enum memory_kind kind;
};

FIXTURE_VARIANT_ADD(broken, many)
{
	.kind = MANY,
};

FIXTURE_VARIANT_ADD(broken, mthp_64k)
{
	.kind = MTHP_64K,
};

FIXTURE_VARIANT_ADD(broken, ptemap)
{
	.kind = PTEMAP,
};

FIXTURE_VARIANT_ADD(broken, thp)
{
	.kind = THP,
};

FIXTURE_VARIANT_ADD(broken, hugetlb)
{
	.kind = HUGETLB,
};

FIXTURE_SETUP(broken)
{
	self->dev = device_open();
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, cgroup_enter(&self->cgroup));
	ASSERT_EQ(0, memory_map(&self->mem, variant->kind, PARENT_SEED));
}

FIXTURE_TEARDOWN(broken)
{
	if (self->dev >= 0)
		close(self->dev);
	memory_unmap(&self->mem);
	cgroup_leave(&self->cgroup);
}

/* Fork fails, and says why; nothing is lost, however often that is so. */
TEST_F(broken, fork)
{
	const struct memory *mem = &self->mem;
	struct memory front = memory_part(mem, 0, mem->nr - 100);
	struct memory one = memory_part(mem, mem->nr - 100, 1);
	struct memory back = memory_part(mem, mem->nr - 99, 99);
	size_t huge = memory_huge(mem);
	uint64_t pfns[mem->nr];
	long current, more;
	pid_t pid;
	int i, ret;

	ASSERT_EQ(0, device_pin(self->dev, &front));
	ASSERT_EQ(0, device_pin(self->dev, &one));
	ASSERT_EQ(0, device_pin(self->dev, &back));
	memory_pfns(mem, pfns);
	ret = device_poison(self->dev, &one);
	if (ret == -EOPNOTSUPP)
		SKIP(return, "no simulated memory errors on this architecture");
	ASSERT_EQ(0, ret);

	current = cgroup_read(&self->cgroup, "memory.current");
	for (i = 0; i < 5; i++) {
		pid = fork();
		if (!pid)
			_exit(0);
		EXPECT_EQ(-1, pid);
		EXPECT_EQ(EHWPOISON, errno)
			TH_LOG("fork failed: %s", strerror(errno));
	}
	more = cgroup_read(&self->cgroup, "memory.current") - current;
	EXPECT_TRUE(is_near(0, more))
		TH_LOG("memory.current: %ld more bytes after failed forks",
		       more);
	EXPECT_EQ(huge, memory_huge(mem))
		TH_LOG("AnonHugePages: %zu bytes before, %zu after fork", huge,
		       memory_huge(mem));

	/* Only the page is bad for which it is not our turn to say so. */
	EXPECT_EQ(0, memory_wrong(mem, PARENT_SEED));
	memory_fill(mem, DEVICE_SEED);
	EXPECT_EQ(0, memory_moved(mem, pfns));

	/* It can be read again, and all is well. */
	ASSERT_EQ(0, device_unpin(self->dev, &one));
	pid = fork();
	if (!pid)
		_exit(memory_wrong(mem, DEVICE_SEED) != 0);
	ASSERT_LE(0, pid);
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(0, memory_moved(mem, pfns));
	EXPECT_EQ(0, device_unpin(self->dev, &front));
	EXPECT_EQ(0, device_unpin(self->dev, &back));
}

#define FREE_HUGETLB	"/sys/kernel/mm/hugepages/hugepages-%zukB/free_hugepages"

/* There is no page left in the pool for a copy: fork says so, and is undone. */
TEST(no_hugetlb_left)
{
	struct memory mem;
	char path[96];
	void *rest;
	size_t size;
	int dev;
	pid_t pid;

	dev = device_open();
	ASSERT_LE(0, dev);
	ASSERT_EQ(0, memory_map(&mem, HUGETLB, PARENT_SEED));
	ASSERT_EQ(0, device_pin(dev, &mem));
	snprintf(path, sizeof(path), FREE_HUGETLB, thp_size() / 1024);
	size = read_number(path) * thp_size();
	ASSERT_LT(0, size);
	rest = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE |
		    MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, rest);
	ASSERT_EQ(0, madvise(rest, size, MADV_DONTFORK));
	ASSERT_EQ(0, read_number(path));

	pid = fork();
	if (!pid)
		_exit(0);
	EXPECT_EQ(-1, pid);
	EXPECT_EQ(ENOMEM, errno);
	EXPECT_EQ(0, memory_wrong(&mem, PARENT_SEED));

	ASSERT_EQ(0, munmap(rest, size));
	pid = fork();
	if (!pid)
		_exit(memory_wrong(&mem, PARENT_SEED) != 0);
	ASSERT_LE(0, pid);
	EXPECT_EQ(0, child_exit(pid));
	EXPECT_EQ(0, device_unpin(dev, &mem));
	memory_unmap(&mem);
	close(dev);
}

TEST_HARNESS_MAIN
