"""The gateway's image: HAProxy and the companion on top of any image that has Python 3.11 or later.

Owns what is in the image and how it is named: the tag is a digest of the program, so that an image of another version
is never taken for this one. HAProxy's own version is a label, and part of the digest beside it, so that a fixed HAProxy
makes another image.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from sandboxrun.errors import SandboxrunError
from sandboxrun.gateway import USER
from sandboxrun.spec.state import Helper

if TYPE_CHECKING:
    from sandboxrun.backend.base import Backend

REPOSITORY = "sandboxrun/gateway"
BASE = "python:3.13-alpine"
DIGEST_LABEL = "sandboxrun.gateway.digest"  # of the program and of HAProxy's version
HAPROXY_LABEL = "sandboxrun.gateway.haproxy"  # HAProxy's version, with its package's revision
HOME = "usr/lib/sandboxrun-gateway"
_PACKAGES = ("sandboxrun/__init__.py", "sandboxrun/gateway/__init__.py")
_EMPTY = b'"""Of this package, the gateway\'s companion alone is in this image."""\n'
OLDEST = (2, 6)  # HAProxy's
_WRONG = re.compile(r"^sandboxrun: (it has Python .{1,200})$", re.MULTILINE)
_FOUND = re.compile(r"^sandboxrun: HAProxy ([0-9][0-9A-Za-z.+~-]{0,63})$", re.MULTILINE)
# HAProxy is the base's own, or comes from its packages; too old a one ends the build, which otherwise says which it is.
_RECIPE = """\
FROM {base}
USER 0:0
RUN command -v haproxy || apk add --no-cache haproxy || (apt-get update && apt-get install -y --no-install-recommends \
 haproxy && rm -rf /var/lib/apt/lists/*)
RUN ["python3", "-I", "-c", "import re, subprocess, sys; \
said = subprocess.run(['haproxy', '-v'], capture_output=True, text=True).stdout; \
found = re.search(r'version (([0-9]+)[.]([0-9]+)[^ ]*)', said); \
fits = found and sys.version_info >= (3, 11) and (int(found[2]), int(found[3])) >= {oldest}; \
print('sandboxrun: HAProxy', found[1].split()[0]) if fits else \
sys.exit('sandboxrun: it has Python ' + sys.version.split()[0] + ' and ' + ('HAProxy ' + found[1] if found \
else 'no HAProxy'))"]
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
    """`sha256:` and the hex digest of the files and of how they are put into the image: of all but HAProxy."""
    total = hashlib.sha256(_RECIPE.encode())
    for name, content in files().items():
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return f"sha256:{total.hexdigest()}"


def image_digest(haproxy: str) -> str:
    """The digest of the image with HAProxy of this version, as its label has it."""
    return f"sha256:{hashlib.sha256(f'{digest()} haproxy {haproxy}'.encode()).hexdigest()}"


def haproxy_of(labels: Mapping[str, str]) -> str:
    """HAProxy's version in an image with these labels; "" for one that `build` did not make."""
    version = labels.get(HAPROXY_LABEL, "")
    return version if labels.get(DIGEST_LABEL) == image_digest(version) else ""


def unfit(labels: Mapping[str, str]) -> str | None:
    """Why gateways can't run from an image with these labels: a clause about it. None where they can."""
    version = haproxy_of(labels)
    found = re.match(r"([0-9]+)\.([0-9]+)", version)
    if found is None:
        return "does not say which HAProxy it has"
    fits = (int(found[1]), int(found[2])) >= OLDEST
    return None if fits else f"has HAProxy {version}, and {OLDEST[0]}.{OLDEST[1]} or newer is needed"


def reference() -> str:
    """The image's name: `sandboxrun/gateway:` and twelve digits of the digest."""
    return f"{REPOSITORY}:{digest().removeprefix('sha256:')[:12]}"


def as_helper(id: str | None, labels: Mapping[str, str] = MappingProxyType({})) -> Helper:
    """The image as an engine has it, by its id and labels; the id is None where it has none."""
    missing = Helper(reference=reference(), id=id, base=BASE)
    return missing if id is None else replace(missing, haproxy=haproxy_of(labels), unfit=unfit(labels))


def build_context(base: str) -> bytes:
    """What the engine builds the image from, as a tar: a Dockerfile and the files; the same bytes every time.

    Raises SandboxrunError for a base that is no image reference.
    """
    if not base or not base.isascii() or any(c.isspace() or not c.isprintable() or c in "$\\\"'" for c in base):
        raise SandboxrunError(f"{base!r} is not an image reference")
    recipe = _RECIPE.format(base=base, home=HOME, user=USER, oldest=OLDEST).encode()
    return _tar({"Dockerfile": recipe, **{f"{HOME}/{name}": content for name, content in files().items()}})


def _tar(contents: Mapping[str, bytes]) -> bytes:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in contents.items():
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
        help = "name an image that the engine has, with Python 3.11 and HAProxy 2.6 or newer in it"
        raise SandboxrunError(error.diagnostics[0].message, help=help, option="--from IMAGE") from error


def build(engine: Backend, base: str = BASE) -> str:
    """Make the image on the engine, from a base that the engine has; its id. Raises SandboxrunError.

    Nothing of an earlier build is used: HAProxy is what the base's packages have today. Only a build says which that
    is, so what it made gets its labels, and with them its name, by a second one.
    """
    from sandboxrun.backend.errors import EngineError

    config = engine.image_config(base)
    if config is not None and config.volumes:  # a gateway has none, and each would get one
        message = f"{base} can't be built on: it declares {', '.join(config.volumes)} as VOLUME"
        raise SandboxrunError(message, help="name an image that declares no volumes")
    said: list[str] = []

    def listen(entry: Mapping[str, Any]) -> None:
        said.append(str(entry.get("stream", "")))

    try:
        made = engine.build_image(build_context(base), None, progress=listen)
        found = _FOUND.findall("".join(said))
        if not found:
            raise EngineError(f"building image {reference()}", "the build did not say which HAProxy the image has")
        labels = {
            DIGEST_LABEL: image_digest(found[-1]),
            HAPROXY_LABEL: found[-1],
            "org.opencontainers.image.title": "sandboxrun egress gateway",
        }
        return engine.build_image(_tar({"Dockerfile": f"FROM {made}\n".encode()}), reference(), labels=labels)
    except EngineError as error:
        wrong = _WRONG.findall("".join(said))
        message = f"{base} can't be built on: {wrong[-1]}" if wrong else error.diagnostics[0].message
        help = f"{base} must have Python 3.11 or newer as python3, and HAProxy 2.6 or newer if it can't be installed"
        raise SandboxrunError(message, help=help) from error
