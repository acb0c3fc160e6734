"""Inputs that are read front to back: the same rows, ids and balance as if they were columns on disk."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from curation.errors import BuildError, RecipeError
from curation.explain import explain
from curation.flow import reading
from curation.io import chunks
from curation.io.files import FileRef
from curation.io.manifest import read_manifest
from tests.flow.helpers import digest_tree, people, read, run, write

PLAIN = """
recipe: 1
name: t
seed: 1
inputs:
  a: {path: data%s}
stages:
  - use: filter
    where: "score > 0"
output: {path: out, shard_rows: 100}
"""


def rows(n, start=0):
    return [{"id": i, "score": i % 7 - 2.5, "text": f"row {i} é"} for i in range(start, start + n)]


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def users(table):
    return table.drop_columns([name for name in table.column_names if name.startswith("_row_id")]).to_pylist()


def test_text__gives_the_rows_that_parquet_gives(tmp_path):
    write_jsonl(tmp_path / "text/data/a.jsonl.gz", rows(300))
    write(tmp_path / "columns/data/a.parquet", pa.Table.from_pylist(rows(300)))
    pc.write_csv(pa.Table.from_pylist(rows(300)), _folder(tmp_path / "csv/data") / "a.csv")
    for name in ("text", "columns", "csv"):
        run(tmp_path / name, PLAIN % "")
    tables = [users(read(tmp_path / name / "out")) for name in ("text", "columns", "csv")]
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == sum(each["score"] > 0 for each in rows(300))


def _folder(path):
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize("files", [1, 3, 40])
def test_objects_without_keys__are_rows_and_are_counted(tmp_path, files):
    for i in range(files):
        write_jsonl(tmp_path / f"data/{i:02}.jsonl", ["{}\n"] * 5 + (["broken\n"] if i == 0 else []))
    spec = ", on_bad_rows: quarantine, max_bad: 0.5"
    run(tmp_path, PLAIN.partition("stages")[0] % spec + "output: {path: out, shard_rows: 7}")
    account = read_manifest(tmp_path / "out").content["inputs"]["a"]
    assert (account["read"], account["quarantined"]) == (files * 5 + 1, 1)
    assert len(set(read(tmp_path / "out").column("_row_id").to_pylist())) == files * 5


def test_ids__count_bad_records_so_that_mending_one_moves_no_other(tmp_path):
    good = [*rows(10), '{"id": 10, broken\n', *rows(10, start=11)]
    write_jsonl(tmp_path / "data/a.jsonl", good)
    run(tmp_path, PLAIN % ", on_bad_rows: quarantine, max_bad: 0.1")
    before = read(tmp_path / "out")
    write_jsonl(tmp_path / "data/a.jsonl", rows(21))
    run(tmp_path, PLAIN % "")
    after = {row["id"]: row["_row_id"] for row in read(tmp_path / "out").to_pylist()}
    assert all(after[row["id"]] == row["_row_id"] for row in before.to_pylist())


def test_ranges__of_a_large_file_give_the_same_rows(tmp_path, monkeypatch):
    bad = [*rows(400), "[1]\n", *rows(400, start=400)]
    write_jsonl(tmp_path / "data/a.jsonl", bad)
    run(tmp_path, PLAIN % ", on_bad_rows: quarantine, max_bad: 0.1", out="whole")
    whole = (read(tmp_path / "out"), read_manifest(tmp_path / "out").content["inputs"]["a"])
    monkeypatch.setattr(reading, "RANGE_BYTES", 1000)
    run(tmp_path, PLAIN % ", on_bad_rows: quarantine, max_bad: 0.1", force=True)
    ranges = (read(tmp_path / "out"), read_manifest(tmp_path / "out").content["inputs"]["a"])
    assert ranges[0].equals(whole[0])
    assert ranges[1] == whole[1]
    assert ranges[1]["quarantined"] == 1


def test_many_small_files__are_read_together_and_keep_ids_and_names(tmp_path, monkeypatch):
    for i in range(90):
        write(tmp_path / f"data/{i:02d}.parquet", pa.Table.from_pylist(rows(5, start=5 * i)))
    packed = run(tmp_path, PLAIN % ", where: 'id % 2 = 0'")
    first = (read(tmp_path / "out"), read_manifest(tmp_path / "out").content["inputs"]["a"])
    monkeypatch.setattr(reading, "PACK_FILES", 1000)
    alone = run(tmp_path, PLAIN % ", where: 'id % 2 = 0'", force=True)
    second = (read(tmp_path / "out"), read_manifest(tmp_path / "out").content["inputs"]["a"])
    assert (packed.ran["census"], alone.ran["census"]) == (1, 90)
    assert first[0].equals(second[0])
    assert first[1] == second[1]  # rows outside the condition are counted file by file


def test_packs__change_in_one_place_when_a_file_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PACK_ODDS", 8)
    names = [f"{i:04d}.parquet" for i in range(300)]
    files = [FileRef(f"/d/{name}", name, "parquet", 10, name) for name in names]
    before, _ = reading.to_read(files, {})
    extra = FileRef("/d/0137a.parquet", "0137a.parquet", "parquet", 10, "x")
    after, _ = reading.to_read(sorted([*files, extra], key=lambda file: file.relative), {})
    assert len(set(after) - set(before)) <= 2
    assert 300 / 8 / 2 < len(before) < 300 / 8 * 2


def test_appended_file__reads_only_itself(tmp_path):
    for i in range(3):
        write_jsonl(tmp_path / f"data/{i}.jsonl", rows(50, start=50 * i))
    assert run(tmp_path, PLAIN % "").ran["a: read"] == 3
    write_jsonl(tmp_path / "data/3.jsonl", rows(50, start=150))
    second = run(tmp_path, PLAIN % "").ran
    assert (second["a: read"], second["census"]) == (1, 1)


def test_types__are_widened_where_nothing_is_lost(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl", [{"id": i, "score": i} for i in range(5)])
    write_jsonl(tmp_path / "data/b.jsonl", [{"id": 5, "score": 5.5, "extra": "x"}])
    run(tmp_path, PLAIN % "")
    table, account = read(tmp_path / "out"), read_manifest(tmp_path / "out").content["inputs"]["a"]
    assert table.schema.field("score").type == pa.float64()
    assert table.column("extra").to_pylist() == [None] * 4 + ["x"]
    assert any("'extra' is missing in 1 of the 2 files" in text for text in account["drift"])


def test_types__that_show_late_bind_the_recipe_again(tmp_path, monkeypatch):
    """The first bytes show integers and no column `late`; the whole file does not agree."""
    monkeypatch.setattr("curation.io.records.base.SNIFF_BYTES", 200)
    early = [{"id": i, "score": i} for i in range(200)]
    write_jsonl(tmp_path / "data/a.jsonl", [*early, {"id": 200, "score": 0.5, "late": True}])
    run(tmp_path, PLAIN % "")
    table = read(tmp_path / "out")
    assert table.schema.field("score").type == pa.float64()
    assert table.column("late").to_pylist()[-1] is True


def test_parquet__with_narrower_types_in_one_file_is_read_as_the_wider(tmp_path):
    write(tmp_path / "data/a.parquet", pa.table({"id": pa.array([1, 2], pa.int32()), "score": [1.0, 2.0]}))
    write(
        tmp_path / "data/b.parquet", pa.table({"id": pa.array([3], pa.int64()), "score": pa.array([1.5], pa.float32())})
    )
    run(tmp_path, PLAIN % "")
    table = read(tmp_path / "out")
    assert (table.schema.field("id").type, table.column("id").to_pylist()) == (pa.int64(), [1, 2, 3])


def test_parquet__a_number_that_no_double_equals_is_named(tmp_path):
    write(tmp_path / "data/a.parquet", pa.table({"id": [2**53 + 1], "score": [1.0]}))
    write(tmp_path / "data/b.parquet", pa.table({"id": [0.5], "score": [1.0]}))
    with pytest.raises(BuildError, match=r"a\.parquet, row 0: column 'id': .*9007199254740993"):
        run(tmp_path, PLAIN % "")


def test_declared_type__is_kept(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl", [{"id": "007", "score": 1}, {"id": "8", "score": 2}])
    run(tmp_path, PLAIN % ", types: {score: float32}")
    assert read(tmp_path / "out").schema.field("score").type == pa.float32()


def test_declared_type__of_parquet_is_refused(tmp_path):
    write(tmp_path / "data/a.parquet", people(5))
    with pytest.raises(RecipeError, match="types, delimiter and nulls are for csv and jsonl"):
        run(tmp_path, PLAIN % ", types: {score: float32}")


def test_bad_record__ends_a_strict_build_and_names_it(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl", [*rows(3), "{\n", *rows(3)])
    with pytest.raises(BuildError, match=r"a\.jsonl, record 3, byte \d+: not JSON.*on_bad_rows: quarantine"):
        run(tmp_path, PLAIN % "")


def test_bad_record__set_aside_before_ends_a_strict_build_after(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl", [*rows(3), "{\n", *rows(3)])
    run(tmp_path, PLAIN % ", on_bad_rows: quarantine, max_bad: 1.0")
    with pytest.raises(BuildError, match=r"a\.jsonl, row 3: not JSON"):
        run(tmp_path, PLAIN % "")


def test_broken_stream__is_a_bad_file_and_its_rows_before_are_kept(tmp_path):
    path = write_jsonl(tmp_path / "data/a.jsonl.gz", rows(20_000))
    write_jsonl(tmp_path / "data/b.jsonl", rows(10))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BuildError, match=r"a\.jsonl\.gz"):
        run(tmp_path, PLAIN % "")
    with pytest.raises(BuildError, match=r"1 of 2 files are bad.*first: .*a\.jsonl\.gz, row \d+: cut short"):
        run(tmp_path, PLAIN % ", on_bad_rows: quarantine")
    run(tmp_path, PLAIN % ", on_bad_rows: quarantine, max_bad: 1.0")
    account = read_manifest(tmp_path / "out").content["inputs"]["a"]
    assert account["read"] == account["kept"] + account["dropped"] + account["quarantined"]
    assert 10 < account["read"] < 20_010
    assert account["unreadable_files"][0]["path"] == "a.jsonl.gz"


def test_explain__finds_rows_of_text_by_value_and_by_id(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl", [*rows(5), "{\n", *rows(5, start=6)])
    run(tmp_path, PLAIN % ", where: 'id <> 8', on_bad_rows: quarantine, max_bad: 0.5")
    manifest = read_manifest(tmp_path / "out")
    verdicts = {q: explain(manifest, q).fates[0] for q in ("id=4", "id=7", "id=8")}
    assert [verdicts[q].verdict for q in verdicts] == ["kept", "dropped", "not selected"]
    origins = [fate.origin for fate in verdicts.values()]
    assert [origin and origin.row for origin in origins] == [4, 7, 8]
    row_id = verdicts["id=4"].row_id or 0
    assert explain(manifest, str(row_id + 1)).fates[0].verdict == "quarantined"


@pytest.mark.parametrize("options", [{"executor": "threads"}, {"executor": "dask", "workers": 2}, {"task_bytes": 1}])
def test_text__gives_the_same_bytes_for_any_executor(tmp_path, options):
    for i in range(4):
        write_jsonl(tmp_path / f"data/{i}.jsonl", [*rows(100, start=100 * i), "{\n"])
    recipe = PLAIN % ", on_bad_rows: quarantine, max_bad: 0.5"
    run(tmp_path, recipe)
    expected = digest_tree(tmp_path / "out")
    run(tmp_path, recipe, force=True, **options)
    assert digest_tree(tmp_path / "out") == expected


def test_condition__decodes_nothing_else_where_no_row_passes(tmp_path, monkeypatch):
    """The other column cannot be decoded; no row needs it."""
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 500)
    table = pa.table({"id": np.arange(1000), "text": [f"text {i}" for i in range(1000)]})
    path = write(tmp_path / "data/a.parquet", table, row_group_size=500, compression="none", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(raw)
    recipe = (PLAIN % ", where: 'id < 500'").replace("score > 0", "id >= 0")
    run(tmp_path, recipe)
    assert read(tmp_path / "out").num_rows == 500
    with pytest.raises(BuildError, match="rows 500 to 999"):
        run(tmp_path, recipe.replace("id < 500", "id < 501"))


def test_columns__are_chosen_from_text(tmp_path):
    write_jsonl(tmp_path / "data/a.jsonl", rows(20))
    run(tmp_path, PLAIN % ", columns: [score]")
    assert users(read(tmp_path / "out")) == [{"score": each["score"]} for each in rows(20) if each["score"] > 0]


def test_small_files__may_have_dictionaries_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PACK_FILES", 1)
    monkeypatch.setattr(reading, "BLOCK_ROWS", 10)
    for i in range(4):
        labels = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1] * 3, pa.int32()), [f"a{i}", f"b{i}"])
        write(tmp_path / f"data/{i}.parquet", pa.table({"score": [1.0] * 9, "label": labels}))
    run(tmp_path, PLAIN % "")
    assert read(tmp_path / "out")["label"].to_pylist() == [x for i in range(4) for x in [f"b{i}", f"a{i}", f"b{i}"] * 3]


def test_explain__of_a_row_whose_file_lacks_the_column_of_the_condition(tmp_path):
    write(tmp_path / "data/a.parquet", pa.table({"score": [1.0, 2.0]}))
    write(tmp_path / "data/b.parquet", pa.table({"score": [3.0], "good": [True]}))
    run(tmp_path, PLAIN % ", where: good")
    (fate,) = explain(read_manifest(tmp_path / "out"), "score=1.0").fates
    assert fate.verdict == "not selected"


def test_broken_row_group__of_a_small_file_costs_its_rows_only(tmp_path, monkeypatch):
    """Read together with others or alone, the same rows are set aside."""
    for i in range(5):
        table = pa.Table.from_pylist(rows(90, start=90 * i))
        path = write(tmp_path / f"data/{i}.parquet", table, row_group_size=30, compression="none", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(2)
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    path.write_bytes(raw)
    accounts = []
    for many in (1000, 2):
        monkeypatch.setattr(reading, "PACK_FILES", many)
        run(tmp_path, PLAIN % ", on_bad_rows: quarantine, max_bad: 0.5", force=True)
        accounts.append(read_manifest(tmp_path / "out").content["inputs"]["a"])
    assert accounts[0]["quarantined"] == accounts[1]["quarantined"] == 30
    assert accounts[0]["read"] == accounts[1]["read"] == 450
    with pytest.raises(BuildError, match=r"4\.parquet: 30 rows: cannot be decoded"):
        run(tmp_path, PLAIN % "", force=True)


def test_own_ids__that_come_twice_in_one_input_are_refused(tmp_path):
    """Two results that share rows: as one input their rows could not be told apart."""
    write(tmp_path / "data/a.parquet", pa.Table.from_pylist(rows(20)))
    for out in ("one", "two"):
        run(tmp_path, (PLAIN % "").replace("path: out", f"path: {out}"), out=out)
    both = (PLAIN % "").replace("path: data", "path: [one/shards, two/shards]")
    with pytest.raises(BuildError, match=r"key _row_id = \d+ stands in .* and again in .*`concat` them"):
        run(tmp_path, both)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("files", [1, 4, 40])
def test_dictionaries__of_a_small_index_may_have_other_values_in_every_batch(tmp_path, files, nested):
    small = pa.dictionary(pa.int8(), pa.string())
    kind = pa.list_(pa.struct([("d", small)])) if nested else small
    for i in range(files):
        batches = [[f"{i} {j} {k}" for k in range(50)] for j in range(1 if files > 1 else 8)]
        rows = [[[{"d": each}] if nested else each for each in texts] for texts in batches]
        _write_batches(_folder(tmp_path / f"data/{i}") / "a.arrow", pa.schema([("d", kind)]), rows)
    run(tmp_path, PLAIN.partition("stages")[0] % "" + "output: {path: out}")
    found = [row["d"][0]["d"] if nested else row["d"] for row in read(tmp_path / "out").to_pylist()]
    assert sorted(found) == sorted(f"{i} {j} {k}" for i in range(files) for j in range(len(batches)) for k in range(50))


def _write_batches(path, schema, batches):
    opened = pa.ipc.new_file if len(batches) == 1 else pa.ipc.new_stream  # a stream replaces dictionaries
    with opened(str(path), schema) as writer:
        for rows in batches:
            writer.write_batch(pa.record_batch([pa.array(rows, schema.field(0).type)], schema=schema))
