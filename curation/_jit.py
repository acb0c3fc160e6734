"""The one place that wraps numba, whose decorators carry no types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def njit(*, parallel: bool = False, inline: bool = False) -> Callable[[F], F]:
    """Compile a kernel without the interpreter lock, cached on disk, with IEEE arithmetic (no fast math).

    Parameters
    ----------
    parallel
        Allow ``prange``; only for loops whose iterations are independent, so that results never depend on threads.
    inline
        Inline at the call site (small helpers called from other kernels).
    """

    def wrap(function: F) -> F:
        compiled: Any = numba.njit(
            nogil=True,
            cache=True,
            fastmath=False,
            parallel=parallel,
            error_model="numpy",
            inline="always" if inline else "never",
        )(function)
        return cast("F", compiled)

    return wrap
