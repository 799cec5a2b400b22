"""From files to a `Profile`: the room's entry.

Owns the order: read, split, compose, values, render, parse, check. All errors of all files are reported in one run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import (
    MapNode,
    Node,
    Problems,
    ProfileError,
    Scalar,
    SourceFile,
    Span,
    is_null,
    node_of,
    plain_of,
    redacted,
    spellings,
    walk,
)
from sandboxrun.profile.files import Places, greatest_profiles, own_files, real_places, taken_up, with_protected
from sandboxrun.profile.layers import (
    OBJECTS,
    Bases,
    Layer,
    ProfileDocument,
    check_document,
    check_layer,
    holds,
    instances,
    read_document,
    split_document,
)
from sandboxrun.profile.sandbox import (
    MOST_NODES,
    ComposedSandbox,
    DeclaredObjects,
    MadeSandbox,
    Maker,
    check_addresses,
    check_references,
    parse_objects,
    with_dependencies,
    with_digests,
)
from sandboxrun.profile.templates import Renderer, TemplateScope, Ways, check_keys
from sandboxrun.profile.variables import Inputs, Variable, parse_variables, resolve_values
from sandboxrun.profile.yaml import is_text
from sandboxrun.spec.names import COMPANIONS, PROJECT, companion
from sandboxrun.spec.option import Row, RowData, rows, to_plain, values_of
from sandboxrun.spec.option_types import EgressOption
from sandboxrun.spec.project import NetworkSpec, Profile
from sandboxrun.spec.spec import NOT_OFFERED, ROWS, SandboxSpec, SpecType, digest_of
from sandboxrun.spec.types import Text, freeze

MOST_INSTANCES = 2000
_STOP_AFTER = 10  # faulty instances of one for_each: more would say the same again


def load(
    paths: Sequence[Path | str] | Path | str,
    *,
    inputs: Inputs | None = None,
    directory: Path | None = None,
    allow_outside: bool = False,
) -> Profile:
    """The profile in `paths`, one or several, later files merged over earlier ones.

    `directory` is the project's (where relative paths start); the first file's when left out. `allow_outside` lets
    binds, workspaces, secrets and configs name paths outside of that directory. Raises ProfileError with every fault.
    """
    files = tuple(Path(path) for path in ([paths] if isinstance(paths, Path | str) else paths))
    loader = _Loader(directory or files[0].parent, inputs, allow_outside, files)
    with loader.bounded():
        return loader.rendered(loader.read_files())


class Written(Data):
    """What a profile's files say, whatever its variables hold. `sound`: every file and every variable could be read."""

    documents: tuple[ProfileDocument, ...]
    composed: tuple[ComposedSandbox, ...]
    extended: Mapping[Path, ProfileDocument | None]
    variables: Mapping[str, Variable]
    sound: bool

    @property
    def bases(self) -> tuple[ProfileDocument, ...]:
        """The files that its sandboxes extend."""
        return tuple(document for document in self.extended.values() if document is not None)


class Loaded(Data):
    """A profile as a review loads it: with what its files say, so that other values need no second reading."""

    profile: Profile
    written: Written
    paths: tuple[Path, ...]

    def under(self, inputs: Inputs, ways: Ways | None = None) -> Profile:
        """The profile with other values, or with templates that choose otherwise. Raises ProfileError."""
        loader = _Loader(self.profile.directory, inputs, True, self.paths)
        loader.renderer.ways = ways
        with loader.bounded():
            return loader.rendered(self.written)


def load_whole(
    paths: Sequence[Path], given: Callable[[Mapping[str, Variable]], Inputs], *, greatest: bool = False
) -> Loaded:
    """`load` for a review, with paths outside of the project allowed; `given` are the values for its variables.
    `greatest`: it is what others are judged by, and rests on nothing but its own files."""
    loader = _Loader(paths[0].parent, None, True, tuple(paths), greatest=greatest)
    with loader.bounded():
        written = loader.read_files()
        loader.inputs = given(written.variables)
        return Loaded(profile=loader.rendered(written), written=written, paths=loader.paths)


def load_data(
    data: Mapping[str, Any], *, directory: Path, inputs: Inputs | None = None, allow_outside: bool = False
) -> Profile:
    """The same from plain Python data in a profile's shape, for the Python API and for commands without a file."""
    loader, node, document = _Loader(directory, inputs, allow_outside), node_of(data), None
    with loader.bounded():
        texts = (n.value for n in walk(node) if isinstance(n, Scalar) and isinstance(n.value, str))
        if all(map(is_text, texts)):
            document = split_document(node, None, loader.root, loader.problems)
        else:  # which no file can hold
            loader.problems.add("half of a surrogate pair is not a character")
        return loader.rendered(loader.read([document]))


MOST_PROBLEMS = 200


