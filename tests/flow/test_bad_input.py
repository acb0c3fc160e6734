"""Bad data: one clear message that names the place and the mend, or set aside and counted; nothing half done."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.errors import BuildError, CurationError, RecipeError
from curation.io import commits
from curation.io.manifest import read_manifest
from tests.flow.helpers import digest_tree, people, read, run, write

PLAIN = """
recipe: 1
name: plain
seed: 1
inputs: {a: {path: data%s}}
output: {path: out}
"""
QUARANTINE = PLAIN % ", on_bad_rows: quarantine, max_bad: 0.6"
SMOTE = """
recipe: 1
name: smote
seed: 1
inputs: {a: {path: data}}
stages: [{use: smote, label: lang, features: [x], k: %d}]
output: {path: out}
"""


def account(root: Path):
    found = read_manifest(root).content["inputs"]["a"]
    assert found["read"] == found["kept"] + found["dropped"] + found["not_selected"] + found["quarantined"]
    return found


def flip_page(path: Path, group: int) -> None:
    """Overwrite the data of one row group so that it cannot be decompressed."""
    column = pq.read_metadata(path).row_group(group).column(2)
    start = column.dictionary_page_offset or column.data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(raw)


def test_truncated_parquet__names_the_file(tmp_path):
    path = write(tmp_path / "data/a.parquet", people(50))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecipeError, match=r"a\.parquet: not a readable Parquet file.*\n.*hint: mend or remove"):
        run(tmp_path, PLAIN % "")


def test_truncated_parquet__is_set_aside_whole(tmp_path):
    write(tmp_path / "data/a.parquet", people(50))
    broken = write(tmp_path / "data/b.parquet", people(50, start=50))
    broken.write_bytes(broken.read_bytes()[:-20])
    run(tmp_path, QUARANTINE)
    assert account(tmp_path / "out")["unreadable_files"][0]["path"] == "b.parquet"
    folder = next((tmp_path / "out/quarantine").iterdir())
    line = json.loads((folder / "rows.jsonl").read_text())
    assert (folder / line["raw"]).read_bytes() == broken.read_bytes()


def test_truncated_arrow__names_the_file(tmp_path):
    (tmp_path / "data").mkdir()
    with pa.ipc.new_file(str(tmp_path / "data/a.arrow"), people(5).schema) as writer:
        writer.write_table(people(50))
    raw = (tmp_path / "data/a.arrow").read_bytes()
    (tmp_path / "data/a.arrow").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(RecipeError, match=r"a\.arrow: not a readable Arrow IPC file"):
        run(tmp_path, PLAIN % "")


def test_corrupt_row_group__names_file_and_rows(tmp_path):
    path = write(tmp_path / "data/a.parquet", people(100), row_group_size=25, compression="zstd")
    flip_page(path, 2)
    with pytest.raises(BuildError, match=r"a\.parquet, rows 50 to 74: cannot be decoded"):
        run(tmp_path, PLAIN % "")
    assert not (tmp_path / "out/manifest.json").exists()


def test_corrupt_row_group__is_set_aside_and_all_others_kept(tmp_path):
    path = write(tmp_path / "data/a.parquet", people(100), row_group_size=25, compression="zstd")
    flip_page(path, 2)
    run(tmp_path, QUARANTINE)
    assert account(tmp_path / "out")["quarantined"] == 25
    assert read(tmp_path / "out").column("id").to_pylist() == [*range(50), *range(75, 100)]
    folder = next((tmp_path / "out/quarantine").iterdir())
    line = json.loads((folder / "rows.jsonl").read_text())
    assert (line["start"], line["stop"]) == (50, 75)
    assert len((folder / line["raw"]).read_bytes()) == line["length"] > 0


def test_too_many_bad_rows__end_the_build(tmp_path):
    path = write(tmp_path / "data/a.parquet", people(100), row_group_size=25, compression="zstd")
    flip_page(path, 0)
    with pytest.raises(BuildError, match=r"25 of 100 rows .* first: .*a\.parquet, row 0: .*`max_bad`"):
        run(tmp_path, PLAIN % ", on_bad_rows: quarantine")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_smote__names_column_and_row_of_a_feature_that_is_no_number(tmp_path, value):
    table = people(80)
    x = table.column("x").to_pylist()
    x[6] = value if value is None else [0.0, value, 0.0, 0.0]
    write(tmp_path / "data/a.parquet", table.set_column(5, "x", pa.array(x, pa.list_(pa.float32(), 4))))
    with pytest.raises(BuildError, match=r"column 'x': 1 of the 10 rows of class 'is' hold NaN, infinity or NULL"):
        run(tmp_path, SMOTE % 3)


def test_smote__refuses_a_class_that_is_too_small(tmp_path):
    write(tmp_path / "data/a.parquet", people(17))
    with pytest.raises(BuildError, match=r"column 'lang': class 'fr': expected >= 6 rows for k=5, .* got 4"):
        run(tmp_path, SMOTE % 5)


def test_smote__refuses_text_and_integers(tmp_path):
    write(tmp_path / "data/a.parquet", people(17))
    with pytest.raises(
        RecipeError, match=r"column 'text' is string, which cannot be interpolated\n  hint: interpolate an"
    ):
        run(tmp_path, (SMOTE % 5).replace("[x]", "[text]"))
    with pytest.raises(RecipeError, match=r"'id' is int64, which cannot be interpolated\n  hint: .*cast"):
        run(tmp_path, (SMOTE % 5).replace("[x]", "[id]"))


def test_wrong_type__in_one_file_of_many_is_found_before_any_pass(tmp_path):
    for i in range(5):
        table = people(10, start=10 * i)
        write(tmp_path / f"data/{i}.parquet", table if i != 3 else table.set_column(3, "score", [["x"] * 10]))
    with pytest.raises(
        RecipeError, match=r"data/3\.parquet: column 'score' is string, not double, unlike .*0\.parquet"
    ):
        run(tmp_path, PLAIN % "")


def test_equal_keys__are_named_with_both_places(tmp_path):
    write(tmp_path / "data/a.parquet", people(50))
    write(tmp_path / "data/b.parquet", people(50, start=45))
    with pytest.raises(
        BuildError, match=r"key id = 45 stands in .*a\.parquet, row 45, and again in .*b\.parquet, row 0"
    ):
        run(tmp_path, PLAIN % ", key: id")


def test_equal_keys__are_set_aside_but_for_the_first(tmp_path):
    write(tmp_path / "data/a.parquet", people(50))
    write(tmp_path / "data/b.parquet", people(50, start=45))
    run(tmp_path, QUARANTINE.replace("path: data", "path: data, key: id"))
    assert account(tmp_path / "out")["quarantined"] == 5
    assert sorted(read(tmp_path / "out").column("id").to_pylist()) == list(range(95))
    folder = next((tmp_path / "out/quarantine").iterdir())
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    (name,) = {line["rows"] for line in lines}
    assert pa.ipc.open_file(folder / name).read_all().column("id").to_pylist() == [45, 46, 47, 48, 49]


def test_null_key__is_named(tmp_path):
    table = people(20).set_column(0, "id", pa.array([None if i == 7 else i for i in range(20)], pa.int64()))
    write(tmp_path / "data/a.parquet", table)
    with pytest.raises(BuildError, match=r"a\.parquet, row 7: the key column 'id' is NULL"):
        run(tmp_path, PLAIN % ", key: id")


def test_keys__that_only_hash_alike_stay_two_rows(tmp_path, monkeypatch):
    from curation import hashing
    from curation.flow import evaluate, jobs

    def weak(values: pa.ChunkedArray, *, salt: str, bits: int = 63) -> np.ndarray:
        strong = hashing.key_hashes(values, salt=salt, bits=bits)
        return strong if salt.endswith("again") else strong % np.uint64(50)

    monkeypatch.setattr(evaluate, "key_hashes", weak)
    monkeypatch.setattr(jobs, "key_hashes", weak)
    write(tmp_path / "data/a.parquet", people(100))
    run(tmp_path, PLAIN % ", key: id")
    out = read(tmp_path / "out")
    assert sorted(out.column("id").to_pylist()) == list(range(100))
    assert len(set(out.column("_row_id").to_pylist())) == 100


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_tables__go_through(tmp_path, rows):
    write(tmp_path / "data/a.parquet", people(rows))
    run(tmp_path, PLAIN % ", key: id" + "feed: {batch_size: 4, epochs: 2}\n")
    assert read(tmp_path / "out").num_rows == rows
    assert account(tmp_path / "out")["read"] == rows


def test_everything_dropped__is_a_result_too(tmp_path):
    write(tmp_path / "data/a.parquet", people(30))
    recipe = (PLAIN % "").replace("output:", "stages: [{use: filter, where: 'id < 0'}]\noutput:")
    run(tmp_path, recipe)
    assert account(tmp_path / "out")["dropped"] == 30
    assert read(tmp_path / "out").schema.names == [*people(1).column_names, "_row_id"]


def test_column_of_nulls__goes_through(tmp_path):
    table = people(30).append_column("nothing", pa.nulls(30)).append_column("none", pa.nulls(30, pa.float64()))
    write(tmp_path / "data/a.parquet", table)
    run(tmp_path, (PLAIN % "") + "expect: [{max_null: 1, columns: [nothing, none]}]\n")
    assert read(tmp_path / "out").column("none").null_count == 30


def test_null_condition__has_its_own_reason(tmp_path):
    write(tmp_path / "data/a.parquet", people(70))
    run(tmp_path, (PLAIN % "").replace("output:", "stages: [{use: filter, where: 'score > 0'}]\noutput:"))
    dropped = read_manifest(tmp_path / "out").content["stages"]["filter"]["dropped"]
    assert dropped["null condition"] == 10


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (PLAIN.replace("data%s", "nowhere"), "nowhere: no such file or folder"),
        (PLAIN.replace("data%s", "'data/*.pq'"), r"data/\*\.pq: no file matches"),
        (PLAIN % ", key: idd", r"inputs\.a\.key: no column 'idd'\n  hint: did you mean 'id'\?"),
        (PLAIN % ", columns: [id, txt]", r"no column 'txt'\n  hint: did you mean 'text'\?"),
        (PLAIN % ", where: 'scor > 1'", "no column 'scor'"),
    ],
)
def test_wrong_names__are_found_before_any_pass(tmp_path, recipe, message):
    write(tmp_path / "data/a.parquet", people(5))
    with pytest.raises(RecipeError, match=message):
        run(tmp_path, recipe)
    assert not (tmp_path / "out").exists()


def test_wrong_column__is_told_once(tmp_path):
    write(tmp_path / "data/a.parquet", people(5))
    with pytest.raises(RecipeError) as caught:
        run(tmp_path, PLAIN % ", columns: [id, txt]")
    assert str(caught.value).count("no column 'txt'") == 1


def test_full_disk__says_so_and_goes_on_when_there_is_room(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        write(tmp_path / "data/a.parquet", people(60_000))
        recipe = (PLAIN % "").replace("path: out", f"path: {small}/out")
        with pytest.raises(CurationError, match=r"disk is full; free space|free, up to"):
            run(tmp_path, recipe)
        assert not (small / "out/manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
        run(tmp_path, recipe)
        assert read(small / "out").num_rows == 60_000
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_output__that_cannot_be_written_says_so(tmp_path):
    write(tmp_path / "data/a.parquet", people(5))
    fixed = tmp_path / "fixed"
    fixed.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(fixed)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no permission to mount a read-only file system")
    try:
        with pytest.raises(BuildError, match="read-only"):
            run(tmp_path, (PLAIN % "").replace("path: out", f"path: {fixed}/out"))
    finally:
        subprocess.run(["umount", str(fixed)], check=True)


def test_output__inside_an_input_is_refused(tmp_path):
    write(tmp_path / "data/a.parquet", people(5))
    with pytest.raises(RecipeError, match=r"output.path"):
        run(tmp_path, (PLAIN % "").replace("path: out", "path: data/out"))


def test_many_tiny_files__go_through(tmp_path):
    for i in range(1000):
        write(tmp_path / f"data/{i // 100}/{i}.parquet", people(3, start=3 * i))
    run(tmp_path, PLAIN % ", key: id", executor="threads")
    assert sorted(read(tmp_path / "out").column("id").to_pylist()) == list(range(3000))


def test_own_output__read_as_input_keeps_its_ids(tmp_path):
    write(tmp_path / "data/a.parquet", people(40))
    run(tmp_path, PLAIN % "")
    first = read(tmp_path / "out")
    before = digest_tree(tmp_path / "out")
    run(
        tmp_path, (PLAIN % "").replace("path: data", "path: out").replace("path: out}\n", "path: again}\n"), out="again"
    )
    assert read(tmp_path / "again").sort_by("id").equals(first.sort_by("id"))
    assert digest_tree(tmp_path / "out") == before


def test_gate__misses_a_value_that_lost_all_its_rows_if_it_is_named(tmp_path):
    write(tmp_path / "data/a.parquet", people(40))
    dropped = (PLAIN % "").replace("output:", "stages: [{use: filter, where: \"lang <> 'is'\"}]\noutput:")
    run(tmp_path, dropped + "expect: [{min_rows: 5, by: lang}]\n")
    with pytest.raises(BuildError, match="lang = is: 0 rows, at least 5 expected"):
        run(tmp_path, dropped + "expect: [{min_rows: 5, by: lang, values: [en, fr, is]}]\n")


def test_gate__counts_times_that_python_cannot_hold(tmp_path):
    table = people(4).append_column("t", pa.array([1, 1, 1, 2], pa.timestamp("ns")))
    write(tmp_path / "data/a.parquet", table)
    with pytest.raises(BuildError, match=r"t = 1970-01-01 00:00:00.000000002: 1 rows, at least 2 expected"):
        run(tmp_path, (PLAIN % "") + "expect: [{min_rows: 2, by: t}]\n")


def test_input__that_changes_during_the_build_is_refused(tmp_path):
    path = write(tmp_path / "data/a.parquet", people(40))

    def change(point):
        if point == "mark:named":
            write(path, people(41))

    commits.hook = change
    try:
        with pytest.raises(BuildError, match=r"a\.parquet was changed while the build read it"):
            run(tmp_path, PLAIN % "")
    finally:
        commits.hook = None
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize("option", ["columns: [text], key: id", "columns: [text], where: 'id < 30'"])
def test_key_and_condition__may_name_columns_that_are_not_selected(tmp_path, option):
    write(tmp_path / "data/a.parquet", people(30))
    run(tmp_path, PLAIN % f", {option}")
    assert read(tmp_path / "out").column_names == ["text", "_row_id"]


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("use: sample, n: 10", "10 rows wanted, 0 there"),
        ("use: sample, by: lang, quotas: {en: 3}", "no row has lang = en"),
        ("use: smote, label: lang, features: [x], target: {en: 10}", r"target\['en'\]"),
    ],
)
def test_no_rows__where_some_are_asked_for_is_an_error(tmp_path, stage, message):
    write(tmp_path / "data/a.parquet", people(30))
    stages = f"stages: [{{use: filter, where: 'id < 0'}}, {{{stage}}}]\noutput:"
    with pytest.raises(BuildError, match=message):
        run(tmp_path, (PLAIN % "").replace("output:", stages))


@pytest.mark.parametrize(
    "stage",
    [
        "use: sample, fraction: 0.5",
        "use: sample, by: lang, long_tail: {imbalance: 9}",
        "use: smote, label: lang, features: [x]",
    ],
)
def test_no_rows__go_through_what_asks_for_a_share(tmp_path, stage):
    write(tmp_path / "data/a.parquet", people(30))
    stages = f"stages: [{{use: filter, where: 'id < 0'}}, {{{stage}}}]\noutput:"
    run(tmp_path, (PLAIN % "").replace("output:", stages))
    assert read(tmp_path / "out").num_rows == 0


def test_corrupt_group_and_equal_keys__in_one_chunk_are_both_set_aside(tmp_path):
    path = write(tmp_path / "data/a.parquet", people(100), row_group_size=25, compression="zstd")
    flip_page(path, 2)
    write(tmp_path / "data/b.parquet", people(40, start=90), row_group_size=20, compression="zstd")
    flip_page(tmp_path / "data/b.parquet", 1)
    run(tmp_path, QUARANTINE.replace("path: data", "path: data, key: id"))
    assert account(tmp_path / "out")["quarantined"] == 25 + 20 + 10


def test_nullability__may_differ_between_files(tmp_path):
    for name, nullable in (("a", False), ("b", True)):
        schema = pa.schema([pa.field("id", pa.int64(), nullable=nullable)])
        write(tmp_path / f"data/{name}.parquet", pa.table([range(5)], schema=schema))
    for order in ("input", "shuffled"):
        run(tmp_path, (PLAIN % "").replace("path: out", f"path: out, order: {order}"))
        assert read(tmp_path / "out").schema.field("id").nullable


def test_copies__read_as_input_balance_by_copy(tmp_path):
    write(tmp_path / "data/a.parquet", people(10))
    stages = "stages: [{use: sample, n: 40, replacement: true}]\noutput:"
    run(tmp_path, (PLAIN % "").replace("output:", stages))
    again = (PLAIN % "").replace("path: data", "path: out").replace("path: out}\n", "path: again}\n")
    recipe = again.replace("output:", "stages: [{use: filter, where: '_copy = 0'}]\noutput:")
    run(tmp_path, recipe.replace("output: {path: out", "output: {path: again"), out="again")
    found = account(tmp_path / "again")
    assert found["kept"] == read(tmp_path / "again").num_rows
    assert found["kept"] + found["dropped"] == 40
    assert found["dropped"] > 0


def test_gate__of_a_least_number_fails_where_there_are_no_rows(tmp_path):
    write(tmp_path / "data/a.parquet", people(40))
    recipe = (PLAIN % "").replace("output:", "stages: [{use: filter, where: 'id < 0'}]\noutput:")
    with pytest.raises(BuildError, match="there are no rows at all"):
        run(tmp_path, recipe + "expect: [{min_rows: 5, by: lang}]\n")


def test_folder__may_be_called_like_a_pattern(tmp_path):
    folder = tmp_path / "v[1]"
    write(folder / "data/a.parquet", people(4))
    run(folder, (PLAIN % "").replace("path: data", "path: 'data/*.parquet'"))
    assert read(folder / "out").num_rows == 4


def test_many_files__have_row_ids_of_their_own(tmp_path, monkeypatch):
    from curation.flow import evaluate

    for i in range(300):
        write(tmp_path / f"data/{i}.parquet", pa.table({"id": [i]}))
    # Nearly all of them collide.
    monkeypatch.setattr(
        "curation.flow.inputs.path_bits", lambda name, path, salt=0: evaluate.path_bits(name, path, salt) % 512
    )
    run(tmp_path, PLAIN % "")
    assert len(set(read(tmp_path / "out").column("_row_id").to_pylist())) == 300


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.duration("ns"), pa.timestamp("us")])
def test_equal_keys__that_python_cannot_hold_are_set_aside_too(tmp_path, kind):
    keys = pa.array([1, 10**18 + 1, 10**18 + 1], kind)
    write(tmp_path / "data/a.parquet", pa.table({"k": keys}))
    run(tmp_path, PLAIN % ", key: k, on_bad_rows: quarantine, max_bad: 0.6")
    assert read(tmp_path / "out")["k"].cast(pa.int64()).to_pylist() == keys[:2].cast(pa.int64()).to_pylist()


def test_own_outputs__that_share_rows_are_put_together_without_losing_any(tmp_path):
    write(tmp_path / "data/a.parquet", people(8))
    run(tmp_path, PLAIN % "")
    text = (PLAIN % "").replace("{a: {path: data}}", "{a: {path: out}, b: {path: out}}")
    stages = "stages: [{name: both, use: concat, from: [a, b]}, {use: dedup}]\n"
    run(tmp_path, text.replace("output: {path: out}", stages + "output: {path: again}"), out="again")
    assert sorted(read(tmp_path / "again")["id"].to_pylist()) == list(range(8))


def test_copies__are_none_in_a_file_that_lacks_their_numbers(tmp_path):
    ids = pa.array([7, 8], pa.uint64())
    write(tmp_path / "data/a.parquet", pa.table({"_row_id": ids}))
    write(tmp_path / "data/b.parquet", pa.table({"_row_id": ids, "_copy": pa.array([1, 2], pa.uint32())}))
    run(tmp_path, PLAIN % "")
    assert read(tmp_path / "out")["_copy"].to_pylist() == [0, 0, 1, 2]


def test_file__that_two_paths_name_is_refused(tmp_path):
    write(tmp_path / "data/sub/a.parquet", people(3))
    with pytest.raises(RecipeError, match=r"a\.parquet: expected once in the input, got it as 'sub/a.parquet' and as"):
        run(tmp_path, (PLAIN % "").replace("path: data", "path: [data, data/sub]"))
