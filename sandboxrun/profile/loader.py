"""From files to a `Profile`: the room's entry.

Owns the order: read, split, compose, values, render, parse, check. All errors of all files are reported in one run.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from sandboxrun.data import Data
from sandboxrun.errors import Problems, ProfileError, redacted
from sandboxrun.profile.files import Places
from sandboxrun.profile.guarding import own_files, with_protected
from sandboxrun.profile.layers import Bases, Layer, ProfileDocument, holds, instances, read_document, split_document
from sandboxrun.profile.render import effective
from sandboxrun.profile.sandbox import (
    MOST_NODES,
    ComposedSandbox,
    MadeSandbox,
    Maker,
    check_addresses,
    check_options,
    check_references,
    parse_objects,
    with_default_network,
    with_dependencies,
    with_digests,
)
from sandboxrun.profile.templates import Renderer, TemplateScope, literal
from sandboxrun.profile.variables import Inputs, Variable, parse_variables, resolve_values
from sandboxrun.profile.yaml import is_text
from sandboxrun.source import ListNode, MapNode, Node, Scalar, SourceFile, Span, is_null, node_of, walk
from sandboxrun.spec.names import COMPANIONS, PROJECT, companion
from sandboxrun.spec.project import Profile
from sandboxrun.spec.spec import digest_of
from sandboxrun.spec.types import Text

MOST_INSTANCES = 2000
_STOP_AFTER = 10  # faulty instances of one for_each: more would say the same again


def load(
    paths: Sequence[Path],
    *,
    inputs: Inputs | None = None,
    directory: Path | None = None,
    allow_outside: bool = False,
) -> Profile:
    """The profile in `paths`, later files merged over earlier ones.

    `directory` is the project's (where relative paths start); the first file's when left out. `allow_outside` lets
    binds, workspaces, secrets and configs name paths outside of that directory. Raises ProfileError with every fault.
    """
    loader = _Loader(directory or paths[0].parent, inputs, allow_outside, tuple(paths))
    return loader.run(lambda: loader.rendered(loader.read_files()))


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
    """A profile as a review loads it: with what its files say, so that other values need no second reading. No engine
    is told of it, so it has no digest."""

    profile: Profile
    written: Written
    paths: tuple[Path, ...]

    def under(self, inputs: Inputs) -> Profile:
        """The profile with other values. Raises ProfileError."""
        loader = _Loader(self.profile.directory, inputs, True, self.paths)
        return loader.run(lambda: loader.rendered(self.written, digest=False))


def load_whole(paths: Sequence[Path], given: Callable[[Mapping[str, Variable]], Inputs]) -> Loaded:
    """`load` for a review, with paths outside of the project allowed; `given` are the values for its variables."""
    loader = _Loader(paths[0].parent, None, True, tuple(paths))
    found: list[Written] = []

    def rendered() -> Profile:
        found.append(loader.read_files())
        loader.inputs = given(found[0].variables)
        return loader.rendered(found[0], digest=False)

    profile = loader.run(rendered)
    return Loaded(profile=profile, written=found[0], paths=loader.paths)


def load_data(
    data: Mapping[str, Any], *, directory: Path, inputs: Inputs | None = None, allow_outside: bool = False
) -> Profile:
    """The same from plain Python data in a profile's shape, for the Python API and for commands without a file."""
    loader = _Loader(directory, inputs, allow_outside)

    def read() -> Written:
        node = node_of(data)
        texts = (n.value for n in walk(node) if isinstance(n, Scalar) and isinstance(n.value, str))
        if not all(map(is_text, texts)):  # which no file can hold
            loader.problems.add("half of a surrogate pair is not a character")
            return loader.read([None])
        return loader.read([split_document(node, None, loader.root, loader.problems)])

    return loader.run(lambda: loader.rendered(read()))


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
        self, directory: Path, inputs: Inputs | None, allow_outside: bool, paths: tuple[Path, ...] = ()
    ) -> None:
        self.root, self.inputs, self.problems = Path(os.path.abspath(directory)), inputs or Inputs(), _Bounded()
        self.allow_outside, self.paths = allow_outside, paths
        self.bases = Bases(self.root, self.problems)
        self.renderer = Renderer(self.problems)
        self.secrets: frozenset[str] = frozenset()
        self.faulty: set[str] = set()  # the names of sandboxes that could not be made

    def run(self, load: Callable[[], Profile]) -> Profile:
        """Load; raises ProfileError with the faults, up to `MOST_PROBLEMS`."""
        try:
            return load()
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

    def rendered(self, written: Written, *, digest: bool = True) -> Profile:
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
        own = own_files((*self.paths, *read, *maker.other_files), objects.secrets, objects.configs)
        sandboxes = with_protected(sandboxes, own, places, self.problems)
        if not self.problems:
            from sandboxrun.profile.schema import check_schema

            check_schema(made, self.problems)
        self._finish()
        objects = with_default_network(objects, made)
        profile = Profile(
            project=project,
            directory=self.root,
            sandboxes=with_digests(sandboxes, objects.configs, self.root, self.inputs.environment, self._all_secrets()),
            names=objects.names,
            networks=objects.networks,
            volumes=objects.volumes,
            secrets=objects.secrets,
            configs=objects.configs,
            inputs=values.masked,
            sensitive=self._all_secrets(),
            inputs_digest=digest_of(values.digested) if digest else "",
            files=tuple(f for f in (*(d.file for d in documents), *read.values()) if f is not None),
            warnings=self.problems.warnings,
            rests_on=own,
        )
        return structs.replace(profile, digest=digest_of(effective(profile))) if digest else profile

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
        for composed in found.values():
            check_options(composed, self.problems)
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

    def _finish(self) -> None:
        """Raise what was found, with no secret in it."""
        if self.problems:
            every = sorted((*self.problems.diagnostics, *self.problems.warnings), key=lambda d: d.order)
            raise ProfileError(*(redacted(diagnostic, self._all_secrets()) for diagnostic in every))


