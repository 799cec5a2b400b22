"""The command line: `sandboxrun`, and `python -m sandboxrun`."""

import sys

try:
    from sandboxrun.cli.main import main
except KeyboardInterrupt:  # ^C while the modules are still being read
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
