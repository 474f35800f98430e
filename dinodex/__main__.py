"""`python -m dinodex`, and the console script `dinodex`: the command line."""

import os
import sys


def main() -> None:
    """Import the command line and run it; Ctrl-C meanwhile ends it as later on, without a trace."""
    try:
        from dinodex.cli import main as run
    except KeyboardInterrupt:
        print("dinodex: interrupted", file=sys.stderr)  # noqa: T201 - this is the terminal
        sys.exit(130)  # `exits.INTERRUPTED`, which is what was not imported
    run()


if __name__ == "__main__":
    # `python -m` looks for modules in the current directory first, and beside pictures there may lie a random.py. Where it is a
    # checkout, it is where dinodex was found.
    if not sys.flags.safe_path and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH109, PTH120 - nothing else is imported from there
        del sys.path[0]
    main()
