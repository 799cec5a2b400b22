"""Keeps in memory what must not lie on the engine's disk: tmpfs volumes, held mounted by a container of their own.

Owns these steps' engine calls. Such a volume is empty again as soon as nothing has it mounted: the keeper is there
before the sandbox starts, and goes with it, once its evidence is kept. No decisions.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandboxrun.apply.session import Session
from sandboxrun.errors import ApplyError
from sandboxrun.gateway.container import keeper_payload, not_taken
from sandboxrun.model.names import KEEPER, SECRETS, WORKSPACE, companion
from sandboxrun.plan import operations as op
from sandboxrun.plan.belongings import held_parts

PLACE = "/held"
LEAST = 1 << 20  # bytes; what is put there needs whole pages
PAGE, LEAST_INODES = 4096, 4096
FLAGS = "noexec,nosuid,nodev"


def held_at(part: str) -> str:
    """Where the keeper has a part mounted."""
    return f"{PLACE}/{part}"


def part_options(step: op.CreatePart, session: Session) -> Mapping[str, str]:
    """The options of a part's volume: in memory, and no larger than it has to be, where it must not lie on a disk."""
    spec = step.sandbox.spec
    if step.part not in held_parts(spec):
        return {}
    if step.part == WORKSPACE:
        assert spec.workspace is not None and spec.workspace.size is not None
        size = spec.workspace.size
        inodes = max(LEAST_INODES, size // PAGE)  # without a bound, empty files would fill the memory outside of it
        return {"type": "tmpfs", "device": "tmpfs", "o": f"size={size},nr_inodes={inodes},mode=0755,nosuid,nodev"}
    wanted = [(SECRETS, ref.source) for ref in spec.secrets]
    size = max(LEAST, 2 * sum(len(session.files[at]) + 4096 for at in wanted))
    return {"type": "tmpfs", "device": "tmpfs", "o": f"size={size},mode=0755,{FLAGS}"}


def start_keeper(step: op.StartKeeper, session: Session) -> str:
    """Make it, see that it is confined as asked, and start it: what it holds can be filled then."""
    places = {part: held_at(part) for part in step.parts}
    run = session.run_of(step.address)
    payload = keeper_payload(step.sandbox, session.profile.project, run, places, step.image)
    made = session.engine.create_container(companion(step.sandbox.name, KEEPER), payload)
    session.companions.setdefault(step.address, []).append(made.id)
    session.keepers[step.address] = made.id
    lost = [*made.warnings, *not_taken(payload, session.engine.inspect_container(made.id))]
    if lost:
        help = "see `sandboxrun doctor`"
        raise ApplyError(f"the keeper of {step.address}: the engine did not take {', '.join(lost)}", help=help)
    session.engine.start_container(made.id)
    return made.id[:12]
