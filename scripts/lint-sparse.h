/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What sparse 0.6.4 needs to read Linux 7.3. Without the first macro the
 * kernel's makefile takes this sparse for too old and does not run it at all.
 */
#ifdef __CHECKER__

#define __typeof_unqual__ __typeof__
#define __builtin_strlen(s) (sizeof(s) - 1)

/*
 * Once it has found an error, sparse gives no more warnings. On x86 there is
 * one early in mm/memory.c, which includes this file a second time for it.
 */
#ifdef __LINUX_KCONFIG_H
#include <linux/pgtable.h>
#ifdef CONFIG_X86_64
#undef pgd_clear
#define pgd_clear(pgd) native_pgd_clear(pgd)
#endif
#endif

#endif
