"""Host paths that sandboxes are given: each must still be what it was when the apply began.

Owns that check. A sandbox that has run meanwhile may have put a link in the place of a directory that the next one
starts from; the engine would follow it anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.profile.guarding import sources_of


def real_places(sandboxes: Iterable[DeclaredSandbox]) -> Mapping[str, str]:
    """Where the host paths of the sandboxes lead now, links followed."""
    return {str(path): os.path.realpath(path) for sandbox in sandboxes for _, path in sources_of(sandbox)}


def check_places(sandbox: DeclaredSandbox, places: Mapping[str, str]) -> None:
    """Raise ApplyError for each that leads elsewhere now. One that was made by another process is not known of."""
    faults = []
    for key, path in sources_of(sandbox):
        if os.path.realpath(path) != places.get(str(path), os.path.realpath(path)):
            found = sandbox.provenance.get(key)
            span = found.span if found is not None and found.span is not None else sandbox.span
            message = f"{sandbox.address}: {path} leads elsewhere since this apply began"
            faults.append(Diagnostic(message=message, span=span, help="see what has put a link there"))
    if faults:
        raise ApplyError(*faults)
