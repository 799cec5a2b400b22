"""Images: pull policies, digests and tags that move, against a registry on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest

from sandboxrun.backend.session import StepDone, StepProgress
from sandboxrun.errors import ApplyError
from sandboxrun.lifecycle import apply as converge
from sandboxrun.plan import operations as op
from sandboxrun.plan.changes import Action, Plan, Reason
from tests.engine.registry import LocalRegistry
from tests.engine.world import World, change


@pytest.fixture
def repository(project: str, registry: LocalRegistry, engine_client: docker.DockerClient) -> Iterator[str]:
    """A repository of this test's own; the engine has nothing of it, and nothing afterwards."""
    yield project
    for tag in ("latest", "other"):
        try:
            engine_client.images.remove(registry.ref(project, tag), force=True)
        except docker.errors.ImageNotFound:
            continue


def pulls(plan: Plan) -> list[op.PullImage]:
    return [step for step in plan.operations if isinstance(step, op.PullImage)]


def content(world: World, id: str) -> str:
    return world.run(id, "cat", "/version")[1]


def test_a_missing_image_is_pulled_by_the_digest_that_was_planned(
    world: World, registry: LocalRegistry, repository: str
) -> None:
    digest = registry.publish(repository, files={"version": b"1"})
    ref = registry.ref(repository)
    profile = world.profile({"a": {"image": ref}, "b": {"image": ref}})
    plan = world.plan(profile)
    assert [(step.reference, step.digest) for step in pulls(plan)] == [(ref, digest)]
    assert digest in str(plan)
    assert plan.counts == (2, 0, 0)
    world.apply(profile)
    told = [
        event.text for event in world.events if isinstance(event, StepProgress) and isinstance(event.step, op.PullImage)
    ]
    assert told and told[-1] == "1 of 1 layers"
    assert [e.note for e in world.events if isinstance(e, StepDone) and isinstance(e.step, op.PullImage)] == [digest]
    ids = world.ids(profile)
    assert content(world, ids["a"]) == content(world, ids["b"]) == "1"
    assert world.plan(profile).empty


def test_an_image_by_digest_stays_that_image(world: World, registry: LocalRegistry, repository: str) -> None:
    digest = registry.publish(repository, files={"version": b"1"})
    ref = f"{registry.ref(repository).rpartition(':')[0]}@{digest}"
    registry.publish(repository, files={"version": b"2"})
    profile = world.profile({"a": {"image": ref}})
    world.apply(profile)
    assert content(world, world.ids(profile)["a"]) == "1"
    assert world.plan(profile).empty


def test_a_tag_that_moved_is_seen_where_the_newest_is_wanted(
    world: World, registry: LocalRegistry, repository: str, engine_client: docker.DockerClient
) -> None:
    registry.publish(repository, files={"version": b"1"})
    ref = registry.ref(repository)
    always = world.profile({"a": {"image": ref, "pull_policy": "always"}})
    missing = world.profile({"a": {"image": ref}})
    world.apply(always)
    before = world.ids(always)["a"]
    assert world.plan(always).empty
    kept = engine_client.images.get(ref)
    newer = registry.publish(repository, files={"version": b"2"})
    kept.tag(*ref.rsplit(":", 1))  # publishing takes it off this engine

    assert change(world.plan(missing), "a").action is Action.UPDATE  # pull_policy itself is all that differs
    moved = change(world.plan(always), "a")
    assert (moved.action, moved.reason) == (Action.REPLACE, Reason.IMAGE_MOVED)
    assert newer.removeprefix("sha256:")[:12] in str(world.plan(always))
    world.apply(always)
    assert world.ids(always)["a"] != before
    assert content(world, world.ids(always)["a"]) == "2"
    assert world.plan(always).empty


def test_a_tag_that_moved_on_the_engine_is_a_replacement(
    world: World, registry: LocalRegistry, repository: str, engine_client: docker.DockerClient
) -> None:
    registry.publish(repository, files={"version": b"1"})
    ref = registry.ref(repository)
    profile = world.profile({"a": {"image": ref}})
    world.apply(profile)
    registry.publish(repository, "other", files={"version": b"2"})
    engine_client.images.pull(*registry.ref(repository, "other").rsplit(":", 1)).tag(*ref.rsplit(":", 1))
    moved = change(world.plan(profile), "a")
    assert (moved.action, moved.reason) == (Action.REPLACE, Reason.IMAGE_MOVED)
    assert "the tag has moved" in str(world.plan(profile))
    world.apply(profile)
    assert content(world, world.ids(profile)["a"]) == "2"


def test_a_tag_that_moves_between_plan_and_apply_fails(
    world: World, registry: LocalRegistry, repository: str, engine_client: docker.DockerClient
) -> None:
    registry.publish(repository, files={"version": b"1"})
    ref = registry.ref(repository)
    profile = world.profile({"a": {"image": ref}})

    def in_the_registry(plan: Plan) -> bool:
        registry.publish(repository, files={"version": b"2"})
        return True

    with pytest.raises(
        ApplyError, match=rf"{ref} was sha256:[0-9a-f]{{64}} when planned and the registry gave another"
    ):
        converge.apply(world.engine, profile, world.store, confirm=in_the_registry)
    assert world.snapshot(profile).sandboxes == ()

    def on_the_engine(plan: Plan) -> bool:
        engine_client.images.get(world.base["image"]).tag(*ref.rsplit(":", 1))
        return True

    with pytest.raises(ApplyError, match=rf"a: {ref} was [0-9a-f]{{12}} when planned and is [0-9a-f]{{12}} now"):
        converge.apply(world.engine, profile, world.store, confirm=on_the_engine)
    assert world.snapshot(profile).sandboxes == ()


def test_never_does_not_ask_the_registry(world: World, registry: LocalRegistry, repository: str) -> None:
    registry.publish(repository)
    ref = registry.ref(repository)
    profile = world.profile({"a": {"image": ref, "pull_policy": "never"}})
    assert pulls(world.plan(profile)) == []
    with pytest.raises(ApplyError, match="a: "):
        world.apply(profile)
    assert world.snapshot(profile).sandboxes == ()
    world.apply(world.profile({"a": {"image": ref}}))
    assert world.apply(profile).counts == (0, 1, 0)


def test_what_is_nowhere_fails_with_the_registrys_reason(
    world: World, registry: LocalRegistry, repository: str
) -> None:
    ref = registry.ref(repository)
    profile = world.profile({"a": {"image": ref}, "b": {}})
    with pytest.raises(ApplyError, match=r"manifest unknown|not found"):
        world.apply(profile)
    assert set(world.ids(profile)) == {"b"}


def test_a_registry_that_is_down_does_not_stop_what_is_there(world: World, busybox: str) -> None:
    """A name nobody answers for: the plan goes on with what the engine has, and says why it could not ask."""
    profile = world.profile({"a": {"image": busybox, "pull_policy": "always"}})
    image = world.snapshot(profile).images[busybox]
    assert image.config is not None and image.digest is None and image.note
    assert pulls(world.plan(profile)) != []
