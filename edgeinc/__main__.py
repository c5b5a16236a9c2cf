"""`python -m edgeinc`: the command line for a Python whose scripts are not on PATH."""

from edgeinc.cli import main

if __name__ == "__main__":
    main()
