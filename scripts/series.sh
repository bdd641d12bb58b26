#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Write the series as mails into out/series, and prove that they are right:
# applied with `git am` they give what the patches and files here give, and the
# kernel builds after each one of them. SERIES_BUILD=0 leaves out the builds.

. "$(dirname "$0")/common.sh"
"$TOP/scripts/packages.sh" build "$ARCH"
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

# build_step COMMIT: compile the kernel of that commit and its test module.
build_step() {
	local obj=build-$ARCH module=$SELFTESTS/test_modules

	kgit -C "$steps" checkout -q -f --detach "$1"
	kconfig "$steps" "$obj"
	kmake "$steps" "$obj" vmlinux modules
	if [ -e "$steps/$module/Makefile" ]; then
		kmake "$steps" "$obj" M="$module" MO="$steps/$obj/$module"
	fi
}

build_steps() {
	local n=0 commit patch key log

	steps=$(dirname "$base")/steps
	if [ "$(kgit -C "$steps" rev-parse --path-format=absolute \
		--git-common-dir 2>/dev/null)" != "$base/.git" ]; then
		need_space "$(dirname "$base")" 6 "building each step"
		rm -rf "$steps"
		kgit -C "$base" worktree prune
		progress "a tree to build each step in" "$OUT/series-log/tree" \
			kgit -C "$base" worktree add --detach "$steps" pristine
	fi
	# If the last run was stopped in the middle of a checkout
	rm -f "$(kgit -C "$steps" rev-parse --absolute-git-dir)/index.lock"

	while read -r commit patch; do
		n=$((n + 1))
		log=$OUT/series-log/$ARCH-$patch.log
		# What has been built once, the same way, needs no second time.
		key=$commit-$({
			cat "$TOP/scripts/config/common.config" \
				"$TOP/scripts/config/$ARCH.config" \
				"$TOP/scripts/config/kunit.config" \
				"$TOP/$SELFTESTS/config"
			"${CROSS_COMPILE:-}gcc" --version
		} | sha256sum | cut -c 1-12)
		if grep -q -s -x "$key" "$steps/build-$ARCH.built"; then
			say "step $n of $count, $patch: has been built before"
			continue
		fi
		# A warning comes but once: what did not pass is made afresh.
		if [ -e "$steps/build-$ARCH.failed" ]; then
			rm -rf "${steps:?}/build-$ARCH"
		fi
		touch "$steps/build-$ARCH.failed"
		progress "step $n of $count, $patch" "$log" build_step "$commit"
		if grep -E '(warning|WARNING):' "$log" >&2; then
			die "$patch compiles with the warnings above; all of the output: $log"
		fi
		rm "$steps/build-$ARCH.failed"
		echo "$key" >>"$steps/build-$ARCH.built"
	done <"$work/commits"
	say "each of the $count steps builds for $ARCH without a warning"
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
if [ "${SERIES_BUILD:-1}" = 0 ]; then
	note "SERIES_BUILD=0: the builds of each step are left out"
else
	build_steps
fi
say "done; nobody has signed the mails: whoever sends them adds a Signed-off-by"
