"""Content keys: the name of a result is a hash of everything that it depends on."""

from __future__ import annotations

import hashlib
from typing import Any

from curation.io.atomic import dump_json


def in_given_order(value: Any) -> Any:
    """Turn mappings into lists of pairs, for content keys of what users order (the columns that a stage adds)."""
    if isinstance(value, dict):
        return [[key, in_given_order(each)] for key, each in value.items()]
    if isinstance(value, list | tuple):
        return [in_given_order(each) for each in value]
    return value


def content_key(*parts: Any) -> str:
    """Hash JSON-able parts to 32 hexadecimal digits (blake2b, 128 bits)."""
    return hashlib.blake2b(dump_json(list(parts)).encode(), digest_size=16).hexdigest()
