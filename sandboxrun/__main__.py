"""The command line: `sandboxrun`, and `python -m sandboxrun`."""

import gc
import sys

gc.set_threshold(50_000, 20, 20)  # imports make objects that stay: looking through them is a tenth of a start

try:
    from sandboxrun.cli.main import main
except KeyboardInterrupt:  # ^C while the modules are still being read
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
