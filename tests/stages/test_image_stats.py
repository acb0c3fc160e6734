"""Images become numbers: by their header where that tells, as viewers show them, and broken ones end no process."""

import io
import struct
import sys
import zlib

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images

from curation.errors import BuildError
from curation.methods.image_stats import ALL, PIXELS, ImageStats
from curation.stages.base import BindError
from curation.types import ids_of
from tests.flow.helpers import read, run, write
from tests.stages.hands import rows_of, stage_of

HEADER = [name for name in ALL if name not in PIXELS]
GRAY = Image.new("L", (8, 4), 51)
PHOTOGRAPH = Image.fromarray(load_sample_images().images[0])


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def measured(images, **options):
    """Statistics by name, a list each."""
    table = rows_of(len(images), image=images if isinstance(images, pa.Array) else pa.array(images, pa.binary()))
    stage = stage_of("image_stats", ImageStats(column="image", prefix="", **options), table.schema)
    found = stage.apply(table, None).tables[""]
    assert found.select(stage.bind(table.schema).names).schema == stage.bind(table.schema)
    return found.drop_columns(["image", "_row_id"]).to_pydict()


def bomb(width, height):
    """A PNG of a few bytes that claims to be large."""

    def part(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


def test_image_stats__of_a_known_image():
    raw = encoded(GRAY)
    found = {name: values[0] for name, values in measured([raw]).items()}
    assert found == pytest.approx(
        {
            "width": 8,
            "height": 4,
            "aspect": 2.0,
            "megapixels": 32e-6,
            "n_bytes": len(raw),
            "format": "png",
            "channels": 1,
        }
        | {"brightness": 0.2, "contrast": 0.0, "blur": 0.0, "entropy": 0.0}
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_image_stats__of_many_formats(kind):
    found = measured([encoded(Image.new("RGB", (40, 20), (200, 200, 200)), kind)])
    assert (found["width"], found["height"], found["format"]) == ([40], [20], [kind.lower()])
    assert found["brightness"] == [pytest.approx(200 / 255, abs=0.01)]


@pytest.mark.parametrize(
    ("mode", "colour", "brightness"),
    [
        ("1", 1, 1.0),
        ("LA", (51, 0), 0.2),
        ("P", 51, None),
        ("RGBA", (255, 255, 255, 0), 1.0),
        ("I;16", 0x3333, 0.2),
        ("I", 0x3333, 0.2),
        ("RGB", (255, 0, 0), 0.299),
    ],
)
def test_image_stats__of_many_modes(mode, colour, brightness):
    image = Image.new(mode, (6, 6), colour)
    expected = np.asarray(image.convert("RGB").convert("L")).mean() / 255 if brightness is None else brightness
    assert measured([encoded(image, "TIFF" if mode == "I" else "PNG")])["brightness"] == [
        pytest.approx(expected, abs=2e-3)
    ]


def test_image_stats__of_cmyk():
    found = measured([encoded(Image.new("CMYK", (6, 6), (0, 0, 0, 0)), "TIFF")])
    assert (found["channels"], found["brightness"]) == ([4], [1.0])


def test_image_stats__of_floats_cannot_be_told():
    raw = encoded(Image.new("F", (6, 6), 0.5), "TIFF")
    assert measured([raw], on_error=None)["brightness"] == [None]
    with pytest.raises(BuildError, match="floating-point numbers, whose range is not known"):
        measured([raw])


def test_image_stats__blur_and_entropy_fall_as_a_photograph_is_blurred():
    found = measured([encoded(PHOTOGRAPH.filter(ImageFilter.GaussianBlur(r))) for r in (0, 2, 8)])
    assert found["blur"][0] > 4 * found["blur"][1] > 16 * found["blur"][2] > 0
    assert found["contrast"] == sorted(found["contrast"], reverse=True)


def test_image_stats__of_a_jpeg_are_those_of_its_pixels():
    raw = encoded(PHOTOGRAPH, "JPEG", quality=95)
    pixels = measured([encoded(Image.open(io.BytesIO(raw)).convert("RGB"))])
    found = measured([raw])
    for name in ("brightness", "contrast", "entropy"):
        assert found[name] == [pytest.approx(pixels[name][0], abs=0.01)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(("orientation", "size"), [(1, (8, 4)), (3, (8, 4)), (6, (4, 8)), (8, (4, 8))])
def test_image_stats__are_those_of_the_image_as_displayed(kind, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = encoded(GRAY.convert("RGB"), kind, exif=exif)
    for stats in (HEADER, list(ALL)):
        found = measured([raw], stats=stats)
        assert (found["width"], found["height"], found["aspect"]) == ([size[0]], [size[1]], [size[0] / size[1]])


def test_image_stats__of_the_header_do_not_decode():
    cut = encoded(PHOTOGRAPH)[:200]
    assert measured([cut], stats=["width", "height", "format", "n_bytes"]) == {
        "width": [640],
        "height": [427],
        "format": ["png"],
        "n_bytes": [200],
    }
    with pytest.raises(BuildError, match="the image cannot be read"):
        measured([cut], stats=["brightness"])


def test_image_stats__of_a_broken_image_end_the_build_naming_the_row():
    images = [encoded(GRAY), b"no image"]
    row = ids_of(rows_of(2))[1]
    with pytest.raises(BuildError, match=f"stage 'here', column 'image', row id {row}: 8 bytes that are no image"):
        measured(images)


@pytest.mark.parametrize("cut", [0, 1, 8, 30, 60, 300])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_image_stats__of_a_cut_image_are_null_if_asked(kind, cut):
    small = PHOTOGRAPH.resize((64, 48))
    found = measured([encoded(small, kind)[:cut], encoded(small, kind)], on_error=None)
    assert [found["n_bytes"][0], found["brightness"][0], found["blur"][0]] == [cut, None, None]
    assert found["brightness"][1] == pytest.approx(np.asarray(small.convert("L")).mean() / 255, abs=0.02)


@pytest.mark.parametrize("size", [(9000, 9000), (12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_image_stats__of_a_bomb_are_an_error(size):
    with pytest.raises(BuildError, match="pixels"):
        measured([bomb(*size)], stats=["width"])
    found = measured([bomb(*size)], on_error=None)
    assert {name for name, values in found.items() if values != [None]} == {"n_bytes"}


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())])
def test_image_stats__of_every_layout_are_the_same(kind):
    images = [encoded(GRAY), None, encoded(PHOTOGRAPH), encoded(GRAY)]
    plain = pa.array(images, pa.binary())
    array = plain.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else plain.cast(kind)
    assert measured(array) == measured(images)


def test_image_stats__of_a_struct_are_those_of_its_bytes():
    struct_kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array(
        [{"bytes": encoded(GRAY), "path": "a.png"}, None, {"bytes": encoded(GRAY), "path": None}], struct_kind
    )
    assert measured(images) == measured([encoded(GRAY), None, encoded(GRAY)])


def test_image_stats__do_not_follow_a_path():
    images = pa.array([{"bytes": None, "path": "a.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    assert measured(images, on_error=None, stats=["n_bytes", "width"]) == {"n_bytes": [None], "width": [None]}
    with pytest.raises(BuildError, match="the struct holds no bytes"):
        measured(images)


def test_image_stats__of_null_are_null():
    assert measured([None]) == {name: [None] for name in ALL}


def test_image_stats__of_no_rows_have_all_columns():
    assert measured([]) == {name: [] for name in ALL}


def test_image_stats__needs_the_image_if_a_statistic_is_wanted():
    stage = stage_of("image_stats", ImageStats(column="image"), rows_of(1, image=[b""]).schema)
    assert stage.needs(frozenset(["image_width", "x"])) == {"image", "x"}
    assert stage.needs(frozenset(["x"])) == {"x"}
    rest = rows_of(1, x=[1])
    assert stage.apply(rest, None).tables[""] is rest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": "img"}, "no column 'img'"),
        ({"column": "text"}, "column 'text' is string, expected bytes"),
        ({"column": "pair"}, "expected bytes or a struct with a field 'bytes'"),
        ({"column": "image"}, "column 'image_width' is there already"),
        ({"column": "image", "prefix": "", "stats": ["blur"]}, "column 'blur' is there already"),
    ],
)
def test_image_stats__refuses(options, message):
    schema = rows_of(1, image=[b""], text=["a"], pair=[{"bytes": "a"}], image_width=[1], blur=[1]).schema
    with pytest.raises(BindError, match=message):
        stage_of("image_stats", ImageStats(**options), schema)


def test_image_stats__say_what_is_missing_without_pillow(monkeypatch):
    table = rows_of(1, image=[encoded(GRAY)])
    stage = stage_of("image_stats", ImageStats(column="image"), table.schema)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BindError, match="Pillow, which is not installed"):
        stage.bind(table.schema)
    with pytest.raises(BuildError, match=r"stage 'here': .*Pillow, which is not installed; pip install"):
        stage.apply(table, None)


def test_image_stats__of_sizes_in_bytes_do_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert measured([b"12345", None], stats=["n_bytes"]) == {"n_bytes": [5, None]}


def test_image_stats__serve_a_filter_that_follows(tmp_path):
    images = [encoded(Image.new("L", (n, 4), 10 * n)) for n in range(1, 21)]
    write(tmp_path / "data/a.parquet", pa.table({"id": range(1, 21), "image": images}))
    recipe = "recipe: 1\nname: images\nseed: 1\ninputs: {a: {path: data, key: id}}\noutput: {path: out}\nstages:\n"
    stages = '  - {use: image_stats, column: image, on_error: null}\n  - {use: filter, where: "image_width >= 18"}\n'
    run(tmp_path, recipe + stages)
    assert read(tmp_path / "out").column("id").to_pylist() == [18, 19, 20]
