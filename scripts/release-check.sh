#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# release-check.sh: everything that there is to show of the series, one after the
# other, and one table of the results. What has failed does not keep the rest
# from being run. Run again, it goes on where it was stopped: what has passed with
# the same files is not done again. ROWS chooses some of it. The last line is the
# totals, one for each row of the table; a row that is neither chosen nor has passed
# counts as skipped.

ARCH=
# shellcheck disable=SC2034 # common.sh reads it
BASE=
. "$(dirname "$0")/common.sh"
[ "$ARCH" = x86_64 ] ||
	die "make release-check needs an x86-64 machine"

cd "$TOP"
logs=$OUT/release-check
# All that is built and run comes from these. Only lint reads the others.
files=$({
	echo "${KERNEL:-}"
	git ls-files -z -co --exclude-standard -- ':!*.md' |
		xargs -0 sha256sum
} | sha256sum)
if [ "$(cat "$logs/files" 2>/dev/null)" != "$files" ]; then
	rm -rf "$logs"
	mkdir -p "$logs"
	echo "$files" >"$logs/files"
fi
rm -f "$logs/table" "$logs/lint.passed"
unset ARCH FLAVOUR TESTS MAILS
passed=0
failed=0
skipped=0
shopt -s extglob

# run ARGUMENT...: make with these, and a row of the table
run() {
	local args=$* start=$SECONDS result=passed totals log row
	log=$logs/${args//[ =]/-}.log
	row=${log%.log}.passed

	if [ -e "$row" ]; then
		say "make $args: has passed before"
		passed=$((passed + 1))
		cat "$row" >>"$logs/table"
		return
	fi
	# shellcheck disable=SC2254 # it is a pattern
	case $args in
	${ROWS:-*}) ;;
	*)
		skipped=$((skipped + 1))
		printf '%-28s skipped\n' "$args" >>"$logs/table"
		return
		;;
	esac
	say "make $args"
	if make --no-print-directory "$@" >"$log" 2>&1 </dev/null; then
		passed=$((passed + 1))
	else
		result=FAILED
		failed=$((failed + 1))
		grep -h '^FAILED' "$log" | head -n 5 | sed 's/^/    /' >&2 || true
		note "all of its output: $log"
	fi
	totals=$(grep -E \
		'^([0-9]+ passed, [0-9]+ failed|==> .* checks passed|seed [0-9]+: )' \
		"$log" | tail -n 1) || true
	printf '%-28s %-7s %6d s  %s\n' "$args" "$result" \
		$((SECONDS - start)) "${totals#==> }" >"$row.new"
	cat "$row.new" >>"$logs/table"
	if [ "$result" = passed ]; then
		mv "$row.new" "$row"
	fi
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
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
