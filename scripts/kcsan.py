#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""kcsan.py CONSOLE BUILD TREE: the data races that KCSAN has reported in the
file CONSOLE, when the kernel BUILD/vmlinux of TREE ran. Prints one line for each:
"series" or "other", how often it was seen, the two functions, and where they
are. A race is one of the series if the access, or the call that made it, is on
a line that the series has written, or in a module that is not the kernel's.
"""
import collections
import re
import subprocess
import sys

from series_lines import series_lines

FRAME = re.compile(r'^\s*([A-Za-z_][\w.]*)\+0x([0-9a-f]+)/0x[0-9a-f]+(?: \[(\w+)\])?')
ACCESS = re.compile(r' to 0x[0-9a-f]+ of \d+ bytes by ')
DEPTH = 2       # frames of each access: it, and who called


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE,
                          text=True).stdout


class Kernel:
    def __init__(self, build, tree):
        self.vmlinux = build + '/vmlinux'
        self.tree = tree
        self.symbols = collections.defaultdict(list)
        for line in run('nm', self.vmlinux).splitlines():
            address, kind, name = re.match(r'(\w*) +(\S) (.*)', line).groups()
            if kind in 'tTwW':
                self.symbols[name].append(int(address, 16))

    def places(self, name, offset):
        """[file:line] of an address, from the innermost inlined function out"""
        found = []
        for address in self.symbols[name]:
            # Of a return address, the call
            text = run('addr2line', '-i', '-e', self.vmlinux,
                       hex(address + offset - 1))
            for line in text.splitlines():
                path, _, number = line.partition(' ')[0].rpartition(':')
                path = path.replace('/./', '/')
                if self.tree in path:
                    path = path.split(self.tree + '/', 1)[1]
                while path.startswith('../'):
                    path = path[3:]
                found.append((path, int(number) if number.isdigit() else 0))
        if not found or found[0][0] == '??':
            sys.exit(f'{self.vmlinux} does not say where {name} is')
        return found


def reports(console):
    """[(title, [[frame of the first access], [of the second]])]"""
    title, stacks = None, []
    with open(console, errors='replace') as file:
        for line in file:
            line = re.sub(r'^\[[^]]*\] ?', '', line.rstrip('\r\n'))
            if 'BUG: KCSAN: ' in line:
                title, stacks = line.split('BUG: KCSAN: ', 1)[1], []
            elif title and line.startswith('======'):
                yield title, stacks
                title = None
            elif title and ACCESS.search(line):
                stacks.append([])
            elif title and stacks and FRAME.match(line):
                stacks[-1].append(FRAME.match(line).groups())


def main():
    console, build, tree = sys.argv[1:]
    lines = series_lines(tree)
    kernel = Kernel(build, tree)
    seen = collections.Counter()
    for title, stacks in reports(console):
        ours = not stacks
        where = []
        for stack in stacks:
            for depth, (name, offset, module) in enumerate(stack[:DEPTH]):
                if module:
                    ours = True
                    continue
                places = kernel.places(name, int(offset, 16))
                ours |= any(line in lines[file] for file, line in places)
                if places and not depth:
                    where.append('%s:%d' % places[0])
        seen['series' if ours else 'other', title, ' '.join(where)] += 1
    for (whose, title, where), count in sorted(seen.items()):
        print(f'{whose} {count}x {title} ({where})')


if __name__ == '__main__':
    main()
