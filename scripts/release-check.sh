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
mkdir -p "$logs"
rm -f "$logs/table"

# What only one of the verbs reads. All others come from all that is left; but
# only lint reads Markdown.
declare -A own=(
	[lint]="scripts/lint*"
	[test-configs]="scripts/test-configs.sh"
	[test-series]="scripts/test-series.sh scripts/config/w1.config"
	[test-debug]="scripts/test-debug.sh scripts/kcsan.py"
	[stress]="scripts/stress.sh"
	[test-upstream]="scripts/test-upstream.sh scripts/config/upstream*"
	[coverage]="scripts/coverage* patches/*/not-covered"
	[bench]="scripts/bench* results"
)

# What there is to tell whether a row has passed with the same files
key() {
	local verb=$1 name paths=() exclude=(':!*.md' ':!scripts/release-check.sh')

	for name in "${!own[@]}"; do
		if [ "$name" != "$verb" ]; then
			read -r -a paths <<<"${own[$name]}"
			exclude+=("${paths[@]/#/:!}")
		fi
	done
	{
		echo "${KERNEL:-}"
		git ls-files -z -co --exclude-standard -- "${exclude[@]}" |
			xargs -0 sha256sum
	} | sha256sum
}

unset ARCH FLAVOUR TESTS MAILS
passed=0
failed=0
skipped=0
shopt -s extglob

# run ARGUMENT...: make with these, and a row of the table
run() {
	local args=$* start=$SECONDS result=passed totals log row key
	log=$logs/${args//[ =]/-}.log
	row=${log%.log}.passed

	key=$(key "$1")
	if [ "$1" != lint ] &&
		[ "$(head -n 1 "$row" 2>/dev/null)" = "$key" ]; then
		say "make $args: has passed before"
		passed=$((passed + 1))
		tail -n +2 "$row" >>"$logs/table"
		return
	fi
	rm -f "$row"
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
		$((SECONDS - start)) "${totals#==> }" >"$logs/row"
	cat "$logs/row" >>"$logs/table"
	if [ "$result" = passed ]; then
		{
			echo "$key"
			cat "$logs/row"
		} >"$row.new"
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
