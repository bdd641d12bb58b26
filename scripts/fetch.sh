#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# fetch.sh PACKAGE ARCHITECTURE SUITE...: fetch a Debian package from the first
# SUITE that has it and print the path of the .deb. It comes from the mirror
# that this machine uses, and apt verifies it with the key of the Debian
# archive; lists and packages are kept in the cache, and neither apt's
# configuration nor its state is touched.

. "$(dirname "$0")/common.sh"

package=$1
architecture=$2
shift 2

KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
APT=$CACHE/apt
log=$OUT/fetch-$package.log
elsewhere="or set KERNEL=dir to a Linux $SERIES_VERSION source tree"

command -v apt-get >/dev/null ||
	die "this is not a Debian system, so $package cannot be fetched; set KERNEL=dir to a Linux $SERIES_VERSION source tree"
[ -r "$KEYRING" ] ||
	die "$KEYRING is missing; install the package debian-archive-keyring, $elsewhere"

# own_suite: "<suite> <mirror>" that this machine's own packages come from.
own_suite() {
	local codename

	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
	# shellcheck disable=SC2016 # apt-get fills these in
	apt-get indextargets --no-release-info \
		--format '$(IDENTIFIER) $(COMPONENT) $(RELEASE) $(REPO_URI)' |
		awk -v codename="$codename" '
			$1 == "Packages" && $2 == "main" && $4 !~ /^cdrom:/ &&
			($3 == codename || $3 == "sid" ||
			 $3 ~ /^(oldstable|stable|testing|unstable)$/) {
				print $3, $4
				exit
			}'
}

# apt-get with a configuration, state and cache of its own
apt=(apt-get
	-o "Dir::State=$APT/state"
	-o "Dir::State::status=$APT/status"
	-o "Dir::Cache=$APT/cache"
	-o "Dir::Etc::sourcelist=$APT/sources.list"
	-o Dir::Etc::sourceparts=/dev/null
	-o Dir::Etc::preferences=/dev/null
	-o Dir::Etc::preferencesparts=/dev/null
	-o "APT::Architecture=$architecture"
	-o "APT::Architectures=$architecture"
	-o Acquire::Languages=none
	-o Acquire::Retries=2)
if [ "$(id -u)" -eq 0 ]; then
	apt+=(-o APT::Sandbox::User=root)
fi

read -r own mirror < <(own_suite) ||
	die "apt on this machine has no Debian mirror configured; add one, $elsewhere"
mkdir -p "$OUT" "$CACHE/download" "$APT/state/lists/partial" \
	"$APT/cache/archives/partial"
: >"$APT/status"
for suite; do
	if [ "$suite" = own ]; then
		suite=$own
	fi
	say "look for $package in Debian $suite on $mirror"
	echo "deb [signed-by=$KEYRING] $mirror $suite main" >"$APT/sources.list"
	rm -rf "$APT/download"
	mkdir -p "$APT/download"
	if ! "${apt[@]}" update --error-on=any >"$log" 2>&1 ||
		! "${apt[@]}" download --print-uris "$package" \
			>>"$log" 2>&1; then
		continue
	fi
	progress "fetch $package" "$log" \
		env -C "$APT/download" "${apt[@]}" download "$package"
	deb=$(ls "$APT/download")
	(cd "$APT/download" && sha256sum "$deb" >"$CACHE/download/$deb.sha256")
	mv "$APT/download/$deb" "$CACHE/download/$deb"
	printf '%s\n' "$CACHE/download/$deb"
	exit 0
done
reason=$(grep -m 1 -E '^(E|W):' "$log" || true)
die "cannot fetch $package from $mirror (${reason:-see $log}); check the network, $elsewhere"
