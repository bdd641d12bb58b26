# SPDX-License-Identifier: GPL-2.0
# Device-exclusive memory: a patch series on Linux, and what proves it.

# A KERNEL=dir is meant from where make was called, also with make -C.
from := $(or $(PWD),$(CURDIR))
ifneq ($(KERNEL),)
override KERNEL := $(if $(filter /%,$(KERNEL)),$(KERNEL),$(from)/$(KERNEL))
endif
export KERNEL ARCH BASE TESTS MAILS MINUTES SEED STEPS BREAK CHECKS ROWS

VERBS := demo test test-upstream test-debug test-series test-configs coverage
VERBS += stress kunit bench shell lint series apply release-check clean

.PHONY: help $(VERBS)

help:
	@echo 'make demo              patch, build and boot the kernel, and show what it does'
	@echo 'make test              run all tests in a VM'
	@echo 'make test-upstream     run the kernel'\''s own mm tests on both kernels, and compare'
	@echo 'make test-debug        run the tests on kernels that look for more mistakes'
	@echo 'make test-series       build and boot the kernel with each mail of the series'
	@echo 'make test-configs      build it with and without each of its options'
	@echo 'make coverage          run all tests, and say which lines of the series ran'
	@echo 'make stress            everything at once and at random, against a model'
	@echo 'make kunit             run the KUnit tests, in user-mode Linux'
	@echo 'make bench             measure the unpatched and the patched kernel'
	@echo 'make shell             a shell in that VM, with the module loaded'
	@echo 'make lint              check the patches, the code and the scripts'
	@echo 'make series            write the mails to out/series, and check them'
	@echo 'make apply KERNEL=dir  put the series onto your kernel tree as commits'
	@echo 'make release-check     all of that, and one table (many hours)'
	@echo 'make clean             remove out/ and the cache'
	@echo
	@echo 'BASE=1                 the unpatched kernel (demo, test, stress, shell)'
	@echo 'ARCH=x86_64 or arm64   the architecture; without it, that of this machine'
	@echo 'KERNEL=dir             your Linux 7.3 tree rather than Debian'\''s; it is only'
	@echo '                       read, except by make apply'
	@echo "TESTS='fork:*'         the tests with such names (test*, kunit)"
	@echo "MAILS='0001*'          the mails with such names (test-series)"
	@echo 'MINUTES=n SEED=s       how long, and which steps (stress)'
	@echo "ROWS='test*'           these rows of the table (release-check)"

$(VERBS):
	@scripts/$@.sh
