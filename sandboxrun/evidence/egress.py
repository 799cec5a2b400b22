"""The part of a run's evidence that its gateway has: every request, let pass or refused.

Owns reading those records. They are the gateway's own words, told in order; but the names in them are the agent's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sandboxrun.errors import printable
from sandboxrun.evidence.index import Egress, Missing
from sandboxrun.evidence.parts import Part, Source

FILE = "egress.jsonl"
LONGEST = 128 << 20  # beyond the engine's bound of a gateway's log
_LISTED = 20  # targets refused that the index names
_GRACE = 3  # seconds for the records of connections that are still open


def egress(source: Source, gateway: str) -> Part:
    """`egress.jsonl`: one JSON object a line, as the gateway wrote it, secrets masked; ends the gateway first."""
    missing = tuple(_ended_before(source, gateway))
    source.engine.stop_container(gateway, timeout=_GRACE)
    counted, cut = Counted(), False
    with (
        source.folder.writer(FILE) as writer,
        source.engine.logs(gateway, tty=False) as output,
    ):
        mask, left = source.masker.stream(), LONGEST
        for line in lines(data for stream, data in output if stream == 1):
            counted.add(line)
            kept = mask.feed(line + b"\n")[:left]
            left -= len(kept)
            writer.write(kept)
            cut = left == 0
            if cut:
                break
        writer.write(mask.finish()[:left])
        writer.commit(truncated=cut)
    if not counted.served:
        missing += (Missing(part="egress", reason="the gateway's records are gone, or it never served"),)
    elif not counted.whole:
        missing += (Missing(part="egress", reason="the first of the gateway's records are gone"),)
    if counted.spent:
        missing += (Missing(part="egress", reason="so many requests that its records were cut: it refused the rest"),)
    return Part(egress=counted.result, missing=missing)


def _ended_before(source: Source, gateway: str) -> Iterator[Missing]:
    """Why the gateway does not run though nobody ended it: from then on the sandbox reached nothing."""
    state = source.engine.inspect_container(gateway).get("State") or {}
    if not state.get("Running") and not str(state.get("StartedAt") or "").startswith("0001-"):
        how = "out of memory" if state.get("OOMKilled") else f"exit {state.get('ExitCode')}"
        yield Missing(part="egress", reason=f"the gateway ended before the sandbox ({how}): it reached nothing then")


class Counted:
    """What the records come to."""

    def __init__(self) -> None:
        self.served = self.spent = False
        self.whole: bool | None = None  # whether the first record is the gateway's first; None: there is none
        self._allowed = self._denied = 0
        self._targets: dict[str, None] = {}

    def add(self, line: bytes) -> None:
        record = record_of(line)
        if self.whole is None:
            self.whole = record.get("event") == "ready"
        match record.get("event"):
            case "ready":
                self.served = True
            case "budget":
                self.spent = True
            case "request" if record.get("verdict") == "allowed":
                self._allowed += 1
            case "request":
                self._denied += 1
                if len(self._targets) < _LISTED:
                    target = f"{record.get('host') or '?'}:{record.get('port') or '?'}"
                    self._targets.setdefault(printable(target[:300]))

    @property
    def result(self) -> Egress:
        return Egress(allowed=self._allowed, denied=self._denied, denied_targets=tuple(self._targets))


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of what comes in pieces, without their ends."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest


def record_of(line: bytes) -> Mapping[str, Any]:
    """A line as the record it holds; {} for anything else."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
