#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# release-check.sh: everything that there is to show of the series, one after the
# other, and one table of the results. What has failed does not keep the rest
# from being run. The last line is the totals, one for each row of the table.

ARCH=
# shellcheck disable=SC2034 # common.sh reads it
BASE=
. "$(dirname "$0")/common.sh"
[ "$ARCH" = x86_64 ] ||
	die "make release-check needs an x86-64 machine"

logs=$OUT/release-check
rm -rf "$logs"
mkdir -p "$logs"
unset ARCH FLAVOUR TESTS MAILS
passed=0
failed=0

# run ARGUMENT...: make with these, and a row of the table
run() {
	local args=$* start=$SECONDS result=passed totals log
	log=$logs/${args//[ =]/-}.log

	say "make $args"
	if make -C "$TOP" --no-print-directory "$@" >"$log" 2>&1 </dev/null; then
		passed=$((passed + 1))
	else
		result=FAILED
		failed=$((failed + 1))
		grep -h '^FAILED' "$log" | head -n 5 | sed 's/^/    /' >&2 || true
		note "all of its output: $log"
	fi
	totals=$(grep -E '^([0-9]+ passed, [0-9]+ failed|==> .*checks passed)' \
		"$log" | tail -n 1) || true
	printf '%-28s %-7s %6d s  %s\n' "$args" "$result" \
		$((SECONDS - start)) "${totals#==> }" >>"$logs/table"
}

run lint
run series
run kunit
for arch in x86_64 arm64; do
	run test ARCH=$arch
	run test BASE=1 ARCH=$arch
done
run test-configs
run test-series
run test-debug
run stress MINUTES=10 CHECKS=debug
run test-upstream
run coverage
run bench

cat "$logs/table"
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
