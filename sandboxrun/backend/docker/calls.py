"""How one engine call is made: the API's version, path and query quoted, body encoded, the answer checked and taken
apart, its failures named; and what the engine says of itself. The single calls are in client.py.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote as _quote
from urllib.parse import urlencode

from msgspec import MsgspecError
from msgspec.json import decode

from sandboxrun.backend.docker.transport import (
    MAX_WHOLE,
    TIMEOUT,
    Request,
    TimedOut,
    TooLarge,
    TransportError,
    Unreachable,
)
from sandboxrun.backend.errors import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    NotFound,
    Unsupported,
    failure,
    help_for,
)
from sandboxrun.data import Closing, Data, json_as
from sandboxrun.spec.labels import read
from sandboxrun.spec.types import size_told

if TYPE_CHECKING:
    from sandboxrun.backend.docker.docker_py import HijackedConnection, Response, Transport

T = TypeVar("T")
Json = Mapping[str, Any]
LabelFilter = Mapping[str, str | None]  # a None value: any
Query = Mapping[str, str | int | bool | None]

OLDEST = (1, 41)  # engine 20.10; older ones lack one-shot stats and private cgroup namespaces
NEWEST = (1, 51)  # engine 28.5: what this client was written against
MAX_MESSAGE = 2000
STDOUT = 1
STDERR = 2
_SYSTEM = 3  # the engine's own message in a log stream: it could not read the log
_HEADER = 8  # stream, three zeros, the payload's length as a big-endian 32-bit number
_MAX_SYSTEM = 4096
MAX_LINE = 16 * 1024 * 1024
_FRESH = 60.0  # seconds for which an answer about the engine itself is used again
_CLOCK = "asking the engine for its time"


def quote(text: str, also: str = "") -> str:
    """Percent-encode `text` for a path or a query, except letters, digits, `-._~` and `also`."""
    return _quote(text, safe=also, errors="surrogateescape")


def target(path: str, query: Query | None) -> str:
    """A request's target; None in the query is left out, booleans are 1 and 0."""
    pairs = {k: int(v) if isinstance(v, bool) else v for k, v in (query or {}).items() if v is not None}
    return f"{path}?{urlencode(pairs, quote_via=_quote, errors='surrogateescape')}" if pairs else path


def label_filter(labels: LabelFilter | None, more: Mapping[str, Sequence[str]] | None = None) -> str | None:
    """The `filters` value for objects that carry all `labels` (a None value: any); None when nothing is asked."""
    filters: dict[str, list[str]] = {key: list(values) for key, values in (more or {}).items() if values}
    if labels:
        filters["label"] = [key if value is None else f"{key}={value}" for key, value in labels.items()]
    return json.dumps(filters) if filters else None


def translated(operation: str, error: TransportError) -> EngineError:
    """A failed transport, as the error that the user sees."""
    if isinstance(error, Unreachable):
        return EngineUnreachable(operation, str(error), help=error.help)
    if isinstance(error, TooLarge):
        return EngineError(operation, str(error))
    if isinstance(error, TimedOut):
        return EngineTimeout(operation, str(error), help="the engine may be overloaded: try again")
    help = "see whether the engine still runs (its log tells why it stopped), then run the command again"
    return EngineUnreachable(operation, str(error), help=help, maybe_done=True)


def with_labels(listed: tuple[Json, ...], labels: LabelFilter | None) -> tuple[Json, ...]:
    """Those of a list that carry all `labels`, whatever the engine, or what is before it, made of the filter: what is
    in a list may be removed."""
    if not labels:
        return listed
    own = ((one, read(one.get("Labels"))) for one in listed)
    wanted = labels.items()
    return tuple(one for one, has in own if all(name in has and text in (None, has[name]) for name, text in wanted))


