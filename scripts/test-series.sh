#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# test-series.sh: show that each mail of the series stands on what is before it.
# The kernel with the mails up to it is built by gcc for x86-64 and arm64, and by
# clang for x86-64, without a warning. W=1 says nothing new of the files that the
# series changes. That for x86-64 boots and passes the tests that patches/*/tests
# gives the mail. A mail with "Fixes:" has to do the same alone, on the unpatched
# kernel. MAILS=glob selects mails. What has passed is not done again. The last
# line is the totals.

ARCH=
# shellcheck disable=SC2034 # common.sh reads it
BASE=
. "$(dirname "$0")/common.sh"
[ "$ARCH" = x86_64 ] ||
	die "make test-series needs an x86-64 machine"
"$TOP/scripts/packages.sh" build clang x86_64 arm64
. "$TOP/scripts/kbuild.sh"

cache_lock
patched=$("$TOP/scripts/kernel.sh" patched)
base=$(dirname "$patched")/base
steps=$(dirname "$patched")/steps
logs=$OUT/test-series
done_list=$steps/build-passed
list=$PATCHES/tests
mkdir -p "$logs"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

passed=0
failed=0
skipped=0

fail() {
	failed=$((failed + 1))
	printf 'FAILED: %s\n' "$*"
}

# The tree in which each step is built
prepare() {
	if [ "$(kgit -C "$steps" rev-parse --path-format=absolute \
		--git-common-dir 2>/dev/null)" != "$base/.git" ]; then
		need_space "$(dirname "$base")" 10 "building each step"
		rm -rf "$steps"
		kgit -C "$base" worktree prune
		progress "a tree to build each step in" "$logs/tree.log" \
			kgit -C "$base" worktree add --detach "$steps" pristine
	fi
	# If the last run was stopped in the middle of a checkout
	rm -f "$(kgit -C "$steps" rev-parse --absolute-git-dir)/index.lock"
}

# A warning comes but once: where a build did not pass, all of it is made afresh.
begin_build() {
	if [ -e "$steps/$1.failed" ]; then
		rm -rf "${steps:?}/$1"
	fi
	touch "$steps/$1.failed"
}

# end_build OBJ LOG: a warning is a failure
end_build() {
	if grep -E '(warning|WARNING):' "$2" >&2; then
		return 1
	fi
	rm "$steps/$1.failed"
}

# The kernel of the tests, with its module and initramfs
build_gcc() {
	local kernel=$OUT/build-test-steps-x86_64/kernel.log

	begin_build build-x86_64 || return
	rm -f "$kernel"
	BASE=steps "$TOP/scripts/build.sh" || return
	# It is as another step has left it.
	[ -e "$kernel" ] || : >"$kernel"
	end_build build-x86_64 "$kernel"
}

build_clang() {
	local log=$logs/kernel-clang.log obj=build-clang-x86_64

	begin_build "$obj" || return
	LLVM=-19 kconfig "$steps" "$obj" >"$log" 2>&1 || return
	progress "build it with clang" "$log" \
		kmake "$steps" "$obj" LLVM=-19 CC="ccache clang-19" \
		bzImage modules || return
	end_build "$obj" "$log"
}

build_arm64() {
	local kernel=$OUT/build-test-steps-arm64/kernel.log

	begin_build build-arm64 || return
	rm -f "$kernel"
	ARCH=arm64 BASE=steps "$TOP/scripts/build.sh" || return
	[ -e "$kernel" ] || : >"$kernel"
	end_build build-arm64 "$kernel"
}

# messages <LOG: "file: message" without line numbers
messages() {
	sed -n -E 's,^[./]*([^ :]+):[0-9:]+ ((warning|error): .*),\1 \2,p' |
		sort -u
}

# The files of the series with W=1: those of the unpatched kernel tell what is
# not new. nouveau is only built here.
build_w1() {
	local log=$logs/kernel-w1.log obj=build-w1-x86_64 objects file

	if [ "${1:-}" = pristine ]; then
		rm -rf "${steps:?}/$obj"
	fi
	begin_build "$obj" || return
	kconfig "$steps" "$obj" "$TOP/scripts/config/w1.config" \
		>"$logs/w1-config.log" 2>&1 || return
	objects=()
	while read -r file; do
		if [ -e "$steps/$file" ]; then
			objects+=("${file%.c}.o")
		fi
	done <"$work/w1-files"
	progress "build its files with W=1" "$log" \
		kmake "$steps" "$obj" W=1 prepare "${objects[@]}" || return
	messages <"$log" >"$work/w1"
	if [ "${1:-}" = pristine ]; then
		mv "$work/w1" "$steps/w1-base"
		rm "$steps/$obj.failed"
		return
	fi
	comm -23 "$work/w1" "$steps/w1-base" |
		grep -F -f "$work/w1-files" >"$work/w1-new" || true
	if [ -s "$work/w1-new" ]; then
		cat "$work/w1-new" >&2
		return 1
	fi
	rm "$steps/$obj.failed"
}

