"""What several attacks are stopped by, in the same words."""

from __future__ import annotations

NO_CALL = "seccomp: no row of the table allows the call"
NO_CAPABILITY = "no capability is left (cap_drop: ALL), and none can be gained"
SEALED = "the engine's masked and read-only paths of /proc and /sys"
