#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# test-configs.sh: build the patched kernel with and without DEVICE_EXCLUSIVE,
# with and without DEVICE_PRIVATE, for each architecture that can have them, and
# as little else as that needs. No warning, and without DEVICE_EXCLUSIVE no code
# of it. The last line is the totals.

ARCH=
# shellcheck disable=SC2034 # common.sh reads it
BASE=
. "$(dirname "$0")/common.sh"
[ "$ARCH" = x86_64 ] ||
	die "make test-configs needs an x86-64 machine"
"$TOP/scripts/packages.sh" build arm64
. "$TOP/scripts/kbuild.sh"

cache_lock
tree=$("$TOP/scripts/kernel.sh" patched)
logs=$OUT/test-configs
mkdir -p "$logs"
need_space "$CACHE" 4 "small kernels"

# fragment ARCH EXCLUSIVE PRIVATE: what is set, on top of next to nothing
fragment() {
	printf 'CONFIG_%s=y\n' 64BIT MMU SMP PRINTK SWAP
	if [ "$1" != um ]; then
		printf 'CONFIG_%s=y\n' SPARSEMEM_VMEMMAP MEMORY_HOTPLUG \
			MEMORY_HOTREMOVE TRANSPARENT_HUGEPAGE MIGRATION COMPACTION
	fi
	# Nobody can ask for it but a driver or the KUnit tests.
	if [ "$2" = y ]; then
		printf 'CONFIG_%s=y\n' KUNIT DEVICE_EXCLUSIVE_KUNIT_TEST
	fi
	if [ "$3" = y ]; then
		printf 'CONFIG_%s=y\n' ZONE_DEVICE DEVICE_PRIVATE
	fi
	if [ "$2$3" = yy ]; then
		printf 'CONFIG_%s=y\n' RUNTIME_TESTING_MENU TEST_HMM
	fi
}

# What progress runs: build ARCH OBJ
# shellcheck disable=SC2317
build() {
	CROSS_COMPILE=$cross kmake "$tree" "$2" "ARCH=$1" vmlinux
}

# configure ARCH OBJ EXCLUSIVE PRIVATE: does it become what is asked for?
configure() {
	local option want

	mkdir -p "$tree/$2"
	fragment "$1" "$3" "$4" >"$tree/$2/fragment"
	(
		cd "$tree" || exit
		ARCH=$1 CROSS_COMPILE=$cross scripts/kconfig/merge_config.sh \
			-n -O "$2" "$2/fragment"
	) >"$logs/$2-config.log" 2>&1 || return
	for option in "DEVICE_EXCLUSIVE=$3" "DEVICE_PRIVATE=$4"; do
		want=1
		if [ "${option#*=}" = n ]; then
			want=0
		fi
		[ "$(grep -c "^CONFIG_${option%=*}=y" "$tree/$2/.config")" = $want ] ||
			return
	done
}

passed=0
failed=0

# fail WHAT: of the kernel that $name tells
fail() {
	failed=$((failed + 1))
	printf 'FAILED: %s: %s\n' "$name" "$1"
}

# kernel ARCH EXCLUSIVE PRIVATE
kernel() {
	local obj=build-config-$1-$2$3 log code

	name="$1, DEVICE_EXCLUSIVE=$2, DEVICE_PRIVATE=$3"
	log=$logs/$obj.log
	# A warning comes but once.
	rm -rf "${tree:?}/$obj"
	if ! configure "$1" "$obj" "$2" "$3"; then
		fail "this cannot be configured; see $logs/$obj-config.log"
		return
	fi
	if ! (progress "build $name" "$log" build "$1" "$obj"); then
		fail "does not build"
		return
	fi
	code=$("${cross}nm" "$tree/$obj/vmlinux" |
		grep -c -E '(device_exclusive|exclusive_make|exclusive_convert)') || true
	if grep -E '(warning|WARNING):' "$log" >&2; then
		fail "warnings, see above"
	elif [ "$2" = n ] && [ "$code" != 0 ]; then
		fail "has $code symbols of it"
	elif [ "$2" = y ] && [ "$code" = 0 ]; then
		fail "has no symbol of it"
	else
		echo "ok: $name"
		passed=$((passed + 1))
		rm -rf "${tree:?}/$obj"
	fi
}

for arch in um x86_64 arm64; do
	cross=
	if [ $arch = arm64 ]; then
		cross=aarch64-linux-gnu-
	fi
	for exclusive in n y; do
		kernel $arch $exclusive n
		# There is no memory of devices in user-mode Linux.
		if [ $arch != um ]; then
			kernel $arch $exclusive y
		fi
	done
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
