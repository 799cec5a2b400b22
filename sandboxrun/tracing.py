"""Spans for OpenTelemetry, of what takes long. Owns how one is opened, what of it is masked, and a command's exporter.

Nothing is imported or done unless somebody traces: the command line, where OTEL_TRACES_EXPORTER is set, or a program
that uses the Python API and has set up OpenTelemetry itself. Tracing never fails what is traced.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from importlib import import_module
from time import monotonic
from typing import Any

from sandboxrun import __version__
from sandboxrun.errors import SandboxrunError, one_line, redact
from sandboxrun.threads import Aside

_PREFIX = "sandboxrun."
_LONGEST = 1000  # characters of an error's text
_PATIENCE = 3.0  # seconds that a command waits in the end for its last spans to be sent

_command_tracer: Any = None  # of the command that is being traced
_masks: ContextVar[_Masks | None] = ContextVar("masks", default=None)


class _Masks:
    """The texts that are masked in a span and in all that are a part of it."""

    texts: frozenset[str] = frozenset()


class Opened:
    """A span that has begun, or nothing where nobody traces."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def note(self, **attributes: object) -> None:
        """Add attributes of ours; None and "" are left out."""
        self.set({_PREFIX + name: value for name, value in attributes.items()})

    def set(self, attributes: Mapping[str, object]) -> None:
        """Add attributes by their full names."""
        if self._span is None:
            return
        with suppress(Exception):
            for name, value in attributes.items():
                if value not in (None, ""):
                    plain = isinstance(value, bool | int | float)
                    self._span.set_attribute(name, value if plain else _masked(str(value)))

    def fail(self, error: BaseException | str) -> None:
        """It ended by this error."""
        if self._span is None:
            return
        with suppress(Exception):
            self._span.set_attribute("error.type", error if isinstance(error, str) else type(error).__name__)
            trace = import_module("opentelemetry.trace")
            text = "" if isinstance(error, str) else _text_of(error)
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, text))

    def end(self) -> None:
        """It is over."""
        if self._span is not None:
            with suppress(Exception):
                self._span.end()

    def as_parent(self) -> AbstractContextManager[object]:
        """A context in which what begins is a part of it."""
        if self._span is None:
            return nullcontext()
        use: Callable[..., AbstractContextManager[object]] = import_module("opentelemetry.trace").use_span
        return use(self._span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


def open_span(name: str, *, within: Context | None = None, **attributes: object) -> Opened:
    """Begin a span that `end` ends, maybe in another thread: a part of the one that is open here, or in `within`."""
    tracer = _tracer()
    if tracer is None:
        return Opened()
    with suppress(Exception):
        start = partial(tracer.start_span, name)
        opened = Opened(start() if within is None else within.copy().run(start))
        opened.note(**attributes)
        return opened
    return Opened()


@contextmanager
def span(name: str, *, sensitive: Iterable[str] = (), **attributes: object) -> Iterator[Opened]:
    """A span of what happens meanwhile, in threads that begin here too. `sensitive` texts are masked from then on."""
    if _tracer() is None:
        yield Opened()
        return
    before = _masks.set(_masks.get() or _Masks())
    hide(sensitive)
    opened = open_span(name, within=None, **attributes)
    try:
        with opened.as_parent():
            yield opened
    except BaseException as error:
        opened.fail(error)
        raise
    finally:
        opened.end()
        _masks.reset(before)


def hide(sensitive: Iterable[str]) -> None:
    """Mask these texts too, in all of the outermost span that is open."""
    if (masks := _masks.get()) is not None:
        masks.texts |= frozenset(sensitive)


def _masked(text: str) -> str:
    masks = _masks.get()
    return redact(text, masks.texts) if masks is not None else text


def here() -> Context | None:
    """Where a span may be opened within later; None where nobody traces."""
    return copy_context() if _tracer() is not None else None


def _tracer() -> Any:
    """The command's; else that of a program that has imported OpenTelemetry, to which it may give a meaning."""
    if _command_tracer is not None:
        return _command_tracer
    get = getattr(sys.modules.get("opentelemetry.trace"), "get_tracer", None)
    return get("sandboxrun", __version__) if get is not None else None


def _text_of(error: BaseException) -> str:
    known = isinstance(error, SandboxrunError) and error.diagnostics
    text = "; ".join(d.message for d in error.diagnostics) if known else str(error)  # type: ignore[attr-defined]
    return one_line(_masked(text))[:_LONGEST]


# -- A command that is traced

Warn = Callable[[str, str | None], object]  # message, help
_OTLP = {"http/protobuf": "http", "grpc": "grpc"}  # protocol → where its exporter is


@contextmanager
def command(arguments: Sequence[str], warn: Warn) -> Iterator[Opened]:
    """Trace a command as the OTEL_* variables say. What keeps its spans from being sent is given to `warn`, once; the
    command goes on without."""
    global _command_tracer
    name = next((word for word in arguments if not word.startswith("-")), "")
    watching = "--watch" in arguments  # for days: each time that it reaps is a trace of its own
    with _Troubles(warn if watching else None) as troubles:
        try:
            provider = _provider()
        except Exception as error:
            warn(f"tracing is off: {_text_of(error)}", _EXTRA if isinstance(error, ImportError) else None)
            yield Opened()
            return
        _command_tracer = provider.get_tracer("sandboxrun", __version__)
        try:
            with nullcontext(Opened()) if watching else _root(f"sandboxrun {name}") as opened:
                yield opened
        finally:
            _command_tracer = None
            if (trouble := _flushed(provider) or troubles.first) and not watching:
                warn(f"spans were not sent: {troubles.last or trouble}", _OFF)


_EXTRA = "install the extra: pip install 'sandboxrun[otel]'"
_OFF = "OTEL_TRACES_EXPORTER=none turns tracing off"


@contextmanager
def _root(name: str) -> Iterator[Opened]:
    """The command's span, a part of the trace that TRACEPARENT names, if any."""
    context = import_module("opentelemetry.context")
    carrier = {key: os.environ.get(key.upper(), "") for key in ("traceparent", "tracestate")}
    propagator = import_module("opentelemetry.trace.propagation.tracecontext").TraceContextTextMapPropagator()
    before = context.attach(propagator.extract(carrier))
    try:
        with span(name) as opened:
            yield opened
    finally:
        context.detach(before)


def _provider() -> Any:
    """What makes spans and sends them. Raises ImportError without the extra, ValueError."""
    trace = import_module("opentelemetry.sdk.trace")
    export = import_module("opentelemetry.sdk.trace.export")
    kind = import_module("opentelemetry.sdk.resources").Resource
    resource = kind.create({"service.version": __version__})  # and what the variables say of the service
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(kind({"service.name": "sandboxrun"}))
    made = trace.TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in os.environ["OTEL_TRACES_EXPORTER"].split(","):
        match name.strip().lower():
            case "otlp":
                named = (f"OTEL_EXPORTER_OTLP_{which}PROTOCOL" for which in ("TRACES_", ""))
                protocol = next(filter(None, map(os.environ.get, named)), "http/protobuf")
                if protocol not in _OTLP:
                    raise ValueError(f'OTEL_EXPORTER_OTLP_PROTOCOL: "{protocol}" is unknown; use {" or ".join(_OTLP)}')
                module = f"opentelemetry.exporter.otlp.proto.{_OTLP[protocol]}.trace_exporter"
                exporter = import_module(module).OTLPSpanExporter()
            case "console":
                exporter = export.ConsoleSpanExporter(out=sys.stderr)
            case unknown:
                raise ValueError(f'OTEL_TRACES_EXPORTER: "{unknown}" is unknown; use otlp, console or none')
        made.add_span_processor(export.BatchSpanProcessor(exporter))
    return made


def _flushed(provider: Any) -> str:
    """Have the last spans sent; what kept them from it."""
    try:
        Aside(provider.shutdown, name="spans").result(monotonic() + _PATIENCE)
    except TimeoutError:
        return f"no success within {_PATIENCE:g} seconds"
    except Exception as error:
        return _text_of(error)
    return ""


class _Troubles:
    """Takes what OpenTelemetry logs, none of which is printed: the `first` error, and the `last` message. `tell` gets
    the first error at once. A handler by what it has, not by its class: importing logging is 2 % of a plan's start."""

    def __init__(self, tell: Warn | None) -> None:
        self._logging = import_module("logging")
        self._tell, self.first, self.last = tell, "", ""
        self.level = self._logging.WARNING
        self._logger = self._logging.getLogger("opentelemetry")

    def handle(self, record: Any) -> None:
        """Called by the exporter's thread."""
        with suppress(Exception):
            self.last = one_line(_masked(record.getMessage()))[:_LONGEST]
            if self.first or (record.levelno < self._logging.ERROR and "dropping" not in self.last.lower()):
                return
            self.first = self.last
            if self._tell is not None:
                self._tell(f"spans were not sent: {self.first}", _OFF)

    def __enter__(self) -> _Troubles:
        self._propagates, self._logger.propagate = self._logger.propagate, False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_error: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagates
