"""Stage ``image_stats``: adds measures of a column of encoded images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.errors import BuildError
from curation.keys import content_key
from curation.methods.image_stats import PIXELS, ImageStat, ImageStats, laplacian_variance, luma_stats
from curation.stages.base import BindError, Fault, Outcome, Stage, State
from curation.stages.columns import decoded, missing, taken, value_type
from curation.types import ids_of, in_order

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 1 << 26
"""Pixels above which an image counts as a bomb."""
DECODED_BYTES = 5 * MAX_PIXELS
"""Peak memory of decoding one image."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
"""What is tried; no format that would start another program."""

_KINDS: dict[ImageStat, pa.DataType] = {
    "width": pa.int32(),
    "height": pa.int32(),
    "n_bytes": pa.int64(),
    "format": pa.string(),
    "channels": pa.int32(),
}
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_NO_PILLOW = "images are decoded by Pillow, which is not installed"
_MEND = "pip install 'curation[images]'"


class UnreadableError(Exception):
    """An image that cannot be read, and why."""


class ImageStatsStage(Stage[ImageStats]):
    """Adds a column per statistic; what is NULL has none."""

    beside = DECODED_BYTES

    def key(self, use: str) -> str:
        """Content key; pixels are those of the installed decoder."""
        return content_key(super().key(use), _decoder() if self._opens() else None)

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the column, the new names, and that there is a decoder."""
        column = self.params.column
        faults = [missing(schema, column, ("column",))]
        if not any(faults) and not _holds_images(kind := schema.field(column).type):
            fault = f"column {column!r} is {kind}, expected bytes or a struct with a field 'bytes'"
            faults.append(Fault(("column",), fault))
        faults += taken(schema, self.params.names(), ("column",) if self.params.prefix is None else ("prefix",))
        if self._opens() and _decoder() is None:
            faults.append(Fault(("use",), _NO_PILLOW, _MEND))
        if found := [fault for fault in faults if fault]:
            raise BindError(found)
        fields = [pa.field(name, _KINDS.get(stat, pa.float64())) for name, stat in self.params.names().items()]
        return in_order(pa.schema([*schema, *fields], metadata=schema.metadata))

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """The images, if one of their statistics is wanted."""
        new = self.params.names().keys()
        return (wanted - new) | ({self.params.column} if wanted & new else set())

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Measure the images of the chunk."""
        if self.params.column not in table.column_names:  # nobody wants a statistic in this pass
            return Outcome({"": table})
        if self._opens() and _decoder() is None:
            raise BuildError(f"stage '{self.name}': {_NO_PILLOW}; {_MEND}")
        names = self.params.names()
        found: dict[ImageStat, list[Any]] = {stat: [] for stat in names.values()}
        for number, image in enumerate(decoded(table.column(self.params.column))):
            measured: dict[ImageStat, Any] = {}
            try:
                measure(image, frozenset(found), measured)
            except UnreadableError as error:
                if self.params.on_error == "error":
                    raise BuildError(
                        f"stage '{self.name}', column '{self.params.column}', row id {ids_of(table)[number]}: {error}; "
                        "filter such rows out first, or set `on_error: null`"
                    ) from error
            for stat, values in found.items():
                values.append(measured.get(stat))
        for name, stat in names.items():
            table = table.append_column(name, pa.array(found[stat], _KINDS.get(stat, pa.float64())))
        return Outcome({"": table})

    def _opens(self) -> bool:
        return set(self.params.names().values()) != {"n_bytes"}


def measure(image: pa.Scalar, stats: frozenset[ImageStat], found: dict[ImageStat, Any]) -> None:
    """Fill in the statistics of one value of the column, as far as they can be told.

    Parameters
    ----------
    image
        Bytes, or a struct that holds them; nothing is filled in for NULL.
    stats
        What is wanted: an image is opened only if its size alone does not do, and decoded only for :data:`PIXELS`.
    found
        Filled in. What the header tells is there even if the pixels cannot be decoded.

    Raises
    ------
    UnreadableError
        If the image cannot be read, or has more than ``MAX_PIXELS``.
    """
    if not image.is_valid:
        return
    raw = _raw(image)
    found["n_bytes"] = len(raw)
    if stats == {"n_bytes"}:
        return
    try:
        with _opened(raw) as opened:
            found |= _header(opened)
            if stats & PIXELS:
                luma = _luma(opened)
                found |= luma_stats(luma)
                if "blur" in stats:
                    found["blur"] = laplacian_variance(luma)
    except (MemoryError, UnreadableError):
        raise
    except Exception as error:  # decoders raise anything on broken files
        raise UnreadableError(f"the image cannot be read ({error or type(error).__name__})") from error


def _raw(image: pa.Scalar) -> bytes:
    if not isinstance(image, pa.StructScalar):
        return bytes(image.as_py())
    if image["bytes"].is_valid:
        return bytes(image["bytes"].as_py())
    raise UnreadableError("the struct holds no bytes; images must lie in the table, a path is not followed")


def _opened(raw: bytes) -> Image:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    try:
        opened = Image.open(io.BytesIO(raw), formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:  # its text names an address in memory
        raise UnreadableError(f"{len(raw)} bytes that are no image of a known format") from error
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"the image has {width} x {height} pixels, at most {MAX_PIXELS} are decoded")
    return opened


def _header(opened: Image) -> dict[ImageStat, Any]:
    width, height = _displayed(opened)
    return {
        "width": width,
        "height": height,
        "aspect": width / height,
        "megapixels": width * height / 1e6,
        "format": (opened.format or "").lower(),
        "channels": len(opened.getbands()),
    }


def _displayed(opened: Image) -> tuple[int, int]:
    """Width and height as a viewer shows them: EXIF may turn an image by a quarter."""
    width, height = opened.size
    tags = getattr(opened, "tag_v2", None)
    if opened.format == "TIFF" and tags is not None:  # whose size Pillow turns in some versions
        width, height = tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT]
    return (height, width) if _orientation(opened) in _QUARTER_TURNS else (width, height)


def _orientation(opened: Image) -> int:
    if opened.format == "PNG" and "exif" not in opened.info:  # Pillow would decode all of it to look behind the pixels
        return 1
    try:
        return int(opened.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF: the image is shown as it is stored
        return 1


def _luma(opened: Image) -> NDArray[np.uint8]:
    """Luma of the first frame, (height, width) as stored; transparency is ignored."""
    opened.draft("L", None)  # a JPEG holds its luma apart, so colours need not be decoded
    opened.load()
    if opened.mode == "F":
        raise UnreadableError("pixels are floating-point numbers, whose range is not known")
    if opened.mode.startswith("I"):  # 16 bits, in some files as 32
        return (np.asarray(opened).clip(0, 0xFFFF) >> 8).astype(np.uint8)
    if opened.mode in ("P", "PA"):
        opened = opened.convert("RGBA")
    elif opened.mode not in ("1", "L", "LA", "RGB", "RGBA"):
        opened = opened.convert("RGB")
    return np.asarray(opened.convert("L"))


def _decoder() -> str | None:
    """Version of Pillow, if it is there."""
    try:
        from PIL import __version__
    except ImportError:
        return None
    return str(__version__)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and any(test(kind.field(at).type) for test in _BYTES)
    return any(test(value_type(kind)) for test in _BYTES)


STAGE = ImageStatsStage
