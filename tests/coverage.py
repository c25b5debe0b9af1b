"""Adds up what gcov counted in a build directory: lines of src/, server/ and client/, by file.
usage: coverage.py BUILD [FILE]    FILE: its lines that were not reached, instead"""
import glob
import json
import os
import subprocess
import sys


def counts(build, root):
    """{file: {line: times}} over all object files; a line of a header counts where it is used."""
    found = {}
    for data in glob.glob(os.path.join(build, '**', '*.gcda'), recursive=True):
        out = subprocess.run(['gcov', '--json-format', '--stdout', os.path.abspath(data)],
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=False,
                             cwd=os.path.dirname(os.path.abspath(data)))
        for text in out.stdout.decode().splitlines():
            report = json.loads(text)
            where = report.get('current_working_directory', '.')
            for item in report['files']:
                path = os.path.relpath(os.path.join(where, item['file']), root)
                if not path.startswith(('src/', 'server/', 'client/')):
                    continue
                lines = found.setdefault(path, {})
                for line in item['lines']:
                    number = line['line_number']
                    lines[number] = lines.get(number, 0) + line['count']
    return found


def percent(reached, total):
    return 100.0 * reached / total if total else 100.0


def main():
    build, root = sys.argv[1], os.getcwd()
    found = counts(build, root)
    if not found:
        sys.exit(f'coverage.py: {build} holds no counts')
    if len(sys.argv) > 2:
        lines = found.get(os.path.relpath(sys.argv[2], root), {})
        text = open(sys.argv[2]).read().splitlines()
        for number in sorted(n for n, times in lines.items() if times == 0):
            print(f'{number:5} {text[number - 1]}')
        return
    sums = {}
    for path in sorted(found):
        lines = found[path]
        reached = sum(1 for times in lines.values() if times)
        part = path.split('/')[0]
        total = sums.setdefault(part, [0, 0])
        total[0] += reached
        total[1] += len(lines)
        print(f'{percent(reached, len(lines)):6.1f} %  {reached:5} of {len(lines):5}  {path}')
    for part, (reached, total) in sums.items():
        print(f'{percent(reached, total):6.1f} %  {reached:5} of {total:5}  {part}/ in all')


main()