_NAME = Text(pattern=PROJECT, hint="a project's name: lower-case letters, digits, - and _")


# -- Dollars as Compose reads them: `$$`, `${NAME:-x}` and `$NAME` are plain text here, with a message that says so. An
# error where no shell can read the text; in commands, which shells read, a warning for what no correct script has;
# nothing for what a template makes, which is meant as it is


_BRACES = r"\$\{[A-Za-z_](?:[^{}\n]|\{[^{}\n]*\})*\}?"  # Compose's may hold another: ${A:-${B}}
_ANY = re.compile(rf"\$\$|{_BRACES}|\$[A-Za-z_]\w*")
_BRACED = re.compile(rf"\$\$|{_BRACES}|^\$[A-Za-z_]\w*$")
_CONTENT = re.compile(rf"\$\$(?=[A-Za-z_{{(])|(?<!\$){_BRACES}")
_ESCAPED = re.compile(r"\$\$(?=[A-Za-z_{(])")  # a shell takes it for its process id, with a name right after it
_PARTS = re.compile(r"\$\{?(\w+)(?::?-([^}]*))?")

_SHELLS = frozenset("sh bash dash ash zsh ksh fish busybox".split())
_CODE = _SHELLS | frozenset("awk gawk mawk nawk sed jq perl envsubst".split())  # give dollars a meaning of their own
_CODE_NEXT = re.compile(r"-[a-z]*[ce]|-p|--eval|--command|--print")  # what follows is a program's text


def check_layer(layer: Layer, problems: Problems) -> None:
    """Note the dollars in a sandbox of a file."""
    entrypoint = _words(layer.node.get("entrypoint"))
    for key, value in layer.node.entries:
        match str(key.value):
            case word if word.startswith("x-"):
                continue
            case "command" | "entrypoint":
                _command(value, entrypoint, problems)
            case "healthcheck" if isinstance(value, MapNode):
                _refused("", value.without("test"), problems)
                test = value.get("test")
                if isinstance(test, ListNode) and _words(test)[:1] != ["CMD-SHELL"]:
                    _command(test, (), problems)
                    continue
                for scalar, found in _found(test, _ESCAPED):
                    _warn(scalar, found, "a shell reads it as its process id", problems)
            case word:
                _refused(word, key, problems)
                _refused(word, value, problems)


def check_document(document: ProfileDocument, problems: Problems) -> None:
    """Note the dollars in the rest of a file: its name, its variables, its networks, volumes, secrets and configs."""
    _refused("name", document.name, problems)
    variables = document.variables.entries if isinstance(document.variables, MapNode) else ()
    for _, declared in variables:
        for key in ("default", "enum"):
            value = declared.get(key) if isinstance(declared, MapNode) else None
            for scalar, found in _found(value, _ANY):
                help = "write the value out, or give it from outside, as in SANDBOXRUN_VAR_…"
                problems.warn(f'"{found}" in a variable stays as it is', _at(scalar, found), help)
    for kind, block in document.objects.items():
        for _, node in block.entries:
            value = node
            if kind == "configs" and isinstance(value, MapNode):
                # another program's text: a script's dollars are its own, a template's may be
                content = value.get("content")
                script = isinstance(content, Scalar) and str(content.value).startswith("#!")
                for scalar, found in _found(content, _ESCAPED if script else _CONTENT):
                    if found == "$$":
                        _warn(scalar, found, "Compose writes one $ for it", problems)
                    else:
                        message = f'"{found}" stays as it is: Compose would fill it in'
                        problems.warn(message, _at(scalar, found), f"{_declare(found)}; {_meant(found)}")
                value = value.without("content")
            _refused(kind, value, problems)


