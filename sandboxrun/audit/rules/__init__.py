"""Every rule of the review: one module a family, one declaration a rule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import ModuleType

from sandboxrun.audit.finding import Rule
from sandboxrun.audit.rules import filesystem, image, network, privilege, resources, secrets
from sandboxrun.audit.rules.meta import META, never
from sandboxrun.spec.types import freeze

_MODULES: tuple[ModuleType, ...] = (privilege, filesystem, network, resources, secrets, image)


@cache
def rules() -> tuple[Rule, ...]:
    """All rules that look at a sandbox, by id."""
    every = [value for module in _MODULES for value in vars(module).values() if isinstance(value, Rule)]
    return tuple(sorted((one for one in every if one.check is not never), key=lambda rule: rule.id))


@cache
def by_id() -> Mapping[str, Rule]:
    """All rules, those too that look at no sandbox: of the engine itself, and of the review's own files (9xx)."""
    return freeze({rule.id: rule for rule in (*rules(), image.BELOW, image.PERHAPS, *META)})
