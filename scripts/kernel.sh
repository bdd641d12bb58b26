#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# kernel.sh base|patched: make sure that the kernel's source tree is there, as
# it is or with the series on top of it, and print its path.
#
# $CACHE/<kernel>/base is a git repository whose one commit, tagged `pristine`,
# is the kernel; $CACHE/<kernel>/patched is a work tree of it at the head of the
# series. Both only ever change in the files that differ, so that a build of
# them is a short one.

. "$(dirname "$0")/common.sh"

case ${1:-} in
base|patched)
	flavour=$1
	;;
*)
	die "usage: kernel.sh base|patched"
	;;
esac

"$TOP/scripts/packages.sh" build
. "$TOP/scripts/kbuild.sh"
cache_lock

# version DIR: the kernel's version, as 7.3.4
version() {
	sed -n -E 's/^(VERSION|PATCHLEVEL|SUBLEVEL) = ([0-9]+)$/\2/p' \
		"$1/Makefile" | paste -s -d .
}

# check_version VERSION WHERE: is it one that the series is for?
check_version() {
	case $1 in
	"$TESTED_VERSION")
		;;
	"$SERIES_VERSION".*)
		note "$2 is Linux $1; the series is tested on $TESTED_VERSION"
		;;
	*)
		die "$2 is Linux ${1:-of an unknown version}; the series is for $SERIES_VERSION, so set KERNEL=dir to a source tree of that"
		;;
	esac
}

# repository DIR: an empty git repository there
repository() {
	kgit init -q --template= -b main "$1"
	kgit -C "$1" config gc.auto 0
	kgit -C "$1" config core.autocrlf false
	mkdir -p "$1/.git/info"
	echo '/build-*' >"$1/.git/info/exclude"
}

# pristine REPO: commit REPO's index and tag it
pristine() {
	local tree commit

	export GIT_{AUTHOR,COMMITTER}_NAME=device-exclusive
	export GIT_{AUTHOR,COMMITTER}_EMAIL=device-exclusive@localhost
	export GIT_{AUTHOR,COMMITTER}_DATE='2026-01-01T00:00:00Z'
	tree=$(kgit -C "$1" write-tree)
	commit=$(kgit -C "$1" commit-tree -m "Linux, untouched" "$tree")
	kgit -C "$1" tag -f pristine "$commit" >/dev/null
}

# What progress runs
# shellcheck disable=SC2317
unpack() {
	dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/$2.tar.xz" |
		tar -xJ -C "$3" --strip-components=1
}

# shellcheck disable=SC2317
commit_all() {
	kgit -C "$1" add -A -f .
	pristine "$1"
}

# import TREE REPO: commit TREE's files that $CACHE/files lists
# shellcheck disable=SC2317
import() {
	export GIT_DIR=$2/.git GIT_INDEX_FILE=$2/.git/import
	cd "$1"
	GIT_WORK_TREE=$1 kgit ls-files -z | sort -z -u - "$CACHE/files" |
		GIT_WORK_TREE=$1 kgit update-index --add --remove -z --stdin
	pristine "$2"
}

# Debian's source, as the package linux-source has it
debian() {
	local package=linux-source-$SERIES_VERSION deb v tmp

	if [ -d "$BASE_TREE" ]; then
		return
	fi
	need_space "$CACHE" 8 "the kernel with its builds"
	deb=$("$TOP/scripts/fetch.sh" "$package" \
		"$(dpkg --print-architecture)" \
		trixie-backports experimental)
	v=$(dpkg-deb -f "$deb" Version)
	v=${v%%-*}
	check_version "$v" "Debian's $package"
	[ "${v##*.}" -ge "${TESTED_VERSION##*.}" ] ||
		die "Debian's $package is Linux $v and the series needs $TESTED_VERSION or later; set KERNEL=dir to a source tree of that"

	echo "$v" >"$CACHE/debian-version"
	BASE_TREE=$CACHE/$v/base
	tmp=$CACHE/unpack
	rm -rf "$tmp"
	mkdir -p "$tmp" "$CACHE/$v"
	progress "unpack Linux $v" "$OUT/unpack.log" \
		unpack "$deb" "$package" "$tmp"
	[ "$(version "$tmp")" = "$v" ] ||
		die "$deb says that it is Linux $v, but has $(version "$tmp"); remove $CACHE/download and try again"
	repository "$tmp"
	progress "commit Linux $v" "$OUT/commit.log" commit_all "$tmp"
	mv "$tmp" "$BASE_TREE"
}

# The user's own tree, which is read and never written
user_tree() {
	local tree own=(git -c safe.directory='*')

	tree=$(realpath "$KERNEL")
	if [ ! -r "$tree/Makefile" ] || [ ! -r "$tree/mm/memory.c" ]; then
		die "KERNEL=$KERNEL is not a kernel source tree; it must be one of Linux $SERIES_VERSION"
	fi
	check_version "$(version "$tree")" "KERNEL=$KERNEL"
	if [ ! -d "$BASE_TREE" ]; then
		need_space "$CACHE" 8 "a copy of KERNEL=$KERNEL and builds of it"
		rm -rf "$CACHE/unpack"
		repository "$CACHE/unpack"
		mkdir -p "$(dirname "$BASE_TREE")"
		mv "$CACHE/unpack" "$BASE_TREE"
	fi

	if [ "$("${own[@]}" -C "$tree" rev-parse --show-toplevel \
		2>/dev/null)" = "$tree" ]; then
		"${own[@]}" -C "$tree" ls-files -co --exclude-standard -z |
			grep -z -v '/$' >"$CACHE/files"
	else
		if [ -e "$tree/.config" ] || [ -d "$tree/include/config" ]; then
			note "it has been built in: a cleaned copy is used"
			rm -rf "$CACHE/unpack"
			cp -a "$tree" "$CACHE/unpack"
			tree=$CACHE/unpack
			progress "clean it" "$OUT/mrproper.log" \
				make -C "$tree" mrproper
		fi
		(cd "$tree" && find . \( -type f -o -type l \) -printf '%P\0') \
			>"$CACHE/files"
	fi
	progress "take the sources from $tree" "$OUT/import.log" \
		import "$tree" "$BASE_TREE"
	rm -rf "$CACHE/unpack"
}

# at COMMIT TREE: put a work tree there at COMMIT, whatever its state
at() {
	find "$(kgit -C "$2" rev-parse --absolute-git-dir)" -maxdepth 1 \
		-name index.lock -delete
	kgit -C "$2" checkout -q -f --detach "$1" ||
		die "git cannot bring $2 to the state it should be in; remove that directory and try again"
}

BASE_TREE=$CACHE/$(kernel_id)/base
if [ -n "${KERNEL:-}" ]; then
	user_tree
else
	debian
fi
at pristine "$BASE_TREE"
if [ "$flavour" = base ]; then
	printf '%s\n' "$BASE_TREE"
	exit 0
fi

tree=$(dirname "$BASE_TREE")/patched
commits=$("$TOP/scripts/series-commit.sh" "$BASE_TREE")
head=$(tail -n 1 <<<"$commits" | cut -d ' ' -f 1)
if [ ! -e "$tree/.git" ]; then
	rm -rf "$tree"
	kgit -C "$BASE_TREE" worktree prune
	kgit -C "$BASE_TREE" worktree add -q --detach --no-checkout "$tree" pristine
fi
at "${head:-pristine}" "$tree"
printf '%s\n' "$tree"