class Answer(Data, unshown=("response",)):
    """An answer with a good status, and the operation it belongs to. Reading it raises EngineErrors only."""

    operation: str
    response: Response
    most: int | None = None  # bytes of a body that is read whole: an agent may have shaped what is in it

    def read(self) -> bytes:
        """The whole body. One of more bytes than there may be is an error."""
        limit = MAX_WHOLE if self.most is None else self.most
        data = bytearray()
        for piece in self.pieces():
            data += piece
            if len(data) > limit:
                self.close()
                raise EngineError(self.operation, f"the engine's answer is larger than {size_told(limit)}")
        return bytes(data)

    def json(self) -> Any:
        """The whole body as JSON."""
        data = self.read()
        try:  # three times as fast as the standard library, which takes what is not quite JSON (half a surrogate), too
            return decode(data)
        except (MsgspecError, RecursionError):
            pass
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EngineError(self.operation, "the engine's answer is not JSON", status=self.response.status) from error

    def mapping(self, shape: Shape | None = None) -> Json:
        """The whole body as a JSON object, of one of the shapes below."""
        value = self.json()
        if not isinstance(value, dict):
            raise self._unfit("is not a JSON object")
        self._check(value, shape)
        return value

    def sequence(self, shape: Shape | None = None, *, within: str | None = None) -> tuple[Json, ...]:
        """The whole body, or the field of it that it is `within`, as a JSON array of objects of that shape; null, which
        the engine sends for an empty one, is empty."""
        value = self.json() if within is None else self.mapping().get(within)
        if not isinstance(value, list | None) or not all(isinstance(one, dict) for one in value or ()):
            raise self._unfit("is not a JSON array of objects")
        self._check(value or [], [shape] if shape is not None else None)
        return tuple(value or ())

    def _check(self, value: Any, shape: Shape | None) -> None:
        if shape is not None and (fault := unfit(value, shape)):
            raise self._unfit(f"cannot be read: {fault}")

    def _unfit(self, why: str) -> EngineError:
        return EngineError(self.operation, f"the engine's answer {why}", status=self.response.status)

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives."""
        while piece := guarded(self.operation, self.response.some):
            yield piece

    def connection(self) -> HijackedConnection:
        """The connection itself, after an upgrade."""
        return self.response.connection()

    def close(self) -> None:
        """Drop the rest."""
        self.response.close()


def engine_id_of(info: Json) -> str:
    """What tells an engine from others, by its answer to GET /info; "" where it has no id.

    Its own id is not enough: engines before 23 read it from one file of the host, and so those of one host share it;
    their directories differ.
    """
    id = str(info.get("ID") or "")
    return f"{id} {info.get('DockerRootDir') or ''}".rstrip() if id else ""


def guarded(operation: str, call: Callable[[], T]) -> T:
    """`call`, whose failure to carry something is reported in the user's terms."""
    try:
        return call()
    except TransportError as error:
        raise translated(operation, error) from error


def demultiplex(pieces: Iterable[bytes], operation: str) -> Iterator[tuple[int, bytes]]:
    """(1 stdout or 2 stderr, bytes) as they arrive: what one piece has of a stream comes as one, for a program that
    writes by lines has a frame a line.

    A stream that ends within a frame gives what had arrived of it. Raises EngineError for bytes that are no
    frames, and for the engine's own message that the log could not be read.
    """
    rest = b""  # the beginning of a header
    stream, left = STDOUT, 0
    system = b""
    for piece in pieces:
        data, at = rest + piece, 0
        output: list[tuple[int, list[bytes]]] = []
        fault = None
        while fault is None and at < len(data) and (left or len(data) - at >= _HEADER):
            if left == 0:
                # 0 is stdin, which the engine uses for nothing a container writes; docker's own client takes it as
                # stdout.
                stream, left = data[at] or STDOUT, int.from_bytes(data[at + 4 : at + _HEADER], "big")
                if stream > _SYSTEM or data[at + 1 : at + 4] != b"\0\0\0":
                    fault = "the engine sent output that is not in frames"
                at += _HEADER
                continue
            part = data[at : at + left]
            at += len(part)
            left -= len(part)
            if stream == _SYSTEM:
                system += part[: _MAX_SYSTEM - len(system)]
                fault = None if left else system.decode("utf-8", "replace").strip().rstrip(".")
            elif output and output[-1][0] == stream:
                output[-1][1].append(part)
            else:
                output.append((stream, [part]))
        yield from ((of, b"".join(parts)) for of, parts in output)
        if fault is not None:
            raise EngineError(operation, fault)
        rest = data[at:]


def json_lines(pieces: Iterable[bytes], operation: str) -> Iterator[dict[str, Any]]:
    """The objects, each on its line. A last line that was cut off is left out. Raises EngineError."""
    buffer = bytearray()
    for piece in pieces:
        start = len(buffer)
        buffer += piece
        if buffer.find(b"\n", start) < 0:
            if len(buffer) > MAX_LINE:
                raise EngineError(operation, f"the engine sent a line longer than {size_told(MAX_LINE)}")
            continue
        *lines, rest = bytes(buffer).split(b"\n")
        buffer = bytearray(rest)
        for line in lines:
            if line.strip():
                yield _object(line, operation)
    if buffer.strip():
        try:
            yield _object(bytes(buffer), operation)
        except EngineError:
            return


