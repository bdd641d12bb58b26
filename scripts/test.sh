#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# test.sh: build, run the tests in the VM, and judge. With BASE=1, on the
# unpatched kernel, exactly the tests that are listed in fails-on-base.$ARCH
# must fail, and count as passed when they do. The last line is the totals.

. "$(dirname "$0")/common.sh"

"$TOP/scripts/build.sh"

out=$OUT/$FLAVOUR-$ARCH
list=$PATCHES/fails-on-base.$ARCH
died=0
"$TOP/scripts/vm.sh" test || died=1

declare -A expected=()
if [ "$FLAVOUR" = base ]; then
	while read -r name _; do
		case $name in
		''|'#'*)
			;;
		*)
			# shellcheck disable=SC2053 # TESTS is a glob
			if [[ $name == ${TESTS:-*} ]]; then
				expected[$name]=1
			fi
			;;
		esac
	done <"$list"
fi

passed=0
failed=0
skipped=0
as_listed=0
ran=0

fail() {
	failed=$((failed + 1))
	printf 'FAILED: %s\n' "$*"
}

# One line a test case: pass, fail or skip, and its name. One that has begun
# and has no result is where the VM died.
results=$(awk '
	/^    # Subtest: / { program = $3 }
	/^    # RUN / { running = $3 }
	/^    (not )?ok [0-9]+ / {
		if ($1 == "not")
			print "fail", program ":" $4
		else
			print ($0 ~ / # SKIP/ ? "skip" : "pass"), program ":" $3
		running = ""
	}
	END {
		if (running)
			print "fail", running
	}' "$out/test.ktap")

while read -r result name; do
	case $name in
	''|boot:*|end:*)
		;;
	*)
		ran=$((ran + 1))
		;;
	esac
	case $result${expected[$name]:+-expected} in
	pass)
		passed=$((passed + 1))
		;;
	fail-expected)
		passed=$((passed + 1))
		as_listed=$((as_listed + 1))
		;;
	skip)
		skipped=$((skipped + 1))
		;;
	fail)
		if [ "$FLAVOUR" = base ]; then
			fail "$name, which ${list#"$TOP/"} does not list"
		else
			fail "$name"
		fi
		;;
	pass-expected|skip-expected)
		fail "$name did not fail (${result%-*}), but ${list#"$TOP/"} lists it"
		;;
	esac
	unset "expected[$name]"
done <<<"$results"

for name in "${!expected[@]}"; do
	fail "$name did not run, but ${list#"$TOP/"} lists it"
done
if [ $failed -eq 0 ] && [ $died -ne 0 ]; then
	fail "the VM did not get to its end"
fi
if [ $failed -eq 0 ] && [ "$FLAVOUR" = patched ]; then
	complaint=$(splats "$out/console.log" | head -n 1)
	[ -z "$complaint" ] || fail "the kernel complained: $complaint"
fi
if [ $ran -eq 0 ]; then
	fail "no test ran${TESTS:+; TESTS=$TESTS selects none}"
fi
if [ "$FLAVOUR" = base ]; then
	say "$as_listed of $ran tests fail on the unpatched kernel, as listed"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
