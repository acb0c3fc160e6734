"""Rows set aside: where they stood, why, and the rows themselves as raw as they came."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation.flow.bind import Bound
from curation.io.atomic import dump_json, void, write_atomic
from curation.io.chunks import Chunk, ChunkReader, Skip, Span
from curation.io.files import FileRef
from curation.io.formats import UnreadableError, open_file
from curation.tables import take

RAW_BYTES = 64 << 20
"""UnreadableError stretches up to this size are copied; of larger ones only the place is kept."""


def write_quarantine(folder: Path, bound: Bound, chunks: Mapping[str, tuple[Chunk, ...]]) -> bool:
    """Write ``rows.jsonl``, one line a bad stretch, and beside it the raw bytes or the refused rows.

    Returns
    -------
    bool
        Whether there was anything to write.
    """
    lines: list[dict[str, Any]] = []
    for name, each in bound.inputs.items():
        for lost in each.lost:
            raw = _copy(folder, len(lines), lost.file, 0, lost.file.size)
            lines.append({"input": name, "file": lost.file.relative, "reason": lost.reason, "raw": raw})
        for chunk in chunks[name]:
            refused = [skip for skip in chunk.skips if skip.readable]
            rows = _rows(folder, len(lines), chunk, refused, each.columns) if refused else None
            for skip in chunk.skips:
                lines.append(_line(folder, len(lines), chunk, skip, rows))
    if lines:
        text = "".join(dump_json(line) + "\n" for line in lines)
        write_atomic(
            folder / "rows.jsonl",
            lambda to: void(to.write_text(text, "utf-8")),
            written="meta:published",
            named="meta:published",
        )
    return bool(lines)


def _line(folder: Path, number: int, chunk: Chunk, skip: Skip, rows: str | None) -> dict[str, Any]:
    file, start = chunk.origin(skip.start)
    line: dict[str, Any] = {
        "input": chunk.input,
        "file": file.relative,
        "start": start,
        "stop": start + skip.stop - skip.start,
        "reason": skip.reason,
    }
    if skip.readable:
        return line | {"rows": rows}
    if chunk.segments:
        return line | _record(skip)
    offset, length = _range(chunk, skip)
    return line | {
        "offset": offset,
        "length": length,
        "raw": _copy(folder, number, chunk.file, offset, length),
    }


def _record(skip: Skip) -> dict[str, Any]:
    """A bad record as it came: as text where it is text."""
    found: dict[str, Any] = {"offset": skip.offset, "length": skip.length}
    if skip.raw is None:
        return found
    raw = base64.b64decode(skip.raw)
    try:
        return found | {"text": raw.decode("utf-8")}
    except UnicodeDecodeError:
        return found | {"base64": skip.raw}


def _rows(folder: Path, number: int, chunk: Chunk, refused: list[Skip], columns: tuple[str, ...]) -> str:
    """Save the refused rows of a chunk that can be read, in order, in one table."""
    reader = ChunkReader()
    try:
        readable = replace(chunk, skips=tuple(skip for skip in chunk.skips if not skip.readable))
        table, numbers = reader.read(readable, columns)
    finally:
        reader.close()
    wanted = np.concatenate([np.arange(skip.start, skip.stop) for skip in refused])
    rows = take(table, np.searchsorted(numbers, wanted)).combine_chunks()
    path = folder / f"{number:05d}.arrow"

    def fill(to: Path) -> None:
        with pa.OSFile(str(to), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)

    write_atomic(path, fill, written="meta:published", named="meta:published")
    return path.name


def _range(chunk: Chunk, skip: Skip) -> tuple[int, int]:
    """Bytes of the piece that holds the bad rows."""
    start = chunk.start
    for span in chunk.spans:
        if start <= skip.start < start + span.stop - span.start:
            return _piece_range(chunk, span)
        start += span.stop - span.start
    return 0, 0


def _piece_range(chunk: Chunk, span: Span) -> tuple[int, int]:
    try:
        reader = open_file(chunk.file)
    except UnreadableError:
        return 0, chunk.file.size
    try:
        return reader.raw_range(span.piece)
    finally:
        reader.close()


def _copy(folder: Path, number: int, source: FileRef, offset: int, length: int) -> str | None:
    if length > RAW_BYTES or not Path(source.path).is_file():
        return None
    path = folder / f"{number:05d}.bin"

    def fill(to: Path) -> None:
        with Path(source.path).open("rb") as file, to.open("wb") as out:
            file.seek(offset)
            out.write(file.read(length))

    write_atomic(path, fill, written="meta:published", named="meta:published")
    return path.name
