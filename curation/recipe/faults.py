"""What pydantic finds wrong, said in the words of the recipe: key path, message, got, hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from curation.errors import Problem
from curation.recipe.source import KeyPath, Source, nearest

_MISSING = "field required"

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class _Fault:
    path: tuple[Any, ...]  # below the model
    union: tuple[Any, ...] | None  # where several types are possible
    message: str
    hint: str


def validated(
    model: type[M],
    data: Any,
    *,
    source: Source,
    path: KeyPath,
    known: Iterable[str] = (),
    hidden: Iterable[str] = (),
    given: dict[str, Any] | None = None,
) -> tuple[M | None, list[Problem]]:
    """Validate a part of a recipe.

    Parameters
    ----------
    model
        What the part should be.
    data
        The part.
    source
        The recipe, for the lines of the keys.
    path
        Where the part stands in it.
    known
        Further keys that the part may hold; they are not given to the model.
    hidden
        Fields of the model that are not keys of the part.
    given
        Values of the hidden fields.

    Returns
    -------
    tuple
        The model, or None with the problems.
    """
    if not isinstance(data, dict):
        message = f"expected a mapping of options, got {source.shown(data, path)}"
        return None, [source.problem(path, message)]
    keys = {*model.model_fields, *known} - set(hidden)
    own = {key: value for key, value in data.items() if key not in known}
    unknown = [key for key in own if key not in keys]
    problems = [source.problem((*path, key), "unknown key", nearest(str(key), sorted(keys))) for key in unknown]
    own = {key: value for key, value in own.items() if key in keys} | (given or {})
    try:
        found = model.model_validate(own)
    except ValidationError as error:
        faults = [_fault(model, own, dict(item), source, path) for item in error.errors(include_url=False)]
    else:
        return (None if problems else found), problems
    meant = {name for key in unknown for name in difflib.get_close_matches(str(key), keys)}
    faults = [f for f in faults if not (f.message == _MISSING and f.path[-1] in meant)]
    problems += [source.problem((*path, *f.path), f.message, f.hint) for f in _simplest(faults)]
    return None, problems


def _fault(model: type[BaseModel], data: Any, found: dict[str, Any], source: Source, at: KeyPath) -> _Fault:
    kind, text = found["type"], found["msg"]
    path, union = _place(data, found["loc"], missing=kind == "missing")
    hint, models = _described(model, path)
    if kind in ("extra_forbidden", "invalid_key"):
        _, models = _described(model, path[:-1])
        keys = sorted({key for owner in models for key in owner.model_fields})
        return _Fault(path, union, "unknown key", nearest(str(path[-1]) if path else "", keys))
    if kind == "missing":
        return _Fault(path, union, _MISSING, hint)
    if kind == "value_error":
        text = text.removeprefix("Value error, ")
        return _Fault(path, union, text, hint if path else "")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        text = "input should be a mapping"
    shown = source.shown(found["input"], (*at, *path))
    return _Fault(path, union, f"{text[:1].lower()}{text[1:]}, got {shown}", hint)


def _place(data: Any, loc: tuple[Any, ...], *, missing: bool) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """Keys of the data in pydantic's location, and where it first names one of several types instead."""
    path: tuple[Any, ...] = ()
    union: tuple[Any, ...] | None = None
    here = data
    for depth, step in enumerate(loc):
        found = _follow(here, step)
        if found is not None:
            key, here = found
            path = (*path, key)
        elif missing and depth == len(loc) - 1:
            path = (*path, step)
        elif step != "[key]" and union is None:
            union = path
    return path, union


def _follow(here: Any, step: Any) -> tuple[Any, Any] | None:
    if isinstance(here, dict):
        for key, value in here.items():
            if key == step or str(key) == step:
                return key, value
    if isinstance(here, list) and isinstance(step, int) and 0 <= step < len(here):
        return step, here[step]
    return None


def _described(model: type[BaseModel], path: tuple[Any, ...]) -> tuple[str, list[type[BaseModel]]]:
    """Find the description of the innermost field on a path, and the models that its value may be."""
    hint, models = "", [model]
    for step in path:
        for owner in models:
            field = owner.model_fields.get(step) if isinstance(step, str) else None
            if field is not None:
                hint, models = field.description or hint, list(_models(field.annotation))
                break
    return hint, models


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _simplest(faults: list[_Fault]) -> Iterator[_Fault]:
    """Say once what is wrong with a value that may be of several types."""
    unions: dict[tuple[Any, ...], list[_Fault]] = {}
    for fault in faults:
        if fault.union is None:
            yield fault
        else:
            unions.setdefault(fault.union, []).append(fault)
    for group in unions.values():
        depth = max(len(fault.path) for fault in group)
        deepest = [fault for fault in group if len(fault.path) == depth]
        by_path: dict[tuple[Any, ...], list[_Fault]] = {}
        for fault in deepest:
            by_path.setdefault(fault.path, []).append(fault)
        for same in by_path.values():
            yield _Fault(same[0].path, None, _joined([fault.message for fault in same]), same[0].hint)


def _joined(messages: list[str]) -> str:
    """Join `input should be A, got x` and `input should be B, got x` to `input should be A or B, got x`."""
    _, got, value = messages[0].rpartition(", got ")
    tail = got + value
    parts = [message.removesuffix(tail) for message in messages]
    if not got or len(parts) == 1 or not all(part.startswith("input should be ") for part in parts):
        return messages[0]
    choices = dict.fromkeys(part.removeprefix("input should be ") for part in parts)
    return f"input should be {' or '.join(choices)}{tail}"
