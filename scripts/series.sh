#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Write the series as mails into out/series, and prove that they are right:
# applied with `git am` they give what the patches and files here give.

. "$(dirname "$0")/common.sh"
"$TOP/scripts/packages.sh" build
. "$TOP/scripts/kbuild.sh"

cache_lock
base=$("$TOP/scripts/kernel.sh" base)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# write_mails: out/series/NNNN-*.patch, 0000 with the text of the cover letter.
write_mails() {
	local text=$PATCHES/cover-letter name mail

	[ -s "$text" ] ||
		die "$text is missing: its first line is the subject, the rest the text"
	rm -rf "$OUT/series"
	# Who sends the series writes the cover letter.
	name=$(git config user.name || kgit -C "$base" log -1 --format=%an "$head")
	mail=$(git config user.email || kgit -C "$base" log -1 --format=%ae "$head")
	GIT_COMMITTER_NAME=$name GIT_COMMITTER_EMAIL=$mail \
		GIT_COMMITTER_DATE='2026-01-01T00:00:00+0000' \
		kgit -C "$base" format-patch --cover-letter \
		-o "$OUT/series" "pristine..$head" >"$work/mails"
	mapfile -t mails <"$work/mails"
	awk -v text="$text" '
		/\*\*\* SUBJECT HERE \*\*\*/ {
			getline subject < text
			gsub(/[&\\]/, "\\\\&", subject)
			sub(/\*\*\* SUBJECT HERE \*\*\*/, subject)
		}
		/^\*\*\* BLURB HERE \*\*\*$/ {
			while (getline < text > 0)
				if (n++ || $0 != "")
					print
			next
		}
		{ print }' "${mails[0]}" >"$work/cover"
	cp "$work/cover" "${mails[0]}"
	say "$count mails and a cover letter in ${OUT#"$TOP"/}/series"
}

# apply_mails DIR: make DIR a repository with the mails applied. It is checked
# out as far as the series touches it; the rest is in its index.
apply_mails() {
	kgit clone -q --shared --no-checkout "$base" "$1"
	kgit -C "$1" sparse-checkout set --no-cone --stdin <"$work/patterns"
	kgit -C "$1" checkout -q --detach pristine
	GIT_COMMITTER_NAME=nobody GIT_COMMITTER_EMAIL=nobody@localhost \
		kgit -C "$1" am -q "${mails[@]:1}" >"$work/am.log" 2>&1 ||
		die "git am does not take the mails: $(head -n 1 "$work/am.log")"
}

# hunks_on_old PATCH: its diffs of files that Linux has
hunks_on_old() {
	awk -v paths="${old[*]}" '
		BEGIN { n = split(paths, p, " "); for (i in p) old[p[i]] = 1 }
		/^diff --git / { skip = !(substr($3, 3) in old) }
		!skip' "$1"
}

# overlay DIR: the same in another way, without git: the pristine files with
# the patches put on them by patch(1), and the project's files copied.
overlay() {
	local patch entry file

	mkdir "$1"
	if [ ${#old[@]} -gt 0 ]; then
		kgit -C "$base" archive pristine -- "${old[@]}" | tar -x -C "$1"
	fi
	while read -r patch entry; do
		[ -n "$patch" ] || continue
		hunks_on_old "$PATCHES/$patch" >"$work/hunks"
		if grep -q '^diff --git ' "$work/hunks"; then
			patch -d "$1" -p1 -s -F0 --no-backup-if-mismatch \
				<"$work/hunks" >&2 ||
				die "patch(1) does not take $patch, git does"
		fi
		for file in $entry; do
			case $file in
			*=*)
				install -D -m 644 "$TOP/${file%%=*}" "$1/${file#*=}"
				;;
			*)
				(cd "$TOP" &&
					git ls-files -co --exclude-standard -z -- "$file" |
					xargs -0 cp --parents -t "$1")
				;;
			esac
		done
	done < <(sed 's/#.*//' "$PATCHES/series")
}

round_trip() {
	local tree

	apply_mails "$work/am"
	tree=$(kgit -C "$work/am" rev-parse 'HEAD^{tree}')
	[ "$tree" = "$(kgit -C "$base" rev-parse "$head^{tree}")" ] ||
		die "git am of the mails gives another tree than the series has"
	overlay "$work/overlay"
	diff -r -u -x .git "$work/overlay" "$work/am" >&2 ||
		die "git am of the mails differs from the patches and files here, see above"
	say "round trip: git am of the mails gives what the patches and files give, in ${#paths[@]} files"
}

"$TOP/scripts/series-commit.sh" "$base" >"$work/commits"
count=$(wc -l <"$work/commits")
head=$(tail -n 1 "$work/commits" | cut -d ' ' -f 1)
[ "$head" != "$(kgit -C "$base" rev-parse 'pristine^{commit}')" ] ||
	die "$PATCHES/series names no mail"
kgit -C "$base" diff --name-only --no-renames pristine "$head" >"$work/paths"
mapfile -t paths <"$work/paths"
mapfile -t old < <(kgit -C "$base" diff --name-only --no-renames \
	--diff-filter=a pristine "$head")
sed 's,^,/,' "$work/paths" >"$work/patterns"

write_mails
round_trip
say "done; nobody has signed the mails: whoever sends them adds a Signed-off-by"
