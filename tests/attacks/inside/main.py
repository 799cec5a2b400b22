"""What runs in a sandbox: the attacks of a cage, or those named; a JSON object a line says what became of each."""

from __future__ import annotations

import sys

from tests.attacks.inside import (
    asking,
    ending,
    exhaustion,
    files,
    kernel,
    leaving,
    namespaces,
    network,
    record,
    workspace,
)

MODULES = (namespaces, kernel, files, exhaustion, network, asking, workspace, leaving, ending)


def main() -> None:
    """Its arguments are those of `record.main`."""
    record.main(*sys.argv[1:])
