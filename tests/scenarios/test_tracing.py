"""Spans: what commands send to a collector, what of it is masked, and what becomes of a command that can't send any."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sandboxrun import tracing
from sandboxrun.backend.errors import EngineError
from sandboxrun.backend.fake import Fake, World
from sandboxrun.cli import options as project
from sandboxrun.errors import MASK, spellings
from sandboxrun.plan.operations import Operation, StartSandbox
from tests.conftest import Ran
from tests.scenarios.test_masking import ENVIRONMENT, EVERY
from tests.scenarios.test_masking import PROFILE as SENSITIVE
from tests.scenarios.world import IMAGE

service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

PROFILE = f"""\
name: tale
sandboxes:
  agent: {{image: "{IMAGE}", network_mode: none, command: [sh, -c, "exit 3"]}}
"""
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
Say = Callable[..., tuple[int, str]]


class Collector:
    """Takes what an exporter sends."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        took = self.bodies.append

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                took(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def resources(self) -> list[Any]:
        return [
            one for body in self.bodies for one in service.ExportTraceServiceRequest.FromString(body).resource_spans
        ]

    @property
    def spans(self) -> list[Any]:
        return [span for one in self.resources for scope in one.scope_spans for span in scope.spans]

    def named(self, name: str) -> Any:
        """The first of that name."""
        return next(span for span in self.spans if span.name == name)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    thread = Thread(target=made.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
    monkeypatch.setattr(tracing, "_PATIENCE", 60.0)
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def say(in_process: Callable[..., Ran], here: Path) -> Say:
    """Runs a command; its code and what it printed on stderr."""
    (here / "sandbox.yaml").write_text(PROFILE)

    def run(*arguments: str) -> tuple[int, str]:
        ran = in_process(*arguments)
        return ran.code, ran.err

    return run


def test_a_run_is_one_trace(say: Say, collector: Collector) -> None:
    code, text = say("run", "agent")
    assert (code, "spans" in text) == (3, False)
    root, sandbox = collector.named("sandboxrun run"), collector.named("sandbox")
    assert attributes(root) == {"process.exit.code": 3}
    assert {span.trace_id for span in collector.spans} == {root.trace_id}
    by_id = {span.span_id: span.name for span in collector.spans}
    tree = {span.name: by_id.get(span.parent_span_id) for span in collector.spans}
    for name, parent in (
        ("sandboxrun run", None),
        ("observe", "sandboxrun run"),
        ("carry out", "sandboxrun run"),
        ("create sandbox", "carry out"),
        ("start sandbox", "carry out"),
        ("sandbox", "sandboxrun run"),
        ("capture evidence", "carry out"),
        ("remove sandbox", "carry out"),
    ):
        assert tree[name] == parent, name
    found = attributes(sandbox)
    assert (found["sandboxrun.sandbox"], found["sandboxrun.exit_code"], found["error.type"]) == ("agent", 3, "3")
    captured = attributes(collector.named("capture evidence"))
    assert (captured["sandboxrun.ended"], captured["sandboxrun.run"]) == ("failed", found["sandboxrun.run"])
    (named,) = {attributes(one.resource)["service.name"] for one in collector.resources}
    assert named == "sandboxrun"


def test_the_variables_name_the_service_and_the_trace(
    say: Say, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    monkeypatch.setenv("TRACEPARENT", f"00-{TRACE}-{PARENT}-01")
    assert say("plan")[0] == 0
    root = collector.named("sandboxrun plan")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert {attributes(one.resource)["service.name"] for one in collector.resources} == {"nightly"}


def test_apply_waits_for_its_lock_and_reap_counts(say: Say, collector: Collector) -> None:
    assert say("apply", "-y")[0] == 0
    assert {"lock", "carry out", "sandboxrun apply"} <= {span.name for span in collector.spans}
    assert "sandbox" not in {span.name for span in collector.spans}  # nobody watches it
    assert say("apply", "-y", "--wait")[0] == 3
    assert say("apply", "-y", "--rerun")[0] == 0
    assert say("reap")[0] == 0
    found = attributes(collector.named("reap"))
    assert found == {"sandboxrun.project": "tale", "sandboxrun.reaped": 1, "sandboxrun.left": 0}


def test_an_error_is_on_its_step_and_on_the_command(say: Say, collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "sandbox.yaml").write_text(PROFILE.replace("name: tale", "name: [tale]"))
    assert say("plan")[0] == 1
    root = collector.named("sandboxrun plan")
    assert attributes(root) == {"process.exit.code": 1, "error.type": "ProfileError"}
    assert (root.status.code, root.status.message != "") == (2, True)


class Failing(Fake):
    """An engine whose own error quotes all that a profile holds that is sensitive."""

    def perform(self, step: Operation, session: Any) -> str | None:
        if isinstance(step, StartSandbox):
            raise EngineError(f"starting {step.address}", " and ".join(EVERY))
        return super().perform(step, session)


def test_nothing_sensitive_is_sent(
    say: Say, world: World, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sandbox.yaml").write_text(SENSITIVE)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    say("run"), say("plan"), say("apply", "-y", "--wait"), say("destroy", "-y")
    monkeypatch.setattr(project, "open_engine", lambda *args: nullcontext(Failing(world)))
    assert say("run")[0] == 125
    sent = b"\n".join(collector.bodies)
    assert [form for value in EVERY for form in spellings(value.encode()) if len(form) >= 8 and form in sent] == []
    assert MASK.encode() in sent and b"capture evidence" in sent


def test_a_collector_that_is_away_is_reported_once_and_fails_nothing(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(tracing, "_PATIENCE", 0.5)
        code, text = say("run", "agent")
    assert code == 3
    assert text.count("warning: ") == text.count("warning: spans were not sent: ") == 1
    assert "OTEL_TRACES_EXPORTER=none" in text


def test_a_collector_that_refuses_is_reported_with_its_answer(
    say: Say, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handler: Any) -> None:
        handler.send_error(403, "no")

    monkeypatch.setattr(collector.server.RequestHandlerClass, "do_POST", refuse)
    code, text = say("plan")
    assert (code, text.count("spans were not sent: "), "403" in text) == (0, 1, True)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "carrier-pigeon"}, '"carrier-pigeon" is unknown; use otlp, console or none'),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            '"smoke" is unknown; use http/protobuf or grpc',
        ),
    ],
)
def test_what_can_not_be_meant_turns_tracing_off_and_fails_nothing(
    say: Say, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, text = say("plan")
    assert code == 0
    assert text.count("warning: tracing is off: ") == 1 and told in text


def test_without_the_extra_tracing_is_off(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not installed
    code, text = say("plan")
    assert code == 0
    assert "warning: tracing is off: " in text and "pip install 'sandboxrun[otel]'" in text


@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}]
)
def test_off_by_default_and_then_nothing_is_imported(tmp_path: Path, variables: dict[str, str]) -> None:
    (tmp_path / "sandbox.yaml").write_text(PROFILE)
    script = """
        import sys
        from sandboxrun.cli.main import main
        code = main(["plan", "--offline"])
        assert code == 0, code
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
    """
    _in_a_program(script, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **variables)


