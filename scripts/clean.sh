#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# clean.sh: remove all that can be made again.

. "$(dirname "$0")/common.sh"

if [ -d "$CACHE" ]; then
	cache_lock
fi
for dir in "$OUT" "$CACHE"; do
	if [ -d "$dir" ]; then
		say "remove $dir ($(du -sh "$dir" | cut -f 1))"
		rm -rf "$dir"
	fi
done
