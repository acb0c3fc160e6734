"""Writes the page about a finished build: self-contained, deterministic, readable without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from curation.io.manifest import Manifest


def write_report(
    path: Path, manifest: Manifest, inputs: Mapping[str, Sequence[Path]] | None = None
) -> None:
    """Write ``report.html``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<!doctype html><title>{manifest.build_id}</title>", encoding="utf-8")
