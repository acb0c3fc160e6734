"""Data curation and sampling plans: one recipe, one command, the same bytes every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation.api import Build as Build
    from curation.api import build as build
    from curation.api import open as open
    from curation.errors import CurationError as CurationError

__version__ = "0.1.0"
__all__ = ["Build", "CurationError", "__version__", "build", "open"]

_LAZY = {
    "Build": "curation.api",
    "CurationError": "curation.errors",
    "build": "curation.api",
    "open": "curation.api",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that ``import curation`` itself imports nothing heavy."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """Names for completion."""
    return sorted(__all__)
