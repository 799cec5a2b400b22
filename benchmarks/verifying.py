"""What a verification takes: beside a run of `true`, and what it adds to an apply. A verification is a dozen runs, of
which one only waits; it is measured so that nobody is surprised.

Owns those measures.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.table import Result, compared
from benchmarks.timing import in_turns
from benchmarks.world import World


def verifying(world: World, rounds: int) -> Iterator[Result]:
    """`verify` of one sandbox and of three alike, and `verify --running`, each beside one run of `true`."""
    one, three = world.profile("verify", command='["true"]'), world.profile("verify-three", 3, command='["true"]')
    live = world.profile("verify-live")
    world.sandboxrun("apply", "apply", "--yes", "--quiet", "--file", str(live)).run()
    run, single, several, outside = in_turns(
        [
            world.sandboxrun("run", "run", "--file", str(one)),
            world.sandboxrun("verify", "verify", "--file", str(one)),
            world.sandboxrun("verify of three", "verify", "--file", str(three)),
            world.sandboxrun("verify --running", "verify", "--running", "--file", str(live)),
        ],
        rounds,
    )
    yield compared("verify, beside a run of true", single, run)
    yield compared("verify of three alike, beside one", several, single)
    yield compared("verify --running, beside a run of true", outside, run)
    world.clean()
