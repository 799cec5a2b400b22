"""The commands of the gateway's container, and what its image runs.

    serve --at ADDRESS --rules FILE [--run FOLDER]    be the way out; SIGHUP reads the rules again
    keep                                              hold the container's volumes until told to end

Owns the command line. Both end with 0 on SIGTERM and SIGINT.
"""

from __future__ import annotations

import ipaddress
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

USAGE = "usage: gateway serve --at ADDRESS --rules FILE [--run FOLDER] | gateway keep"
RUN = "/run/gateway"
ENDING = {signal.SIGTERM, signal.SIGINT}


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; the exit code."""
    match list(arguments):
        case ["serve", "--at", address, "--rules", path]:
            return serve(address, path, RUN)
        case ["serve", "--at", address, "--rules", path, "--run", folder]:
            return serve(address, path, folder)
        case ["keep"]:
            return keep()
    print(USAGE, file=sys.stderr)
    return 2


def keep() -> int:
    """Wait. As a container's first process it would not be ended by a signal that it does not wait for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    signal.sigwait(ENDING)
    return 0


def serve(address: str, path: str, folder: str) -> int:
    """Serve until told to end."""
    from sandboxrun.gateway.companion.gateway import Gateway
    from sandboxrun.gateway.companion.rules import RulesError

    try:
        gateway = Gateway(ipaddress.ip_address(address), path, Path(folder))
    except PermissionError as error:
        print(f"gateway: no port below 1024 is open to it here ({error}): see `sandboxrun doctor`", file=sys.stderr)
        return 1
    except (RulesError, OSError, ValueError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    return gateway.serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
