#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Static checks: the project's own files must give no message at all, and the
# kernel's files no message that they did not give before the series.

. "$(dirname "$0")/common.sh"

"$TOP/scripts/packages.sh" build lint "$ARCH"
. "$TOP/scripts/kbuild.sh"
cache_lock

patched=$("$TOP/scripts/kernel.sh" patched)
base=$(dirname "$patched")/base
obj=build-lint-$ARCH
logs=$OUT/lint-$ARCH
mkdir -p "$logs"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# files KIND [PATH...]: those that the series adds (A) or modifies (M)
files() {
	local kind=$1
	shift
	kgit -C "$patched" diff --name-only --no-renames \
		--diff-filter="$kind" pristine HEAD -- "$@"
}

mapfile -t new < <(files A)
mapfile -t old < <(files M)
mapfile -t new_c < <(files A '*.c' ':!tools' ':!Documentation')
mapfile -t old_c < <(files M '*.c' ':!tools' ':!Documentation')
mapfile -t module_c < <(files A "$SELFTESTS/test_modules/*.c")
mapfile -t new_code < <(files A '*.[ch]')
mapfile -t old_code < <(files M '*.[ch]')

# The project's own files, tracked or about to be.
git -C "$TOP" ls-files -co --exclude-standard >"$work/ls" ||
	die "$TOP is not a git checkout; clone the project with git"
own=()
scripts=()
while read -r file; do
	[ -f "$TOP/$file" ] || continue
	own+=("$file")
	case $file in
	*.sh)
		scripts+=("$file")
		;;
	*)
		read -r line <"$TOP/$file" || true
		if [[ $line == '#!'*sh ]]; then
			scripts+=("$file")
		fi
		;;
	esac
done <"$work/ls"

# check NAME COUNT WHAT FUNCTION: a check passes if its function says nothing.
passed=0
failed=0
check() {
	local log=$logs/$1.log

	"$4" >"$log" 2>&1 </dev/null &
	wait $! || echo "$1 could not be completed" >>"$log"
	if [ -s "$log" ]; then
		cat "$log" >&2
		printf 'FAILED: %s, %d %s\n' "$1" "$2" "$3" >&2
		failed=$((failed + 1))
	else
		say "$1: $2 $3"
		passed=$((passed + 1))
	fi
}

checkpatch() {
	local dir=$1
	shift
	# The history of the kernel is not here to look for commits in.
	(cd "$dir" && GIT_DIR=/nonexistent "$patched/scripts/checkpatch.pl" \
		--root="$patched" -q --strict --show-types "$@") ||
		echo "checkpatch.pl does not pass ${*: -1}"
}

check_mails() {
	local mail

	kgit -C "$patched" format-patch -q -o "$work/mails" pristine..HEAD
	for mail in "$work"/mails/*.patch; do
		# Nobody has signed the mails yet; MAINTAINERS gets its entry
		# when all files are there; the commits that Fixes: names are in
		# a history that is not here; and mm/Kconfig must name the file
		# that it sources.
		checkpatch "$work/mails" --no-signoff \
			--ignore FILE_PATH_CHANGES,UNKNOWN_COMMIT_ID \
			--ignore EMBEDDED_FILENAME \
			"${mail##*/}"
	done
}

check_new_files() {
	local file

	for file in "${new[@]}"; do
		checkpatch "$patched" --file "$file"
	done
}

own_c=()
for file in "${own[@]}"; do
	case $file in
	scripts/*.[ch])
		own_c+=("$file")
		;;
	esac
done
check_own_c() {
	local file

	# These are programs, which have no macros and types of the kernel's.
	for file in "${own_c[@]}"; do
		checkpatch "$TOP" --ignore ARRAY_SIZE,BIT_MACRO,VOLATILE \
			--ignore PREFER_DEFINED_ATTRIBUTE_MACRO \
			--ignore PREFER_KERNEL_TYPES --file "$file"
	done
}

# compile TREE SOURCE...: compile them with W=1 and sparse. What does not
# compile has no object afterwards.
compile() {
	local tree=$1 sparse="-include $TOP/scripts/lint-sparse.h"
	shift

	kconfig "$tree" "$obj"
	kmake "$tree" "$obj" prepare
	(cd "$tree/$obj" && rm -f "${@/%.c/.o}")
	if [ $# -gt 0 ]; then
		kmake "$tree" "$obj" -k C=2 W=1 CHECK="sparse $sparse" \
			CFLAGS_memory.o="$sparse" "${@/%.c/.o}" || true
	fi
}

compile_module() {
	local dir=$SELFTESTS/test_modules names=("${module_c[@]##*/}")

	rm -rf "${patched:?}/$obj/module"
	mkdir "$patched/$obj/module"
	kmake "$patched" "$obj" -k C=2 W=1 "M=$patched/$dir" \
		"MO=$patched/$obj/module" \
		CHECK="sparse -include $TOP/scripts/lint-sparse.h" \
		"${names[@]/%.c/.o}" || true
}

# messages TREE <LOG: "file: message" without line numbers, sorted. Those in a
# header come once; those in a header that the series leaves alone are not its.
messages() {
	sed -n -E "s,^(\.\./|$1/)*([^ :]+):[0-9:]+ ((warning|error): .*),\2 \3,p" |
		awk -v changed="${new[*]} ${old[*]}" '
			BEGIN { n = split(changed, f, " ")
				for (i = 1; i <= n; i++) ours[f[i]] = 1 }
			$1 ~ /\.c$/ || ($1 in ours && !seen[$0]++)' | sort
}

