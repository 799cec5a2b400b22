"""The engine's calls about images and their registries.

Each function is a method of Engine. Must not decide when an image is pulled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

from sandboxrun.backend.docker.calls import Answer, Caller, Json, quote
from sandboxrun.backend.docker.credentials import registry_auth
from sandboxrun.backend.docker.jsonlines import json_lines
from sandboxrun.backend.errors import EngineError, EngineTimeout, NotFound, RegistryError, help_for

BUILD_TIMEOUT = 600.0  # seconds until the engine begins to answer; a slow one unpacks the context first


def _path(ref: str) -> str:
    """A reference in a path: its slashes and colons stay, as the engine's router wants them."""
    return quote(ref, b"/:@")


def split_reference(ref: str) -> tuple[str, str]:
    """A reference as the pull call wants it: the name, and its digest or tag (`latest` when it has neither).

    A digest wins over a tag, and a colon before the last slash is a port: `host:5000/a/b:1` is
    ("host:5000/a/b", "1").
    """
    name, at, digest = ref.partition("@")
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", digest if at else (tag or "latest")


def image(engine: Caller, ref: str) -> Json | None:
    """What the engine knows of an image it has, by reference or id; None when it has none."""
    if not ref:
        raise ValueError("an image's reference cannot be empty")
    try:
        return engine.request("GET", f"/images/{_path(ref)}/json", operation=f"inspecting image {ref}").mapping()
    except NotFound:
        return None


def images(engine: Caller, *, references: tuple[str, ...] = ()) -> tuple[Json, ...]:
    """The engine's images, or those that match one of `references`."""
    from sandboxrun.backend.docker.calls import label_filter

    filters = label_filter({}, {"reference": references})
    return engine.request("GET", "/images/json", operation="listing images", query={"filters": filters}).sequence()


def pull(
    engine: Caller, ref: str, *, platform: str | None = None, progress: Callable[[Json], None] | None = None
) -> None:
    """Fetch an image from its registry, with the user's credentials for it. Raises NotFound, EngineError.

    `progress` gets the engine's entries as they come: {"status", "id", "progressDetail": {"current", "total"}}.
    """
    name, tag = split_reference(ref)
    operation = f"pulling image {ref}"
    answer = engine.request(
        "POST",
        "/images/create",
        operation=operation,
        query={"fromImage": name, "tag": tag, "platform": platform},
        headers=registry_auth(ref),
        timeout=None,
        stream=True,
    )
    for entry in _entries(answer, operation):
        if progress is not None:
            progress(entry)


def _entries(answer: Answer, operation: str) -> Iterator[Json]:
    """What the engine tells while it works. Raises the EngineError of a failure that it tells."""
    try:
        for entry in json_lines(answer.pieces(), operation):
            if "error" in entry or "errorDetail" in entry:
                detail = entry.get("errorDetail") or {}
                cause = str(detail.get("message") or entry.get("error")).strip().rstrip(".")
                raise EngineError(operation, cause, help=help_for(cause))
            yield entry
    finally:
        answer.close()


def build_image(
    engine: Caller,
    context: bytes,
    tag: str,
    *,
    labels: Mapping[str, str] | None = None,
    progress: Callable[[Json], None] | None = None,
) -> str:
    """Make an image from a tar with a Dockerfile, whose base the engine has, and name it `tag`; its id.

    `progress` gets the engine's entries as they come: {"stream"}, {"aux"}. Raises EngineError.
    """
    operation = f"building image {tag}"
    answer = engine.request(
        "POST",
        "/build",
        operation=operation,
        query={"t": tag, "labels": json.dumps(dict(labels or {})), "rm": True, "forcerm": True, "q": False},
        body=(context,),
        headers={"Content-Type": "application/x-tar"},
        timeout=BUILD_TIMEOUT,
        stream=True,
    )
    for entry in _entries(answer, operation):
        if progress is not None:
            progress(entry)
    made = image(engine, tag)
    if made is None:
        raise EngineError(operation, "the engine said nothing went wrong, and has no such image")
    return str(made["Id"])


def registry_digest(engine: Caller, ref: str) -> str | None:
    """The digest that an image's registry has for a reference now ("sha256:…"); None when it knows no such image.

    Raises RegistryError when the registry cannot be asked: unreachable, or the user may not.
    """
    operation = f"asking the registry about image {ref}"
    path = f"/distribution/{_path(ref)}/json"
    try:
        answer = engine.request("GET", path, operation=operation, headers=registry_auth(ref)).mapping()
    except NotFound:
        return None
    except EngineTimeout as error:
        raise RegistryError(operation, error.cause) from error
    except EngineError as error:
        if error.status is None:
            raise
        if "manifest unknown" in error.cause.lower() or "not found: manifest" in error.cause.lower():
            return None
        raise RegistryError(operation, error.cause, status=error.status, help=help_for(error.cause)) from error
    return str((answer.get("Descriptor") or {}).get("digest") or "") or None
