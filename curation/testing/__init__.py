"""Test kit for stages: what ours are held to, as functions for any pytest; every failure says what to mend."""

from __future__ import annotations

from curation.testing.builds import check_build, digest_tree
from curation.testing.hands import fit, pieces_of, rows_of, travelled, with_ids
from curation.testing.options import check_params
from curation.testing.stages import check_stage

__all__ = [
    "check_build",
    "check_params",
    "check_stage",
    "digest_tree",
    "fit",
    "pieces_of",
    "rows_of",
    "travelled",
    "with_ids",
]
