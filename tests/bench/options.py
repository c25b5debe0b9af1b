"""What the command lines of compare.sh and goals.sh have in common, and what is refused before
anything is installed, built or measured."""

import os
import sys

import report
from steps import say


def add_shared(p):
    p.add_argument("--dir", default=os.environ.get("TMPDIR") or "/tmp",
                   help="where the data goes, in a new folder that is removed at the end "
                        "(default: TMPDIR or /tmp)")
    p.add_argument("--bin", help="a built replog (default: builds the release preset)")
    p.add_argument("--skip-install", action="store_true", help="take the machine as it is")


def chosen(p, only, known, default, kind):
    """The names of --only; without it the default."""
    names = default if only is None else only.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        p.error(f"no {kind} is named '{unknown[0]}'")
    return names


def refuse(who, why):
    say(f"{who}: {why}")
    sys.exit(2)


def refuse_bad_places(who, o, memory_will_do=False):
    if not os.path.isdir(o.dir) or not os.access(o.dir, os.W_OK | os.X_OK):
        refuse(who, f"{o.dir} is no folder that can be written to: use --dir")
    if not memory_will_do and report.file_system(o.dir).startswith("tmpfs"):
        refuse(who, f"{o.dir} is in memory, where nothing is durable: use --dir")
    for program in ("replog", "replogd") if o.bin else ():
        if not os.access(os.path.join(o.bin, program), os.X_OK):
            refuse(who, f"{o.bin} has no {program} that can be run: use --bin")
