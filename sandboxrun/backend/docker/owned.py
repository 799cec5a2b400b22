"""The containers on an engine that are a project's own.

Owns the question, which takes a list and a look at each image. What makes one its own is `spec/owned.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from sandboxrun.spec import labels
from sandboxrun.spec.owned import is_own_container

if TYPE_CHECKING:
    from sandboxrun.backend.docker.client import Engine


def own_containers(
    engine: Engine,
    project: str,
    *,
    more: Mapping[str, str | None] | None = None,
    names: tuple[str, ...] = (),
    of_image: Callable[[str], Collection[str]] | None = None,
) -> tuple[Mapping[str, Any], ...]:
    """The project's containers, as the engine lists them: those with the labels `more`, or one of `names`.

    `of_image` gives the names of an image's labels by its id, where the caller knows images anyway. Raises EngineError.
    """
    known = of_image or cache(lambda image: labels_of_image(engine, image))
    listed = engine.containers(labels={labels.PROJECT: project, **(more or {})}, names=names)
    return tuple(c for c in listed if is_own_container(c, project, known(str(c.get("ImageID") or ""))))


def labels_of_image(engine: Engine, image: str) -> frozenset[str]:
    """The names of an image's labels; none for an image that is gone."""
    found = engine.image(image) if image else None
    config = found.get("Config") if found is not None else None
    return frozenset(labels.read(config.get("Labels"))) if isinstance(config, Mapping) else frozenset()
