"""The command line: `pm-gplvm`, or `python -m pm_gplvm`."""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich import reconfigure

from pm_gplvm.commands.arguments import HOME, parse


def run(argv: Sequence[str] | None = None) -> int:
    """Do what is asked for: an exit code; errors are raised."""
    options = parse(argv)
    module = import_module(f"pm_gplvm.commands.{HOME[options.command]}")
    from pm_gplvm.commands.inputs import check_options
    from pm_gplvm.commands.outputs import Declined, listed
    from pm_gplvm.commands.wording import in_options_of

    written: list[Path] = []
    try:
        with in_options_of(options.command):
            check_options(options)
            code: int = getattr(module, options.command)(options, written)
    except Declined:
        print("Nothing was changed.")
        return 1
    except KeyboardInterrupt:
        print("Interrupted. " + listed(written), file=sys.stderr)
        return 130
    return code


def main() -> None:
    """Run, and print errors and warnings as one sentence each."""
    warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
    warnings.filterwarnings("ignore", category=FutureWarning)  # for who writes programs
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window is opened
    reconfigure(stderr=True)  # progress
    try:
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:  # what reads stdout, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (OSError, ImportError, TypeError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
