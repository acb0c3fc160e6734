"""Statistics become columns: NULL stays NULL, encodings do not matter, only what is wanted is read."""

import pyarrow as pa
import pytest

from curation.methods.text_stats import DEFAULT, TextStats
from curation.stages.base import BindError
from tests.flow.helpers import people, read, run, write
from tests.stages.hands import rows_of, stage_of

WORDS = ["two words", None, "", "é… 1", "two words"]
SOME = TextStats(column="text", stats=["words", "chars", "non_ascii_share"])


def measured(text, params=SOME):
    table = rows_of(len(text), text=text)
    stage = stage_of("text_stats", params, table.schema)
    found = stage.apply(table, None).tables[""]
    assert found.select(stage.bind(table.schema).names).schema == stage.bind(table.schema)
    return found


def test_text_stats__adds_a_column_per_statistic():
    table = measured(WORDS)
    assert table.column("text_words").to_pylist() == [2, None, 0, 2, 2]
    assert table.column("text_chars").to_pylist() == [9, None, 0, 4, 9]
    assert table.column("text_non_ascii_share").to_pylist() == [0, None, 0, 0.5, 0]


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
)
def test_text_stats__of_every_layout_are_the_same(kind):
    new = ["text_words", "text_chars", "text_non_ascii_share"]
    assert measured(pa.array(WORDS).cast(kind)).select(new) == measured(WORDS).select(new)


def test_text_stats__of_slices_and_chunks_are_those_of_the_rows():
    text = pa.array(["before", *WORDS, "after"])
    pieces = pa.chunked_array([text.slice(1, 2), text.slice(3, 0), text.slice(3, 3)])
    assert measured(pieces).column("text_chars").to_pylist() == [9, None, 0, 4, 9]


@pytest.mark.parametrize("kind", [pa.string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_text_stats__of_no_rows_have_all_columns(kind):
    table = measured(pa.array([], kind), TextStats(column="text"))
    assert (table.num_rows, table.num_columns) == (0, 2 + len(DEFAULT))


def test_text_stats__of_nulls_alone_are_null():
    assert measured(pa.nulls(3, pa.string())).column("text_chars").null_count == 3


def test_text_stats__needs_the_text_if_a_statistic_is_wanted():
    stage = stage_of("text_stats", SOME, rows_of(1, text=["a"]).schema)
    assert stage.needs(frozenset(["text_words", "x"])) == {"text", "x"}
    assert stage.needs(frozenset(["x"])) == {"x"}
    rest = rows_of(1, x=[1])
    assert stage.apply(rest, None).tables[""] is rest


def test_text_stats__puts_new_columns_before_ours():
    stage = stage_of("text_stats", SOME, rows_of(1, text=["a"]).schema)
    assert stage.bind(rows_of(1, text=["a"]).schema).names[-1] == "_row_id"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (TextStats(column="txt"), "no column 'txt'"),
        (TextStats(column="n"), "column 'n' is int64, not text"),
        (TextStats(column="text", stats=["words"]), "column 'text_words' is there already"),
        (TextStats(column="text", prefix="", stats=["chars"]), "column 'chars' is there already"),
    ],
)
def test_text_stats__refuses(params, message):
    with pytest.raises(BindError, match=message):
        stage_of("text_stats", params, rows_of(1, text=["a"], text_words=[1], chars=[1], n=[1]).schema)


def test_text_stats__serve_a_filter_that_follows(tmp_path):
    write(tmp_path / "data/a.parquet", people(40))
    recipe = "recipe: 1\nname: texts\nseed: 1\ninputs: {a: {path: data}}\noutput: {path: out}\nstages:\n"
    stages = '  - {use: text_stats, column: text, stats: [chars]}\n  - {use: filter, where: "text_chars > 7"}\n'
    run(tmp_path, recipe + stages)
    table = read(tmp_path / "out")
    long = [text for text in people(40).column("text").to_pylist() if text is not None and len(text) > 7]
    assert table.column("text").to_pylist() == long
    assert set(table.column("text_chars").to_pylist()) == {8}
