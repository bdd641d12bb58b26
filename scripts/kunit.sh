#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# kunit.sh: build user-mode Linux with the series, run the KUnit suites in it,
# and judge. Their KTAP is printed and kept in out/kunit/test.ktap, beside all
# that the kernel said. TESTS='suite:case' selects; the last line is the totals.

# User-mode Linux is for the machine that it runs on.
ARCH=
. "$(dirname "$0")/common.sh"

[ "$ARCH" = x86_64 ] ||
	die "user-mode Linux needs an x86-64 machine; make test runs these tests in a VM, too"
[ "$FLAVOUR" = patched ] ||
	die "the unpatched kernel has no KUnit tests for this; leave BASE=1 out"
"$TOP/scripts/packages.sh" build kunit
. "$TOP/scripts/kbuild.sh"
cache_lock

tree=$("$TOP/scripts/kernel.sh" patched)
obj=build-kunit
out=$OUT/kunit
mkdir -p "$out" "$tree/$obj"
kunit_suites "$tree" >"$out/suites"
[ -s "$out/suites" ] || die "the series has no KUnit tests in $KUNIT_TESTS"

# kunit COMMAND ARGUMENT...: kunit.py of the kernel's, which knows how to
# configure and to run user-mode Linux
kunit() {
	local command=$1
	shift

	(
		cd "$tree" || exit
		PYTHONDONTWRITEBYTECODE=1 python3 tools/testing/kunit/kunit.py \
			"$command" --arch=um --build_dir "$obj" "$@"
	)
}

# What progress runs. It is kunit.py's build, but shows its steps, and leaves
# out what editors and debuggers want.
# shellcheck disable=SC2317
build() {
	kunit config --kunitconfig "${KUNIT_TESTS%_kunit.c}.kunitconfig" \
		--make_options "CC=ccache gcc" || return
	kmake "$tree" "$obj" ARCH=um
}

key=$({
	kgit -C "$tree" ls-tree HEAD | grep -v -P '\t(Documentation|tools)$'
	kgit -C "$tree" ls-tree HEAD:tools/testing kunit
	gcc --version
} | sha256sum)
if [ "$(cat "$tree/$obj/built" 2>/dev/null)" != "$key" ]; then
	need_space "$CACHE" 2 "user-mode Linux"
	rm -f "$tree/$obj/built"
	progress "build user-mode Linux" "$out/build.log" build
	echo "$key" >"$tree/$obj/built"
fi

start=$SECONDS
tests=${TESTS:-device_exclusive*}
rm -f "$tree/$obj/test.log"
kunit exec --raw_output=kunit --timeout "${DX_VM_TIMEOUT:-300}" \
	"${tests/:/.}" 2>"$out/kunit.log" </dev/null |
	sed -u '/^\[[0-9:]*\] /d' | tee "$out/test.ktap" || true
cp "$tree/$obj/test.log" "$out/console.log" ||
	die "user-mode Linux did not start; see $out/kunit.log"
say "user-mode Linux ran for $((SECONDS - start)) s"

passed=0
failed=0
skipped=0

fail() {
	failed=$((failed + 1))
	printf 'FAILED: %s\n' "$*"
}

while read -r result name; do
	case $result in
	pass)
		passed=$((passed + 1))
		;;
	skip)
		skipped=$((skipped + 1))
		;;
	fail)
		fail "$name"
		;;
	esac
done < <(verdicts "$out/test.ktap")

if [ $((passed + failed + skipped)) -eq 0 ]; then
	fail "no test ran${TESTS:+; TESTS=$TESTS selects none}"
fi
# A suite has a result of its own when all of its test cases have one.
while read -r suite; do
	if [ -z "${TESTS:-}" ] &&
		! grep -q -E "^(not )?ok [0-9]+ $suite( |\$)" "$out/test.ktap"; then
		fail "$suite did not get to its end; see $out/console.log"
	fi
done <"$out/suites"
if [ $failed -eq 0 ] && grep -q '^not ok ' "$out/test.ktap"; then
	fail "$(sed -n 's/^not ok [0-9]* //p' "$out/test.ktap" | head -n 1)"
fi
complaint=$(splats "$out/console.log" | head -n 1)
[ -z "$complaint" ] || fail "the kernel complained: $complaint"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