PROGRAM = """
    from pathlib import Path
    from opentelemetry import trace
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from sandboxrun.backend.fake import Fake
    from sandboxrun.lifecycle.run import run
    from tests.scenarios.world import Job, new_world, read

    class Broken(SpanProcessor):
        def on_start(self, span, parent_context=None):
            if span.name != "their own":
                raise RuntimeError("on_start")

        def on_end(self, span):
            if span.name != "their own":
                raise RuntimeError("on_end")

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor({processor})
    trace.set_tracer_provider(provider)
    job = Job.of(Fake(new_world()), read(Path("."), {{"agent": {{"command": ["true"]}}}}), Path("evidence"))
    with trace.get_tracer("program").start_as_current_span("their own"):
        results = run(job.backend, job.profile, job.store, job.profile.sandboxes)
    assert [result.exit_code for result in results] == [0], results
"""


def test_a_program_that_traces_gets_our_spans_in_its_own(tmp_path: Path) -> None:
    check = """
    spans = exporter.get_finished_spans()
    (own,) = [span for span in spans if span.name == "their own"]
    assert {span.context.trace_id for span in spans} == {own.context.trace_id}
    assert {"sandbox", "create sandbox", "capture evidence"} <= {span.name for span in spans}
    """
    _in_a_program(PROGRAM.format(processor="SimpleSpanProcessor(exporter)") + check, tmp_path)


def test_a_programs_tracing_that_fails_fails_nothing_of_ours(tmp_path: Path) -> None:
    _in_a_program(PROGRAM.format(processor="Broken()"), tmp_path)


def _in_a_program(script: str, directory: Path, **variables: str) -> None:
    root = Path(__file__).resolve().parents[2]
    known = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(root), known))), **variables}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
