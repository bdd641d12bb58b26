#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# shell.sh: a shell in the VM of ARCH and BASE, with the module loaded.

. "$(dirname "$0")/common.sh"

"$TOP/scripts/build.sh"

out=$OUT/$FLAVOUR-$ARCH
busybox=$CACHE/busybox-$ARCH
cache_lock
if [ ! -e "$busybox" ]; then
	if command -v apt-get >/dev/null; then
		deb=$("$TOP/scripts/fetch.sh" busybox-static \
			"${ARCH/x86_64/amd64}" own)
		dpkg-deb --fsys-tarfile "$deb" |
			tar -xO --wildcards '*bin/busybox' >"$busybox.new"
	elif [ "$ARCH" = "$(host_arch)" ] && command -v busybox >/dev/null; then
		cp -L "$(command -v busybox)" "$busybox.new"
	else
		die "the shell needs a static busybox for $ARCH; put it at $busybox"
	fi
	mv "$busybox.new" "$busybox"
fi
"$out/gen_init_cpio" -t 0 - >"$out/busybox.cpio" <<-END
	file /bin/busybox $busybox 0755 0 0
END
cat "$out/initramfs.cpio" "$out/busybox.cpio" >"$out/shell.cpio"
cache_unlock

exec "$TOP/scripts/vm.sh" shell
