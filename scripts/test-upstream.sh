#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# test-upstream.sh: run the mm selftests and KUnit suites that the kernel brings
# on the unpatched and on the patched kernel, and compare. Both have to say the
# same: a test with another result fails, and so does one that only one of them
# has. What config/upstream.races lists is left out; where a program with such a
# test bails out, it is run again. TESTS=glob selects programs. The last line is
# the totals, one for each program.

BASE=
. "$(dirname "$0")/common.sh"

races=$TOP/scripts/config/upstream.races
out=$OUT/upstream
export DX_VM_TIMEOUT=${DX_VM_TIMEOUT:-5400}

for flavour in base patched; do
	base=0
	if [ $flavour = base ]; then
		base=1
	fi
	BASE=$base "$TOP/scripts/build.sh" upstream
done

# results KTAP: "program<TAB>test<TAB>result" for each test, and for each program
# one line for all of it, as the test "*"
results() {
	awk '
		function result(test, what) {
			printf "%s\t%s\t%s\n", program, test, what
		}
		function end(what) {
			if (program != "")
				result("*", what)
			program = ""
		}
		/^    # Subtest: / && program == "" {
			program = $0
			sub(/^    # Subtest: /, "", program)
			splats = ""
			next
		}
		/^    # kernel: / { splats = ", and the kernel complained" }
		/^    Bail out!/ && program != "" { result("Bail out!", "fail") }
		/^    (not )?ok [0-9]+/ && program != "" {
			what = $1 == "ok" ? "pass" : "fail"
			test = $0
			sub(/^    (not )?ok [0-9]+ *(- )?/, "", test)
			if (match(test, / ?# (SKIP|XFAIL|XPASS)/)) {
				what = tolower(substr(test, RSTART, RLENGTH))
				sub(/^ ?# /, "", what)
				test = substr(test, 1, RSTART - 1)
			}
			sub(/ +$/, "", test)
			# How often two threads have met is chance.
			sub(/ (count|Extra pages|iter) [0-9].*/, "", test)
			result(test, what)
		}
		/^(not )?ok [0-9]+ / && program != "" {
			what = $0
			sub(/.* # /, "", what)
			end(what splats)
		}
		END { end("the kernel died") }' "$1" | sort
}

# run FLAVOUR NAME: run the tests; the results are NAME.results
died=()
run() {
	local base=0

	if [ "$1" = base ]; then
		base=1
	fi
	say "run the kernel's own tests on the $1 kernel${TESTS:+: $TESTS}"
	# What vm.sh says when the kernel dies comes with the results.
	BASE=$base "$TOP/scripts/vm.sh" upstream >/dev/null ||
		died+=("$1")
	cp "$out/$1-$ARCH/test.ktap" "$out/$2.ktap"
	results "$out/$2.ktap" >"$out/$2.results"
}

for flavour in base patched; do
	run $flavour $flavour
done

# totals FLAVOUR PROGRAM: "pass fail xfail skip", which are numbers
totals() {
	awk -F '\t' -v program="$2" '
		$1 == program && $2 != "*" { n[$3]++ }
		END {
			printf "%d %d %d %d\n", n["pass"] + n["xpass"],
				n["fail"], n["xfail"], n["skip"]
		}' "$out/$1.results"
}

# tests FLAVOUR PROGRAM: its lines of the results, without races
tests() {
	awk -F '\t' -v program="$2" '
		FNR == NR {
			if ($0 !~ /^(#|$)/) {
				sub(/  # .*/, "")
				race[$0] = 1
				chance += index($0, program ":") == 1
			}
			next
		}
		$1 == program && !((program ":" $2) in race) {
			if ($2 == "*" && chance)
				sub(/exit=[01]/, "exit=0 or 1", $3)
			print $2 ": " $3
		}' "$races" "$out/$1.results"
}

programs() {
	cut -f 1 "$out/base.results" "$out/patched.results" | sort -u
}

# differences PROGRAM: the lines of its results that are not the same
differences() {
	diff <(tests base "$1") <(tests patched "$1") |
		sed -n -e 's/^</base/p' -e 's/^>/patched/p'
}

bailed_out() {
	{ tests base "$1" && tests patched "$1"; } | grep '^Bail out!' >/dev/null
}

# ended_by_chance PROGRAM: one of its races may have ended it
ended_by_chance() {
	awk -v program="$1:" 'index($0, program) == 1 { found = 1 }
		END { exit !found }' "$races" && bailed_out "$1"
}

for attempt in 1 2 3; do
	again=()
	while read -r program; do
		if ended_by_chance "$program"; then
			again+=("${program// /?}")
		fi
	done < <(programs)
	if [ ${#again[@]} -eq 0 ]; then
		break
	fi
	glob=$(IFS='|' && echo "@(${again[*]})")
	for flavour in base patched; do
		TESTS=$glob run $flavour $flavour-again-$attempt
		awk -F '\t' '
			FNR == NR { again[$1] = 1; print; next }
			!($1 in again)' "$out/$flavour-again-$attempt.results" \
			"$out/$flavour.results" | sort >"$out/merged"
		mv "$out/merged" "$out/$flavour.results"
	done
done

passed=0
failed=0
skipped=0
numbers='%5s %5s %5s %5s'
row="%-36s $numbers | $numbers | %s\n"
printf '%-36s %-23s | %-23s |\n' '' base patched
# shellcheck disable=SC2059
printf "$row" program pass fail xfail skip pass fail xfail skip result
: >"$out/differences"
: >"$out/failures"
while read -r program; do
	read -r -a base < <(totals base "$program")
	read -r -a patched < <(totals patched "$program")
	differ=$(differences "$program") || true
	if [ -n "$differ" ]; then
		what=different
		failed=$((failed + 1))
		printf '%s\n' "$differ" | sed "s/^/$program: /" \
			>>"$out/differences"
	elif bailed_out "$program"; then
		what="not run"
		failed=$((failed + 1))
		echo "$program bails out on both kernels" >>"$out/differences"
	elif [ $((base[0] + base[1] + base[2])) -eq 0 ] &&
		{ [ "${base[3]}" -gt 0 ] ||
			tests base "$program" | grep -q '^\*: exit=4$'; }; then
		what=skipped
		skipped=$((skipped + 1))
	elif tests base "$program" | grep -q -E '^\*: (TIMEOUT|exit=12[67]|no )' ||
		[ $((base[0] + base[1] + base[2])) -eq 0 ]; then
		what="not run"
		failed=$((failed + 1))
		tests base "$program" |
			sed -n "s/^\*: /$program does not run: /p" \
			>>"$out/differences"
	else
		what=same
		if [ "${base[*]}" != "${patched[*]}" ]; then
			what="same but for races"
		fi
		passed=$((passed + 1))
		tests base "$program" | grep -v -E ': (x?pass|xfail|skip|exit=0|exit=0 or 1)$' |
			sed "s/^/$program: /" >>"$out/failures" || true
	fi
	# shellcheck disable=SC2059
	printf "$row" "$program" "${base[@]}" "${patched[@]}" "$what"
done < <(programs)

if [ -s "$out/failures" ]; then
	echo "These fail on both kernels in the same way:"
	sed 's/^/    /' "$out/failures"
fi
while read -r line; do
	printf 'FAILED: %s\n' "$line"
done <"$out/differences"
for flavour in "${died[@]}"; do
	failed=$((failed + 1))
	printf 'FAILED: the VM with the %s kernel did not get to its end\n' \
		"$flavour"
done
if [ $((passed + failed)) -eq 0 ]; then
	failed=1
	echo "FAILED: no test ran${TESTS:+; TESTS=$TESTS selects none}"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
