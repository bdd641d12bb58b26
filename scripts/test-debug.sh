#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# test-debug.sh: run all tests on a kernel that looks for wrong use of memory and
# of locks, and for leaks, and those tests in which much happens at the same time
# on a kernel that looks for data races. TESTS=glob selects tests. The last line
# is the totals of both.

. "$(dirname "$0")/common.sh"

export DX_VM_TIMEOUT=${DX_VM_TIMEOUT:-14400}
mkdir -p "$OUT"
status=0
logs=()
for checks in debug kcsan; do
	tests=${TESTS:-}
	if [ $checks = kcsan ]; then
		tests=${TESTS:-'@(atomic|lifetime|lock|loop|track):*'}
	fi
	log=$OUT/test-$checks.log
	TESTS=$tests "$TOP/scripts/test.sh" $checks | tee "$log" || status=1
	logs+=("$log")
done
totals "${logs[@]}"
exit $status
