# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Sourced by what works on a tree of the kernel.

# What a git hook exports must not reach the git commands of these scripts.
mapfile -t vars < <(git rev-parse --local-env-vars)
unset "${vars[@]}"

# kgit ...: git for the kernel's trees. What is set up for the user's own work
# must not change the commits and mails.
kgit() {
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 git "$@"
}

# kernel_version <MAKEFILE: as 7.3.4
kernel_version() {
	sed -n -E 's/^(VERSION|PATCHLEVEL|SUBLEVEL) = ([0-9]+)$/\2/p' |
		paste -s -d .
}

# Same flags and names everywhere, so that ccache finds in one tree what was
# compiled in another.
export CCACHE_DIR=$CACHE/ccache CCACHE_NOHASHDIR=1
export KBUILD_BUILD_TIMESTAMP=2026-01-01
export KBUILD_BUILD_USER=device-exclusive KBUILD_BUILD_HOST=localhost
if [ "$ARCH" != "$(host_arch)" ]; then
	case $ARCH in
	arm64)
		export CROSS_COMPILE=aarch64-linux-gnu-
		;;
	x86_64)
		export CROSS_COMPILE=x86_64-linux-gnu-
		;;
	esac
fi

SELFTESTS=tools/testing/selftests/device_exclusive
KUNIT_TESTS=mm/tests/device_exclusive_kunit.c

# kmake TREE OBJ ARGUMENT...: make in the directory OBJ of the kernel TREE.
kmake() {
	local tree=$1 obj=$2
	shift 2

	CCACHE_BASEDIR=$(dirname "$tree") make -C "$tree" O="$obj" \
		CC="ccache ${CROSS_COMPILE:-}gcc" -j"$(nproc)" "$@"
}

# kconfig TREE OBJ [FRAGMENT...]: the configuration of the tests, or what TREE
# has of it. The KUnit tests come with the series. With FRAGMENTs, what they
# change of it, and without KUnit.
kconfig() {
	local tree=$1 obj=$2 fragments
	shift 2

	fragments=("$TOP/scripts/config/common.config"
		"$TOP/scripts/config/$ARCH.config" "$TOP/$SELFTESTS/config")
	if [ $# -eq 0 ] && [ -e "$tree/$KUNIT_TESTS" ]; then
		fragments+=("$TOP/scripts/config/kunit.config")
	fi
	fragments+=("$@")
	mkdir -p "$tree/$obj"
	(
		cd "$tree" || exit
		scripts/kconfig/merge_config.sh -n -O "$obj" "${fragments[@]}"
	)
}

# kunit_suites TREE: the names of the KUnit suites that TREE has for us
kunit_suites() {
	if [ -e "$1/$KUNIT_TESTS" ]; then
		sed -n 's/^\t\.name = "\(device_exclusive_[a-z_]*\)",$/\1/p' \
			"$1/$KUNIT_TESTS"
	fi
}

# upstream_list: "SECONDS PROGRAM ARGUMENT..." for each of the kernel's own
# selftests that ARCH can run
upstream_list() {
	sed -n -E -e '/^#/d' -e "s/^(any|$ARCH) +//p" \
		"$TOP/scripts/config/upstream.list"
}
