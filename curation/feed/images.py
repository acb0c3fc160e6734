"""Pictures of a batch, decoded."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.feed.plan import FeedError

DECODERS = ("pillow",)


def check_decode(decode: Mapping[str, str], schema: pa.Schema, columns: list[str]) -> None:
    """Refuse what cannot be decoded.

    Raises
    ------
    FeedError
        If a column is not read or holds no bytes, the decoder does not exist, or Pillow is not installed.
    """
    for name, decoder in decode.items():
        if name not in columns:
            raise FeedError(f"decode: expected columns that are read, got {name!r}; there are {', '.join(columns)}")
        if schema.field(name).type not in (pa.binary(), pa.large_binary(), pa.binary_view()):
            raise FeedError(f"decode: expected a column of bytes, got {name!r} of type {schema.field(name).type}")
        if decoder not in DECODERS:
            raise FeedError(f"decode: expected {', '.join(DECODERS)} for {name!r}, got {decoder!r}")
    if decode:
        try:
            import PIL  # noqa: F401 - only whether it is there
        except ImportError as error:
            raise FeedError("decode: Pillow is missing; install the extra: pip install 'curation[images]'") from error


def decoded(values: NDArray[Any], name: str, positions: NDArray[np.int64]) -> list[NDArray[np.uint8] | None]:
    """Pictures as RGB.

    Parameters
    ----------
    values : (k,)
        Encoded pictures as ``bytes``; None for null.
    name, positions
        Column, and position of each row, for messages.

    Returns
    -------
    list
        Of each picture (height, width, 3) values 0 .. 255, None for null.

    Raises
    ------
    FeedError
        If one cannot be decoded.
    """
    return [None if value is None else _rgb(value, name, int(at)) for value, at in zip(values, positions, strict=True)]


def _rgb(value: bytes, name: str, position: int) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(value)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FeedError(
            f"column {name!r}, row {position}: cannot be decoded as a picture: {error}; drop such rows in the recipe, "
            "such as by `image_stats` and `filter`"
        ) from error