class _Enough(Exception):
    """So many faults that nobody reads more of them; a hostile file could have a million."""


class _Bounded(Problems):
    """Faults, up to a number."""

    def add(
        self, message: str, span: Span | None = None, help: str | None = None, *, option: str = "", argument: str = ""
    ) -> None:
        super().add(message, span, help, option=option, argument=argument)
        if len(self) >= MOST_PROBLEMS:
            raise _Enough

    def warn(self, message: str, span: Span | None = None, help: str | None = None) -> None:
        if len(self._warnings) < MOST_PROBLEMS:
            super().warn(message, span, help)


class _Loader:
    """One load: what its steps share."""

    def __init__(
        self,
        directory: Path,
        inputs: Inputs | None,
        allow_outside: bool,
        paths: tuple[Path, ...] = (),
        *,
        greatest: bool = False,
    ) -> None:
        self.root, self.inputs, self.problems = Path(os.path.abspath(directory)), inputs or Inputs(), _Bounded()
        self.allow_outside, self.paths, self.greatest = allow_outside, paths, greatest
        self.bases = Bases(self.root, self.problems)
        self.renderer = Renderer(self.problems)
        self.secrets: frozenset[str] = frozenset()
        self.faulty: set[str] = set()  # the names of sandboxes that could not be made

    @contextmanager
    def bounded(self) -> Iterator[None]:
        """For loading within: raises ProfileError with the faults, up to `MOST_PROBLEMS`."""
        try:
            yield
        except _Enough:
            self._finish()
            raise AssertionError("enough faults, and none") from None

    def read_files(self) -> Written:
        """What the profile's files say."""
        return self.read([read_document(path, str(path), self.root, self.problems) for path in self.paths])

    def read(self, read: Sequence[ProfileDocument | None]) -> Written:
        """What documents say, of which those that could not be read are None; with what they extend."""
        documents = [document for document in read if document is not None]
        composed = self._compose(documents)
        before = len(self.problems)
        declared: dict[str, Variable] = {}
        extended = dict(self.bases.documents)
        for document in (*extended.values(), *documents):  # the profile's own declaration of a name replaces a base's
            if document is not None:
                declared.update(parse_variables(document.variables, self.problems))
        return Written(
            documents=tuple(documents),
            composed=tuple(composed),
            extended=extended,
            variables=declared,
            sound=len(documents) == len(read) and len(self.problems) == before,
        )

    def rendered(self, written: Written) -> Profile:
        """What was read, with the values of its variables."""
        documents, bases = written.documents, written.bases
        before = len(self.problems)
        values, files = resolve_values(written.variables, self.inputs, self.problems)
        self.secrets = values.secrets
        if not written.sound or len(self.problems) > before:
            self._finish()  # without the values every template would fail for no fault of its own
        scope = TemplateScope(values=values.values, sensitive=values.sensitive)
        project = self._project(documents, scope)
        # paths start at the project's directory but in files reached by `extends`
        directories = {d.file.name: d.directory for d in bases if d.file is not None and d.base is None}
        places = Places(root=self.root, directories=directories, allow_outside=self.allow_outside)
        maker = Maker(project, places, self.renderer, self.inputs.environment, self.problems)
        objects = parse_objects(project, documents, self.renderer, scope, places, self.problems)
        made = self._instances(written.composed, maker, scope)
        self._check_names(made)
        sandboxes = with_dependencies(made, [one.name for one in written.composed], self.faulty, self.problems)
        check_references(made, documents, bases, self.problems)
        check_addresses(made, objects.networks, self.problems)
        extended = {path: document.file for path, document in written.extended.items() if document is not None}
        read: dict[Path, SourceFile | None] = {**extended, **files, **maker.files}
        self._keep(maker.passed, [one.sandbox.spec for one in made], objects)
        own = own_files((*self.paths, *read, *maker.other_files, *self._judging()), objects.secrets, objects.configs)
        sandboxes = with_protected(sandboxes, own, places, self.problems)
        if not self.problems:
            _check_schema(made, self.problems)
        self._finish()
        led = real_places(sandboxes)
        for path in sorted(path for path in led if not places.allows(Path(led[path]))):  # it was allowed a moment ago
            self.problems.add(f"{path} now leads out of the project", help="check what replaced it with a symlink")
        self.problems.check()
        networks = objects.networks
        if "default" not in networks and any("default" in one.sandbox.spec.networks for one in made):
            networks = freeze({"default": NetworkSpec(), **networks})
        profile = Profile(
            project=project,
            directory=self.root,
            sandboxes=with_digests(sandboxes, objects.configs, self.root, self.inputs.environment, self._all_secrets()),
            names=objects.names,
            networks=networks,
            volumes=objects.volumes,
            secrets=objects.secrets,
            configs=objects.configs,
            inputs=values.masked,
            sensitive=self._all_secrets(),
            inputs_digest=digest_of(values.digested),
            files=tuple(f for f in (*(d.file for d in documents), *read.values()) if f is not None),
            warnings=self.problems.warnings,
            rests_on=own,
            left_out=frozenset(one.name for one in written.composed) - {one.sandbox.sandbox for one in made},
            led=freeze(led),
        )
        return structs.replace(profile, digested=cache(lambda: digest_of(effective(profile))))

    def _judging(self) -> Iterator[Path]:
        """The files that say of the project's sandboxes what they may do: also all that its greatest profile is made
        of, as far as that is known before a review gives values to its variables."""
        if self.greatest:
            return
        yield from taken_up(self.root)
        for greatest in greatest_profiles(self.root):
            yield greatest
            if greatest.is_file():
                other = _Loader(greatest.parent, None, True, (greatest,), greatest=True)
                try:
                    with other.bounded():
                        yield from other.rendered(other.read_files()).rests_on
                except ProfileError:  # whoever judges by it says so
                    yield from other.bases.documents

    # -- composing -------------------------------------------------------------------------------------------

    def _compose(self, documents: Sequence[ProfileDocument]) -> list[ComposedSandbox]:
        """The sandboxes of all files; one that several files hold has the layers of each."""
        found: dict[str, ComposedSandbox] = {}
        if documents and not any(document.has_sandboxes for document in documents):
            file = documents[-1].file
            span = Span(file=file, line=1, column=1) if file is not None else None
            self.problems.add("the profile has no sandboxes", span, "add sandboxes: {agent: {image: …}}")
        for document in documents:
            for name, (key, _) in document.sandboxes.items():
                layers: tuple[Layer, ...] = tuple(self.bases.layers(document, name))
                if name in found:
                    layers = (*found[name].layers, *layers)
                found[name] = ComposedSandbox(name=name, span=key.span, layers=layers)
        help = "the options are listed by: sandboxrun explain"
        for composed in found.values():
            for layer in composed.layers:
                check_keys(layer.node, _KEYS, "a sandbox", help, self.problems, NOT_OFFERED)
            for layer in composed.layers:
                check_layer(layer, self.problems)
        for document in documents:
            check_document(document, self.problems)
        return list(found.values())

    def _project(self, documents: Sequence[ProfileDocument], scope: TemplateScope) -> str:
        """The project's name: given, else made of the directory's as Compose does."""
        given: Node | None = next((d.name for d in reversed(documents) if d.name is not None), None)
        if given is None or is_null(given):
            made = re.sub(r"[^a-z0-9_-]", "", self.root.name.lower()).lstrip("_-")[:63]
            if not made:
                self.problems.add("the project has no name", None, "add name: at the top of the profile")
            return made or "unnamed"
        rendered = self.renderer.render(given, scope)
        name = None if rendered is None else _NAME.parse(rendered, self.problems)
        return name if isinstance(name, str) else "unnamed"

    # -- instances -------------------------------------------------------------------------------------------

    def _instances(self, composed: Sequence[ComposedSandbox], maker: Maker, scope: TemplateScope) -> list[MadeSandbox]:
        made: list[MadeSandbox] = []
        nodes = 0
        for one in composed:
            each = instances(one.top("for_each"), self.renderer, scope, self.problems)
            nodes += one.size * len(each)
            if len(made) + len(each) > MOST_INSTANCES or nodes > MOST_NODES:
                self.problems.add("the profile declares too many sandboxes", one.span, "split it into several projects")
                break
            faulty = 0
            for item in each:
                before = len(self.problems)
                inner = scope if item.key is None else scope.with_each(item.value)
                if holds(one.top("when"), self.renderer, inner, self.problems):
                    instance = maker.make(one, item, inner)
                    made += [instance] if instance is not None else []
                    self.faulty |= {one.name} if instance is None else set()
                faulty += len(self.problems) > before
                if faulty >= _STOP_AFTER:
                    break
        return made

    def _check_names(self, made: list[MadeSandbox]) -> None:
        """No two containers of one name, companions of sandboxes included."""
        taken: dict[str, str] = {}
        for one in made:
            sandbox = one.sandbox
            beside = {companion(sandbox.name, role): f"the {role} of {sandbox.address}" for role in COMPANIONS}
            for name, what in {sandbox.name: sandbox.address, **beside}.items():
                other = taken.setdefault(name, what)
                if other != what:
                    message = f"{what} and {other} would both be called {name}"
                    self.problems.add(message, sandbox.span, "rename one of them")
                    break  # those beside them clash with each other then

    # -- ending ----------------------------------------------------------------------------------------------

    def _all_secrets(self) -> frozenset[str]:
        return self.secrets | frozenset(self.renderer.secrets)

    def _keep(self, passed: set[str], specs: Sequence[SandboxSpec], objects: DeclaredObjects) -> None:
        """Take the caller's values for secrets, unless the profile has them elsewhere: who chooses such a value, as a
        branch's name is, would hide an option by it."""
        if not passed or self.problems:
            self.renderer.secrets |= passed
            return
        others = [{**spec.plain, "environment": None} for spec in specs]
        declared = (objects.networks, objects.volumes, objects.secrets, objects.configs)
        blocks = [to_plain(one) for block in declared for one in block.values()]
        text = json.dumps([others, blocks], ensure_ascii=False).encode("utf-8", "surrogateescape")
        for value in passed:
            if not any(form in text for form in spellings(value.encode("utf-8", "surrogateescape"))):
                self.renderer.secrets.add(value)

    def _finish(self) -> None:
        """Raise what was found, with no secret in it."""
        if self.problems:
            every = sorted((*self.problems.diagnostics, *self.problems.warnings), key=lambda d: d.order)
            raise ProfileError(*(redacted(diagnostic, self._all_secrets()) for diagnostic in every))


