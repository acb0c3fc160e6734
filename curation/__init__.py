"""Data curation and sampling plans: one recipe, one command, the same bytes every time."""

from __future__ import annotations

__version__ = "0.1.0"
