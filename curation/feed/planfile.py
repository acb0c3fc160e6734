"""The files of a plan: a JSON file with a fingerprint over its content, and the tables that it names."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.errors import CurationError
from curation.feed.mixture import WINDOW
from curation.feed.permutation import ALGORITHM

FORMAT = 1
"""Version of the plan file."""

READ_WHOLE = ("groups", "segments")
"""Tables that are small: read whole, and compared with their digest; others are mapped."""


class FeedError(CurationError):
    """A plan or a loader was asked for something it does not have."""


def table_digest(table: pa.Table) -> str:
    """Hash of the content, whatever the version of the file format."""
    digest = blake2b(digest_size=16)
    for field in table.schema:
        column = table[field.name].combine_chunks()
        if pa.types.is_fixed_size_list(field.type):
            column = column.flatten()
        content = (
            "\0".join(column.to_pylist()).encode() if pa.types.is_string(column.type) else column.to_numpy().tobytes()
        )
        digest.update(f"{field.name}\0{field.type}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def fingerprint_of(body: dict[str, Any]) -> str:
    """Hash of the content of a plan file."""
    content = {key: value for key, value in body.items() if key != "fingerprint"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def read_body(path: Path) -> dict[str, Any]:
    """Read a plan file, refusing one that was changed or is of another version."""
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FeedError(f"{path}: expected a plan, got {error}; build again") from error
    wanted = {"plan": FORMAT, "algorithm": ALGORITHM, "window": WINDOW}
    got = {key: body.get(key) for key in wanted} if isinstance(body, dict) else body
    if got != wanted:
        raise FeedError(
            f"{path}: expected a plan of {wanted}, got {got}; open it with the version of curation that "
            "wrote it, or build again"
        )
    if body.get("fingerprint") != fingerprint_of(body):
        raise FeedError(f"{path}: expected its content to match its fingerprint, got a changed file; build again")
    return body
