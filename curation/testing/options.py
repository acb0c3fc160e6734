"""Check of the options of a method: frozen, strict, and able to explain themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from curation.methods.base import Params, Shape
from curation.plugins import STAGE_KEYS
from curation.testing.hold import calling, hold


def check_params(params_type: type[Params], **example: Any) -> None:
    """Hold the options of a method to what users may expect of them.

    They cannot be changed, refuse unknown keys and loose types, describe every field, come back from JSON as they
    were, and state version and shape. That goes for models nested in them, too.

    Parameters
    ----------
    params_type
        Class of the options.
    **example
        Options that are valid together.

    Raises
    ------
    AssertionError
        If they do not; the message says what to mend.
    """
    name = params_type.__name__
    hold(issubclass(params_type, Params), f"{name}: derive it from curation.methods.base.Params")
    for model in models_in(params_type):
        _check_model(model)
    taken = sorted(set(STAGE_KEYS) & set(params_type.model_fields))
    hold(not taken, f"{name}: option {taken[:1]} is a key of every stage; give it another name")
    hold(type(params_type.version) is int and params_type.version >= 1, f"{name}.version: expected an integer >= 1")
    hold(params_type.shape in get_args(Shape), f"{name}.shape: expected one of {get_args(Shape)}")
    hold((params_type.__doc__ or "").strip(), f"{name}: has no docstring; say in a sentence whose options these are")
    params = calling(f"{name}: expected to accept the example {example}", lambda: params_type(**example))
    _check_example(params, example)


def models_in(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Options and the models nested in them, at any depth."""
    found = [model]
    for each in found:
        inner = (kind for field in each.model_fields.values() for kind in _kinds(field.annotation))
        found += [kind for kind in inner if kind not in found]
    return found


def _kinds(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def _check_model(model: type[BaseModel]) -> None:
    name, config = model.__name__, model.model_config
    hold(config.get("frozen"), f"{name}: can be changed after it was checked; keep frozen=True of Params")
    hold(config.get("extra") == "forbid", f"{name}: accepts unknown keys, so typing errors pass; keep extra='forbid'")
    hold(config.get("strict"), f"{name}: turns values into other types; keep strict=True of Params")
    silent = [key for key, field in model.model_fields.items() if not field.description]
    hold(not silent, f"{name}: options {silent} have no description; give each Field(description=...), users see it")


def _check_example(params: Params, example: dict[str, Any]) -> None:
    kind, name = type(params), type(params).__name__
    try:
        kind(**example | {"no_such_key": 1})
    except ValidationError:
        pass
    else:
        raise AssertionError(f"{name}: accepts the unknown key 'no_such_key'; keep extra='forbid' of Params")
    text = params.model_dump_json()
    back = calling(f"{name}: expected to be read back from its JSON {text}", kind.model_validate_json, text)
    hold(back == params, f"{name}: comes back from JSON as {back!r}, was {params!r}; content keys are made of the JSON")
