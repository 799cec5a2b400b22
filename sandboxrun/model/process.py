"""Options of the process: what runs, as whom, with what around it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from sandboxrun.model import convert, forms, labels
from sandboxrun.model import placements as at
from sandboxrun.model.composite import Command, ListOf, Pairs
from sandboxrun.model.option import Effect, option
from sandboxrun.model.records import Healthcheck, HealthcheckType, Logging, LoggingType
from sandboxrun.model.restart import Restart
from sandboxrun.model.types import Choice, Duration, Flag, Text, freeze
from sandboxrun.model.wired import Environment

NAME = Text(pattern=r"[A-Za-z_][A-Za-z0-9_.-]*", hint="a variable's name")
LABEL = Text(pattern=r"[^=\x00\s]+", hint="a label's name")


@attrs.frozen(kw_only=True, slots=False, eq=False, repr=False)  # a part of SandboxSpec only
class ProcessOptions:
    """Rows of the process."""

    image: str = option(
        Text(
            pattern=r"[A-Za-z0-9]([A-Za-z0-9._/:@-]{0,510}[A-Za-z0-9._-])?", hint="an image reference", form=forms.image
        ),
        default="node:20-alpine",
        description="The image to run, by tag or, better, by digest.",
        example="node:20-alpine",
        at=at.Config("Image", read=convert.form(forms.image, "")),
    )
    command: tuple[str, ...] | None = option(
        Command(),
        default=None,
        description="The command, in place of the image's: the arguments of the entry point where there is one, [] for "
        "none. The image's own, when left out, runs only where no entrypoint is set.",
        example=["node", "/agent/run.js"],
        at=at.Config("Cmd", write=list, read=convert.words),
        inherited=True,
    )
    entrypoint: tuple[str, ...] | None = option(
        Command(),
        default=None,
        description="The entry point, in place of the image's. The image's command is not used then, also where both "
        "entry points are equal: set command too. [] takes the image's entry point away and leaves its command.",
        example=["/usr/bin/env"],
        at=at.Config("Entrypoint", write=list, read=convert.words),
        inherited=True,
    )
    user: str = option(
        Text(
            numbers=True,
            pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?",
            hint="uid or uid:gid",
            form=forms.account,
        ),
        default="1000:1000",
        description="The user, and group, that the command runs as; never root unless you say so.",
        example="1000:1000",
        at=at.Config("User", read=convert.form(forms.account, "")),
        always=True,
    )
    working_dir: str | None = option(
        Text(pattern=r"/[^\x00]*", hint="an absolute path", form=forms.path),
        default=None,
        description="The working directory; the workspace's target when there is one.",
        example="/workspace",
        at=at.Config("WorkingDir", read=convert.form(forms.path)),
        inherited=True,
    )
    environment: Mapping[str, str | None] = option(
        Pairs(bare=True, name=NAME),
        default=freeze({}),
        description="Environment variables. Not for secrets: whoever can inspect the container reads them.",
        example={"CI": "1"},
        at=Environment(),
        inherited=True,
        merge="map",
    )
    init: bool = option(
        Flag(),
        default=True,
        description="Run an init as PID 1, which forwards signals and reaps children.",
        example=True,
        at=at.Host("Init", read=convert.flag),
    )
    tty: bool = option(
        Flag(),
        default=False,
        description="Give the command a terminal; stdout and stderr become one stream.",
        example=False,
        at=at.Config("Tty", read=convert.flag),
    )
    stdin_open: bool = option(
        Flag(),
        default=False,
        description="Keep standard input open.",
        example=False,
        at=at.Config("OpenStdin", read=convert.flag),
    )
    stop_signal: str | None = option(
        Text(pattern=r"[A-Za-z0-9+-]{1,12}", hint="a signal's name or number", numbers=True, form=forms.signal),
        default=None,
        description="The signal that asks the command to end.",
        example="SIGTERM",
        at=at.Config("StopSignal", read=convert.form(forms.signal, "SIGTERM")),  # the default of engines
        inherited=True,
    )
    stop_grace_period: int = option(
        Duration(),
        default=10_000_000_000,
        description="How long it may take to end after that, in whole seconds, before it is killed.",
        example="10s",
        at=at.Config("StopTimeout", write=convert.seconds, read=convert.nanoseconds),
    )
    restart: str = option(
        Restart(),
        default="no",
        description="Whether the engine starts it again. A sandbox is a task: leave it at no.",
        example="no",
        at=at.Host("RestartPolicy", write=convert.to_restart, read=convert.from_restart),
        effect=Effect.LIVE,
    )
    healthcheck: Healthcheck | None = option(
        HealthcheckType,
        default=None,
        description="How the engine tests that the sandbox is healthy.",
        example={"test": ["CMD", "true"], "interval": "30s"},
        at=at.Config("Healthcheck", write=convert.to_health, read=convert.from_health),
        inherited=True,
        merge="map",
    )
    hostname: str | None = option(
        Text(pattern=r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", hint="a host name"),
        default=None,
        description="The host name inside.",
        example="agent",
        at=at.Hostname(),
    )
    labels: Mapping[str, str] = option(
        Pairs(name=LABEL, reserved=labels.PREFIX),
        default=freeze({}),
        description="Labels of your own.",
        example={"team": "research"},
        at=at.Labels(),
        inherited=True,
        merge="map",
    )
    annotations: Mapping[str, str] = option(
        Pairs(name=LABEL),
        default=freeze({}),
        description="Annotations for the OCI runtime.",
        example={"com.example.note": "reviewed"},
        at=at.Host("Annotations", write=dict, read=convert.mapping),
        since="1.43",
        merge="map",
    )
    platform: str | None = option(
        Text(pattern=r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,2}", hint="os/arch[/variant]", form=forms.platform),
        default=None,
        description="The platform of the image: os/arch[/variant], or one of the two.",
        example="linux/amd64",
        at=at.Recorded(),
    )
    pull_policy: str = option(
        Choice(values=("missing", "always", "never", "if_not_present")),
        default="missing",
        description="When the image is pulled.",
        example="missing",
        effect=Effect.NONE,
    )
    runtime: str | None = option(
        Text(pattern=r"[A-Za-z0-9._-]+", hint="the name of a runtime"),
        default=None,
        description="The OCI runtime, for example runsc for gVisor; the engine's own when left out.",
        example="runsc",
        at=at.Host("Runtime", read=convert.text_or_none),
    )
    logging: Logging = option(
        LoggingType,
        default=Logging(),
        description="Where the engine writes the output, and how much of it is kept.",
        example={"driver": "local", "options": {"max-size": "10m", "max-file": "3"}},
        at=at.Host("LogConfig", write=convert.to_logging, read=convert.from_logging),
    )
    group_add: tuple[str, ...] = option(
        ListOf(
            item=Text(numbers=True, pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]*", hint="a group", form=forms.account),
            unique=True,
            ordered=False,
        ),
        default=(),
        description="More groups of the user.",
        example=["2000"],
        at=at.Host("GroupAdd", write=list, read=convert.names),
        merge="append",
    )
