#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# build.sh: build what the VM of ARCH and BASE needs, and leave it in
# out/<base or patched>-<architecture>: the kernel, and an initramfs with init,
# the module (built for that kernel), the kselftests and the demo (the same
# programs for both kernels). What has not changed is not built again.

. "$(dirname "$0")/common.sh"

"$TOP/scripts/packages.sh" build "$ARCH"
. "$TOP/scripts/kbuild.sh"
cache_lock

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
build=$tree/build-$ARCH
# What does not depend on the flavour is built beside the patched kernel.
common=$patched/build-$ARCH/device_exclusive
out=$OUT/$FLAVOUR-$ARCH
logs=$OUT/build-$FLAVOUR-$ARCH
mkdir -p "$build/device_exclusive" "$common" "$out" "$logs"

export LOCALVERSION='' KBUILD_BUILD_VERSION=1 KBUILD_BUILD_HOST=$FLAVOUR
cross=${CROSS_COMPILE:-}

# changed STAMP KEY: is KEY another one than when STAMP was last made?
changed() {
	[ ! -e "$1" ] || [ "$(cat "$1")" != "$2" ]
}

# objects TREE PATH...: what git says is at these paths of TREE
objects() {
	local tree=$1
	shift
	kgit -C "$tree" rev-parse "${@/#/HEAD:}"
}

# configure: make .config from the fragments, of which nothing may get lost
configure() {
	kconfig "$tree" "build-$ARCH" >"$logs/config.log" 2>&1 ||
		die "the kernel could not be configured; see $logs/config.log"
	if grep 'not in final .config' "$logs/config.log" >&2; then
		die "the kernel does not take these lines of the configuration; see scripts/config and $SELFTESTS/config"
	fi
}

# All of the kernel's source but what the tests are made of
kernel_key=$({
	kgit -C "$tree" ls-tree HEAD | grep -v -P '\t(Documentation|tools)$'
	kgit -C "$tree" ls-tree HEAD:tools | grep -v -P '\ttesting$'
	cat "$TOP/scripts/config"/{common,"$ARCH"}.config "$TOP/$SELFTESTS/config"
	"${cross}gcc" --version
} | sha256sum)
if changed "$build/device_exclusive/kernel" "$kernel_key"; then
	need_space "$CACHE" 4 "a kernel build"
	configure
	progress "build the $FLAVOUR kernel for $ARCH" "$logs/kernel.log" \
		kmake "$tree" "build-$ARCH" "${image##*/}" modules
	echo "$kernel_key" >"$build/device_exclusive/kernel"
fi

module_key="$kernel_key $(objects "$patched" "$SELFTESTS/test_modules")"
if changed "$build/device_exclusive/module" "$module_key"; then
	rm -rf "$build/device_exclusive/modules"
	mkdir "$build/device_exclusive/modules"
	progress "build the module" "$logs/module.log" \
		kmake "$tree" "build-$ARCH" "M=$patched/$SELFTESTS/test_modules" \
		"MO=$build/device_exclusive/modules"
	echo "$module_key" >"$build/device_exclusive/module"
fi

headers_key=$(objects "$patched" include arch)
if changed "$common/headers-of" "$headers_key"; then
	progress "install the kernel's headers" "$logs/headers.log" \
		kmake "$patched" "$common/headers" headers
	echo "$headers_key" >"$common/headers-of"
fi

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

# program NAME: a static program from scripts/vm/NAME.c
program() {
	local source=$TOP/scripts/vm/$1.c key

	key="$headers_key $(cat "$source" "$TOP/$SELFTESTS/test_modules/"*.h |
		sha256sum)"
	if changed "$common/$1-of" "$key"; then
		"${cross}gcc" -O2 -Wall -Wextra -static \
			-I "$TOP/$SELFTESTS/test_modules" \
			-isystem "$common/headers/usr/include" \
			-o "$common/$1" "$source" ||
			die "$source does not compile"
		echo "$key" >"$common/$1-of"
	fi
}

program init
program demo
cp "$TOP/scripts/vm/splats" "$common/splats"
{
	for dir in dev proc sys tmp bin modules tests demo; do
		echo "dir /$dir 0755 0 0"
	done
	echo "nod /dev/console 0600 0 0 c 5 1"
	echo "file /init $common/init 0755 0 0"
	echo "file /splats $common/splats 0644 0 0"
	for file in "$build"/device_exclusive/modules/*.ko; do
		echo "file /modules/${file##*/} $file 0644 0 0"
	done
	while read -r test; do
		echo "file /tests/$test $common/tests/$test 0755 0 0"
	done <"$common/tests.list"
	echo "file /demo/demo $common/demo 0755 0 0"
} >"$common/initramfs.list"
"$build/usr/gen_init_cpio" -t 0 "$common/initramfs.list" \
	>"$out/initramfs.cpio" || die "the initramfs could not be made"
cp "$build/$image" "$out/kernel"
cp "$build/usr/gen_init_cpio" "$out/gen_init_cpio"
