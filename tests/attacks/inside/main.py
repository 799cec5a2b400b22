"""What runs in a sandbox: the attacks of a cage, or those named; a JSON object a line says what became of each."""

from __future__ import annotations

import sys

from tests.attacks.inside import asking, exhaustion, files, kernel, namespaces, network, record

MODULES = (namespaces, kernel, files, exhaustion, network, asking)


def main() -> None:
    """Its arguments are those of `record.main`."""
    record.main(*sys.argv[1:])