# tests_of PATCH: the glob of its tests; without one, a few that show that it
# boots and that the basic things work
tests_of() {
	awk -v patch="$1" '
		/^#/ || NF == 0 { next }
		index(patch, $1) == 1 || $1 == "any" { print $2; exit }' "$list"
}

run_tests() {
	TESTS=$1 BASE=steps DX_VM_TIMEOUT=2400 \
		"$TOP/scripts/test.sh"
}

# once WHAT COMMAND...: for a commit, unless it has passed before
once() {
	local what=$1 key log
	shift

	key="$what $commit $* $(cat "$work/key-$what")"
	log=$logs/$name-$what.log
	if grep -q -s -x -F "$key" "$done_list"; then
		say "$name, $what: has passed before"
		passed=$((passed + 1))
		return
	fi
	kgit -C "$steps" checkout -q -f --detach "$commit"
	say "$name, $what"
	# Not in a condition, where a failure would not end it
	("$@") >"$log" 2>&1 &
	if wait $!; then
		passed=$((passed + 1))
		echo "$key" >>"$done_list"
		if [ "$what" = tests ]; then
			tail -n 1 "$log" | sed 's/^/    /'
		fi
	else
		fail "$name, $what; see $log"
	fi
}

# step NAME PATCH: all that there is to show of $commit
step() {
	local patch=$2 what

	name=$1
	for what in $toolchains; do
		# What the kernel is not made of needs no build.
		if kgit -C "$base" diff --quiet "$commit^" "$commit" -- . \
			':!Documentation' ':!tools' ':!MAINTAINERS' &&
			[ "$patch" != "$last" ]; then
			skipped=$((skipped + 1))
			continue
		fi
		once "$what" "build_$what"
		if [ "$what" = gcc ]; then
			once tests run_tests "$(tests_of "$patch")"
		fi
	done
}

# alone: commit $commit, whose mail is a fix, on top of the unpatched kernel
alone() {
	local tree

	export GIT_{AUTHOR,COMMITTER}_NAME=nobody
	export GIT_{AUTHOR,COMMITTER}_EMAIL=nobody@localhost
	export GIT_{AUTHOR,COMMITTER}_DATE='2026-01-01T00:00:00+0000'
	export GIT_INDEX_FILE=$work/index
	kgit -C "$base" read-tree pristine
	kgit -C "$base" diff "$commit^" "$commit" |
		kgit -C "$base" apply --cached || return
	tree=$(kgit -C "$base" write-tree)
	kgit -C "$base" commit-tree -p pristine -m "$commit" "$tree"
}

"$TOP/scripts/series-commit.sh" "$base" >"$work/commits"
count=$(wc -l <"$work/commits")
last=$(tail -n 1 "$work/commits" | cut -d ' ' -f 2)
head=$(tail -n 1 "$work/commits" | cut -d ' ' -f 1)
kgit -C "$base" diff --name-only --no-renames pristine "$head" -- '*.c' \
	':!tools' >"$work/w1-files"
{
	cat "$TOP/scripts/config"/{common,x86_64,kunit}.config \
		"$TOP/$SELFTESTS/config"
	gcc --version
} | sha256sum >"$work/key-gcc"
{ cat "$work/key-gcc"; clang-19 --version; } | sha256sum >"$work/key-clang"
{ cat "$work/key-gcc"; aarch64-linux-gnu-gcc --version; } | sha256sum \
	>"$work/key-arm64"
cat "$work/key-gcc" "$TOP/scripts/config/w1.config" | sha256sum >"$work/key-w1"
{
	cat "$work/key-gcc" "$TOP/scripts/vm/init.c" "$TOP/$SELFTESTS"/*.[ch] \
		"$TOP/$SELFTESTS"/test_modules/*
} | sha256sum >"$work/key-tests"

prepare
for toolchains in w1 gcc clang arm64; do
	if [ "$toolchains" = w1 ]; then
		commit=$(kgit -C "$base" rev-parse 'pristine^{commit}')
		name=unpatched
		once w1 build_w1 pristine
	fi
	n=0
	while read -r commit patch; do
		n=$((n + 1))
		# shellcheck disable=SC2053 # MAILS is a glob
		if [[ $patch == ${MAILS:-*} ]]; then
			step "$n-of-$count" "$patch"
		fi
	done <"$work/commits"
	[ "$toolchains" != w1 ] || continue
	n=0
	while read -r commit patch; do
		n=$((n + 1))
		# shellcheck disable=SC2053
		if [[ $patch != ${MAILS:-*} ]] ||
			! kgit -C "$base" log -1 --format=%B "$commit" |
			grep -q '^Fixes: '; then
			continue
		fi
		if ! commit=$(alone); then
			fail "$patch does not apply to the unpatched kernel alone"
			continue
		fi
		step "$n-alone" "$patch"
	done <"$work/commits"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
