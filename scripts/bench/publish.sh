#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# publish.sh: put the results of the last `make bench` into results/, and their
# table into the README. With --check, say whether the README's table is the one
# that results/ gives.

. "$(dirname "$0")/../common.sh"

results=$TOP/results

# readme: the README with the table of results/bench.json
readme() {
	local table

	table=$("$TOP/scripts/bench/report.py" --table "$results/bench.json") ||
		die "results/bench.json gives no table"
	TABLE=$table awk '
		/<!-- end of the results -->/ { print ENVIRON["TABLE"]; skip = 0 }
		!skip
		/<!-- results: / { skip = 1 }' "$TOP/README.md"
}

if [ "${1:-}" = --check ]; then
	readme | cmp -s - "$TOP/README.md" ||
		die "the table in README.md is not that of results/bench.json; run scripts/bench/publish.sh"
	exit 0
fi

for file in bench.json cost.svg fork.svg; do
	[ -e "$OUT/$file" ] || die "out/$file is missing; run: make bench"
done
mkdir -p "$results"
cp "$OUT"/{bench.json,cost.svg,fork.svg} "$results"
readme >"$OUT/README.md"
cp "$OUT/README.md" "$TOP/README.md"
say "results/ and README.md have the numbers of the last run"
