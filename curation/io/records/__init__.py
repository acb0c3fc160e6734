"""Formats that are read front to back, record by record; each module is imported when its format is used."""

from __future__ import annotations

from importlib import import_module
from pathlib import PurePath

from curation.io.records.base import RecordFormat

RECORD_FORMATS = {
    "jsonl": "curation.io.records.jsonl:JSONL",
    "csv": "curation.io.records.csv:CSV",
    "webdataset": "curation.io.records.webdataset:WEBDATASET",
}
"""Format -> where its :class:`~curation.io.records.base.RecordFormat` stands.

Images are no stream and have a function of their own, :func:`curation.io.records.images.read_images`.
"""

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tar": "webdataset",
    ".tgz": "webdataset",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def record_format(format_name: str) -> RecordFormat:
    """Give the format of a name in ``RECORD_FORMATS``."""
    module, _, attribute = RECORD_FORMATS[format_name].partition(":")
    found: RecordFormat = getattr(import_module(module), attribute)
    return found


def record_suffix(name: str) -> str | None:
    """Format of a file by its suffix, a suffix of compression left aside; ``None`` if it is none of these.

    >>> record_suffix("part-0.jsonl.zst"), record_suffix("a.tgz"), record_suffix("a.parquet")
    ('jsonl', 'webdataset', None)
    """
    suffixes = PurePath(name.lower()).suffixes
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None
