"""What a workspace keeps read-only, and the mounts that keep it."""

from __future__ import annotations

import pytest
from msgspec import structs

from sandboxrun.backend.docker.codec import decode, encode
from sandboxrun.spec.guard import GUARDS, HIDDEN, guarded, mounts_of, parents, pins
from sandboxrun.spec.names import Names
from sandboxrun.spec.records import Workspace
from sandboxrun.spec.spec import SandboxSpec, settle
from tests.unit.spec.echo import as_inspect


def test_every_name_stands_at_the_top_and_has_its_reason() -> None:
    for name, guard in GUARDS.items():
        assert name == guard.name and not parents(name) and guard.why and not guard.why.endswith(".")


def test_names_that_mean_the_same_are_opened_together() -> None:
    kept = set(guarded((), ()))
    assert kept - set(guarded(("Makefile",), ())) == {"Makefile", "makefile", "GNUmakefile"}
    assert kept - set(guarded((".git",), ())) == {".git"}
    assert HIDDEN in guarded(tuple(GUARDS), ())


def test_the_profiles_own_files_are_kept_whatever_is_opened() -> None:
    assert guarded(tuple(GUARDS), (".github/sandbox.yaml", "a/b")) == (".github/sandbox.yaml", HIDDEN, "a/b")
    assert ".github/sandbox.yaml" not in guarded((), (".github/sandbox.yaml",))  # all of .github is kept


def test_what_is_deeper_is_kept_with_what_is_above_it() -> None:
    assert pins(("a", "b/c/d", "b/e")) == ("b", "b/c")
    assert mounts_of(("a", "b/c/d")) == (("a", True), ("b", False), ("b/c", False), ("b/c/d", True))


@pytest.mark.parametrize("gone", ["/w/.git", "/w/b", "/w/b/c", "/w/b/c/own", f"/w/{HIDDEN}"])
def test_a_path_counts_as_kept_only_with_every_mount_that_keeps_it(gone: str) -> None:
    protected = guarded((), ("b/c/own",))
    workspace = Workspace(source="/src", target="/w", access="rw", writable=(), protected=protected)
    spec = settle(SandboxSpec(image="i", workspace=workspace))
    names = Names(project="p")
    shown = as_inspect(encode(spec, name="p-a", names=names, own_labels={}), spec, name="p-a", names=names)
    assert decode(shown, names).workspace == workspace
    left = [mount for mount in shown["Mounts"] if mount["Destination"] != gone]
    found = decode({**shown, "Mounts": left}, names)
    assert found.workspace is not None and found.volumes == ()
    lost = gone.removeprefix("/w/") if gone not in ("/w/b", "/w/b/c") else "b/c/own"
    assert set(protected) - set(found.workspace.protected) == {lost}
    writable = [{**mount, "RW": True} if mount["Destination"] == gone else mount for mount in shown["Mounts"]]
    again = decode({**shown, "Mounts": writable}, names).workspace
    assert again is not None and (again == workspace) == (gone in ("/w/b", "/w/b/c"))


def test_a_workspace_that_is_not_rw_keeps_nothing_by_itself() -> None:
    for access in ("ro", "copy"):
        workspace = structs.replace(Workspace(), access=access, source="/s" if access == "ro" else ".")
        payload = encode(SandboxSpec(image="i", workspace=workspace), name="n", names=Names(project="p"), own_labels={})
        assert len(payload["HostConfig"]["Mounts"]) == 1