check_compile() {
	local file

	compile "$base" "${old_c[@]}" >"$logs/compile-base.log" 2>&1
	compile "$patched" "${old_c[@]}" "${new_c[@]}" >"$logs/compile-patched.log" 2>&1
	if [ ${#module_c[@]} -gt 0 ]; then
		compile_module >>"$logs/compile-patched.log" 2>&1
	fi
	if grep 'sparse is not available' "$logs"/compile-{base,patched}.log; then
		return
	fi
	for file in "${old_c[@]}"; do
		if [ ! -e "$base/$obj/${file%.c}.o" ]; then
			note "$file is not checked: it cannot be compiled with this configuration" 2>&3
		elif [ ! -e "$patched/$obj/${file%.c}.o" ]; then
			echo "$file does not compile, see $logs/compile-patched.log"
		elif grep -q "/$file:.*: error: " "$logs/compile-base.log"; then
			note "$file: sparse says less after an error that Linux has there" 2>&3
		fi
	done
	for file in "${new_c[@]}"; do
		[ -e "$patched/$obj/${file%.c}.o" ] ||
			echo "$file does not compile, see $logs/compile-patched.log"
	done
	for file in "${module_c[@]##*/}"; do
		[ -e "$patched/$obj/module/${file%.c}.o" ] ||
			echo "$file does not compile, see $logs/compile-patched.log"
	done
	messages "$base" <"$logs/compile-base.log" >"$work/base"
	messages "$patched" <"$logs/compile-patched.log" >"$work/patched"
	comm -13 "$work/base" "$work/patched" >"$work/more"
	if [ -s "$work/more" ]; then
		cat "$work/more"
		echo "with line numbers: $logs/compile-patched.log"
	fi
}

# What has passed is not compiled again before it changes.
compile_key() {
	kgit -C "$patched" rev-parse HEAD
	cat "$TOP/scripts/lint.sh" "$TOP/scripts/lint-sparse.h" \
		"$TOP/scripts/kbuild.sh" "$TOP/scripts/config/common.config" \
		"$TOP/scripts/config/$ARCH.config" \
		"$TOP/scripts/config/kunit.config" "$TOP/$SELFTESTS/config"
	"${CROSS_COMPILE:-}gcc" --version
	sparse --version
}

kernel_doc() {
	python3 "$patched/tools/docs/kernel-doc" -none -Wall "$@"
}

check_kernel_doc() {
	local tree

	if [ ${#new_code[@]} -gt 0 ]; then
		(cd "$patched" && kernel_doc -Werror "${new_code[@]}") ||
			echo "kernel-doc does not pass the new files"
	fi
	if [ ${#old_code[@]} -eq 0 ]; then
		return
	fi
	for tree in "$base" "$patched"; do
		(cd "$tree" && kernel_doc "${old_code[@]}") \
			>"$work/kernel-doc" 2>&1 ||
			echo "kernel-doc fails in $tree"
		sed -E 's/^(Warning|Error): ([^ :]+):[0-9]+/\1: \2/' \
			"$work/kernel-doc" | sort >"$work/${tree##*/}"
	done
	comm -13 "$work/base" "$work/patched"
}

# Of the patches, what the series says and adds; of the rest, all but the
# licence.
check_spelling() {
	local file

	for file in "${own[@]}"; do
		mkdir -p "$work/text/$(dirname "$file")"
		case $file in
		LICENSE)
			;;
		*.patch)
			awk '/^diff --git / { diff = 1 } !diff || /^\+/' \
				"$TOP/$file" >"$work/text/$file"
			;;
		*)
			cp "$TOP/$file" "$work/text/$file"
			;;
		esac
	done
	(cd "$work/text" && codespell -L damon .) ||
		echo "codespell does not pass the project's text"
}

check_scripts() {
	(cd "$TOP" && shellcheck -x -P SCRIPTDIR "${scripts[@]}") ||
		echo "shellcheck does not pass the scripts"
}

check_results() {
	"$TOP/scripts/bench/publish.sh" --check
}

exec 3>&2
mails=$(kgit -C "$patched" rev-list --count pristine..HEAD)
check checkpatch-mails "$mails" mails check_mails
check checkpatch-new ${#new[@]} "new files" check_new_files
check checkpatch-own ${#own_c[@]} "C files of the scripts" check_own_c
key=$(compile_key | sha256sum)
compiled=$((${#old_c[@]} + ${#new_c[@]} + ${#module_c[@]}))
if [ "$(cat "$patched/$obj/passed" 2>/dev/null)" = "$key" ]; then
	say "sparse: $compiled files for $ARCH, which passed before"
	passed=$((passed + 1))
else
	say "compile $compiled files for $ARCH with W=1 and sparse, twice"
	check sparse $compiled "files for $ARCH, with W=1" check_compile
	if [ ! -s "$logs/sparse.log" ]; then
		echo "$key" >"$patched/$obj/passed"
	fi
fi
check kernel-doc $((${#new_code[@]} + ${#old_code[@]})) "files" check_kernel_doc
check codespell ${#own[@]} "files" check_spelling
check results 1 "table" check_results
check shellcheck ${#scripts[@]} "scripts" check_scripts

[ "$failed" -eq 0 ] ||
	die "lint: $failed of $((passed + failed)) checks failed, see above"
say "lint: $passed checks passed"
