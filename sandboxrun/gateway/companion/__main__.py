"""`python -m sandboxrun.gateway.companion`, and what the image runs. Owns the step into the program."""

import sys

from sandboxrun.gateway.companion.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
