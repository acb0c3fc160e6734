"""Lists of names in the options of a method."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any


def checked_names(names: Any, known: Sequence[str]) -> Any:
    """Names of a list, for a validator before the types are looked at: each known, and each once.

    Raises
    ------
    ValueError
        For the first name that is not known, with the nearest, or comes twice; what is no list of texts passes.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return names
    for i, name in enumerate(names):
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"no name {name!r}; {hint}")
        if name in names[:i]:
            raise ValueError(f"expected each name once, got {name!r} twice; drop one")
    return names