_KEYS = frozenset(("extends", "for_each", "when", "env_file", *(row.key for row in ROWS if row.settable)))
_NAME = Text(pattern=PROJECT, hint="a project's name: lower-case letters, digits, - and _")


# -- The last check: the rendered options against the JSON Schema that the rows derive


@lru_cache(maxsize=64)
def _validator(keys: frozenset[str]) -> Any:
    """Of the options that are used alone: to compile the schema of all of them takes 10 ms."""
    import jsonschema_rs

    return jsonschema_rs.Draft7Validator(SpecType.schema(keys))


def _check_schema(made: Sequence[MadeSandbox], problems: Problems) -> None:
    """Note each option that the schema refuses, with its place."""
    every = {id(one.node): (one, plain_of(one.node)) for one in made}
    validator = _validator(frozenset(key for _, plain in every.values() for key in plain))
    for one, plain in every.values():
        if validator.is_valid(plain):
            continue
        for error in validator.iter_errors(plain):
            node: Any = one.node
            span, path = one.node.span, error.instance_path
            for step in path:
                node = node.get(str(step)) if isinstance(node, MapNode) else node.items[step]
                span = node.span or span
            option = str(path[0]) if path else "the sandbox"
            message = f"the schema does not accept this value of {option}: {str(error.message)[:200]}"
            problems.add(message, span or one.sandbox.span, "see sandboxrun schema for the forms it takes")


