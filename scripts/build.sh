#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# build.sh [bench|upstream|debug|kcsan|coverage]: build what the VM of ARCH and
# BASE needs, and leave it in
# out/<base or patched>-<architecture>: the kernel, and an initramfs with init,
# the module (built for that kernel), the kselftests and the demo (the same
# programs for both kernels), and the list of the KUnit suites in the kernel.
# What has not changed is not built again.
#
# With `bench`, in out/bench/<base or patched>-<architecture>: a kernel without
# debug options, and the benchmarks with their module. With `upstream`, in
# out/upstream/<base or patched>-<architecture>: a kernel with what the kernel's
# own tests need, and these, from the unpatched tree for both kernels. With
# `debug` or `kcsan`, in out/<that>/<base or patched>-<architecture>: a kernel
# that looks for more mistakes, and the tests. With `coverage`, in
# out/coverage/patched-<architecture>: a kernel that counts which lines of the
# files that the series changes have run, and the tests.

. "$(dirname "$0")/common.sh"

purpose=${1:-test}
"$TOP/scripts/packages.sh" build "$ARCH"
. "$TOP/scripts/kbuild.sh"
cache_lock

# gcov_profile: set `profile`, what make has to be told so that gcov counts the
# files that the series changes.
gcov_profile() {
	local objects flags

	objects=$(kgit -C "$patched" diff --name-only --diff-filter=AM \
		pristine HEAD -- '*.c' ':!tools' ':!mm/tests' |
		sed 's/c$/o/' | paste -s -d ' ')
	# By the whole path of the object: GCOV_PROFILE_memory.o=y would be for
	# arch/x86/boot/memory.o as well, which cannot count.
	profile=("GCOV_PROFILE=\$(if \$(filter $objects,\$@),y)")
	# What the kernel has here, and atomic counters on arm64 as well, where
	# they would be functions that it does not have
	flags=(-fprofile-arcs -ftest-coverage -fno-tree-loop-im
		-fprofile-update=prefer-atomic)
	if [ "$ARCH" = arm64 ]; then
		flags+=(-mno-outline-atomics)
	fi
	# Before gcc adds the counters, it has optimized: a line such as
	# "return -ENOMEM;" is part of another one by then, and every fifth line
	# would not count. And of a function that is inlined in several places,
	# gcov takes lines for not covered that are.
	flags+=(-fdisable-tree-early_optimizations -fno-early-inlining)
	profile+=("CFLAGS_GCOV=${flags[*]}")
}

case $ARCH in
x86_64)
	image=arch/x86/boot/bzImage
	;;
arm64)
	image=arch/arm64/boot/Image
	;;
esac

patched=$("$TOP/scripts/kernel.sh" patched)
tree=$(dirname "$patched")/$FLAVOUR
profile=()
case $purpose in
test)
	obj=build-$ARCH
	out=$OUT/$FLAVOUR-$ARCH
	fragments=()
	module=$patched/$SELFTESTS/test_modules
	;;
bench)
	obj=build-bench-$ARCH
	out=$OUT/bench/$FLAVOUR-$ARCH
	fragments=("$TOP/scripts/config/bench.config"
		"$TOP/scripts/config/bench-$ARCH.config")
	module=$TOP/scripts/bench/module
	;;
debug|kcsan|coverage)
	obj=build-$purpose-$ARCH
	out=$OUT/$purpose/$FLAVOUR-$ARCH
	fragments=("$TOP/scripts/config/$purpose.config")
	if [ "$purpose" = coverage ]; then
		gcov_profile
	fi
	if [ "$FLAVOUR" = patched ]; then
		fragments+=("$TOP/scripts/config/kunit.config")
	fi
	module=$patched/$SELFTESTS/test_modules
	;;
upstream)
	obj=build-upstream-$ARCH
	out=$OUT/upstream/$FLAVOUR-$ARCH
	fragments=("$TOP/scripts/config/upstream.config")
	module=
	;;
*)
	die "usage: build.sh [bench|upstream|debug|kcsan|coverage]"
	;;
esac
build=$tree/$obj
# What does not depend on the flavour is built beside the patched kernel.
common=$patched/build-$ARCH/device_exclusive
logs=$OUT/build-$purpose-$FLAVOUR-$ARCH
mkdir -p "$build/device_exclusive" "$common" "$out" "$logs"

export LOCALVERSION='' KBUILD_BUILD_VERSION=1 KBUILD_BUILD_HOST=$FLAVOUR
cross=${CROSS_COMPILE:-}

