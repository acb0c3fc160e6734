"""Small calls that wait for a disk or a network, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 8
BLOCK = 128
"""Calls that a thread makes before it asks for more: handing over a call costs as much as looking at a small file."""


def spread(call: Callable[[T], R], items: Iterable[T], *, block: int = BLOCK) -> list[R]:
    """Results of calls in the order of the items; the first error ends all.

    >>> spread(len, ["a", "bb", ""])
    [1, 2, 0]
    """
    todo = list(items)
    # Few items are spread as well: each of them may be a large file, or far away.
    size = max(1, min(block, len(todo) // THREADS))
    blocks = [todo[i : i + size] for i in range(0, len(todo), size)]
    with ThreadPoolExecutor(THREADS) as pool:
        return [each for found in pool.map(lambda some: [call(item) for item in some], blocks) for each in found]
