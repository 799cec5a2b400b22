"""The base of records: what it promises, and that every record which may hold a secret keeps it out of its repr."""

from __future__ import annotations

import importlib
import pickle
import pkgutil

import pytest
from msgspec import Struct, structs

import sandboxrun
from sandboxrun.data import Data, DataType


class Letter(Data, unshown=("text",), uncompared=("place",)):
    """A record with a field of each kind."""

    to: str
    text: str = "dear reader"
    place: int | None = None


def test_a_record_is_frozen_and_takes_names_alone() -> None:
    letter = Letter(to="you")
    with pytest.raises(AttributeError):
        letter.to = "me"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Letter("you")  # type: ignore[misc]
    with pytest.raises(TypeError):
        Letter()  # type: ignore[call-arg]


def test_an_unshown_field_is_in_no_repr() -> None:
    assert repr(Letter(to="you", text="hunter2", place=1)) == "Letter(to='you', place=1)"
    assert "hunter2" not in f"{[Letter(to='you', text='hunter2')]}"


def test_an_uncompared_field_counts_neither_for_equality_nor_for_the_hash() -> None:
    one, other = Letter(to="you", place=1), Letter(to="you", place=2)
    assert one == other
    assert hash(one) == hash(other)
    assert one != structs.replace(one, text="")
    assert one != "you"


def test_a_record_can_be_copied_and_pickled() -> None:
    letter = structs.replace(Letter(to="you", place=3), to="me")
    assert pickle.loads(pickle.dumps(letter)) == letter
    assert structs.asdict(letter) == {"to": "me", "text": "dear reader", "place": 3}


# Fields that hold values of secrets have one of these names; those listed below hold something else.
SECRET = {"sensitive", "secrets", "masked", "environment", "values", "document", "raw"}
NO_VALUES = {
    "Kept.sensitive",  # whether one was seen in the file
    "Variable.sensitive",  # whether it is
    "Choice.values",  # what an option may be
    "Layer.document",  # of a file, parsed
    "_Step.document",  # of a file, parsed
    "TemplateScope.sensitive",  # names
    "Values.sensitive",  # names
    "FileSpec.environment",  # a name
    "Profile.secrets",  # where each comes from
    "DeclaredObjects.secrets",  # where each comes from
    "Side.secrets",  # where each comes from
    "Subject.secrets",  # where each comes from
    "Subject.masked",  # names
    "ImageConfig.environment",  # what an image says is public
    *(f"{spec}.{name}" for spec in ("SandboxSpec", "PlaceOptions") for name in ("environment", "secrets")),
    *(f"{spec}.environment" for spec in ("ProcessOptions", "ResourceOptions", "SecurityOptions")),
}


def records() -> list[type[Struct]]:
    """Every record of the package."""
    for module in pkgutil.walk_packages(sandboxrun.__path__, "sandboxrun."):
        if not module.name.startswith("sandboxrun.gateway.companion") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, todo = [], [Struct]
    while todo:
        todo += (below := todo.pop().__subclasses__())
        found += [one for one in below if one.__module__.startswith("sandboxrun.")]
    return found


def test_every_field_that_holds_a_secret_is_unshown() -> None:
    found = records()
    assert len(found) > 150
    shown = {
        f"{record.__name__}.{name}"
        for record in found
        for name in record.__struct_fields__
        if name in SECRET and not (isinstance(record, DataType) and name in record.unshown)
    }
    assert shown >= NO_VALUES, "leave out what is no field any more"
    assert sorted(shown - NO_VALUES) == []
