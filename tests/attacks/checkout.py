"""Tampering by what a checkout brings along: records of runs that never were, links in the place of the evidence.

They are made on the host, by whoever wrote the checkout, and need no sandbox.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandboxrun.data import Data
from sandboxrun.evidence.checking import ChainProblem, verify_chain
from sandboxrun.evidence.store import Store
from tests.attacks.inside.record import TAMPERING, attack, held, won
from tests.conftest import Cli, Ran

BESIDE = "the same attack runs without the forgery"


class Checkout(Data):
    """A project whose one sandbox does something and ends; `cli` runs the command line in it."""

    cli: Cli
    project: str
    image: str
    directory: Path

    def write(self) -> None:
        """Its profile."""
        sandbox = {"image": self.image, "command": ["true"], "egress": "none"}
        text = json.dumps({"name": self.project, "sandboxes": {"job": sandbox}})
        (self.directory / "sandbox.yaml").write_text(text)

    def user(self, name: str) -> Mapping[str, str]:
        """The environment of a user with a key of their own."""
        return {"XDG_STATE_HOME": str(self.directory.parent / f"state-{name}")}

    def run(self, *words: str, user: str = "victim") -> Ran:
        """A command there."""
        return self.cli(*words, cwd=self.directory, env=self.user(user))

    @property
    def store(self) -> Store:
        return Store(project_directory=self.directory)

    def problems(self) -> tuple[ChainProblem, ...]:
        """What does not hold of its evidence, for the user whose key has sealed it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_STATE_HOME", self.user("victim")["XDG_STATE_HOME"])
            return verify_chain(self.store)


@attack(
    TAMPERING,
    "a record counts only if it is sealed with the user's own key",
    "2 changes",
    cage="checkout",
    control=BESIDE,
)
def a_run_that_never_was(checkout: Checkout) -> str:
    """bring a complete, well-formed record that claims that the sandbox has already run"""
    checkout.write()
    done = checkout.run("apply", "-y", "--wait", user="attacker")
    own = checkout.run("plan", "--detailed-exitcode", user="attacker").code
    if done.code != 0 or own != 0:
        return f"error: to its own user it does not count: {done.err}"
    code = checkout.run("plan", "--detailed-exitcode").code
    return won("it counts") if code == 0 else held(f"exit {code} changes")


@attack(
    TAMPERING,
    "notes on leftovers are in the user's state directory; a checkout's are ignored",
    "all is there",
    cage="checkout",
    control="the notes name files that any user may remove",
)
def notes_of_what_to_remove(checkout: Checkout) -> str:
    """bring notes that list a host file and directory as leftovers of a killed run"""
    checkout.write()
    victim = checkout.directory.parent / "victim"
    (victim / "empty").mkdir(parents=True)
    (victim / "known").write_text("known")
    for place in ("staging/stand-ins", "stand-ins", "evidence/.staging/stand-ins"):
        (notes := checkout.directory / ".sandboxrun" / place).mkdir(parents=True)
        for number, (name, content) in enumerate((("empty", None), ("known", "known"))):
            old = {"at": str(victim / name), "content": content}
            new = {"source": str(victim), "engine": "", "made": {name: {"content": content}}}
            (notes / f"{number:032x}").write_text(json.dumps({**old, **new}))
    codes = [checkout.run(*words).code for words in (("run", "job"), ("apply", "-y"), ("destroy", "-y"))]
    if any(codes):
        return f"error: exits {codes}"
    left = sorted(path.name for path in victim.iterdir())
    return held("all is there") if left == ["empty", "known"] else won(f"only {left} is left")


@attack(TAMPERING, "the evidence's folders are opened step by step, and no symlink is followed", "link",
        cage="checkout", control=BESIDE)  # fmt: skip
def evidence_that_leads_elsewhere(checkout: Checkout) -> str:
    """bring a symlink in place of .sandboxrun, so that evidence overwrites something else"""
    checkout.write()
    elsewhere = checkout.directory.parent / "elsewhere"
    elsewhere.mkdir()
    (checkout.directory / ".sandboxrun").symlink_to(elsewhere)
    code, said = _run(checkout)
    if code == 0 or any(elsewhere.iterdir()):
        return won(f"exit {code}")
    (checkout.directory / ".sandboxrun").unlink()
    if (code := _run(checkout)[0]) != 0:
        return f"error: without it, exit {code}"
    return held(said)


def _run(checkout: Checkout) -> tuple[int, str]:
    ran = checkout.run("run", "job")
    return ran.code, ran.err


@attack(TAMPERING, "each index has the digest of every file, each line of the chain that of its index", "was changed",
        cage="checkout", control=BESIDE)  # fmt: skip
def an_ending_that_is_rewritten(checkout: Checkout) -> str:
    """change how a run ended, in its index, after the fact"""
    checkout.write()
    checkout.run("run", "job")
    if checkout.problems():
        return "error: it does not hold before"
    (path,) = checkout.store.path.glob("*/index.json")
    index = json.loads(path.read_text())
    index["ending"]["how"] = "failed"
    path.chmod(0o644)
    path.write_text(json.dumps(index))
    return _found(checkout)


@attack(
    TAMPERING,
    "each line of the chain has the digest of the line before",
    "does not follow",
    cage="checkout",
    control=BESIDE,
)
def a_run_that_is_forgotten(checkout: Checkout) -> str:
    """remove a run from the evidence, its folder and its line"""
    checkout.write()
    for _ in range(2):
        checkout.run("run", "job")
    if checkout.problems():
        return "error: it does not hold before"
    chain = checkout.store.path / "chain.jsonl"
    first, *rest = chain.read_bytes().splitlines(keepends=True)
    shutil.rmtree(checkout.store.path / json.loads(first)["folder"])
    chain.chmod(0o644)
    chain.write_bytes(b"".join(rest))
    return _found(checkout)


def _found(checkout: Checkout) -> str:
    problems = checkout.problems()
    return held("; ".join(map(str, problems))) if problems else won("nobody sees it")
