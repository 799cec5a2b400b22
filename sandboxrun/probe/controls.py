"""Every control, in the order in which they are shown."""

from __future__ import annotations

from sandboxrun.model.types import freeze
from sandboxrun.probe import files, filesystem, kernel, network, privilege, requests, resources, tmpfs
from sandboxrun.probe.types import Control

FAMILIES: dict[str, tuple[Control, ...]] = {
    "Privilege": privilege.CONTROLS,
    "File system": (*filesystem.CONTROLS, tmpfs.MODE),
    "Resources": resources.CONTROLS,
    "Kernel": kernel.CONTROLS,
    "Network": network.CONTROLS,
    "Gateway": requests.CONTROLS,
    "Files": files.CONTROLS,
}
CONTROLS: tuple[Control, ...] = tuple(control for family in FAMILIES.values() for control in family)
BY_ID = freeze({control.id: control for control in CONTROLS})
