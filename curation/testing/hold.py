"""How checks fail: with an ``AssertionError`` that says what to mend, also under ``python -O``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def hold(kept: Any, message: str) -> None:
    """Fail unless a promise is kept."""
    if not kept:
        raise AssertionError(message)


def calling(what: str, function: Callable[..., T], *arguments: Any) -> T:
    """Call code of a stage; an error of any kind fails the check, saying ``what`` was asked of it."""
    try:
        return function(*arguments)
    except Exception as error:
        raise AssertionError(f"{what}, but it raised {type(error).__name__}: {error}") from error
