#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# stress.sh: build, and run the stress test in the VM for MINUTES, with the steps
# that SEED gives. With STEPS, each thread makes so many of them instead, however
# long it takes. BREAK=lose or stray makes it do something wrong, which it has to
# notice. CHECKS=debug is for the kernel that looks for more mistakes. Fails if
# anything is not as it should be, or the kernel complains.

. "$(dirname "$0")/common.sh"

minutes=${MINUTES:-5}
seed=${SEED:-$(od -A n -N 4 -t u4 /dev/urandom | tr -d ' ')}
for number in "$minutes" "$seed" "${STEPS:-1}"; do
	case $number in
	''|*[!0-9]*)
		die "'$number' is not a number; MINUTES, SEED and STEPS have to be"
		;;
	esac
done
say "SEED=$seed"

"$TOP/scripts/build.sh" "${CHECKS:-test}"

# Who makes no step for so long hangs. A kernel with more checks is slow.
hang=${CHECKS:+600}
hang=${hang:-60}
STRESS="-s $seed -t $((minutes * 60)) -w $hang${STEPS:+ -n $STEPS}${BREAK:+ -b $BREAK}"
export STRESS
out=$OUT/${CHECKS:+$CHECKS/}$FLAVOUR-$ARCH
again="make stress SEED=$seed ARCH=$ARCH${STEPS:+ STEPS=$STEPS}${BREAK:+ BREAK=$BREAK}${BASE:+ BASE=$BASE}${CHECKS:+ CHECKS=$CHECKS}"
rm -f "$out/stress.txt"
say "boot the $FLAVOUR kernel for $ARCH in QEMU, for $minutes minutes"
status=0
DX_VM_TIMEOUT=${DX_VM_TIMEOUT:-$((minutes * 180 + 1800))} \
	"$TOP/scripts/vm.sh" stress | sed -u '/^# exit /d' || status=$?

complaints=$(grep -c '^    # kernel: ' "$out/stress.txt") || true
if [ "$status" -eq 0 ] && [ "$complaints" -gt 0 ]; then
	status=1
fi
[ "$status" -eq 0 ] ||
	die "not all is well, as said above; the kernel's log is $out/console.log; to try again: $again"
