"""Draws what the report shows: small images as data URIs, bars and bands as inline SVG."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

SIDES = {64: 8, 256: 16, 784: 28, 1024: 32}
"""Lists of so many numbers are taken for square images."""
IMAGE_BYTES = 48 << 10
"""Larger stored images are left out, so that the page stays small."""
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
WIDTH = 1000


# Images


def image_kind(kind: pa.DataType) -> str | None:
    """How a column's values may be images: ``bytes``, ``struct`` (with a field ``bytes``) or ``numbers``."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        return "struct" if "bytes" in names and image_kind(kind.field("bytes").type) == "bytes" else None
    if pa.types.is_fixed_size_list(kind):
        inner = kind.value_type
        if pa.types.is_fixed_size_list(inner):
            square = kind.list_size == inner.list_size and 4 <= kind.list_size <= 64
            return "numbers" if square and _is_grey(inner.value_type) else None
        return "numbers" if kind.list_size in SIDES and _is_grey(inner) else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "numbers" if _is_grey(kind.value_type) else None
    return None


def _is_grey(kind: pa.DataType) -> bool:
    return bool(pa.types.is_uint8(kind) or pa.types.is_floating(kind))


@dataclass(frozen=True)
class Painter:
    """Turns values of one column into data URIs; ``top`` is the number that is drawn white."""

    top: float

    @classmethod
    def of(cls, values: Sequence[Any]) -> Painter | None:
        """Painter for a column, judged by some of its values; None if they are no images."""
        known = [value for value in values if value is not None]
        known = [value for value in known if not isinstance(value, dict) or value.get("bytes")]
        if not known:
            return None
        if isinstance(known[0], bytes | dict):
            return cls(1.0) if any(_stored(value) for value in known) else None
        arrays = [_square(value) for value in known]
        sound = [array for array in arrays if array is not None]
        if len(sound) < len(known) or not sound:
            return None
        whole = np.stack(sound) if len({a.shape for a in sound}) == 1 else np.concatenate([a.ravel() for a in sound])
        # signed numbers are features, not grey values
        if not np.isfinite(whole).all() or whole.min() < 0 or whole.max() <= 0:
            return None
        return cls(float(whole.max()))

    def uri(self, value: Any) -> str | None:
        """Data URI of an image; None if the value is missing, broken or too large."""
        if value is None:
            return None
        if isinstance(value, bytes | dict):
            found = _stored(value)
            return None if found is None else _data_uri(*found)
        grey = _square(value)
        if grey is None:
            return None
        return _data_uri("image/png", png(np.clip(np.nan_to_num(grey) / self.top * 255, 0, 255).astype(np.uint8)))


def _stored(value: Any) -> tuple[str, bytes] | None:
    raw = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(raw, bytes) or len(raw) > IMAGE_BYTES:
        return None
    kind = next((kind for magic, kind in _MAGIC.items() if raw.startswith(magic)), None)
    return None if kind is None else (kind, raw)


def _square(value: Any) -> NDArray[np.float64] | None:
    try:
        grey = np.array(value, np.float64)
    except (TypeError, ValueError):
        return None
    if grey.ndim == 2 and grey.shape[0] == grey.shape[1]:
        return grey
    side = SIDES.get(grey.size)
    return grey.reshape(side, side) if side and grey.ndim == 1 else None


def png(grey: NDArray[np.uint8]) -> bytes:
    """8-bit grey PNG of a matrix."""
    height, width = grey.shape

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    lines = b"".join(b"\0" + grey[i].tobytes() for i in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(lines, 9)) + part(b"IEND", b"")


def _data_uri(kind: str, raw: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


# Bars and bands


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def rect(x: float, y: float, width: float, height: float, style: str) -> str:
    """Rectangle; nothing if it has no width."""
    if width <= 0:
        return ""
    return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" class="{style}"/>'


def stretched(height: int, *shapes: str) -> Markup:
    """SVG as wide as its place; shapes use x from 0 to ``WIDTH``."""
    body = "".join(shapes)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" aria-hidden="true">{body}</svg>')


def band(through: float, left: float, aside: float, made: float, *, start: bool = False, end: bool = False) -> Markup:
    """One step of the flow: what goes on, and beside it what leaves (fading out) and what comes in (fading in).

    Parameters
    ----------
    through, left, aside, made
        Widths in [0, ``WIDTH``]: rows that go on, are dropped, go to another output, are new.
    start, end
        Whether it is the first or last step, whose ends are rounded off.
    """
    shapes = [rect(0, 0, through, 100, "go")]
    x = through
    for width, style in ((aside, "aside"), (left, "drop")):
        shapes.append(rect(x, 0, width, 62, style))
        x += width
    shapes.append(rect(through, 38, made, 62, "made"))
    if start:
        shapes.append(rect(0, 0, through + left + aside, 3, "edge"))
    if end:
        shapes.append(rect(0, 97, through + made, 3, "edge"))
    return stretched(100, *shapes)


def group_bar(before: float | None, real: float, made: float) -> Markup:
    """Rows of a group before (thin) and after (thick, synthetic rows apart); widths in [0, 1]."""
    after = [_seen(real), _seen(made)]
    shapes = [rect(0, 13, after[0], 11, "go"), rect(after[0], 13, after[1], 11, "made")]
    if before is not None:
        shapes.append(rect(0, 4, _seen(before), 6, "before"))
    return stretched(28, *shapes)


def _seen(share: float) -> float:
    return max(3.0, share * WIDTH) if share > 0 else 0.0


def columns(counts: Sequence[int]) -> Markup:
    """Histogram with one column per count."""
    top, width = max(max(counts, default=0), 1), WIDTH / max(1, len(counts))
    gap = 2 if len(counts) > 1 else 0
    shapes = []
    for i, n in enumerate(counts):
        height = max(2.0, 100 * n / top) if n else 0.0
        if height:
            shapes.append(rect(i * width + gap, 100 - height, width - 2 * gap, height, "go"))
    return stretched(100, *shapes, rect(0, 99, WIDTH, 1, "edge"))


def mixing(mix: float) -> Markup:
    """Line from a parent to the other, with the synthetic row on it."""
    x = 6 + 88 * min(1.0, max(0.0, mix))
    return Markup(
        '<svg viewBox="0 0 100 24" class="mix" aria-hidden="true"><line x1="6" y1="12" x2="94" y2="12"/>'
        f'<circle cx="6" cy="12" r="3.2" class="end"/><circle cx="94" cy="12" r="3.2" class="end"/>'
        f'<circle cx="{_n(x)}" cy="12" r="5.5" class="new"/></svg>'
    )
