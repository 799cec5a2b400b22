"""The rules document of a sandbox's gateway, from its egress option.

Owns the document's form on the writing side; what it means is the companion's (companion/rules.py). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sandboxrun.gateway.companion.rules import VERSION
from sandboxrun.gateway.companion.rules import digest_of as digest_of_rules
from sandboxrun.spec.option_types import Egress

__all__ = ["RECORDS", "digest_of_rules", "rules_document"]

RECORDS = 32 * 1024 * 1024  # bytes of records; the container's log must hold them all


def rules_document(
    egress: Egress, *, sandbox: str, run: str, refused: Sequence[str] = (), records: int = RECORDS
) -> bytes:
    """The document in its one form: JSON, keys sorted, no spaces, ASCII, a newline at the end.

    `sandbox` is the sandbox's address and `run` its run's id, for the records; `refused` are ranges of addresses (CIDR)
    that are closed whatever the egress says, such as the engine's machine; `records` is the budget in bytes.
    Raises ValueError for an egress that has no gateway.
    """
    if not egress.has_gateway:
        raise ValueError(f"egress {egress.mode} has no gateway")
    document = {
        "version": VERSION,
        "sandbox": sandbox,
        "run": run,
        "mode": egress.mode,
        "ports": sorted(egress.ports),
        "allow": sorted(egress.allow),
        "private_networks": sorted(egress.private_networks),
        "resolvers": list(egress.resolvers),
        "refused": sorted(refused),
        "records": records,
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"
