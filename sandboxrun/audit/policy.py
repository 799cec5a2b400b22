"""The organisation's policy: rules raised, lowered or off, and what images, destinations, limits and mounts may be.

Owns its YAML form, read from nodes, and the breaches that it makes of a subject. Pure.
"""

from __future__ import annotations

import fnmatch
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from sandboxrun.audit.finding import SEVERITIES, AuditFinding, Hit, Rule, Severity, placed
from sandboxrun.audit.rules import by_id
from sandboxrun.audit.rules.meta import CEILING, EGRESS_POLICY, IMAGE_POLICY, MOUNT_ROOT, REQUIRED
from sandboxrun.audit.rules.network import is_public
from sandboxrun.audit.subject import NONE, Subject
from sandboxrun.data import Data
from sandboxrun.errors import ListNode, MapNode, Node, Problems, Scalar, did_you_mean, is_null, plain_of
from sandboxrun.spec import types
from sandboxrun.spec.forms import below, covers, image_parts

OFF = "off"
T = TypeVar("T")
# What a policy bounds: its key → the subject's field and the type that its value is read by. None there is unlimited.
CEILINGS: Mapping[str, tuple[str, types.OptionType]] = types.freeze(
    {
        "mem_limit": ("memory", types.Size()),
        "memswap_limit": ("swap", types.Size()),
        "cpus": ("cpus", types.Cpus()),
        "pids_limit": ("pids", types.Integer(least=1)),
        "lifetime.timeout": ("timeout", types.Duration()),
        "lifetime.ttl": ("ttl", types.Duration()),
        "lifetime.idle": ("idle", types.Duration()),
        "stop_grace_period": ("grace", types.Duration()),
        "evidence.artifacts_limit": ("artifacts_limit", types.Size()),
    }
)
KEYS = ("rules", "images", "egress", "ceilings", "mounts", "require", "waivers", "fail_on", "max_profile", "paths")


class PolicyPart(Data):
    """What a policy says, for all files or for those of some paths."""

    match: tuple[str, ...] = ()  # patterns of paths; () is every file
    rules: Mapping[str, Severity | None] = NONE  # by id or pattern; None is off
    images: tuple[str, ...] | None = None
    digests: bool = False
    egress: tuple[str, ...] | None = None
    ceilings: Mapping[str, float] = NONE
    roots: tuple[str, ...] | None = None
    require: Mapping[str, Any] = NONE

    def holds_for(self, file: str) -> bool:
        """Whether the part is about a file."""
        path = posixpath.normpath(file.replace("\\", "/")) if file else ""
        return not self.match or any(fnmatch.fnmatchcase(path, pattern) for pattern in self.match)


class Policy(Data):
    """A whole policy: its parts in the file's order, of which the later ones win."""

    parts: tuple[PolicyPart, ...] = ()
    inline: bool = True  # whether comments may waive at all
    not_inline: tuple[str, ...] = ()  # patterns of rules that they may not
    longest: int | None = None  # days that a waiver may run
    max_profile: str | None = None
    fail_on: Severity = Severity.MEDIUM  # the least severity that is refused

    def of(self, file: str) -> Iterator[PolicyPart]:
        """The parts about a file."""
        return (part for part in self.parts if part.holds_for(file))

    def severity(self, rule: Rule, file: str) -> Severity | None:
        """How grave a rule's findings are in a file; None where it is off."""
        found: Severity | None = rule.severity
        for part in self.of(file):
            for pattern, severity in part.rules.items():
                if fnmatch.fnmatchcase(rule.id, pattern):
                    found = severity
        return found

    def names(self, rule: Rule, file: str) -> bool:
        """Whether the policy sets a severity for the rule, which shows it to every reader."""
        return any(fnmatch.fnmatchcase(rule.id, pattern) for part in self.of(file) for pattern in part.rules)

    def lets_inline(self, rule: Rule) -> bool:
        """Whether a comment may waive the rule."""
        forbidden = any(fnmatch.fnmatchcase(rule.id, pattern) for pattern in self.not_inline)
        return self.inline and rule.inline and not forbidden


# -- reading

MOST_DAYS = 36_500


