#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# vm.sh test|demo|bench|upstream|stress|shell: run in QEMU what build.sh has made
# for ARCH and BASE. All but shell print the verdict as it comes and keep it in
# test.ktap, demo.txt, stress.txt or $BENCH.txt beside the console.log; a VM that
# does not get to its end fails. TESTS=glob selects tests; AFTER=test goes on
# behind the one that an earlier VM died in, and adds to its verdict. BENCH is
# icount or smp, and STRESS has the arguments of the stress test.
# DX_VM_TIMEOUT=seconds is the time limit. CHECKS says which kernel test and
# stress run on: see test.sh. With CHECKS=coverage, the file `collected` is beside
# the verdict.

. "$(dirname "$0")/common.sh"

mode=${1:-}
out=$OUT/${CHECKS:+$CHECKS/}$FLAVOUR-$ARCH
limit=1500
# Tests that fail there run into time limits of their own.
[ "$FLAVOUR" = patched ] || limit=3000
limit=${DX_VM_TIMEOUT:-$limit}
console=$out/console.log

case $mode in
test)
	verdict=$out/test.ktap
	end='^# done$'
	;;
demo)
	verdict=$out/demo.txt
	end='^# exit [0-9]+$'
	;;
bench)
	out=$OUT/bench/$FLAVOUR-$ARCH
	console=$out/console.log
	verdict=$out/$BENCH.txt
	end='^# exit [0-9]+$'
	;;
upstream)
	out=$OUT/upstream/$FLAVOUR-$ARCH
	console=$out/console.log
	verdict=$out/test.ktap
	end='^# done$'
	;;
stress)
	verdict=$out/stress.txt
	end='^# exit [0-9]+$'
	;;
shell)
	;;
*)
	die "usage: vm.sh test|demo|bench|upstream|stress|shell"
	;;
esac
case ${TESTS:-} in
*[\"\'\ ]*)
	die "TESTS=$TESTS has a quote or space in it; it is one glob, as TESTS='fork:*'"
	;;
esac
initramfs=$out/initramfs.cpio
if [ "$mode" = shell ]; then
	initramfs=$out/shell.cpio
fi
for file in "$out/kernel" "$initramfs"; do
	[ -r "$file" ] || die "$file is missing; run: make $mode"
done
exec 8>"$out/lock"
flock -n 8 || die "a VM with $out is running; wait until it ends"

# Never KVM: where it is offered inside of a VM, it may hang.
case $ARCH in
x86_64)
	tty=ttyS0
	cpu=max
	if [ "$mode" = bench ]; then
		# The REP string instructions that do a byte at a time would
		# count as one instruction a byte.
		cpu=max,erms=off,fsrm=off
	elif [ "$mode" = upstream ]; then
		# Whether there is memory for pages of 1 GiB is chance.
		cpu=max,pdpe1gb=off
	fi
	qemu=(qemu-system-x86_64 -machine q35 -cpu "$cpu" -vga none)
	;;
arm64)
	tty=ttyAMA0
	qemu=(qemu-system-aarch64 -machine virt -cpu "max,pauth-impdef=on")
	;;
esac
command -v "${qemu[0]}" >/dev/null ||
	die "${qemu[0]} is missing; run scripts/packages.sh $ARCH"

cmdline=("console=$tty" panic=-1 nokaslr log_buf_len=1M "VM_MODE=$mode"
	"FLAVOUR=$FLAVOUR")
memory=3072
ports=(-device virtio-serial-pci
	-chardev "file,id=verdict,path=/dev/stdout"
	-device "virtserialport,chardev=verdict,name=verdict")
tcg=(-accel "tcg,thread=multi" -smp 2)
if [ "$mode" = bench ]; then
	cmdline+=("BENCH=$BENCH" norandmaps randomize_kstack_offset=off)
	memory=4096
	if [ "$BENCH" = icount ]; then
		# One CPU, whose clock is the number of instructions
		tcg=(-accel tcg -smp 1 -icount "shift=0,sleep=off"
			-rtc "clock=vm,base=2026-01-01")
		cmdline+=(tsc=reliable)
	fi
