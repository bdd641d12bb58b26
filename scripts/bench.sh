#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# bench.sh: measure the unpatched kernel and the patched one, and print both
# side by side: see MEASURING.md. What it leaves in out/: bench.json, bench.md,
# and the charts cost.svg and fork.svg.

. "$(dirname "$0")/common.sh"

"$TOP/scripts/packages.sh" build bench "$ARCH"
. "$TOP/scripts/kbuild.sh"
cache_lock

# Ctrl-C must end the VMs as well, which run in the background.
trap '[ $? -ne 130 ] || kill 0' EXIT

raw=$OUT/bench-$ARCH
mkdir -p "$raw"
start=$SECONDS

# boot FLAVOUR KIND NAME: one VM, whose output becomes $raw/FLAVOUR.NAME
boot() {
	local flavour=$1 kind=$2 name=$3 base=0

	if [ "$flavour" = base ]; then
		base=1
	fi
	rm -f "$raw/$flavour.$name"
	BASE=$base BENCH=$kind "$TOP/scripts/vm.sh" bench
	cp "$OUT/bench/$flavour-$ARCH/$kind.txt" "$raw/$flavour.$name"
}

# both KIND NAME: both kernels at the same time, in a VM each
# shellcheck disable=SC2317
both() {
	local base patched status=0

	boot base "$@" &
	base=$!
	boot patched "$@" &
	patched=$!
	wait $base || status=1
	wait $patched || status=1
	return $status
}

# text FLAVOUR: the size of the objects that the series touches
text() {
	local tree object size

	tree=$(dirname "$("$TOP/scripts/kernel.sh" patched)")
	echo "# kernel $(kernel_version <"$tree/base/Makefile") $ARCH"
	for object in $(kgit -C "$tree/patched" diff --name-only pristine HEAD \
		-- '*.c' ':!tools' ':!lib' ':!drivers' ':!mm/tests' |
		sed 's/c$/o/'); do
		size=0
		if [ -e "$tree/$1/build-bench-$ARCH/$object" ]; then
			size=$("${CROSS_COMPILE:-}size" \
				"$tree/$1/build-bench-$ARCH/$object" |
				awk 'NR == 2 { print $1 }')
		fi
		echo "text $object $size"
	done
}

for flavour in base patched; do
	base=0
	if [ $flavour = base ]; then
		base=1
	fi
	BASE=$base "$TOP/scripts/build.sh" bench
	text $flavour >"$raw/$flavour.size"
done
cache_unlock

for boot in 1 2; do
	progress "measure both kernels, boot $boot of 2" "$OUT/bench/boot$boot.log" \
		both icount $boot
done
# What two CPUs say needs both CPUs of a small host.
for flavour in base patched; do
	progress "the $flavour kernel on two CPUs" "$OUT/bench/smp.log" \
		boot $flavour smp smp
done

previous=()
if [ -e "$OUT/bench.json" ]; then
	mv "$OUT/bench.json" "$OUT/bench/previous.json"
	previous=("$OUT/bench/previous.json")
fi
"$TOP/scripts/bench/report.py" "$raw" "${previous[@]}"
say "done in $((SECONDS - start)) s; out/bench.json has the numbers, out/cost.svg and out/fork.svg the charts"
