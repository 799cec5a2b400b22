"""The gateway's image: the program and h11 on top of any image that has Python 3.11 or later.

Owns what is in the image and how it is named: the tag is a digest of the program, so that an image of another version
is never taken for this one.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sandboxrun.errors import SandboxrunError
from sandboxrun.gateway import USER

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend

REPOSITORY = "sandboxrun/gateway"
BASE = "python:3.13-alpine"
DIGEST_LABEL = "sandboxrun.gateway.digest"
HOME = "usr/lib/sandboxrun-gateway"
_PACKAGES = ("sandboxrun/__init__.py", "sandboxrun/gateway/__init__.py")
_EMPTY = b'"""Of this package, the gateway\'s program alone is in this image."""\n'
_RECIPE = """\
FROM {base}
COPY --chown=0:0 {home} /{home}
RUN ["python3", "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/{home}"]
USER {user}
WORKDIR /
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-I", "-S", "-B", "/{home}"]
CMD ["keep"]
"""


@functools.cache
def files() -> Mapping[str, bytes]:
    """What the image adds to its base, by path below HOME. Raises SandboxrunError where h11 is not installed."""
    program = Path(__file__).parent / "program"
    found = dict.fromkeys(_PACKAGES, _EMPTY)
    found |= {f"sandboxrun/gateway/program/{path.name}": path.read_bytes() for path in _sources(program)}
    found |= {f"h11/{path.name}": path.read_bytes() for path in _sources(_h11())}
    found["__main__.py"] = found["sandboxrun/gateway/program/__main__.py"]
    return dict(sorted(found.items()))


def _sources(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py"))


def _h11() -> Path:
    found = importlib.util.find_spec("h11")
    if found is None or found.origin is None:
        raise SandboxrunError("h11 is not installed", help="install sandboxrun with its dependencies")
    return Path(found.origin).parent


@functools.cache
def digest() -> str:
    """`sha256:` and the hex digest of the files and of how they are put into the image."""
    import hashlib

    total = hashlib.sha256(_RECIPE.encode())
    for name, content in files().items():
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return f"sha256:{total.hexdigest()}"


def reference() -> str:
    """The image's name: `sandboxrun/gateway:` and twelve digits of the digest."""
    return f"{REPOSITORY}:{digest().removeprefix('sha256:')[:12]}"


def build_context(base: str) -> bytes:
    """What the engine builds the image from, as a tar: a Dockerfile and the files; the same bytes every time.

    Raises SandboxrunError for a base that is no image reference.
    """
    import io
    import tarfile

    if not base or not base.isascii() or any(c.isspace() or not c.isprintable() or c in "$\\\"'" for c in base):
        raise SandboxrunError(f"{base!r} is not an image reference")
    recipe = _RECIPE.format(base=base, home=HOME, user=USER).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in {"Dockerfile": recipe, **{f"{HOME}/{name}": c for name, c in files().items()}}.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o644, len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def pull_base(engine: Backend, base: str) -> None:
    """Fetch an image to build on. Raises SandboxrunError, which says that another will do."""
    from sandboxrun.backend.errors import EngineError

    try:
        engine.pull(base)
    except EngineError as error:
        help = "--from names an image that the engine has, with Python 3.11 or newer in it"
        raise SandboxrunError(error.diagnostics[0].message, help=help) from error


def build(engine: Backend, base: str = BASE) -> str:
    """Make the image on the engine, from a base that the engine has; its id. Raises EngineError."""
    from sandboxrun.backend.errors import EngineError

    labels = {DIGEST_LABEL: digest(), "org.opencontainers.image.title": "sandboxrun egress gateway"}
    try:
        return engine.build_image(build_context(base), reference(), labels=labels)
    except EngineError as error:
        help = f"{base} must have Python 3.11 or newer as python3"
        raise SandboxrunError(error.diagnostics[0].message, help=help) from error