else
	cmdline+=(numa=fake=2 hugepages=8 watchdog_thresh=30
		rcupdate.rcu_cpu_stall_timeout=60 softlockup_panic=1)
	if [ "$ARCH" = x86_64 ]; then
		# On a busy machine the timer does not come in time for the check.
		cmdline+=(no_timer_check)
	fi
fi
if [ -n "${CHECKS:-}" ]; then
	# These kernels are slow, and need memory for what they keep track of.
	memory=4096
	cmdline+=(SLOW=10 watchdog_thresh=60
		sysctl.kernel.hung_task_timeout_secs=600
		rcupdate.rcu_cpu_stall_timeout=300)
fi
case ${CHECKS:-} in
debug)
	cmdline+=(KMEMLEAK=1)
	;;
coverage)
	cmdline+=(COLLECT=/sys/kernel/debug/gcov)
	ports+=(-chardev "file,id=collected,path=$out/collected"
		-device "virtserialport,chardev=collected,name=collected")
	;;
esac
case $FLAVOUR-$mode-${CHECKS:-} in
*-shell-*|*-upstream-*|*-kcsan)
	;;
patched-*)
	cmdline+=(panic_on_warn=1)
	;;
esac
if [ "$mode" = upstream ]; then
	# Some of the tests want more than two.
	tcg=(-accel "tcg,thread=multi" -smp 4)
	memory=4096
fi
if [ "$mode" = test ] || [ "$mode" = upstream ]; then
	cmdline+=(kunit.enable=1 kunit.autorun=1)
fi
if [ -n "${TESTS:-}" ]; then
	cmdline+=("TESTS=$TESTS")
fi
if [ "$mode" = stress ]; then
	cmdline+=("STRESS=\"$STRESS\"")
fi
qemu+=("${tcg[@]}" -m "$memory" -nic none -no-reboot
	-display none -kernel "$out/kernel" -initrd "$initramfs")

if [ "$mode" = shell ]; then
	exec "${qemu[@]}" -serial mon:stdio -append "${cmdline[*]}"
fi

if [ -n "${AFTER:-}" ]; then
	cmdline+=("AFTER=$AFTER")
else
	rm -f "$console" "$verdict"
fi
start=$SECONDS
status=0
timeout --foreground --kill-after=10 "$limit" "${qemu[@]}" \
	-monitor none -chardev "file,id=console,path=$console,append=on" \
	-serial chardev:console "${ports[@]}" \
	-append "${cmdline[*]}" </dev/null 2>"$out/qemu.log" |
	tee -a "$verdict" || status=${PIPESTATUS[0]}

if tail -n 1 "$verdict" | grep -q -E "$end"; then
	say "the VM ran for $((SECONDS - start)) s"
	if [ "$mode" = demo ] || [ "$mode" = bench ] ||
		[ "$mode" = stress ]; then
		exit "$(tail -n 1 "$verdict" | tr -dc 0-9)"
	fi
	exit 0
fi

running=$(sed -n 's/^ *# RUN //p' "$verdict" | tail -n 1)
last=$(tail -n 1 "$verdict")
if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
	what="was stopped at its time limit of $limit s (DX_VM_TIMEOUT sets it)"
elif [ ! -s "$console" ]; then
	die "the VM did not start: $(tail -n 1 "$out/qemu.log")"
elif [ "${last#Bail out! }" != "$last" ]; then
	what="gave up: ${last#Bail out! }"
else
	what="died after $((SECONDS - start)) s"
fi
{
	echo "What the kernel complained about, and the end of the console:"
	{
		splats "$console"
		echo ...
		tail -n 30 "$console" | tr -d '\r'
	} | sed 's/^/    /'
} >&2
die "the VM $what${running:+, running $running}; all of its console: $console"
