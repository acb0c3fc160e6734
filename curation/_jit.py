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


def _copy_bytes() -> Any:
    """``memcpy`` between arrays of bytes: 3 to 7 times faster than a loop, which must allow for overlap."""
    if getattr(numba.config, "DISABLE_JIT", False):

        def copy(to: Any, to_at: int, source: Any, at: int, size: int) -> None:
            to[to_at : to_at + size] = source[at : at + size]

        return copy
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    memcpy: Any = cgutils.raw_memcpy

    @intrinsic
    def copy_bytes(typing: Any, to: Any, to_at: Any, source: Any, at: Any, size: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            starts = [
                builder.gep(context.make_array(kind)(context, builder, array).data, [place])
                for kind, array, place in zip(signature.args[::2], values[::2], values[1::2], strict=False)
            ]
            memcpy(builder, *starts, values[4], 1)
            return context.get_dummy_value()

        return types.void(to, types.int64, source, types.int64, types.int64), code

    return copy_bytes


copy_bytes = _copy_bytes()
"""In kernels: ``copy_bytes(to, to_at, source, at, size)`` copies ``size`` bytes between flat arrays of uint8."""
