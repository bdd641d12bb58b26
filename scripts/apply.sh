#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Put the series onto KERNEL, a git tree of the user's, as commits on its
# current branch. Either all of it is applied or the tree stays as it was.

. "$(dirname "$0")/common.sh"
command -v git >/dev/null || die "git is missing; install it"
. "$TOP/scripts/kbuild.sh"

[ -n "${KERNEL:-}" ] ||
	die "say which tree: make apply KERNEL=dir, a git tree of Linux $SERIES_VERSION"
tree=$(realpath "$KERNEL")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What would make git am fail half-way, or lose something of the user's.
[ "$(git -C "$tree" rev-parse --show-toplevel 2>"$work/err")" = "$tree" ] ||
	die "$tree is not the top of a git tree; try git init, git add and git commit there first"
old=$(git -C "$tree" rev-parse -q --verify 'HEAD^{commit}') ||
	die "$tree has no commit yet; commit the kernel first"
[ -r "$tree/Makefile" ] || die "$tree is not a kernel source tree"
version=$(kernel_version <"$tree/Makefile")
case $version in
"$TESTED_VERSION")
	;;
"$SERIES_VERSION".*)
	note "$tree is Linux $version; the series is tested on $TESTED_VERSION"
	;;
*)
	die "$tree is Linux ${version:-of an unknown version}; the series is for $SERIES_VERSION: check out a branch of that"
	;;
esac
for state in rebase-apply rebase-merge MERGE_HEAD CHERRY_PICK_HEAD; do
	[ ! -e "$(git -C "$tree" rev-parse --path-format=absolute \
		--git-path "$state")" ] ||
		die "$tree is in the middle of a git am, rebase or merge; finish it first"
done
git -C "$tree" status --porcelain --untracked-files=no >"$work/status"
[ ! -s "$work/status" ] ||
	die "$tree has changes that are not committed ($(wc -l <"$work/status") files); commit or stash them first"
git -C "$tree" -c user.useConfigOnly=true var GIT_COMMITTER_IDENT \
	>/dev/null 2>&1 ||
	die "git does not know who commits in $tree; set user.name and user.email with git config"
git -C "$tree" log -n 1000 --format=%s >"$work/log"
first=$(sed -n '/^[^#[:space:]]/{s/[[:space:]].*//p;q}' "$PATCHES/series")
if [ -n "$first" ] && grep -q -x -F -f \
	<(sed -n 's/^Subject: //p' "$PATCHES/$first") "$work/log"; then
	die "$tree has the series already: its first commit is there"
fi

# The mails are made for this very tree, in a repository of their own that
# borrows its objects, so what does not apply is found before it is touched.
repo=$work/repo
kgit init -q --bare --template= "$repo"
git -C "$tree" rev-parse --path-format=absolute --git-path objects \
	>"$repo/objects/info/alternates"
kgit -C "$repo" update-ref refs/tags/pristine "$old"
"$TOP/scripts/series-commit.sh" "$repo" >"$work/commits"
head=$(tail -n 1 "$work/commits" | cut -d ' ' -f 1)
[ "$head" != "$old" ] || die "$PATCHES/series names no mail"
kgit -C "$repo" format-patch -o "$work/mails" "$old..$head" >"$work/names"
mapfile -t mails <"$work/names"

say "git am of ${#mails[@]} mails in $tree"
if ! git -C "$tree" am "${mails[@]}" >"$work/am.log" 2>&1; then
	failed=$(sed -n 's/^Patch failed at //p' "$work/am.log")
	git -C "$tree" am --abort 2>/dev/null || true
	cat "$work/am.log" >&2
	[ "$(git -C "$tree" rev-parse HEAD)" = "$old" ] ||
		die "mail ${failed:-1} cannot be applied, see above; git reset --keep $old takes the others back"
	die "mail ${failed:-1} cannot be applied, see above; $tree is as it was"
fi
[ "$(git -C "$tree" rev-parse 'HEAD^{tree}')" = \
	"$(kgit -C "$repo" rev-parse "$head^{tree}")" ] ||
	die "git am gave something else than the series, perhaps by a hook or setting of the tree's; git reset --keep $old takes it back"
git -C "$tree" log --reverse --format='    %h %s' "$old..HEAD" >&2
say "applied ${#mails[@]} mails; git reset --keep ${old:0:12} takes them back"
