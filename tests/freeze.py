"""Write the frozen numbers that test_golden.py holds the package to.

    python tests/freeze.py                    what has changed; writes nothing
    python tests/freeze.py --write NAME ...   these verbs, or single cases of them
    python tests/freeze.py --write all

Only where a change of numbers is meant: the commit then says which and why. After a refactoring
that changes no number there is nothing to write, and a new version of a dependency is no reason
by itself: look first at what has moved.
"""

import argparse
import sys

from golden.cases import CASES
from golden.files import FOLDER, changes, read, write


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", help="of verbs or cases; all by default when not writing"
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write and not options.names:
        parser.error("--write needs names of verbs or cases, or 'all'")
    everything = set(options.names) <= {"all"}
    known = {*CASES, *(case.verb for case in CASES.values())}
    if not everything and (unknown := set(options.names) - known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}. Known: {', '.join(sorted(known))}")
    frozen = {verb: read(verb) for verb in {case.verb for case in CASES.values()}}
    chosen = {
        name: case
        for name, case in CASES.items()
        if everything or {name, case.verb} & set(options.names)
    }
    for name, case in chosen.items():
        arrays = case.make()
        for line in changes(arrays, frozen[case.verb].get(name, {}), case.rtol):
            sys.stdout.write(f"{name}: {line}\n")
        frozen[case.verb][name] = arrays
    if options.write:
        for verb in {case.verb for case in chosen.values()}:
            write(verb, {name: v for name, v in frozen[verb].items() if name in CASES})
        if everything:
            for path in FOLDER.glob("*.json"):
                if path.stem not in frozen:
                    path.unlink()


if __name__ == "__main__":
    main()