def parse_policy(node: Node | None, problems: Problems) -> Policy:
    """A policy from its file's node; faults are noted, and what is faulty left out."""
    if node is None or is_null(node):
        return Policy()
    if not isinstance(node, MapNode):
        problems.add(f"expected a policy, found {types.describe(node)}", node.span, f"its keys are {', '.join(KEYS)}")
        return Policy()
    _check_keys(node, KEYS, "a policy", problems)
    parts = [_part(node, problems)]
    for item in _inside(node.get("paths"), ListNode, "paths", problems):
        if isinstance(item, MapNode):
            _check_keys(item, ("match", *KEYS[:6]), "a part of a policy", problems)
            match = _texts(item.get("match"), problems)
            if not match:
                problems.add("a part of a policy lacks match", item.span, 'write match: ["ci/*"]')
                continue
            parts.append(msgspec.structs.replace(_part(item, problems), match=match))
        else:
            problems.add(f"expected a mapping, found {types.describe(item)}", item.span)
    waivers = _map(node, "waivers", ("inline", "not_inline", "longest_days"), problems)
    longest = _value(waivers.get("longest_days"), int, None, problems)
    if longest is not None and not 0 < longest <= MOST_DAYS:
        problems.add(f"longest_days must be between 1 and {MOST_DAYS}", waivers.span)
        longest = None
    word = _value(node.get("fail_on"), str, "medium", problems)
    if word not in SEVERITIES:
        at = node.get("fail_on")
        span = at.span if at is not None else None
        problems.add(f'"{word}" is not a severity', span, f"known are {', '.join(SEVERITIES)}")
    return Policy(
        parts=tuple(parts),
        fail_on=SEVERITIES.get(word, Severity.MEDIUM),
        inline=_value(waivers.get("inline"), bool, True, problems),
        not_inline=_texts(waivers.get("not_inline"), problems),
        longest=longest,
        max_profile=_value(node.get("max_profile"), str, None, problems),
    )


def _part(node: MapNode, problems: Problems) -> PolicyPart:
    images, mounts = _map(node, "images", ("allow", "digests"), problems), _map(node, "mounts", ("roots",), problems)
    lists = (images.get("allow"), _map(node, "egress", ("allow",), problems).get("allow"), mounts.get("roots"))
    allowed, egress, roots = (None if one is None else _texts(one, problems) for one in lists)
    return PolicyPart(
        rules=types.freeze(dict(_rules(node.get("rules"), problems))),
        images=allowed,
        digests=_value(images.get("digests"), bool, False, problems),
        egress=egress,
        ceilings=types.freeze(dict(_ceilings(node.get("ceilings"), problems))),
        roots=roots,
        require=types.freeze(dict(_require(node.get("require"), problems))),
    )


def _rules(node: Node | None, problems: Problems) -> Iterator[tuple[str, Severity | None]]:
    for key, value in _inside(node, MapNode, "rules", problems):
        pattern = str(key.value).upper()
        if not any(fnmatch.fnmatchcase(id, pattern) for id in by_id()):
            problems.add(f'"{key.value}" is not a rule', key.span, did_you_mean(pattern, by_id()))
            continue
        word = value.value if isinstance(value, Scalar) else None
        if word is False or word == OFF:
            yield pattern, None
        elif isinstance(word, str) and word in SEVERITIES:
            yield pattern, SEVERITIES[word]
        else:
            expected = ", ".join((*SEVERITIES, OFF))
            problems.add(f"expected one of {expected}, found {types.describe(value)}", value.span)


def _ceilings(node: Node | None, problems: Problems) -> Iterator[tuple[str, float]]:
    for key, value in _inside(node, MapNode, "ceilings", problems):
        word = str(key.value)
        if word not in CEILINGS:
            help = did_you_mean(word, CEILINGS) or f"known are {', '.join(CEILINGS)}"
            problems.add(f'"{word}" has no ceiling', key.span, help)
            continue
        before = len(problems)
        most = CEILINGS[word][1].parse(value, problems)
        if len(problems) == before:
            yield word, most


def _require(node: Node | None, problems: Problems) -> Iterator[tuple[str, Any]]:
    if node is None:
        return
    from sandboxrun.spec.spec import BY_KEY  # all options are read for it

    for key, value in _inside(node, MapNode, "require", problems):
        word = str(key.value)
        if word not in BY_KEY:
            problems.add(f'"{word}" is not an option', key.span, did_you_mean(word, BY_KEY))
            continue
        row, before = BY_KEY[word], len(problems)
        parsed = row.type.parse(value, problems)
        if len(problems) == before:
            yield word, row.plain(parsed)


def _check_keys(node: MapNode, known: tuple[str, ...], what: str, problems: Problems) -> None:
    for key, _ in node.entries:
        word = str(key.value)
        if word not in known and not word.startswith("x-"):
            help = did_you_mean(word, known) or f"known are {', '.join(known)}"
            problems.add(f'unknown key "{word}" in {what}', key.span, help)


MOST_ITEMS = 1000  # of one list or mapping: each may be asked of each finding


def _inside(node: Node | None, kind: type[MapNode] | type[ListNode], what: str, problems: Problems) -> tuple[Any, ...]:
    """The entries of a mapping, or the items of a list."""
    if node is None or is_null(node):
        return ()
    if not isinstance(node, kind):
        problems.add(
            f"expected a {'list' if kind is ListNode else 'mapping'} of {what}, found {types.describe(node)}", node.span
        )
        return ()
    found = node.entries if isinstance(node, MapNode) else node.items
    if len(found) > MOST_ITEMS:
        problems.add(f"more than {MOST_ITEMS} {what}", node.span, "use patterns")
        return ()
    return found


def _map(node: MapNode, key: str, known: tuple[str, ...], problems: Problems) -> MapNode:
    value = node.get(key)
    if isinstance(value, MapNode):
        _check_keys(value, known, key, problems)
        return value
    if value is not None:
        problems.add(f"expected a mapping, found {types.describe(value)}", value.span)
    return MapNode(entries=())


