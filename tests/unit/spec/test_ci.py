"""The job that a command runs in: every system's variables, and that nothing they hold can do harm in a label."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxrun.spec.ci import LONGEST, LONGEST_URL, CiJob, job_of

SYSTEMS: dict[str, tuple[dict[str, str], CiJob]] = {
    "github-actions": (
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_RUN_ID": "81",
            "GITHUB_RUN_ATTEMPT": "2",
            "GITHUB_JOB": "agents",
            "GITHUB_WORKFLOW": "review",
            "GITHUB_SERVER_URL": "https://git.example.com",
            "GITHUB_REPOSITORY": "team/app",
        },
        CiJob(
            system="github-actions",
            id="81/2/agents",
            name="review",
            url="https://git.example.com/team/app/actions/runs/81",
        ),
    ),
    "gitlab": (
        {
            "GITLAB_CI": "true",
            "CI_JOB_ID": "501",
            "CI_JOB_NAME": "agents",
            "CI_JOB_URL": "https://ci.example.com/-/jobs/501",
        },
        CiJob(system="gitlab", id="501", name="agents", url="https://ci.example.com/-/jobs/501"),
    ),
    "jenkins": (
        {"BUILD_TAG": "jenkins-app-12", "JOB_NAME": "app", "BUILD_URL": "http://ci.example.com/job/app/12/"},
        CiJob(system="jenkins", id="jenkins-app-12", name="app", url="http://ci.example.com/job/app/12/"),
    ),
    "buildkite": (
        {
            "BUILDKITE": "true",
            "BUILDKITE_JOB_ID": "01-ab",
            "BUILDKITE_LABEL": ":docker: agents",
            "BUILDKITE_BUILD_URL": "https://ci.example.com/b/1",
        },
        CiJob(system="buildkite", id="01-ab", name=":docker: agents", url="https://ci.example.com/b/1#01-ab"),
    ),
    "circleci": (
        {"CIRCLECI": "true", "CIRCLE_WORKFLOW_JOB_ID": "c-1", "CIRCLE_JOB": "agents"},
        CiJob(system="circleci", id="c-1", name="agents"),
    ),
    "azure-pipelines": (
        {
            "TF_BUILD": "True",
            "BUILD_BUILDID": "7",
            "SYSTEM_JOBID": "a-b",
            "SYSTEM_JOBATTEMPT": "1",
            "SYSTEM_JOBDISPLAYNAME": "Run agents",
            "SYSTEM_COLLECTIONURI": "https://ci.example.com/team/",
            "SYSTEM_TEAMPROJECT": "my app",
        },
        CiJob(
            system="azure-pipelines",
            id="7/a-b/1",
            name="Run agents",
            url="https://ci.example.com/team/my%20app/_build/results?buildId=7",
        ),
    ),
    "woodpecker": (
        {"CI_SYSTEM_NAME": "woodpecker", "CI_REPO": "team/app", "CI_PIPELINE_NUMBER": "4", "CI_STEP_NUMBER": "2"},
        CiJob(system="woodpecker", id="team/app/4/2"),
    ),
    "drone": (
        {"DRONE": "true", "DRONE_REPO": "team/app", "DRONE_BUILD_NUMBER": "4"},
        CiJob(system="drone", id="team/app/4"),
    ),
    "bitbucket": (
        {"BITBUCKET_BUILD_NUMBER": "4", "BITBUCKET_REPO_FULL_NAME": "team/app"},
        CiJob(system="bitbucket", id="team/app/4"),
    ),
    "codebuild": ({"CODEBUILD_BUILD_ID": "app:1-2"}, CiJob(system="codebuild", id="app:1-2")),
    "travis": (
        {"TRAVIS": "true", "TRAVIS_JOB_ID": "9", "TRAVIS_JOB_NAME": "agents"},
        CiJob(system="travis", id="9", name="agents"),
    ),
    "slurm": (
        {"SLURM_JOB_ID": "77", "SLURM_CLUSTER_NAME": "blue", "SLURM_JOB_NAME": "evals"},
        CiJob(system="slurm", id="blue/77", name="evals"),
    ),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_known_by_its_variables(system: str) -> None:
    environ, expected = SYSTEMS[system]
    assert job_of(environ) == expected
    assert CiJob.from_label(expected.to_label()) == expected


def test_outside_of_a_job_there_is_none() -> None:
    assert job_of({}) is None
    assert job_of({"CI": "true", "HOME": "/root"}) is None
    assert job_of({"GITLAB_CI": "true"}) is None, "without an id"
    assert job_of({"GITHUB_ACTIONS": "false", "GITHUB_RUN_ID": "1", "GITHUB_JOB": "a"}) is None


def test_a_job_named_by_hand_comes_first() -> None:
    environ = {**SYSTEMS["gitlab"][0], "SANDBOXRUN_JOB": "nightly 7"}
    assert job_of(environ) == CiJob(system="custom", id="nightly 7")
    assert job_of({**environ, "SANDBOXRUN_JOB": ""}) is None, "an empty one says: no job"


def test_an_address_holds_no_password() -> None:
    environ = {**SYSTEMS["gitlab"][0], "CI_JOB_URL": "https://bot:s3cret@ci.example.com:8443/-/jobs/1"}
    job = job_of(environ)
    assert job is not None
    assert job.url == "https://ci.example.com:8443/-/jobs/1"


@pytest.mark.parametrize("url", ["javascript:alert(1)", "ci.example.com/1", "https://", "https://bot@/1", "https:///x"])
def test_what_is_no_http_address_is_left_out(url: str) -> None:
    job = job_of({**SYSTEMS["gitlab"][0], "CI_JOB_URL": url})
    assert job is not None
    assert job.url == ""


@given(st.text(), st.text(), st.text())
def test_whatever_the_variables_hold_is_bounded_and_in_one_line(id: str, name: str, url: str) -> None:
    environ = {"GITLAB_CI": "true", "CI_JOB_ID": id, "CI_JOB_NAME": name * 50, "CI_JOB_URL": f"https://a/{url * 50}"}
    job = job_of(environ)
    if job is None:
        return
    assert CiJob.from_label(job.to_label()) == job
    for text, most in ((job.id, LONGEST), (job.name, LONGEST), (job.url, LONGEST_URL)):
        assert len(text) <= most
        assert text.isprintable() or not text


@pytest.mark.parametrize(
    "text", [None, "", "x", "[]", "1", '{"system": 1, "id": "a"}', '{"id": "a"}', "[" * 100_000, '{"id":' * 9_000]
)
def test_a_label_that_anybody_wrote_is_a_job_or_none(text: str | None) -> None:
    assert CiJob.from_label(text) is None


@given(
    st.dictionaries(st.text(), st.recursive(st.text() | st.none() | st.integers(), st.lists, max_leaves=9), max_size=9)
)
def test_a_label_of_any_json_does_not_raise(found: dict[str, object]) -> None:
    CiJob.from_label(json.dumps(found))
