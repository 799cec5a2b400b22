"""The gateway's image: HAProxy and the companion on top of any image that has Python 3.11 or later.

Owns what is in the image and how it is named: the tag is a digest of the program, so that an image of another version
is never taken for this one.
"""

from __future__ import annotations

import functools
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
_EMPTY = b'"""Of this package, the gateway\'s companion alone is in this image."""\n'
OLDEST = (2, 6)  # HAProxy's
# HAProxy is the base's own, or comes from its packages; too old a one ends the build.
_RECIPE = """\
FROM {base}
USER 0:0
RUN command -v haproxy || apk add --no-cache haproxy || (apt-get update && apt-get install -y --no-install-recommends \
 haproxy && rm -rf /var/lib/apt/lists/*)
RUN ["python3", "-I", "-c", "import re, subprocess, sys; \
said = subprocess.run(['haproxy', '-v'], capture_output=True, text=True).stdout; \
found = re.search(r'version ([0-9]+)[.]([0-9]+)', said); \
sys.exit(None if found and sys.version_info >= (3, 11) and tuple(map(int, found.groups())) >= {oldest} else \
'Python 3.11 and HAProxy 2.6 are needed; here are ' + sys.version.split()[0] + ' and ' + (said or 'none'))"]
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
    """What the image adds to its base beside HAProxy, by path below HOME."""
    companion = Path(__file__).parent / "companion"
    found = dict.fromkeys(_PACKAGES, _EMPTY)
    found |= {f"sandboxrun/gateway/companion/{path.name}": path.read_bytes() for path in companion.glob("*.py")}
    found["__main__.py"] = found["sandboxrun/gateway/companion/__main__.py"]
    return dict(sorted(found.items()))


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
    recipe = _RECIPE.format(base=base, home=HOME, user=USER, oldest=OLDEST).encode()
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
        help = "--from names an image that the engine has, with Python 3.11 and HAProxy 2.6 or newer in it"
        raise SandboxrunError(error.diagnostics[0].message, help=help) from error


def build(engine: Backend, base: str = BASE) -> str:
    """Make the image on the engine, from a base that the engine has; its id. Raises EngineError."""
    from sandboxrun.backend.errors import EngineError

    labels = {DIGEST_LABEL: digest(), "org.opencontainers.image.title": "sandboxrun egress gateway"}
    try:
        return engine.build_image(build_context(base), reference(), labels=labels)
    except EngineError as error:
        help = f"{base} must have Python 3.11 or newer as python3, and HAProxy 2.6 or newer if it can't be installed"
        raise SandboxrunError(error.diagnostics[0].message, help=help) from error