def _texts(node: Node | None, problems: Problems) -> tuple[str, ...]:
    found = []
    for item in _inside(node, ListNode, "texts", problems):
        if isinstance(item, Scalar) and isinstance(item.value, str):
            found.append(item.value)
        else:
            problems.add(f"expected a text, found {types.describe(item)}", item.span)
    return tuple(found)


def _value(node: Node | None, kind: type, default: Any, problems: Problems) -> Any:
    if node is None or is_null(node):
        return default
    if isinstance(node, Scalar) and type(node.value) is kind:
        return node.value
    words = {bool: "true or false", int: "a whole number", str: "a text"}
    problems.add(f"expected {words[kind]}, found {types.describe(node)}", node.span)
    return default


# -- what breaks it


def breaches(subject: Subject, path: str, policy: Policy) -> Iterator[AuditFinding]:
    """What of a subject the policy does not allow. Later parts about its file's path replace earlier ones, key by
    key."""
    parts = tuple(policy.of(path))
    images, allowed, roots = (
        next((one for part in reversed(parts) if (one := getattr(part, key)) is not None), None)
        for key in ("images", "egress", "roots")
    )
    found = (
        *_images(subject, images, any(part.digests for part in parts)),
        *_egress(subject, allowed),
        *_limits(subject, {key: most for part in parts for key, most in part.ceilings.items()}),
        *_roots(subject, roots),
        *_required(subject, {key: value for part in parts for key, value in part.require.items()}),
    )
    return (placed(rule, hit, subject) for rule, hit in found)


Breaches = Iterator[tuple[Rule, Hit]]


def _images(subject: Subject, allowed: tuple[str, ...] | None, digests: bool) -> Breaches:
    image = subject.image or ""
    if image and allowed is not None and not any(_image_fits(image, pattern) for pattern in allowed):
        yield IMAGE_POLICY, Hit("image", f"{image} is not an image that the policy allows")
    if image and digests and "@sha256:" not in image:
        yield IMAGE_POLICY, Hit("image", f"the policy requires a digest, and {image} has none")
    if subject.build is not None and (digests or allowed is not None):  # whatever the image is called then
        what = "lists images" if allowed is not None else "requires a digest"
        yield IMAGE_POLICY, Hit("build", f"the policy {what}, and this one is built from {subject.build.context}")


def _image_fits(image: str, pattern: str) -> bool:
    """With or without the digest and tag; `*` goes over slashes. A registry counts where it is written."""
    return any(fnmatch.fnmatchcase(one, pattern) for one in (image, image.partition("@")[0], image_parts(image)[0]))


def _egress(subject: Subject, allowed: tuple[str, ...] | None) -> Breaches:
    reach = subject.reach
    if allowed is None:
        return
    if reach is None and subject.open_network:
        yield EGRESS_POLICY, Hit("networks", "the policy lists destinations, and nothing filters what this reaches")
    if reach is not None and reach.mode == "open":
        yield EGRESS_POLICY, Hit("egress", "the policy lists destinations, and egress is open")
    for destination in reach.allow if reach is not None else ():
        if not any(covers(pattern, destination) for pattern in allowed):
            message = f"{destination} is not a destination that the policy allows"
            yield EGRESS_POLICY, Hit("egress", message, item=destination)
    for server in reach.resolvers if reach is not None else ():
        if is_public(server):  # anybody can run one that leads an allowed name to an address of theirs
            message = f"the policy lists destinations, and the public name server {server} decides where they are"
            yield EGRESS_POLICY, Hit("egress", message, item="resolvers")


def _limits(subject: Subject, ceilings: Mapping[str, float]) -> Breaches:
    for key, most in ceilings.items():
        field, kind = CEILINGS[key]
        value = getattr(subject, field)
        option, _, item = key.partition(".")
        if value is None or not 0 < value <= most:
            # with the value: what a baseline accepts is this one, and no higher one
            shown = kind.plain(value) if value is not None and value > 0 else "not limited"
            message = f"the policy's ceiling for {key} is {kind.plain(most)}, and this is {shown}"
            yield CEILING, Hit(option, message, item=item or None)


def _roots(subject: Subject, roots: tuple[str, ...] | None) -> Breaches:
    for mount in subject.mounts if roots is not None else ():
        relative = mount.inside and any(root in (".", "./") for root in roots or ())
        within = relative or any(below(mount.source, posixpath.normpath(root)) for root in roots or ())
        if mount.kind == "bind" and not within:
            message = f"{mount.written or mount.source} is outside of the roots that the policy allows"
            yield MOUNT_ROOT, Hit(mount.key, message, item=mount.target)


def _required(subject: Subject, require: Mapping[str, Any]) -> Breaches:
    options = subject.options() if require else {}
    for key, wanted in require.items():
        if options.get(key) != wanted:
            shown = wanted if isinstance(wanted, str) else json.dumps(wanted, default=plain_of)
            yield REQUIRED, Hit(key, f"the policy requires {key}: {shown}")