def _meant(found: str) -> str:
    return f"if the text is meant, write {{{{ '$' }}}}{found[1:]}"


# -- where no shell reads it -------------------------------------------------------------------------------------


def _refused(option: str, node: Node | None, problems: Problems) -> None:
    keys = (
        {id(key) for inner in walk(node) if isinstance(inner, MapNode) for key, _ in inner.entries} if node else set()
    )
    for scalar, found in _found(node, _ANY):
        if found == "$$":
            help = "write one $; if two are meant, write {{ '$$' }}"
            problems.add('"$$" stays "$$" here: it is not read as one "$"', _at(scalar, found), help)
            continue
        whole = str(scalar.value).partition("=")[2] or str(scalar.value)
        passes = option == "environment" and whole == found
        passed = f"to pass the caller's {_parts(found)[0]}, leave the value out; else " if passes else ""
        help = f"{passed}{_declare(found)}; {_meant(found)}"
        if id(scalar) in keys:
            help = "write the key out: only values are filled in"
        problems.add(f'nothing is filled in from "{found}"', _at(scalar, found), help)


def _declare(found: str) -> str:
    name, default = _parts(found)
    own = name.lower()
    rules = "type: string" + (f", default: {default}" if re.fullmatch(r"[\w./-]+", default or "") else "")
    own_directory = 'for the project\'s directory write "."; else ' if name == "PWD" else ""
    return f"{own_directory}declare a variable, variables: {{{own}: {{{rules}}}}}, and write {{{{ {own} }}}}"


def _parts(found: str) -> tuple[str, str | None]:
    match = _PARTS.match(found)
    return (match[1], match[2]) if match is not None else ("", None)


# -- commands ----------------------------------------------------------------------------------------------------


def _command(node: Node, entrypoint: Sequence[str], problems: Problems) -> None:
    words = _words(node)
    coded = any(os.path.basename(word) in _CODE for word in (*entrypoint, *words))
    items = node.items if isinstance(node, ListNode) else (node,)
    before = ""
    for item in items:
        code = coded or _CODE_NEXT.fullmatch(before) is not None
        pattern = _ESCAPED if code else _BRACED if isinstance(node, ListNode) else _ANY
        for scalar, found in _found(item, pattern):
            reads = "a shell reads it as its process id" if code else "no shell reads this command"
            _warn(scalar, found, reads, problems)
        before = str(item.value) if isinstance(item, Scalar) else ""


def _words(node: Node | None) -> list[str]:
    if isinstance(node, ListNode):
        return [str(item.value) for item in node.items if isinstance(item, Scalar)]
    text = str(node.value) if isinstance(node, Scalar) and isinstance(node.value, str) else ""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _warn(scalar: Scalar, found: str, why: str, problems: Problems) -> None:
    if found == "$$":
        help = "write one $ for what Compose writes $$; if two are meant, write {{ '$$' }}"
        problems.warn(f'"$$" stays "$$" here: {why}', _at(scalar, found), help)
    else:
        help = f"{_declare(found)}, or run it by a shell: [sh, -c, …]"
        problems.warn(f'nothing is filled in from "{found}": {why}', _at(scalar, found), help)


# -- finding -----------------------------------------------------------------------------------------------------


def _found(node: Node | None, pattern: re.Pattern[str]) -> Iterator[tuple[Scalar, str]]:
    """The texts below a node, keys too, with each different match of `pattern` that a file has literally."""
    match node:
        case Scalar(value=str() as text) if "$" in text and node.span is not None:
            yield from ((node, found) for found in dict.fromkeys(pattern.findall(literal(text))))
        case ListNode():
            for item in node.items:
                yield from _found(item, pattern)
        case MapNode():
            for key, value in node.entries:
                yield from _found(key, pattern)
                yield from _found(value, pattern)


def _at(scalar: Scalar, found: str) -> Span | None:
    """Where `found` is in the file: the first line from the scalar's on that has it."""
    span = scalar.span
    if span is None:
        return None
    for number in range(span.line, span.line + str(scalar.value).count("\n") + 2):
        at = span.file.line(number).find(found, span.column - 1 if number == span.line else 0)
        if at >= 0:
            return Span(file=span.file, line=number, column=at + 1, length=len(found))
    return span
