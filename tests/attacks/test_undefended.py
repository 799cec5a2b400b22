"""What is not defended, shown: SECURITY.md says it, and would have to say otherwise if these no longer held."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxrun.backend.docker import facts as paths
from sandboxrun.backend.docker.client import connect
from sandboxrun.backend.docker.facts import filters_paths
from tests.attacks.cages import until
from tests.engine.world import open_world

USER = "31337:31337"  # nobody else on the machine counts as this one
TAKE = """
import ctypes, time
libc = ctypes.CDLL(None)
while libc.inotify_init() >= 0: pass
print("all taken", flush=True)
time.sleep(60)
"""
ASK = "import ctypes, sys; sys.exit(ctypes.CDLL(None).inotify_init() < 0)"


def test_whether_the_host_filters_paths_is_told(
    engine_host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the stricter of the two settings; not at all where another machine's, or network's, would be read."""
    with connect(engine_host) as engine:
        seen = filters_paths(engine)
        monkeypatch.setattr(paths, "SETTINGS", str(tmp_path))
        for everywhere, new in ((0, 0), (1, 0), (0, 2)):
            for name, value in (("all", everywhere), ("default", new)):
                (tmp_path / name).mkdir(exist_ok=True)
                (tmp_path / name / "rp_filter").write_text(f"{value}\n")
            assert filters_paths(engine) is (None if seen is None else max(everywhere, new) > 0)


def test_the_kernels_counts_by_user_are_shared(
    engine_host: str, project: str, tmp_path: Path, agent_image: str
) -> None:
    """Sandboxes of one uid share its inotify instances; those of another have their own."""
    with open_world(engine_host, project, tmp_path, agent_image) as world:
        taker = {"user": USER, "command": ["python3", "-c", TAKE]}
        profile = world.profile({"taker": taker, "same": {"user": USER}, "other": {"user": "31338:31338"}})
        world.apply(profile)
        ids = world.ids(profile)
        until(lambda: b"all taken" in b"".join(data for _, data in world.engine.logs(ids["taker"])))
        assert world.run(ids["same"], "python3", "-c", ASK)[0] == 1
        assert world.run(ids["other"], "python3", "-c", ASK)[0] == 0