def entries_of(answer: Answer) -> Iterator[Json]:
    """What the engine tells while it works. Raises the EngineError of a failure that it tells."""
    try:
        for entry in json_lines(answer.pieces(), answer.operation):
            if "error" in entry or "errorDetail" in entry:
                detail = entry.get("errorDetail")
                said = detail.get("message") if isinstance(detail, dict) else None
                cause = str(said or entry.get("error")).strip().rstrip(".")
                raise EngineError(answer.operation, cause, help=help_for(cause))
            yield entry
    finally:
        answer.close()


def _object(line: bytes, operation: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EngineError(operation, "the engine sent a line that is not JSON") from error
    if not isinstance(value, dict):
        raise EngineError(operation, "the engine sent a line that is not a JSON object")
    return value


def message_of(data: bytes) -> str:
    """The engine's own text: Docker's {"message"}, Podman's {"cause", "message"}, or plain text from a proxy."""
    message = json_as(dict, data).get("message")
    return message[:MAX_MESSAGE] if isinstance(message, str) else data[:MAX_MESSAGE].decode("utf-8", "replace")


def uptime() -> float:
    """Seconds that go on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Client(Closing):
    """Makes calls of the API over one Transport. Usable from several threads at once; a context manager. Raises
    EngineErrors."""

    def __init__(self, transport: Transport, *, api_version: str | None = None) -> None:
        """Use `transport`; an `api_version` that is not given is agreed upon with the first call."""
        self.transport = transport
        self._version = api_version
        self._about: Json | None = None
        self._info: tuple[float, Json] | None = None  # and when it was asked
        self._told: tuple[float, str] | None = None  # when the last answer came, and the engine's date in it
        self._id = ""

    @property
    def endpoint(self) -> str:
        """Where the engine is, as a URL."""
        return self.transport.endpoint

    @property
    def api_version(self) -> str:
        """The API version in use, such as "1.41": the newest that both sides know. Raises Unsupported for an engine
        that is too old."""
        if self._version is not None:
            return self._version
        operation = "asking the engine for its version"
        answer = self.request("GET", "/_ping", operation, versioned=False, timeout=30)
        answer.read()
        theirs = answer.response.headers.get("api-version", "")
        try:
            major, minor = (int(part) for part in theirs.split("."))
        except ValueError:
            cause = f"what answers at {self.endpoint} is not a container engine"
            raise Unsupported(operation, cause, help="check the address") from None
        if (major, minor) < OLDEST:
            cause = f"the engine speaks API {theirs}, and {'.'.join(map(str, OLDEST))} is the oldest that will do"
            raise Unsupported(operation, cause, help="upgrade to Docker 20.10 or newer")
        self._version = ".".join(map(str, min((major, minor), NEWEST)))
        return self._version

    def request(
        self,
        method: str,
        path: str,
        operation: str,
        *,
        query: Query | None = None,
        payload: Any = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = TIMEOUT,
        upgrade: bool = False,
        stream: bool = False,
        most: int | None = None,
        versioned: bool = True,
    ) -> Answer:
        """One call of the API: every request to the engine is made here.

        `path` is quoted and without the version; `payload` is sent as JSON, `body` as it is. `operation` is
        a clause for messages ("creating container a"). See `Request` for the others. Raises the EngineError for an
        answer with an error status, EngineUnreachable and EngineTimeout.
        """
        fields = dict(headers or {})
        if payload is not None:
            fields["Content-Type"] = "application/json"
            body = json.dumps(payload).encode()
        request = Request(
            method=method,
            target=target(f"/v{self.api_version}{path}" if versioned else path, query),
            headers=fields,
            body=body,
            timeout=timeout,
            upgrade=upgrade,
            stream=stream,
            most=most,
        )
        return self._checked(operation, guarded(operation, lambda: self.transport.request(request)), most)

    def _checked(self, operation: str, response: Response, most: int | None = None) -> Answer:
        if date := response.headers.get("date"):
            self._told = uptime(), date
        answer = Answer(operation=operation, response=response, most=most)
        # Redirects are failures too: no engine sends them, and what is between must not choose where requests go.
        if response.status < 300 or response.status == 304:
            return answer
        try:
            said = answer.read()
        except EngineError as error:
            said = error.cause.encode()
        raise failure(operation, response.status, message_of(said))

    def objects(self, paths: Sequence[str], operation: str, shape: Shape | None = None) -> Sequence[Json | None]:
        """What is at each of `paths`, of that shape, in their order, or None where there is nothing. Raises
        EngineErrors."""
        asked = [Request(method="GET", target=f"/v{self.api_version}{path}", headers={}) for path in paths]

        def read(response: Response) -> Json | None:
            try:
                return self._checked(operation, response).mapping(shape)
            except NotFound:
                return None

        return guarded(operation, lambda: self.transport.each(asked, read))

    def version(self) -> Json:
        """GET /version, once: an engine that is replaced ends its connections, and this object with them."""
        if self._about is None:
            self._about = self.request("GET", "/version", "asking the engine for its version").mapping(VERSION)
        return self._about

    def info(self) -> Json:
        """GET /info, again where the last answer is older than a minute: an engine may be reconfigured."""
        if self._info is None or uptime() - self._info[0] > _FRESH:
            asked = uptime()
            found = self.request("GET", "/info", "asking the engine about itself").mapping(INFO)
            self._info, self._id = (asked, found), engine_id_of(found)
        return self._info[1]

    @property
    def counts_usage(self) -> bool:
        """Rootless under control groups of version 1, an engine has none, and its figures are the machine's. That does
        not change while it runs. Never raises: where nobody can tell, they count as its own."""
        if self._info is None:
            with contextlib.suppress(EngineError):
                self.info()
        return self._info is None or self._info[1].get("CgroupDriver") != "none"

    @property
    def identity(self) -> str:
        """What tells this engine from others (`engine_id_of`), or its address where it tells nothing. Never raises."""
        if not self._id:
            with contextlib.suppress(EngineError):
                self.info()
        return self._id or self.endpoint

    def clock(self) -> datetime:
        """The engine's time, UTC, at most a second behind: leases and expiry count by it, not by this machine's.

        Every answer has it, to the second; without one in the last minute the engine is asked.
        """
        if self._told is None or uptime() - self._told[0] > _FRESH:
            self.request("GET", "/_ping", _CLOCK, versioned=False).read()
        came, date = self._told or (0.0, "")
        with contextlib.suppress(ValueError, OverflowError):
            told = parsedate_to_datetime(date)
            if told.tzinfo is not None:
                return told.astimezone(UTC) + timedelta(seconds=uptime() - came)
        raise EngineError(_CLOCK, "the engine's answer has no time")

    def close(self) -> None:
        """End all connections: streams that are being read end, calls under way fail."""
        self.transport.close()


# -- What an engine's answers look like: of which JSON type the fields are that anything reads. They may be missing or
# null, others may hold anything. An answer of another shape is the engine's failure, by the name of the field: it is
# refused where it comes in, so that no reader has to look at types

# A JSON type, [shape] for a list, {"*": shape} for an object of any fields, {name: shape} for one with these. A field
# that must be there is a (shape,).
Shape = Any
_WORDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", dict: "an object"}


def unfit(value: Any, shape: Shape, at: str = "") -> str:
    """Why an answer, which is not null, is not of that shape, by the field that is not; "" for one that is."""
    kind: Any = shape if type(shape) is type else type(shape)
    if type(value) is not kind:
        return f"{at or 'it'} is not {_WORDS[kind]}"
    if kind is shape:
        return ""
    parts: Iterable[tuple[Any, Any]] = enumerate(value) if kind is list else value.items()
    if kind is dict and "*" not in shape:
        parts = ((name, value.get(name)) for name in shape)
    for name, one in parts:
        wanted = shape[0] if kind is list else shape.get(name) or shape["*"]
        must = type(wanted) is tuple
        wanted = wanted[0] if must else wanted
        if type(one) is wanted or (one is None and not must and kind is not list):
            continue
        where = f"{at}.{name}" if at else str(name)
        if fault := f"{where} is missing" if one is None else unfit(one, wanted, where):
            return fault
    return ""


def _all(kind: Shape, names: str) -> dict[str, Shape]:
    return dict.fromkeys(names.split(), kind)


_TEXTS, _TEXT_MAP = [str], {"*": (str,)}

VERSION = {**_all(str, "Version ApiVersion Os Arch KernelVersion"), "Components": [dict]}
INFO = {
    **_all(int, "NCPU MemTotal"),
    **_all(_TEXTS, "SecurityOptions Warnings"),
    **_all(str, "ID DockerRootDir DefaultRuntime CgroupVersion Driver"),
    "DefaultAddressPools": [{"Base": (str,), "Size": (int,)}],
    "DriverStatus": [[str]],
    "Runtimes": dict,
}

_CONFIG = {
    **_all(str, "User WorkingDir StopSignal Hostname Image"),
    **_all(_TEXTS, "Env Cmd Entrypoint"),
    **_all(bool, "Tty OpenStdin"),
    "Volumes": dict,
    "StopTimeout": int,
    "Healthcheck": {"Test": _TEXTS, **_all(int, "Interval Timeout StartPeriod StartInterval Retries")},
}
_REQUEST = {"Driver": str, "Count": int, "DeviceIDs": _TEXTS, "Capabilities": [_TEXTS], "Options": _TEXT_MAP}
_TMPFS = {"SizeBytes": int, "Mode": int, "Options": [_TEXTS]}
_HOST = {
    **_all(str, "NetworkMode IpcMode PidMode UTSMode UsernsMode CgroupnsMode CgroupParent Runtime CpusetCpus"),
    **_all(bool, "Privileged ReadonlyRootfs OomKillDisable Init"),
    **_all(
        int, "Memory MemorySwap MemoryReservation NanoCpus CpuQuota CpuPeriod CpuShares PidsLimit ShmSize OomScoreAdj"
    ),
    **_all(_TEXTS, "CapAdd CapDrop GroupAdd Dns DnsOptions DnsSearch ExtraHosts SecurityOpt VolumesFrom"),
    **_all(_TEXTS, "DeviceCgroupRules MaskedPaths ReadonlyPaths"),
    **_all(_TEXT_MAP, "Tmpfs Sysctls StorageOpt Annotations"),
    "LogConfig": {"Type": str, "Config": _TEXT_MAP},
    "RestartPolicy": {"Name": str, "MaximumRetryCount": int},
    "Devices": [_all(str, "PathOnHost PathInContainer CgroupPermissions")],
    "DeviceRequests": [_REQUEST],
    "Ulimits": [{"Name": str, "Hard": int, "Soft": int}],
    "Mounts": [{**_all(str, "Type Source Target"), "ReadOnly": bool, "TmpfsOptions": _TMPFS}],
    "PortBindings": {"*": [{"HostIp": str, "HostPort": str}]},
}
_STATE = {
    **_all(str, "Status Error StartedAt FinishedAt"),
    **_all(bool, "Running Paused Restarting OOMKilled"),
    **_all(int, "ExitCode Pid"),
    "Health": {"Status": str},
}
_MOUNTED = {**_all(str, "Type Name Source Destination Propagation"), "RW": bool}
_NETWORKS = {"Networks": {"*": {"IPAddress": str, "Aliases": _TEXTS}}}
CONTAINER = {
    **_all(str, "Id Name Created Path Image"),
    "Config": _CONFIG,
    "HostConfig": _HOST,
    "State": _STATE,
    "Mounts": [_MOUNTED],
    "NetworkSettings": _NETWORKS,
}
LISTED = {
    "Id": (str,),
    **_all(str, "State ImageID"),
    "Names": _TEXTS,
    "Mounts": [_MOUNTED],
    "NetworkSettings": _NETWORKS,
}
IMAGE = {"Id": (str,), "Architecture": str, "RepoDigests": _TEXTS, "Config": _CONFIG}
NETWORK = {
    **_all((str,), "Id Name"),
    **_all(str, "Driver Created"),
    **_all(bool, "Internal EnableIPv6"),
    "Options": _TEXT_MAP,
    "IPAM": {"Config": [{"Subnet": str, "Gateway": str}]},
    "Containers": {"*": dict},
}
VOLUME = {"Name": (str,), "CreatedAt": str, "Options": _TEXT_MAP}

MADE = {"Id": (str,), "Warnings": _TEXTS}
UPDATED = {"Warnings": _TEXTS}
WAITED = {"StatusCode": (int,), "Error": dict}
PROCESSES = {"Processes": [_TEXTS]}
CHANGE = {"Path": str, "Kind": int}
COMMAND = {"ExitCode": int}
DISTRIBUTION = {"Descriptor": {"digest": str}}
PATH_STAT = {"mode": (int,), "linkTarget": str}
