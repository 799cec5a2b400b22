"""Every control, in the order in which they are shown."""

from __future__ import annotations

from sandboxrun.probe.types import Control

CONTROLS: tuple[Control, ...] = ()
BY_ID = {control.id: control for control in CONTROLS}
