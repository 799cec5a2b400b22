"""`python -m sandboxrun`: the command line."""

import sys

from sandboxrun.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
