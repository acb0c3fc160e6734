from __future__ import annotations

import base64
import json
import struct
import zlib
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from curation.explain import input_files
from curation.io.manifest import Manifest, read_manifest
from curation.report import draw
from curation.report.facts import flow
from curation.report.page import render
from tests.cli.project import RECIPE, TWO_OUTPUTS, people
from tests.report.pages import NO_STAGES, Page, build_of, html_of

STATISTICS = """\
stages:
  - {use: group_stats, by: lang, columns: [age]}
outputs:
  rows: {from: group_stats, path: build/rows}
  table: {from: group_stats.table, path: build/table}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return build_of(tmp_path_factory.mktemp("two"), TWO_OUTPUTS)


@pytest.fixture(scope="module")
def html(two):
    return render(two.manifest, input_files(two.manifest))


def test_page__asks_for_nothing_from_elsewhere(html):
    page = Page(html)
    assert {address.partition(",")[0].partition(";")[0] for address in page.addresses} == {"data:", "data:image/png"}
    assert not {"script", "iframe", "object", "form"} & set(page.tags)
    assert "http" not in html.replace("http-equiv", "")
    assert "@import" not in html
    assert len(html) < 3_000_000


def test_page__is_the_same_for_the_same_build(two, html, tmp_path):
    assert render(two.manifest, input_files(two.manifest)) == html
    again = build_of(tmp_path, TWO_OUTPUTS)
    assert render(again.manifest, input_files(again.manifest)) == html
    assert str(tmp_path) not in html


def test_page__is_the_same_before_and_after_the_manifest_is_written(two):
    content = dict(reversed(two.manifest.content.items()))
    assert render(Manifest(two.path, content)) == render(two.manifest)
    assert two.manifest.content == read_manifest(two.path).content
    assert render(read_manifest(two.path)) == render(two.manifest)


def test_page__holds_no_time_and_no_host(two, html):
    run = json.loads(two.manifest.path("run").read_text())
    assert run["finished"][:10] not in html
    assert run["host"] not in html or len(run["host"]) < 4


@pytest.mark.parametrize("name", ["train", "held_out"])
def test_flow__balances_at_every_step(two, name):
    steps = flow(two.outputs[name].manifest)
    for step, following in zip(steps, [each.into for each in steps[1:]] + [two.outputs[name].rows], strict=True):
        assert step.into + step.made == step.out + step.aside + step.lost
        assert step.out == following
    assert steps[0].dropped == {"not selected": 20}


def test_flow__has_no_new_rows_where_only_a_table_of_statistics_has(tmp_path):
    recipe = TWO_OUTPUTS.partition("stages:")[0] + STATISTICS
    build = build_of(tmp_path, recipe)
    rows, table = (flow(build.outputs[name].manifest)[-1] for name in ("rows", "table"))
    assert (rows.made, rows.aside, rows.out) == (0, 0, rows.into)
    assert table.made == table.out > 0
    assert table.aside == table.into


def test_page__shows_the_balance(two, html):
    text = Page(html).text
    assert f"{two.rows} rows made from 200 rows of input people through split and smote, with seed 3." in text
    assert "\N{MINUS SIGN} 20 not selected" in text
    assert f"\N{MINUS SIGN} {two.outputs['held_out'].rows} to other outputs" in text


def test_groups__before_and_after(two, html):
    # every fourth row is Icelandic; SMOTE brings them to 60
    table = two.table().collect()
    made = table["_parent_a"].is_not_null().sum()
    assert f"is 50 60 {made}" in Page(html).text


def test_groups__without_input_files_have_no_before(two):
    text = Page(render(two.manifest)).text
    assert "in the input files" not in text
    assert "Rows by lang" in text


def test_lineage__shows_both_parents_and_the_mix(two, html):
    table = two.table().collect()
    made = table.filter(table["_parent_a"].is_not_null())
    text = Page(html).text
    shown = [
        row for row in made.iter_rows(named=True) if str(row["_row_id"]) in text and f"mix {row['_mix']:.2f}" in text
    ]
    assert len(shown) >= 1
    for row in shown:
        assert f"parent a, row {row['_parent_a']}" in html
        assert f"parent b, row {row['_parent_b']}" in html


def test_pictures__are_the_pixels_of_the_row():
    painter = draw.Painter.of([list(range(64))])
    assert painter is not None
    uri = painter.uri(list(range(64)))
    assert uri is not None
    raw = base64.b64decode(uri.partition(",")[2])
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", raw[16:24]) == (8, 8)
    length = struct.unpack(">I", raw[33:37])[0]
    grey = np.frombuffer(zlib.decompress(raw[41 : 41 + length]), np.uint8).reshape(8, 9)[:, 1:]
    np.testing.assert_array_equal(grey.ravel(), (np.arange(64) / 63 * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.binary(), "bytes"),
        (pa.list_(pa.uint8(), 784), "numbers"),
        (pa.list_(pa.uint8(), 63), None),
        (pa.list_(pa.list_(pa.uint8(), 16), 16), "numbers"),
        (pa.list_(pa.float32()), "numbers"),
        (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "struct"),
        (pa.string(), None),
    ],
)
def test_pictures__columns_that_may_hold_them(kind, expected):
    assert draw.image_kind(kind) == expected


@pytest.mark.parametrize("values", [[[-1.0] * 64], [[float("nan")] * 64], [[1.0] * 65], [b"no image"], [None], []])
def test_pictures__features_and_other_bytes_are_none(values):
    assert draw.Painter.of(values) is None


def test_pictures__stored_images_are_embedded_unless_large(tmp_path):
    small = draw.png(np.eye(8, dtype=np.uint8) * 255)
    large = small + b"\0" * draw.IMAGE_BYTES
    table = pa.table({"image": pa.array([small, large, None, b"broken"] * 30, pa.binary()), "n": range(120)})
    html = html_of(build_of(tmp_path, table=table))
    assert "data:image/png;base64,iVBOR" in html
    assert len(html) < 300_000


def test_page__escapes_all_text(tmp_path):
    bad = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    table = pa.table({bad: pa.array([bad, "b"] * 50), "n": pa.array(range(100))})
    page = Page(html_of(build_of(tmp_path, NO_STAGES.replace("name: plain", f"name: '{bad}'"), table)))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert not page.handlers
    assert bad in page.text


def test_page__of_right_to_left_and_very_long_names(tmp_path):
    long = "x" * 20_000
    table = pa.table({"شهر": ["القاهرة", "تهران", "\N{MATHEMATICAL FRAKTUR CAPITAL U}" + long] * 40, long: range(120)})
    html = html_of(build_of(tmp_path, table=table))
    assert "القاهرة" in html
    assert 'dir="auto"' in html
    assert len(html) < 200_000


def test_page__of_no_rows(tmp_path):
    recipe = RECIPE.replace("age >= 10", "age > 1000").replace("expect:\n  - {min_rows: 5}\n", "")
    text = Page(html_of(build_of(tmp_path, recipe))).text
    assert "The result has no rows." in text
    assert "Stage filter dropped 100% of the rows that came to it." in text


def test_page__of_a_hundred_thousand_groups(tmp_path):
    table = pa.table({"lang": [f"g{i}" for i in range(100_000)] + ["g7"] * 50, "age": [20] * 100_050})
    html = html_of(build_of(tmp_path, RECIPE.replace("epochs: 2", "epochs: 1"), table))
    text = Page(html).text
    assert "99,970 more" in text
    assert "g7 51" in text
    assert "Groups with fewer than 10 rows: g0 (1)" in text
    assert len(html) < 200_000


def test_page__warns_of_quarantine_and_tiny_results(tmp_path):
    table = pa.concat_tables([people(20), people(2)])
    recipe = RECIPE.replace("parquet}", "parquet, key: id, on_bad_rows: quarantine, max_bad: 0.5}")
    text = Page(html_of(build_of(tmp_path, recipe, table))).text
    assert "2 rows of input people could not be used and went to quarantine." in text
    assert "The result is tiny: 10 rows." in text
    assert "Groups with fewer than 10 rows: " in text


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_page__of_columns_of_many_types(format, tmp_path):
    n = 300
    table = pa.table(
        {
            "flag": pa.array([True, None, False] * 100),
            "cat": pa.array(["a", "b", None] * 100).dictionary_encode(),
            "when": pa.array(range(n), pa.timestamp("us", "UTC")),
            "price": pa.array([None, Decimal("1.50"), Decimal(2)] * 100, pa.decimal128(12, 2)),
            "half": pa.array(np.arange(n, dtype=np.float16)),
            "bad": pa.array([float("nan"), float("inf"), 1.0] * 100),
            "empty": pa.nulls(n, pa.int64()),
            "nested": pa.array([{"a": [1, 2], "b": "x"}, None, {"a": None, "b": None}] * 100),
            "blob": pa.array([b"\xff\x00", b"", None] * 100, pa.large_binary()),
            "nothing": pa.nulls(n),
        }
    )
    recipe = NO_STAGES.replace("build/plain}", f"build/plain, format: {format}}}")
    if format == "parquet":
        table = table.drop_columns(["half", "nothing"])
    html = html_of(build_of(tmp_path, recipe, table))
    assert "could not be drawn" not in html
    assert "Rows by flag" in Page(html).text


def test_page__a_column_that_cannot_be_drawn_costs_no_build(two, monkeypatch):
    from curation.report.look import Look

    def fail(_):
        raise pa.ArrowInvalid("odd column")

    monkeypatch.setattr(Look, "histograms", fail)
    text = Page(render(two.manifest)).text
    assert "The histograms could not be drawn: odd column" in text
    assert "Rows by lang" in text


def test_page__shows_the_recipe_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    table = pa.table({"lang": ["a", "b"] * 100, "age": [20] * 200})
    recipe = RECIPE.replace('"age >= 10"', "\"lang <> '${SECRET}'\"").replace("  - {min_rows: 5}", "  - {min_rows: 1}")
    html = html_of(build_of(tmp_path, recipe, table))
    assert "hunter2" not in html
    assert "${SECRET}" in html


def test_page__of_times_that_python_cannot_hold(tmp_path):
    n = 300
    table = pa.table(
        {
            "lang": ["a", "b", "b"] * 100,
            "at": pa.array([1, None, 1501] * 100, pa.timestamp("ns")),
            "far": pa.array([10**7, None, -(10**7)] * 100, pa.int32()).cast(pa.date32()),
            "many": pa.array([[1, 2], None, []] * 100, pa.list_(pa.timestamp("ns"))),
            "n": range(n),
        }
    )
    build = build_of(tmp_path, table=table)
    html = html_of(build)
    assert "could not be drawn" not in html
    assert "1970-01-01 00:00:00.000001501" in html
    assert "29349-01-26" in html
    values = build.explain("n=2").fates[0].kept[0].values
    assert (values["at"], values["n"]) == ("1970-01-01 00:00:00.000001501", 2)
    assert len(build.explain("far=29349-01-26").fates) == 20


@pytest.mark.parametrize("error", [ValueError("odd value"), OverflowError("odd value"), KeyError("odd value")])
def test_page__no_error_of_a_panel_costs_a_build(two, monkeypatch, error):
    from curation.report.look import Look

    def fail(_):
        raise error

    monkeypatch.setattr(Look, "examples", fail)
    text = Page(render(two.manifest)).text
    assert "The examples could not be drawn: " in text
    assert "odd value" in text


SPLIT = """\
recipe: 1
name: split
seed: 1
inputs:
  people: {path: data/people.parquet}
stages:
  - {use: split, by: user, shares: {train: 1.0}}
output: {path: build/split, from: split.train}
"""


def test_groups__of_a_column_of_many_values_are_not_counted(tmp_path, monkeypatch):
    from curation.report import rows

    users = [f"u{i}" for i in range(3000)] * 2
    table = pa.table({"user": users, "x": np.arange(6000) / 7, "lang": ["a", "b", "b"] * 2000})
    monkeypatch.setattr("curation.report.look.counts", _only("lang", rows.counts))
    html = html_of(build_of(tmp_path, SPLIT, table))
    assert "could not be drawn" not in html
    assert "Rows by lang" in Page(html).text


def _only(name, counts):
    def checked(frame, column, *flags):
        assert column == name
        return counts(frame, column, *flags)

    return checked


def test_groups__of_a_stage_with_few_values_are_shown(tmp_path):
    table = pa.table({"user": [f"u{i % 40}" for i in range(400)], "lang": ["a", "b"] * 200})
    text = Page(html_of(build_of(tmp_path, SPLIT, table))).text
    assert "Rows by user" in text
    assert "10 more" in text
