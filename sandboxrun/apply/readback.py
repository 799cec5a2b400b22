"""The read-back: what the engine made must be what was asked, option by option.

Owns that check and its message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sandboxrun.apply.session import Session
from sandboxrun.errors import ApplyError, Diagnostic
from sandboxrun.model.codec import decode, without_inherited
from sandboxrun.model.declared import DeclaredSandbox
from sandboxrun.model.spec import BY_KEY
from sandboxrun.plan.diff import mismatches, short


def refuse_warnings(sandbox: DeclaredSandbox, warnings: Sequence[str]) -> None:
    """An engine that warns about an option has not taken it. Raises ApplyError."""
    if warnings:
        raise ApplyError(
            *(
                Diagnostic(
                    message=f"{sandbox.address}: the engine warned: {warning}",
                    span=sandbox.span,
                    help="what it did not take is not enforced; `sandboxrun doctor` says what this engine offers",
                )
                for warning in warnings
            )
        )


def read_back(sandbox: DeclaredSandbox, container: str, session: Session, image_id: str | None = None) -> None:
    """Compare the container with its spec. Raises ApplyError naming every option that is not as declared."""
    inspect = session.engine.inspect_container(container)
    check_image(sandbox, inspect, image_id)
    image = session.image(str(inspect["Image"]))
    live = without_inherited(decode(inspect, session.profile.names, sandbox.spec), image)
    found = mismatches(without_inherited(sandbox.spec, image), live)
    if found:
        raise ApplyError(
            *(
                Diagnostic(
                    message=f"{sandbox.address}: the engine did not take {d.key}: declared {_show(d.after)}, "
                    f"enforced {_show(d.before)}",
                    span=sandbox.place(d.key),
                    help=_help(d.key),
                )
                for d in found
            )
        )


def check_image(sandbox: DeclaredSandbox, inspect: Mapping[str, Any], image_id: str | None) -> None:
    """The image that runs must be the one that was planned. Raises ApplyError."""
    real = str(inspect.get("Image") or "")
    if image_id and real != image_id:
        raise ApplyError(
            f"{sandbox.address}: {sandbox.spec.image} was {short(image_id)} when planned and is {short(real)} now",
            help="the tag has moved meanwhile: plan again",
        )


def _help(key: str) -> str:
    placed = BY_KEY[key].at
    return f"its field is {placed.engine if placed else key}; `sandboxrun doctor` says what this engine offers"


def _show(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
