"""6xx, the engine's own programs: versions with published ways out of a container.

Owns the floors and how a version is compared with them. They look at no sandbox: the review of what runs raises them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from sandboxrun.audit.finding import HOST, INDIRECT, STEP, Rule, about, rule
from sandboxrun.audit.rules.meta import never
from sandboxrun.data import Data

_WHY = (
    "For each of these holes there is a published way out of a container, or into what a setting closed: whatever a "
    "profile says, the engine does not hold it."
)
BELOW = rule(
    about(
        "SBX604",
        "Engine or runtime with a published hole",
        HOST,
        STEP,
        cis="1.2.2",
        cwe=1395,
        nist=("3.4.1", "4.4.1"),
    ),
    why=_WHY,
    fix="update the engine, containerd and runc",
)(never)
PERHAPS = rule(
    about(
        "SBX615",
        "Engine or runtime of a distribution, older than a fix",
        HOST,
        INDIRECT,
        cis="1.2.2",
        cwe=1395,
        nist=("3.4.1", "4.4.1"),
    ),
    why=_WHY
    + " Distributions bring fixes to older versions, so the version alone does not say whether this one has it.",
    fix="look the identifier up in the distribution's security tracker, and install its updates",
)(never)
RULES: tuple[Rule, ...] = (BELOW, PERHAPS)


class Floor(Data, kw_only=False):
    """A published hole: in which component, what it allows, and in which versions it was fixed: the first of each
    release line that got the fix, the last of which all later ones have."""

    component: str
    cve: str
    what: str
    fixed: tuple[str, ...]


# By the projects' own advisories.
FLOORS = (
    Floor("runc", "CVE-2019-5736", "root inside overwrites runc on the host", ("1.0.0-rc7",)),
    Floor("runc", "CVE-2021-30465", "a mount is led to the host by a symlink", ("1.0.0-rc95",)),
    Floor("runc", "CVE-2024-21626", "a leaked directory leads to the host", ("1.1.12",)),
    Floor(
        "runc",
        "CVE-2025-31133",
        "masked paths are replaced by links, and the host's /proc is written",
        ("1.2.8", "1.3.3", "1.4.0-rc.3"),
    ),
    Floor(
        "runc",
        "CVE-2025-52881",
        "writes to /proc are redirected past the security module",
        ("1.2.8", "1.3.3", "1.4.0-rc.3"),
    ),
    Floor(
        "containerd",
        "CVE-2020-15257",
        "root on the host's network starts containers through an abstract socket",
        ("1.3.9", "1.4.3"),
    ),
    Floor("Engine", "CVE-2021-21284", "root of a user namespace becomes root of the host", ("19.3.15", "20.10.3")),
    Floor("Engine", "CVE-2024-23653", "a build runs a container with the host's rights", ("24.0.9", "25.0.2")),
    Floor(
        "Engine",
        "CVE-2024-29018",
        "names asked for on an internal network reach name servers outside",
        ("23.0.11", "25.0.5", "26.0.0"),
    ),
)
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[-~.]?rc\.?(\d{1,4}))?", re.IGNORECASE)
_PACKAGED = re.compile(r"[+~](?:ds|dfsg|deb)|ubuntu|debian|\.(?:el|fc|amzn|mga)\d|alpine|suse", re.IGNORECASE)
_FINAL = 10_000  # above every release candidate


def _parsed(version: str) -> tuple[int, int, int, int] | None:
    found = _VERSION.match(version)
    if found is None:
        return None
    major, minor, patch, candidate = found.groups()
    return int(major), int(minor), int(patch or 0), int(candidate) if candidate else _FINAL


def is_below(version: str, fixed: tuple[str, ...]) -> bool:
    """Whether a version has none of the fixes. One that cannot be read counts as having none."""
    own = _parsed(version)
    if own is None:
        return True
    fixes = [one for text in fixed if (one := _parsed(text)) is not None]
    return own < fixes[-1] and not any(own[:2] == fix[:2] and own >= fix for fix in fixes)


def below_floors(components: Mapping[str, str]) -> Iterator[tuple[Rule, Floor, str]]:
    """The holes that the versions of an engine's components have, or may have, each with a sentence."""
    for floor in FLOORS:
        version = components.get(floor.component)
        if version and is_below(version, floor.fixed):
            packaged = _PACKAGED.search(version) is not None
            has = "may have" if packaged else "has"
            shown = f"{floor.component.lower()} {version} {has} {floor.cve}: {floor.what}"
            yield PERHAPS if packaged else BELOW, floor, f"{shown} (fixed in {', '.join(floor.fixed)})"