# changed STAMP KEY: is KEY another one than when STAMP was last made? Then the
# stamp goes, for what is being made anew may be stopped half-way.
changed() {
	if [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]; then
		return 1
	fi
	rm -f "$1"
}

# objects TREE PATH...: what git says is at these paths of TREE
objects() {
	local tree=$1
	shift
	kgit -C "$tree" rev-parse "${@/#/HEAD:}"
}

# configure: make .config from the fragments, of which nothing may get lost
configure() {
	kconfig "$tree" "$obj" "${fragments[@]}" >"$logs/config.log" 2>&1 ||
		die "the kernel could not be configured; see $logs/config.log"
	if grep 'not in final .config' "$logs/config.log" >&2; then
		die "the kernel does not take these lines of the configuration; see scripts/config and $SELFTESTS/config"
	fi
}

# All of the kernel's source but what the tests are made of
kernel_key=$({
	kgit -C "$tree" ls-tree HEAD | grep -v -P '\t(Documentation|tools)$'
	kgit -C "$tree" ls-tree HEAD:tools | grep -v -P '\ttesting$'
	cat "$TOP/scripts/config"/{common,"$ARCH",kunit}.config \
		"$TOP/$SELFTESTS/config" "${fragments[@]}"
	printf %s "${profile[*]}"
	"${cross}gcc" --version
} | sha256sum)
if changed "$build/device_exclusive/kernel" "$kernel_key"; then
	need_space "$CACHE" 4 "a kernel build"
	configure
	progress "build the $FLAVOUR kernel for $ARCH${fragments[*]:+, $purpose}" \
		"$logs/kernel.log" kmake "$tree" "$obj" "${profile[@]}" \
		"${image##*/}" modules
	echo "$kernel_key" >"$build/device_exclusive/kernel"
fi

if [ -z "$module" ]; then
	# The module of these tests is one of the kernel's.
	mkdir -p "$build/device_exclusive/modules"
	cp "$build/lib/test_hmm.ko" "$build/device_exclusive/modules"
else
	module_key="$kernel_key $(cat "$module"/* | sha256sum)"
fi
if [ -n "$module" ] &&
	changed "$build/device_exclusive/module" "$module_key"; then
	rm -rf "$build/device_exclusive/modules"
	mkdir "$build/device_exclusive/modules"
	flags=()
	header=include/linux/device_exclusive.h
	if [ "$FLAVOUR" = steps ] &&
		! grep -q -s make_device_exclusive_range "$tree/$header"; then
		flags=("KCFLAGS=-DDEVEX_NO_RANGE")
		if [ -e "$tree/$header" ]; then
			flags=("KCFLAGS=-DDEVEX_NO_RANGE -include $tree/$header")
		fi
	fi
	progress "build the module" "$logs/module.log" \
		kmake "$tree" "$obj" "M=$module" \
		"MO=$build/device_exclusive/modules" "${flags[@]}"
	echo "$module_key" >"$build/device_exclusive/module"
fi

headers_key=$(objects "$patched" include arch)
if changed "$common/headers-of" "$headers_key"; then
	progress "install the kernel's headers" "$logs/headers.log" \
		kmake "$patched" "$common/headers" headers
	echo "$headers_key" >"$common/headers-of"
fi

# The kselftests
tests() {
	local lib_mk tests_key

	tests_key="$headers_key $(objects "$patched" "$SELFTESTS" \
		tools/testing/selftests/{lib.mk,kselftest.h,kselftest_harness.h})"
	if changed "$common/tests-of" "$tests_key"; then
		rm -rf "$common/tests"
		mkdir "$common/tests"
		lib_mk=(make -C "$patched/$SELFTESTS" "OUTPUT=$common/tests"
			TEST_GEN_MODS_DIR= USERLDFLAGS=-static
			"KHDR_INCLUDES=-isystem $common/headers/usr/include")
		progress "build the tests" "$logs/tests.log" "${lib_mk[@]}" all
		"${lib_mk[@]}" -s emit_tests COLLECTION=test | sed 's/^test://' \
			>"$common/tests.list"
		echo "$tests_key" >"$common/tests-of"
	fi
}

