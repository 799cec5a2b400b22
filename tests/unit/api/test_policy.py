"""A program's sandboxes are refused by the policy that refuses a profile's."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxrun.api.service import SandboxService
from sandboxrun.api.settings import Settings
from sandboxrun.errors import ProfileError

POLICY = "images: {allow: ['registry.example.com/*']}\n"
IMAGE = "registry.example.com/agent:1"


@pytest.mark.parametrize("given", [True, False])
def test_what_the_policy_does_not_allow_is_refused_when_it_is_declared(given: bool, tmp_path: Path) -> None:
    path = tmp_path / ("other.yaml" if given else "sandboxrun-policy.yaml")
    path.write_text(POLICY)
    service = SandboxService(Settings(), directory=tmp_path, policy=path if given else None)
    service.declare("agent", image=IMAGE, network_mode="none")
    with pytest.raises(ProfileError, match="busybox:1"):
        service.declare("agent", image="busybox:1", network_mode="none")
    with pytest.raises(ProfileError, match="SBX111"):
        service.declare("agent", image=IMAGE, network_mode="none", security_opt=["seccomp=unconfined"])


def test_a_policy_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    service = SandboxService(Settings(), directory=tmp_path, policy=tmp_path / "none.yaml")
    with pytest.raises(ProfileError, match="can't be read"):
        service.declare("agent", image=IMAGE, network_mode="none")
    SandboxService(Settings(), directory=tmp_path).declare("agent", image="busybox:1")
