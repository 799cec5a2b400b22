"""The command line: `sandboxrun`, and `python -m sandboxrun`."""

import gc
import sys

gc.set_threshold(100_000, 20, 20)  # imports make 50,000 objects that stay: to look through them takes 10 to 20 ms

try:
    from sandboxrun.cli.main import main
except KeyboardInterrupt:  # ^C while the modules are still being read
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
