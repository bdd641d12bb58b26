# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# shellcheck disable=SC2034 # those who source this use what it sets
# Sourced by every script: messages, paths, and what the user asked for.

set -euo pipefail
export LC_ALL=C

# What `make` was told for its own run is not for the makes that we start.
unset MAKEFLAGS MFLAGS MAKEOVERRIDES MAKELEVEL

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=$TOP/out

# The kernel that is tested, and the patches that go with it.
SERIES_VERSION=7.3
TESTED_VERSION=7.3.4
PATCHES=$TOP/patches/$SERIES_VERSION

# Everything that can be made again lives here; `make clean` removes it.
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/device-exclusive

say() {
	printf '==> %s\n' "$*" >&2
}

note() {
	printf 'note: %s\n' "$*" >&2
}

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# progress LABEL LOG COMMAND...: run a long command with its output in LOG and
# one line that counts what it has done; show the end of LOG if it fails.
progress() {
	local label=$1 log=$2 start=$SECONDS status=0 lines=0 pid
	shift 2

	mkdir -p "$(dirname "$log")"
	: >"$log"
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# What runs in the background does not get the Ctrl-C.
	trap 'kill "$pid" 2>/dev/null; exit 130' INT TERM
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		lines=$(wc -l <"$log")
		if [ -t 2 ]; then
			printf '\r    %s: %d s, %d steps ' "$label" \
				$((SECONDS - start)) "$lines" >&2
		elif [ $(((SECONDS - start) % 60)) -eq 0 ]; then
			printf '    %s: %d s, %d steps\n' "$label" \
				$((SECONDS - start)) "$lines" >&2
		fi
	done
	wait "$pid" || status=$?
	trap - INT TERM
	if [ -t 2 ]; then
		printf '\r\033[K' >&2
	fi
	if [ "$status" -ne 0 ]; then
		grep -E -i -B2 -A10 '(error|fatal|undefined reference|No rule|Error [0-9]+)' \
			"$log" | tail -n 40 >&2 || tail -n 40 "$log" >&2
		die "$label failed after $((SECONDS - start)) s; all of its output: $log"
	fi
	say "$label: done in $((SECONDS - start)) s"
}

# need_space DIR GIB WHAT: fail early when a file system is too full for WHAT.
need_space() {
	local have

	mkdir -p "$1"
	have=$(df --output=avail -BG "$1" | tail -n 1 | tr -dc '0-9')
	[ "$have" -ge "$2" ] ||
		die "$3 needs $2 GiB in $1 and $have GiB are free; make room, or set XDG_CACHE_HOME to a larger disk"
}

# splats FILE: the lines of FILE in which the kernel complains
splats() {
	grep -a -E -f <(sed '/^#/d; /^$/d' "$TOP/scripts/vm/splats") "$1" |
		tr -d '\r' || true
}

# verdicts KTAP: one line for each test of it: pass, fail or skip, and its name.
# One that has begun and has no result is where the kernel died.
verdicts() {
	awk '
		function result(what, name) {
			if (!seen[what, name]++)
				print what, name
			running = ""
		}
		function died() {
			if (running != "")
				result("fail", running)
		}
		/^KTAP / { died() }
		/^    # Subtest: / { program = $3 }
		/^    # RUN / { running = $3 }
		/^    not ok [0-9]+ / { result("fail", program ":" $4) }
		/^    ok [0-9]+ / {
			result(/ # SKIP/ ? "skip" : "pass", program ":" $3)
		}
		END { died() }' "$1"
}

# totals LOG...: the sum of the totals that end these logs. One that has none is a
# failure.
totals() {
	local log

	for log; do
		tail -n 1 "$log" |
			grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' ||
			echo "0 passed, 1 failed, 0 skipped"
	done | awk '
		{ p += $1; f += $3; s += $5 }
		END { print p " passed, " f " failed, " s " skipped" }'
}

# Two runs at once must not build in the same place. The scripts that a
# script runs meanwhile go by its lock.
cache_lock() {
	if [ -n "${DX_LOCKED:-}" ]; then
		return
	fi
	mkdir -p "$CACHE"
	exec 9>"$CACHE/lock"
	if ! flock -n 9; then
		note "another run is using $CACHE; waiting for it"
		flock 9
	fi
	export DX_LOCKED=1
}

cache_unlock() {
	exec 9>&-
	unset DX_LOCKED
}

# The name of the kernel's directory in the cache; `debian` is the version of
# the package that has been fetched.
kernel_id() {
	if [ -n "${KERNEL:-}" ]; then
		printf 'tree-%s\n' "$(realpath "$KERNEL" | sha256sum | head -c 12)"
	elif [ -r "$CACHE/debian-version" ]; then
		cat "$CACHE/debian-version"
	else
		echo "$TESTED_VERSION"
	fi
}

host_arch() {
	uname -m | sed 's/aarch64/arm64/'
}

ARCH=${ARCH:-$(host_arch)}
case $ARCH in
x86_64|x86)
	ARCH=x86_64
	;;
arm64|aarch64)
	ARCH=arm64
	;;
*)
	die "ARCH=$ARCH is not known; it is x86_64 or arm64"
	;;
esac

# Which of the two kernels: "patched" or, with BASE=1, "base". The third, "steps",
# is for test-series.sh: what its tree is at, with some of the mails.
case ${BASE:-0} in
0|'')
	FLAVOUR=patched
	;;
1)
	FLAVOUR=base
	;;
steps)
	FLAVOUR=steps
	;;
*)
	die "BASE=$BASE is not known; it is 1 for the unpatched kernel, or unset"
	;;
esac
export ARCH FLAVOUR

case $CACHE in
*[[:space:]:]*)
	die "the cache $CACHE has a space or colon in its name, which kernel builds cannot take; set XDG_CACHE_HOME to another directory"
	;;
esac

if [ -n "${KERNEL:-}" ] && [ ! -d "$KERNEL" ]; then
	die "KERNEL=$KERNEL is not a directory; it must be a Linux $SERIES_VERSION source tree"
fi
