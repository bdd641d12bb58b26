#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""coverage.py TREE BUILD COLLECTED REASONS: which of the lines that the series
has written in TREE have run. BUILD is the kernel's build with gcov, and the file
COLLECTED what init in the VM has sent of debugfs. Prints a table, and each line
that has not run with the reason for it in the file REASONS. A line without a
reason is a failure, and so is a reason without such a line, and a total below
LEAST per cent. The last line is how many checks there were: the files, of which
those that are not in this kernel are skipped, and the totals.

What counts are the lines that the compiler has made code of. Where lines of a
header are part of several objects, it is enough that one of them has run.
"""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

from series_lines import series_lines

LEAST = 95      # per cent
MAIN = 'mm/device_exclusive.c'  # which has to reach that by itself as well
TESTS = ('mm/tests/', 'tools/')  # run, of course

ENTRY = re.compile(r'(\S+?):(\S+): (.+?)  # (.+)')
WHOLE = re.compile(r'(\S+): \*  # (.+)')
# The line of a function's definition that has its name
DEFINITION = re.compile(r'(?=[A-Za-z_])[^;={]*?\b(?!__attribute__)(\w+)\(')

# A line of the source as REASONS names it: without a number, which would change
Line = collections.namedtuple('Line', 'file function text')


def unpack(collected, build, work):
    """The names without .gcda of what gcov has counted, as in BUILD; the files
    themselves, and the .gcno of BUILD that belong to them, are then in WORK."""
    names = []
    if not os.path.exists(collected):
        sys.exit(f'{collected} is missing; the VM has to get to its end')
    with open(collected, 'rb') as file:
        while (header := file.readline()) != b'end\n':
            match = re.fullmatch(rb'(\d+) (.+)\n', header)
            data = file.read(int(match.group(1))) if match else b''
            if not match or len(data) != int(match.group(1)):
                sys.exit(f'{collected} is not complete; the VM has to get to its end')
            path = match.group(2).decode()
            if not path.endswith('.gcda'):
                continue
            _, known, name = path[:-5].rpartition(f'/{os.path.basename(build)}/')
            if not known:
                sys.exit(f'{path} does not belong to {build}')
            target = os.path.join(work, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target + '.gcda', 'wb') as out:
                out.write(data)
            os.symlink(f'{build}/{name}.gcno', target + '.gcno')
            names.append(name)
    return names


def count(collected, build, tree):
    """How often each line has run: {file: {line: count}}"""
    counts = collections.defaultdict(collections.Counter)
    gcov = os.environ.get('CROSS_COMPILE', '') + 'gcov'
    with tempfile.TemporaryDirectory() as work:
        for name in unpack(collected, build, work):
            run = subprocess.run(
                [gcov, '--json-format', '--stdout', name + '.gcda'], cwd=work,
                check=False, capture_output=True, text=True)
            # It goes on without counts that are of another build.
            if run.returncode or run.stderr:
                sys.exit(f'{gcov} of {name}: {run.stderr.strip()}')
            for file in json.loads(run.stdout)['files']:
                path = os.path.join(build, file['file'])
                path = os.path.relpath(path, tree)
                for line in file['lines']:
                    counts[path][line['line_number']] += line['count']
    if not counts:
        sys.exit(f'{collected} has nothing that gcov has counted')
    return counts


def source(tree, path):
    """{number: Line} of a file"""
    lines = {}
    function = '-'
    with open(os.path.join(tree, path), errors='replace') as file:
        for number, text in enumerate(file, 1):
            text = text.rstrip()
            definition = DEFINITION.match(text)
            if definition and not text.endswith(';'):
                function = definition.group(1)
            lines[number] = Line(path, function, ' '.join(text.split()))
            if text.startswith('}'):
                function = '-'
    return lines


class Reasons:
    """What the file REASONS says"""

    def __init__(self, path):
        self.path = path
        self.whole = {}
        # Two lines of one function may read the same: then each has an entry.
        self.lines = collections.defaultdict(list)
        with open(path) as file:
            for number, text in enumerate(file, 1):
                text = text.rstrip('\n')
                if not text or text.startswith('#'):
                    continue
                if whole := WHOLE.fullmatch(text):
                    self.whole[whole.group(1)] = whole.group(2)
                elif entry := ENTRY.fullmatch(text):
                    line = Line(*entry.groups()[:3])
                    self.lines[line].append(entry.group(4))
                else:
                    sys.exit(f'{path}:{number} is not as "FILE:FUNCTION: TEXT'
                             '  # REASON" or "FILE: *  # REASON"')


class Report:
    """What is printed, and the totals"""

    def __init__(self, reasons):
        self.reasons = reasons
        self.passed = 0
        self.skipped = 0
        self.failures = []
        self.totals = {MAIN: [0, 0], 'all files': [0, 0]}
        self.not_covered = []

    def row(self, what, lines, covered):
        tenths = 1000 * covered // lines if lines else 0
        print(f'{what:<40} {lines:>7} {covered:>8} {tenths // 10:>6}.{tenths % 10}')

    def file(self, path, lines, counts):
        """LINES are those of the file that count: {number: Line}"""
        covered = sum(counts[number] > 0 for number in lines)
        self.row(path, len(lines), covered)
        for what in {path, 'all files'} & self.totals.keys():
            self.totals[what][0] += len(lines)
            self.totals[what][1] += covered
        known = len(self.failures)
        for number, line in sorted(lines.items()):
            if counts[number]:
                continue
            if self.reasons.lines[line]:
                reason = self.reasons.lines[line].pop(0)
            else:
                reason = 'NO REASON'
                self.failures.append(
                    f'{path}:{number} has not run, and there is no reason:'
                    f' {line.file}:{line.function}: {line.text}')
            self.not_covered.append((number, line, reason))
        if len(self.failures) == known:
            self.passed += 1

    def not_counted(self, path, changed):
        """A file of whose changed lines none counts"""
        reason = self.reasons.whole.pop(path, None)
        if reason:
            self.skipped += 1
            print(f'    {path}, {changed} lines: {reason}')
        else:
            self.failures.append(f'none of the {changed} lines of {path} is'
                                 ' counted, and there is no reason')

    def end(self):
        print('Not covered:')
        for number, line, reason in self.not_covered:
            print(f'    {line.file}:{number}, {line.function}: {line.text}\n'
                  f'        {reason}')
        for path in self.reasons.whole:
            self.failures.append(f'{path} has a reason why none of its lines'
                                 ' counts, which is not so')
        for line, left in self.reasons.lines.items():
            for _ in left:
                self.failures.append(
                    f'{line.file}:{line.function}: {line.text} has a reason,'
                    ' but there is no such line that counts and has not run')
        for what, (lines, covered) in self.totals.items():
            if lines and 100 * covered >= LEAST * lines:
                self.passed += 1
            else:
                self.failures.append(f'{covered} of {lines} lines have run in'
                                     f' {what}, which is less than {LEAST} %')
        for failure in self.failures:
            print('FAILED:', failure)
        print(f'{self.passed} passed, {len(self.failures)} failed,'
              f' {self.skipped} skipped')
        return 1 if self.failures else 0


def main():
    tree, build, collected, reasons = sys.argv[1:]
    counts = count(collected, build, tree)
    report = Report(Reasons(reasons))
    absent = []
    print(f'{"lines of the series":<40} {"counted":>7} {"covered":>8} {"%":>8}')
    for path, changed in sorted(series_lines(tree).items()):
        if not changed or path.startswith(TESTS):
            continue
        lines = {number: line for number, line in source(tree, path).items()
                 if number in changed and number in counts[path]}
        if lines:
            report.file(path, lines, counts[path])
        else:
            absent.append((path, len(changed)))
    report.row('all files', *report.totals['all files'])
    print('Not counted:')
    for path, changed in absent:
        report.not_counted(path, changed)
    return report.end()


if __name__ == '__main__':
    sys.exit(main())
