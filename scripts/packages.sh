#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# packages.sh GROUP...: install the Debian packages that are missing. Groups:
# build, clang, kunit, coverage, lint, bench, and x86_64 or arm64 (to build for it
# and run it).

. "$(dirname "$0")/common.sh"

packages=()
commands=()
for group; do
	case $group in
	build)
		packages+=(git ca-certificates build-essential flex bison bc
			libelf-dev libssl-dev xz-utils ccache)
		commands+=(git make gcc flex bison bc xz ccache)
		;;
	x86_64)
		packages+=(qemu-system-x86)
		commands+=(qemu-system-x86_64)
		if [ "$(host_arch)" != x86_64 ]; then
			packages+=(gcc-x86-64-linux-gnu libc6-dev-amd64-cross)
			commands+=(x86_64-linux-gnu-gcc)
		fi
		;;
	arm64)
		packages+=(qemu-system-arm)
		commands+=(qemu-system-aarch64)
		if [ "$(host_arch)" != arm64 ]; then
			packages+=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross)
			commands+=(aarch64-linux-gnu-gcc)
		fi
		;;
	bench)
		packages+=(gnuplot-nox python3)
		commands+=(gnuplot python3)
		;;
	clang)
		packages+=(clang-19 lld-19 llvm-19)
		commands+=(clang-19 ld.lld-19 llvm-nm-19)
		;;
	kunit)
		packages+=(python3)
		commands+=(python3)
		;;
	lint)
		packages+=(sparse codespell shellcheck python3 perl)
		commands+=(sparse codespell shellcheck python3 perl)
		;;
	*)
		die "packages.sh: no group is called $group"
		;;
	esac
done
[ ${#packages[@]} -gt 0 ] || die "usage: packages.sh GROUP..."

missing=()
if ! command -v dpkg-query >/dev/null; then
	for command in "${commands[@]}"; do
		command -v "$command" >/dev/null || missing+=("$command")
	done
	[ ${#missing[@]} -eq 0 ] ||
		die "install these commands and run this again: ${missing[*]}"
	exit 0
fi

declare -A installed=()
while read -r status package; do
	if [ "$status" = installed ]; then
		installed[$package]=1
	fi
done < <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' \
	"${packages[@]}" 2>/dev/null || true)
for package in "${packages[@]}"; do
	[ -n "${installed[$package]:-}" ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi

install=(apt-get install -y --no-install-recommends "${missing[@]}")
as_root=(env DEBIAN_FRONTEND=noninteractive)
if [ "$(id -u)" -ne 0 ]; then
	say "packages are missing: ${missing[*]}"
	# sudo may ask for the password only where somebody can type it.
	if [ -t 0 ] && command -v sudo >/dev/null; then
		sudo -v || true
	fi
	sudo -n true 2>/dev/null ||
		die "run this as root, then try again: apt-get update && ${install[*]}"
	as_root=(sudo "${as_root[@]}")
fi
progress "read the package lists" "$OUT/packages.log" \
	"${as_root[@]}" apt-get update
progress "install ${missing[*]}" "$OUT/packages.log" \
	"${as_root[@]}" "${install[@]}"
