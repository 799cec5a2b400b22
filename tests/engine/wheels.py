"""Wheels of what is installed here, made again from its files: pip installs them where no package index answers."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parents[2]
_DATA = {"schemas": "sandboxrun/data/schemas", "profiles": "sandboxrun/data/profiles"}  # as pyproject.toml has it


def wheels_of(name: str, *extras: str) -> Mapping[str, bytes]:
    """The wheels of a package with these extras and of all that it needs, by their file names."""
    return {_file_name(one): _wheel(one) for one in _needed(name, *extras).values()}


def _needed(name: str, *extras: str) -> dict[str, Distribution]:
    found = {name: distribution(name)}
    for text in found[name].requires or ():
        needed = Requirement(text)
        wanted = needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if wanted and needed.name not in found:
            found |= _needed(needed.name, *needed.extras)
    return found


def _file_name(one: Distribution) -> str:
    (tag, *_) = re.findall(r"^Tag: (\S+)$", one.read_text("WHEEL") or "", re.MULTILINE)
    return f"{_plain(one)}-{tag}.whl"


def _plain(one: Distribution) -> str:
    return f"{re.sub(r'[-_.]+', '_', one.metadata['Name']).lower()}-{one.version}"


def _wheel(one: Distribution) -> bytes:
    content, record, buffer = dict(_files(one)), "", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for path, data in content.items():
            wheel.writestr(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(data)}\n"
        own = f"{_plain(one)}.dist-info/RECORD"
        wheel.writestr(own, f"{record}{own},,\n")
    return buffer.getvalue()


def _files(one: Distribution) -> Iterator[tuple[str, bytes]]:
    """What is in its wheel, by path there."""
    for file in one.files or ():
        inside, name = not file.parts[0].startswith(".."), file.parts[-1]
        if inside and "__pycache__" not in file.parts and not name.endswith(".pth") and name not in _MADE_HERE:
            above = f"{_plain(one)}.dist-info" if file.parts[0].endswith(".dist-info") else file.parts[0]
            yield "/".join((above, *file.parts[1:])), Path(str(file.locate())).read_bytes()
    if one.metadata["Name"] == "sandboxrun":  # installed so that it stays in the checkout
        for top, to in {"sandboxrun": "sandboxrun", **_DATA}.items():
            for path in sorted((CHECKOUT / top).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield f"{to}/{path.relative_to(CHECKOUT / top)}", path.read_bytes()


_MADE_HERE = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