# -- The effective profile as plain data: every option written out, every template rendered


def effective(profile: Profile) -> dict[str, Any]:
    """JSON data: name, sandboxes by address with all their options, networks, volumes, secrets, configs."""
    places, sandboxes = Places(root=profile.directory, directories={}), {}
    for sandbox in profile.sandboxes:
        own = sandboxes[sandbox.address] = _spelled_out(sandbox.spec)
        for mount in own.get("volumes", ()):
            if mount.get("type") == "bind":
                _relate(mount, "source", places)
        _relate(own.get("workspace", {}), "source", places)
        if sandbox.depends_on:
            own["depends_on"] = {address: _spelled_out(waits) for address, waits in sandbox.depends_on.items()}
    plain: dict[str, Any] = {"name": profile.project, "sandboxes": sandboxes}
    for kind in OBJECTS:
        if specs := {key: _spelled_out(spec) for key, spec in getattr(profile, kind).items()}:
            for spec in specs.values():
                _relate(spec, "file", places)
            plain[kind] = specs
    return plain


def _spelled_out(record: Any) -> dict[str, Any]:
    """A record as plain data with every option that has a value, also in the records inside it."""
    return {
        row.key: _written(row, value)
        for row, value in zip(rows(type(record)), values_of(record), strict=True)
        if row.settable and value is not None
    }


def _written(row: Row, value: Any) -> Any:
    return _default_form(row) if value is row.default else _form(row, value)


@cache
def _default_form(row: Row) -> Any:
    """Most options have their default: each is written once."""
    return _form(row, row.default)


def _form(row: Row, value: Any) -> Any:
    if isinstance(value, RowData) and not isinstance(row.type, EgressOption):  # that has a form in one word
        return _spelled_out(value)
    if isinstance(value, tuple) and value and isinstance(value[0], RowData):
        return [_spelled_out(item) for item in value]
    if isinstance(value, Mapping) and value and isinstance(next(iter(value.values())), RowData):
        return {key: _spelled_out(item) for key, item in value.items()}
    return row.type.plain(value)


def _relate(plain: dict[str, Any], key: str, places: Places) -> None:
    """Write an absolute path from the project's directory where it lies below."""
    if plain.get(key, "").startswith("/"):
        plain[key] = places.relative(Path(plain[key]))
