"""`python -m dinodex`: the command line."""

from dinodex.cli import main

main()
