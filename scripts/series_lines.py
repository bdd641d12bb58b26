# SPDX-License-Identifier: GPL-2.0
"""What the series has written in a tree of the kernel."""
import collections
import re
import subprocess


def series_lines(tree):
    """The lines of TREE that the series has added or changed: {file: {line}}"""
    lines = collections.defaultdict(set)
    file = None
    # Whatever the user has set up for git
    diff = subprocess.run(
        ['git', '-C', tree, 'diff', '-U0', '--no-ext-diff', '--no-color',
         '--no-renames', '--dst-prefix=b/', 'pristine', 'HEAD', '--', '*.[ch]'],
        check=True, stdout=subprocess.PIPE, text=True,
        errors='replace').stdout
    for text in diff.splitlines():
        if text.startswith('+++ b/'):
            file = text[6:]
        hunk = re.match(r'@@ -\S+ \+(\d+)(?:,(\d+))? @@', text)
        if hunk:
            first = int(hunk.group(1))
            lines[file].update(range(first, first + int(hunk.group(2) or 1)))
    return lines
