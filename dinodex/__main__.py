"""`python -m dinodex`: the command line."""

import os
import sys

# `python -m` looks for modules in the current directory first, and beside pictures there may lie a random.py. Where it is a checkout,
# it is where dinodex was found.
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):  # noqa: PTH109, PTH120 - nothing else is imported from there
    del sys.path[0]

from dinodex.cli import main

main()
