#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# coverage.sh: run all tests on a kernel that counts with gcov, and say which
# lines of the series have run: see coverage.py. patches/<version>/not-covered has
# the reason for each line that has not. The last line is the totals of the tests
# and of these checks.

. "$(dirname "$0")/common.sh"

[ "$FLAVOUR" = patched ] ||
	die "the unpatched kernel has no lines of the series; leave BASE out"
"$TOP/scripts/packages.sh" build "$ARCH"
. "$TOP/scripts/kbuild.sh"

export DX_VM_TIMEOUT=${DX_VM_TIMEOUT:-14400}
out=$OUT/coverage
collected=$out/patched-$ARCH/collected
status=0
mkdir -p "$out"
rm -f "$collected"
"$TOP/scripts/test.sh" coverage | tee "$out/test.log" || status=1

cache_lock
tree=$("$TOP/scripts/kernel.sh" patched)
"$TOP/scripts/coverage.py" "$tree" "$tree/build-coverage-$ARCH" \
	"$collected" "$PATCHES/not-covered" | tee "$out/coverage.log" || status=1
totals "$out/test.log" "$out/coverage.log"
exit $status
