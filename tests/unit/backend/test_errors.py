"""What the engine's statuses and messages come to, as a user sees them."""

from __future__ import annotations

import pytest

from sandboxrun.backend.docker.calls import translated
from sandboxrun.backend.docker.transport import Broken, TimedOut, Unreachable
from sandboxrun.backend.errors import EngineError, EngineTimeout, EngineUnreachable, NameConflict, NotFound, failure
from sandboxrun.errors import did_you_mean

CONFLICT = 'Conflict. The container name "/demo-a" is already in use by container "0123". You have to remove it.'


@pytest.mark.parametrize(
    ("status", "cause", "kind"),
    [
        (404, "No such container: x", NotFound),
        (409, CONFLICT, NameConflict),
        (500, 'creating container storage: the container name "a" is already in use by 12', NameConflict),  # Podman
        (409, "network with name demo already exists", NameConflict),
        (409, "Container 12 is not running", EngineError),
        (400, "name is already in use", EngineError),
        (500, "server error", EngineError),
    ],
)
def test_kinds(status: int, cause: str, kind: type[EngineError]) -> None:
    error = failure("doing it", status, cause)
    assert type(error) is kind
    assert (error.operation, error.status) == ("doing it", status)


def test_the_message_names_operation_and_cause() -> None:
    assert str(failure("creating container demo-a", 409, CONFLICT)) == (
        'error: creating container demo-a: Conflict. The container name "/demo-a" is already in use by container '
        '"0123". You have to remove it'
    )


def test_no_message_at_all() -> None:
    error = failure("listing networks", 502, " \n")
    assert error.cause == "the engine answered with status 502 and no message"


@pytest.mark.parametrize(
    ("cause", "help"),
    [
        ("No such image: a:1", "pull the image first, or set pull_policy: missing"),
        ("all predefined address pools have been fully subnetted", "remove unused networks"),
        ("could not find an available, non-overlapping IPv4 address pool", "remove unused networks"),
        ("Unknown runtime specified x: unknown or invalid runtime name: x", "`sandboxrun doctor` lists the runtimes"),
        ('exec: "nope": executable file not found in $PATH', "the image has no such program"),
        ("--storage-opt is supported only for overlay over xfs with 'pquota'", "a disk quota needs a storage driver"),
        ("write /x: no space left on device", "free some space on the engine's disk"),
        (
            'runc create failed: unable to start container process: exec: "/x": stat /x: no such file or directory',
            "the image can't run this: check command and entrypoint",
        ),
        ("unable to find user a: no matching entries in passwd file", "user names one that"),
        ("Unable to find group a: no matching entries in group file", "user or group_add names one that"),
        ("Cannot mkdir: /bin/sh is not a directory", "something else is there in the image"),
        (
            "image a:1 was found but does not match the specified platform: wanted linux/arm64, actual: linux/amd64",
            "pull the image for this platform",
        ),
    ],
)
def test_help(cause: str, help: str) -> None:
    assert f"help: {help}" in str(failure("doing it", 500, cause))


def test_the_engines_words_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in str(failure("doing it", 500, "\x1b[2Jgone"))


def test_carrying_failures() -> None:
    unreachable = translated("listing", Unreachable("there is no socket /a", "start it"))
    assert isinstance(unreachable, EngineUnreachable) and not unreachable.maybe_done
    assert str(unreachable) == "error: listing: there is no socket /a\n  help: start it"
    broken = translated("listing", Broken("the connection was lost"))
    assert isinstance(broken, EngineUnreachable) and broken.maybe_done
    assert isinstance(translated("listing", TimedOut("no answer in time")), EngineTimeout)


@pytest.mark.parametrize(
    ("word", "help"),
    [("agnet", 'did you mean "agent"?'), ('lint["bb"]', 'did you mean lint["b"]?'), ("zzz", None)],
)
def test_what_was_meant_is_quoted_once(word: str, help: str | None) -> None:
    assert did_you_mean(word, ["agent", 'lint["b"]']) == help
