"""The job of a CI system or scheduler that a command runs in, read from the variables that such systems set.

Owns the table of systems and the form of the job in a label. Pure: the environment is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from sandboxrun.data import Data, json_as

VARIABLE = "SANDBOXRUN_JOB"  # names the job where no system does, or where a system's own id is not fine enough
LONGEST = 200  # characters of an id or a name
LONGEST_URL = 500
_LONGEST_LABEL = 12 * (3 * LONGEST + LONGEST_URL)  # whatever of it is escaped


class CiJob(Data):
    """One attempt of one job. `id` is unique in its `system`; `name` and `url` are "" where the system sets none."""

    system: str
    id: str
    name: str = ""
    url: str = ""

    @property
    def plain(self) -> dict[str, str]:
        """Its fields, less those that are empty."""
        fields = {"system": self.system, "id": self.id, "name": self.name, "url": self.url}
        return {key: text for key, text in fields.items() if text}

    def to_label(self) -> str:
        """As a label's value."""
        return json.dumps(self.plain, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_label(cls, text: str | None) -> CiJob | None:
        """From a label's value, which anybody may have written; None for anything else."""
        found = json_as(dict, text) if text and len(text) <= _LONGEST_LABEL else {}
        given = {key: value for key, value in found.items() if isinstance(value, str)}
        return _job(given.get("system", ""), given.get("id", ""), given.get("name", ""), given.get("url", ""))


_SET = r".+"
_TRUE = r"(?i)true|1"


class _System(Data):
    """How one system is recognised, by a variable whose value matches a pattern, and what identifies its jobs: the
    variables of `id`, joined by `/`, of which those with a `?` may be missing. `url` may name variables in braces."""

    name: str
    mark: str
    pattern: str = _TRUE
    id: str
    named: str = ""
    url: str = ""


_SYSTEMS = (
    _System(
        name="github-actions",
        mark="GITHUB_ACTIONS",
        id="GITHUB_RUN_ID GITHUB_RUN_ATTEMPT? GITHUB_JOB",  # Gitea and Forgejo set the same, less the attempt
        named="GITHUB_WORKFLOW",
        url="{GITHUB_SERVER_URL}/{GITHUB_REPOSITORY}/actions/runs/{GITHUB_RUN_ID}",
    ),
    _System(name="gitlab", mark="GITLAB_CI", id="CI_JOB_ID", named="CI_JOB_NAME", url="{CI_JOB_URL}"),
    _System(
        name="jenkins", mark="BUILD_TAG", pattern="jenkins-.+", id="BUILD_TAG", named="JOB_NAME", url="{BUILD_URL}"
    ),
    _System(
        name="buildkite",
        mark="BUILDKITE",
        id="BUILDKITE_JOB_ID",
        named="BUILDKITE_LABEL",
        url="{BUILDKITE_BUILD_URL}#{BUILDKITE_JOB_ID}",
    ),
    _System(
        name="circleci", mark="CIRCLECI", id="CIRCLE_WORKFLOW_JOB_ID", named="CIRCLE_JOB", url="{CIRCLE_BUILD_URL}"
    ),
    _System(
        name="azure-pipelines",
        mark="TF_BUILD",
        id="BUILD_BUILDID SYSTEM_JOBID SYSTEM_JOBATTEMPT?",
        named="SYSTEM_JOBDISPLAYNAME",
        url="{SYSTEM_COLLECTIONURI}{SYSTEM_TEAMPROJECT}/_build/results?buildId={BUILD_BUILDID}",
    ),
    _System(
        name="woodpecker",
        mark="CI_SYSTEM_NAME",
        pattern="woodpecker",
        id="CI_REPO CI_PIPELINE_NUMBER CI_WORKFLOW_NUMBER? CI_STEP_NUMBER?",
        named="CI_WORKFLOW_NAME",
        url="{CI_PIPELINE_URL}",
    ),
    _System(
        name="drone",
        mark="DRONE",
        id="DRONE_REPO DRONE_BUILD_NUMBER DRONE_STAGE_NUMBER? DRONE_STEP_NUMBER?",
        named="DRONE_STAGE_NAME",
        url="{DRONE_BUILD_LINK}",
    ),
    _System(
        name="bitbucket",
        mark="BITBUCKET_BUILD_NUMBER",
        pattern=_SET,
        id="BITBUCKET_REPO_FULL_NAME BITBUCKET_BUILD_NUMBER BITBUCKET_STEP_UUID?",
    ),
    _System(
        name="codebuild",
        mark="CODEBUILD_BUILD_ID",
        pattern=_SET,
        id="CODEBUILD_BUILD_ID",
        url="{CODEBUILD_BUILD_URL}",
    ),
    _System(name="travis", mark="TRAVIS", id="TRAVIS_JOB_ID", named="TRAVIS_JOB_NAME", url="{TRAVIS_JOB_WEB_URL}"),
    _System(
        name="slurm", mark="SLURM_JOB_ID", pattern=_SET, id="SLURM_CLUSTER_NAME? SLURM_JOB_ID", named="SLURM_JOB_NAME"
    ),
)


MARKS = frozenset(system.mark for system in _SYSTEMS)  # the variables that systems are recognised by


def job_of(environ: Mapping[str, str]) -> CiJob | None:
    """The job that set these variables; None outside of any. `SANDBOXRUN_JOB` comes first, as it is."""
    if VARIABLE in environ:
        return _job("custom", environ[VARIABLE])
    for system in _SYSTEMS:
        if re.fullmatch(system.pattern, environ.get(system.mark, "")):
            parts = {name: environ.get(name.rstrip("?"), "") for name in system.id.split()}
            if all(text or name.endswith("?") for name, text in parts.items()):
                known = all(environ.get(name) for name in re.findall(r"\{(\w+)\}", system.url))
                url = re.sub(r"\{(\w+)\}", lambda found: environ[found[1]], system.url) if known else ""
                id = "/".join(text for text in parts.values() if text)
                return _job(system.name, id, environ.get(system.named, ""), url)
    return None


def _job(system: str, id: str, name: str = "", url: str = "") -> CiJob | None:
    """A job of texts that may hold anything; None without an id."""
    system, id, name = (_shown(text, LONGEST) for text in (system, id, name))
    return CiJob(system=system, id=id, name=name, url=_address(url)) if system and id else None


def _shown(text: str, longest: int) -> str:
    """The text in one line, less what is not printable, at most so long."""
    return " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * longest]).split())[:longest].strip()


def _address(text: str) -> str:
    """An HTTP address without a user's name and password; "" for anything else."""
    shown = _shown(text, LONGEST_URL + 1).replace(" ", "%20")
    found = re.fullmatch(r"(https?://)([^/?#]+)(.*)", shown)
    host = found[2].rpartition("@")[2] if found is not None else ""
    return f"{found[1]}{host}{found[3]}" if found is not None and host and len(shown) <= LONGEST_URL else ""
