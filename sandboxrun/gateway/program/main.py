"""The commands of the gateway's container.

    serve --listen ADDRESS:PORT --rules FILE    be the way out; SIGHUP reads the rules anew
    keep                                        hold the container's volumes until told to end

Owns the command line. Both end with 0 on SIGTERM and SIGINT.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

USAGE = "usage: gateway serve --listen ADDRESS:PORT --rules FILE | gateway keep"
ENDING = {signal.SIGTERM, signal.SIGINT}


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; the exit code."""
    match list(arguments):
        case ["serve", "--listen", address, "--rules", path]:
            return serve(address, path)
        case ["keep"]:
            return keep()
    print(USAGE, file=sys.stderr)
    return 2


def keep() -> int:
    """Wait. As a container's first process it would not be ended by a signal that it does not wait for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    signal.sigwait(ENDING)
    return 0


def serve(address: str, path: str) -> int:
    """Serve until told to end."""
    import gc

    from sandboxrun.gateway.program.rules import RulesError
    from sandboxrun.gateway.program.server import Gateway, bound

    try:
        gateway = Gateway(path)
        listener = bound(address)
    except (RulesError, OSError, ValueError) as error:
        print(f"gateway: {error}", file=sys.stderr)
        return 1
    for number in ENDING:
        gateway.loop.on_signal(number, gateway.stop)
    gateway.loop.on_signal(signal.SIGHUP, gateway.reload)
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)  # a tunnel's objects mostly go without its help
    gateway.serve(listener)
    return 0
