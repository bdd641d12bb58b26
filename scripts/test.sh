#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# test.sh [debug|kcsan|coverage]: build, run the tests in the VM, and judge. With
# debug or kcsan, on a kernel that looks for more mistakes; with coverage, on one
# that counts which lines have run. With BASE=1, on the unpatched kernel, exactly
# the tests that are listed in fails-on-base.$ARCH must fail, and count as passed
# when they do. One that is listed with a ~ is a race, which may be won or lost.
# The last line is the totals.

. "$(dirname "$0")/common.sh"

export CHECKS=${1:-}
"$TOP/scripts/build.sh" "${CHECKS:-test}"

out=$OUT/${CHECKS:+$CHECKS/}$FLAVOUR-$ARCH
list=$PATCHES/fails-on-base.$ARCH

died=0
after=
# The unpatched kernel may die of a test that is listed: go on behind that.
until AFTER=$after "$TOP/scripts/vm.sh" test; do
	last=$(verdicts "$out/test.ktap" | tail -n 1)
	case $FLAVOUR-$last in
	"base-fail $after"|"base-fail boot:"*|"base-fail end:"*)
		died=1
		break
		;;
	"base-fail "*)
		after=${last#fail }
		note "the VM died in $after; another one goes on behind that"
		;;
	*)
		died=1
		break
		;;
	esac
done

declare -A expected=() chance=()
if [ "$FLAVOUR" = base ]; then
	while read -r name _; do
		case $name in
		''|'#'*)
			;;
		*)
			# shellcheck disable=SC2053 # TESTS is a glob
			if [[ ${name#\~} != ${TESTS:-*} ]]; then
				continue
			fi
			if [ "${name#\~}" != "$name" ]; then
				chance[${name#\~}]=1
			else
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

while read -r result name; do
	case $name in
	''|boot:*|end:*)
		;;
	*)
		ran=$((ran + 1))
		;;
	esac
	case $result${expected[$name]:+-expected}${chance[$name]:+-chance} in
	pass|pass-chance)
		passed=$((passed + 1))
		;;
	fail-expected|fail-chance)
		passed=$((passed + 1))
		as_listed=$((as_listed + 1))
		;;
	skip|skip-chance)
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
done < <(verdicts "$out/test.ktap")

for name in "${!expected[@]}"; do
	fail "$name did not run, but ${list#"$TOP/"} lists it"
done
if [ $failed -eq 0 ] && [ $died -ne 0 ]; then
	fail "the VM did not get to its end"
fi
if [ $failed -eq 0 ] && [ "$FLAVOUR" = patched ]; then
	complaint=$(splats "$out/console.log" | grep -v 'BUG: KCSAN: ' |
		head -n 1) || true
	[ -z "$complaint" ] || fail "the kernel complained: $complaint"
fi
if [ "$CHECKS" = kcsan ]; then
	tree=$("$TOP/scripts/kernel.sh" "$FLAVOUR")
	"$TOP/scripts/kcsan.py" "$out/console.log" "$tree/build-kcsan-$ARCH" \
		"$tree" >"$out/races"
	while read -r race; do
		fail "a data race in code of the series, $race"
	done < <(sed -n 's/^series //p' "$out/races")
	note "$(grep -c '^other ' "$out/races") data races in other code: $out/races"
fi
if [ $ran -eq 0 ]; then
	fail "no test ran${TESTS:+; TESTS=$TESTS selects none}"
fi
if [ "$FLAVOUR" = base ]; then
	say "$as_listed of $ran tests fail on the unpatched kernel, as listed"
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
