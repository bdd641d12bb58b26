#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# series-commit.sh REPO: make the commits of the series on top of REPO's tag
# `pristine`, in its object store only: no work tree, branch or index of REPO
# changes. Prints "<commit> <patch name>" for each mail; the last is the head.
# The same series on the same kernel always gives the same commits.

. "$(dirname "$0")/common.sh"
. "$TOP/scripts/kbuild.sh"

[ $# -eq 1 ] || die "usage: series-commit.sh REPO"
REPO=$1
SERIES=$PATCHES/series

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rgit() {
	GIT_INDEX_FILE=$work/index kgit -C "$REPO" "$@"
}

rgit rev-parse -q --verify 'pristine^{commit}' >"$work/parent" 2>/dev/null ||
	die "$REPO is not a git repository with the tag pristine"
[ -r "$SERIES" ] || die "$SERIES is missing; check out the project again"
parent=$(cat "$work/parent")
version=$(rgit show pristine:Makefile | kernel_version)

# The project's files that exist, tracked or about to be.
git -C "$TOP" ls-files -co --exclude-standard >"$work/ls" ||
	die "$TOP is not a git checkout; clone the project with git"
while read -r file; do
	if [ -e "$TOP/$file" ]; then
		echo "$file"
	fi
done <"$work/ls" | sort -u >"$work/files"

# new_files ENTRY...: print "<file of the project> <path in the kernel>" for
# each file that the entries stand for: FILE, DIRECTORY or FILE=KERNEL-PATH.
new_files() {
	local entry from to found file

	for entry; do
		from=${entry%%=*}
		from=${from%/}
		to=${entry#*=}
		to=${to%/}
		found=0
		while read -r file; do
			case $file in
			"$from"|"$from"/*)
				echo "$file $to${file#"$from"}"
				found=1
				;;
			esac
		done <"$work/files"
		[ $found -eq 1 ] ||
			die "$SERIES names $entry, and the project has no such file"
	done
}

# read_mail PATCH: take the mail apart, into $work/body, diff and info.
read_mail() {
	rgit mailinfo --no-scissors "$work/body" "$work/diff" \
		<"$PATCHES/$1" >"$work/info" ||
		die "$PATCHES/$1 is not a mail that git can read"
	if ! grep -q '^diff --git ' "$work/diff"; then
		: >"$work/diff"
		return
	fi
	rgit apply --numstat "$work/diff" >"$work/touched" 2>"$work/err" ||
		die "$1 is not a valid patch: $(head -n 1 "$work/err")"
}

# first_versions: a mail may change what an earlier one brings. The project has
# the file as it is in the end; leave in $work/first what it is at first.
first_versions() {
	local patch entries file path

	mkdir "$work/first"
	while read -r patch entries; do
		[ -f "$PATCHES/$patch" ] ||
			die "$SERIES names $patch, which is not in $PATCHES"
		# shellcheck disable=SC2086 # one word for each entry
		new_files $entries >"$work/new"
		while read -r file path; do
			[[ -f $TOP/$file && ! -L $TOP/$file ]] ||
				die "$file is not a regular file; $patch cannot add it"
			mkdir -p "$work/first/$(dirname "$path")"
			cp "$TOP/$file" "$work/first/$path"
		done <"$work/new"
	done <"$work/series"

	while read -r patch _; do
		read_mail "$patch"
		[ -s "$work/diff" ] || continue
		while read -r _ _ path; do
			[ -e "$work/first/$path" ] || continue
			(cd "$work/first" && GIT_CEILING_DIRECTORIES=$work \
				kgit apply -R --include="$path" \
				--whitespace=nowarn "$work/diff") 2>"$work/err" ||
				die "$path is not as $patch leaves it: $(head -n 1 "$work/err"); make the hunks of $patch anew"
		done <"$work/touched"
	done < <(tac "$work/series")
}

# add_files PATCH: put the files listed on stdin into the index.
add_files() {
	local file path mode blob

	while read -r file path; do
		if rgit cat-file -e "pristine:$path" 2>/dev/null; then
			die "$1 adds $path, which Linux $version has already; change it with a hunk in the patch"
		fi
		mode=100644
		if [ -x "$TOP/$file" ]; then
			mode=100755
		fi
		blob=$(rgit hash-object -w --no-filters "$work/first/$path")
		printf '%s %s\t%s\n' "$mode" "$blob" "$path"
	done >"$work/index-info"
	rgit update-index --add --index-info <"$work/index-info"
}

# apply_hunks PATCH: apply the diff of the mail to the index.
apply_hunks() {
	local path

	while read -r _ _ path; do
		rgit cat-file -e ":$path" 2>/dev/null ||
			die "$1 changes $path, which Linux $version does not have, nor an earlier mail brings; new files are real files of the project, named in $SERIES"
	done <"$work/touched"
	rgit apply --cached --whitespace=nowarn "$work/diff" 2>"$work/err" || {
		path=$(sed -n 's/^error: patch failed: \(.*\):\([0-9]*\)$/\1, line \2,/p' \
			"$work/err" | head -n 1)
		path=${path:-$(head -n 1 "$work/err")}
		die "$1 does not apply to $path of Linux $version; take Linux $TESTED_VERSION, or make its hunks anew for this version"
	}
}

# header NAME: a field of what git mailinfo printed.
header() {
	sed -n "s/^$1: //p" "$work/info"
}

# commit_mail PATCH ENTRY...: one mail, one commit on top of $parent.
commit_mail() {
	local patch=$1 mail=$PATCHES/$1 tree
	shift

	read_mail "$patch"
	[[ -n $(header Author) && -n $(header Email) ]] ||
		die "$mail has no line 'From: Name <address>'"
	[ -n "$(header Subject)" ] || die "$mail has no line 'Subject: ...'"

	if [ -s "$work/diff" ]; then
		apply_hunks "$patch"
	fi
	new_files "$@" >"$work/new"
	cat "$work/new" >>"$work/named"
	add_files "$patch" <"$work/new"

	tree=$(rgit write-tree)
	[ "$tree" != "$(rgit rev-parse "$parent^{tree}")" ] ||
		die "$patch changes nothing; give it hunks or new files"
	parent=$({
		header Subject
		echo
		cat "$work/body"
	} | GIT_AUTHOR_NAME=$(header Author) GIT_AUTHOR_EMAIL=$(header Email) \
		GIT_AUTHOR_DATE='2026-01-01T00:00:00+0000' \
		GIT_COMMITTER_NAME=$(header Author) \
		GIT_COMMITTER_EMAIL=$(header Email) \
		GIT_COMMITTER_DATE='2026-01-01T00:00:00+0000' \
		rgit commit-tree "$tree" -p "$parent")
	echo "$parent $patch"
}

# Comments and empty lines gone: PATCH [NEW-FILE...] on each line.
sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$SERIES" >"$work/series"
awk '{ print $1 }' "$work/series" | sort >"$work/listed"
twice=$(uniq -d "$work/listed")
[ -z "$twice" ] || die "$SERIES names $twice twice"
for mail in "$PATCHES"/*.patch; do
	[ ! -e "$mail" ] || grep -q -x -F "${mail##*/}" "$work/listed" ||
		die "$mail is not named in $SERIES; add it or remove it"
done

first_versions
rgit read-tree pristine
: >"$work/named"
while read -r -a line; do
	commit_mail "${line[@]}"
done <"$work/series" >"$work/commits"

# Each file of the kernel's comes with one mail, no more and no less.
while read -r file; do
	case $file in
	mm/*|include/*|lib/*|tools/*|Documentation/*|Kconfig)
		n=$(awk -v f="$file" '$1 == f' "$work/named" | wc -l)
		[ "$n" -gt 0 ] || die "$SERIES has no mail that brings $file"
		[ "$n" -eq 1 ] || die "$SERIES has $n mails that bring $file"
		;;
	esac
done <"$work/files"

if [ -s "$work/commits" ]; then
	cat "$work/commits"
else
	echo "$parent pristine"
fi
