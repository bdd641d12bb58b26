#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# demo.sh: get the kernel, build it, boot it in QEMU, and show on the simulated
# device what works. With BASE=1 on the unpatched kernel, where part of it has
# to be broken: then that is what succeeds.

. "$(dirname "$0")/common.sh"

"$TOP/scripts/build.sh"

verdict=$OUT/$FLAVOUR-$ARCH/demo.txt
rm -f "$verdict"
say "boot the $FLAVOUR kernel for $ARCH in QEMU"
status=0
# The kernel's complaints are counted below.
DX_VM_TIMEOUT=${DX_VM_TIMEOUT:-300} "$TOP/scripts/vm.sh" demo |
	sed -u -e '/^    # kernel: /d' -e '/^# exit /d' || status=$?

# vm.sh has said what is wrong if the demo did not get to its end.
tail -n 1 "$verdict" 2>/dev/null | grep -q '^# exit [0-9]' || exit 1
result=$(grep -E '^[0-9]+ of [0-9]+ as' "$verdict" | cut -d ' ' -f 1-3) ||
	die "the demo did not get to its end, as said above"
console=$OUT/$FLAVOUR-$ARCH/console.log
complaints=$(grep -c '^    # kernel: ' "$verdict") || true

if [ "$FLAVOUR" = base ]; then
	case $status in
	0)
		die "the unpatched kernel shows no bug; is it unpatched?"
		;;
	1)
		say "as expected on an unpatched kernel: $result"
		exit 0
		;;
	esac
fi
[ "$status" -eq 0 ] ||
	die "$result as they should be; what is not is said above, and the kernel's log is $console"
[ "$complaints" -eq 0 ] ||
	die "the kernel complains, see 'kernel:' in $verdict, and $console"