# upstream: the kernel's own selftests that upstream.list has, as they are in
# the unpatched tree, with the libraries that they are linked with
upstream() {
	local tree libs=$common/libs lib deb flags programs key
	local tests=tools/testing/selftests/mm

	tree=$(dirname "$patched")/base
	mapfile -t programs < <(upstream_list | cut -d ' ' -f 2 | sort -u)
	key="$headers_key ${programs[*]} $(objects "$tree" tools lib)"
	if ! changed "$common/upstream-of" "$key"; then
		return
	fi
	rm -rf "$libs" "$common/upstream"
	mkdir "$libs" "$common/upstream"
	for lib in liburing-dev libnuma-dev; do
		deb=$("$TOP/scripts/fetch.sh" "$lib" "${ARCH/x86_64/amd64}" own)
		dpkg-deb -x "$deb" "$libs"
	done
	# Whether there is liburing is kept in the tree.
	rm -f "$tree/$tests"/local_config.{mk,h_gen}
	flags=("TEST_GEN_MODS_DIR=" "EXTRA_CFLAGS=-isystem $libs/usr/include"
		"USERLDFLAGS=-static -L$libs/usr/lib/${ARCH/arm64/aarch64}-linux-gnu"
		"KHDR_INCLUDES=-isystem $common/headers/usr/include")
	progress "build the kernel's own tests" "$logs/tests.log" \
		make -C "$tree/$tests" "OUTPUT=$common/upstream" "${flags[@]}" \
		-j"$(nproc)" "${programs[@]/#/$common/upstream/}"
	grep -q luring "$tree/$tests/local_config.mk" ||
		die "the kernel's own tests do not find liburing; see $logs/tests.log"
	echo "$key" >"$common/upstream-of"
}

# program DIR NAME: a static program from scripts/DIR/NAME.c
program() {
	local source=$TOP/scripts/$1/$2.c key
	shift

	key="$headers_key $(cat "$source" "$TOP/$SELFTESTS/test_modules/"*.h \
		"$TOP/scripts/bench/module/"*.h | sha256sum)"
	if changed "$common/$1-of" "$key"; then
		"${cross}gcc" -O2 -Wall -Wextra -Wno-missing-field-initializers \
			-static -pthread \
			-I "$TOP/$SELFTESTS/test_modules" \
			-isystem "$common/headers/usr/include" \
			-o "$common/$1" "$source" ||
			die "$source does not compile"
		echo "$key" >"$common/$1-of"
	fi
}

program vm init
case $purpose in
test|debug|kcsan|coverage)
	tests
	program vm demo
	;;
bench)
	program bench bench
	;;
upstream)
	upstream
	upstream_list >"$common/upstream.list"
	;;
esac
splats=$common/splats
cp "$TOP/scripts/vm/splats" "$splats"
if [ "$purpose" = kcsan ]; then
	# Which data races are failures is for test.sh to say.
	splats=$splats-kcsan
	sed -e 's/^BUG:$/BUG: [^K]/' -e '/^KCSAN:/d' "$common/splats" >"$splats"
fi
{
	for dir in dev proc sys tmp bin modules tests programs; do
		echo "dir /$dir 0755 0 0"
	done
	echo "nod /dev/console 0600 0 0 c 5 1"
	echo "file /init $common/init 0755 0 0"
	echo "file /splats $splats 0644 0 0"
	for file in "$build"/device_exclusive/modules/*.ko; do
		echo "file /modules/${file##*/} $file 0644 0 0"
	done
	if [ "$module" = "$patched/$SELFTESTS/test_modules" ]; then
		kunit_suites "$tree" >"$build/device_exclusive/kunit"
		echo "file /kunit $build/device_exclusive/kunit 0644 0 0"
		while read -r test; do
			echo "file /tests/$test $common/tests/$test 0755 0 0"
		done <"$common/tests.list"
		echo "file /programs/demo $common/demo 0755 0 0"
		echo "file /programs/stress $common/tests/stress 0755 0 0"
	elif [ "$purpose" = upstream ]; then
		echo "file /upstream $common/upstream.list 0644 0 0"
		for file in "$common"/upstream/*; do
			[ ! -f "$file" ] ||
				echo "file /tests/${file##*/} $file 0755 0 0"
		done
	else
		echo "file /programs/bench $common/bench 0755 0 0"
	fi
} >"$common/initramfs-$purpose.list"
"$build/usr/gen_init_cpio" -t 0 "$common/initramfs-$purpose.list" \
	>"$out/initramfs.cpio" || die "the initramfs could not be made"
cp "$build/$image" "$out/kernel"
cp "$build/usr/gen_init_cpio" "$out/gen_init_cpio"
