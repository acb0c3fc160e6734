"""A list of image files: their bytes as they are, and what their headers say."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from curation.errors import CurationError
from curation.io.records import base
from curation.io.records.base import RAW_BYTES, BadRecord, Block, assemble, shown

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
IMAGE_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("label", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("mode", pa.string()),
    ]
)
FILE_BYTES = 1 << 30
"""A larger file is refused."""
BLOCK_BYTES = 32 << 20
MAX_PIXELS = 178_956_970
"""An image of more pixels is a decompression bomb: 512 MiB of RGB."""


def _open(path: str) -> BinaryIO:
    return Path(path).open("rb")


def read_images(
    paths: Sequence[tuple[str, str]],
    *,
    columns: Sequence[str] | None = None,
    decode: bool = False,
    opener: Callable[[str], BinaryIO] = _open,
) -> Iterator[Block]:
    """Read image files.

    Parameters
    ----------
    paths
        Absolute path, and path inside the input (POSIX separators), one row each in this order.
    columns
        Columns of ``IMAGE_SCHEMA`` that are built; ``None`` for all.
    decode
        Decode every pixel, so that truncated files are found; without it, only the header and the check sums of
        PNG are looked at.
    opener
        Opens what a path names.

    Returns
    -------
        Blocks; the row of a bad record is its place in ``paths``, its offset 0, and ``raw`` the head of the file.

    Raises
    ------
    CurationError
        If Pillow is not installed.
    """
    pillow = _pillow()
    schema = IMAGE_SCHEMA if columns is None else pa.schema([IMAGE_SCHEMA.field(each) for each in columns])
    first = 0
    while first < len(paths):
        rows: list[dict[str, Any]] = []
        bad: list[BadRecord] = []
        held = count = 0
        while first + count < len(paths) and count < base.BLOCK_ROWS and held < BLOCK_BYTES:
            path, relative = paths[first + count]
            data, size, fault = _content(path, opener)
            facts, fault = ({}, fault) if fault else _facts(pillow, data, decode)
            if fault:
                reason = f"{shown(relative, 200)}: {fault}"
                bad.append(BadRecord(first + count, 0, size, reason, data[:RAW_BYTES]))
            else:
                label = PurePosixPath(relative).parent.name or None
                rows.append({"path": relative, "label": label, "image": data, **facts})
                held += len(data) if "image" in schema.names else 0
            count += 1
        table = pa.Table.from_pylist(rows, schema=schema)
        yield assemble(schema, [table], count, bad, first)
        first += count


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise CurationError("images: Pillow is not installed; install curation[images]") from None
    return Image


def _content(path: str, opener: Callable[[str], BinaryIO]) -> tuple[bytes, int, str]:
    """Bytes of a file, its size, and why it cannot be used, if so."""
    try:
        with opener(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if size > FILE_BYTES:
                return file.read(RAW_BYTES), size, f"{size} bytes, at most {FILE_BYTES} are read"
            data = file.read()
    except OSError as error:
        return b"", 0, f"cannot be read: {error.strerror or error}"
    return data, len(data), "" if data else "an empty file"


def _facts(pillow: Any, data: bytes, decode: bool) -> tuple[dict[str, Any], str]:
    """Columns made of an image's header, or what is wrong with the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: about odd metadata, and about bombs, which are refused below
            with pillow.open(io.BytesIO(data)) as image:
                width, height = image.size
                facts = {"width": width, "height": height, "format": image.format, "mode": image.mode}
                if width * height > MAX_PIXELS:
                    return {}, f"{width} x {height} pixels, at most {MAX_PIXELS} are read"
                image.verify()
            if decode:
                with pillow.open(io.BytesIO(data)) as image:
                    image.load()
    except pillow.UnidentifiedImageError:
        return {}, f"not an image that Pillow knows, it begins with {data[:8]!r}"
    except Exception as error:  # its decoders raise what they like, SyntaxError and struct.error included
        return {}, f"not a sound image: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return facts, ""
