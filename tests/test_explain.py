"""What became of a row: no row is invented, none is hidden by a broken neighbour."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curation
from curation.explain import explain
from curation.io.manifest import Manifest

RECIPE = """\
recipe: 1
name: small
seed: 3
inputs:
  rows: {path: data%s}
output: {path: build}
"""


def make(folder: Path, table: pa.Table, options: str = "", *, group: int = 1 << 20, **more) -> curation.Build:
    (folder / "data").mkdir()
    pq.write_table(table, folder / "data/a.parquet", row_group_size=group, compression="none", use_dictionary=False)
    (folder / "recipe.yaml").write_text(RECIPE % options)
    return curation.build(folder / "recipe.yaml", workers=1, **more)


def row_of(fate) -> int:
    assert fate.origin is not None
    row: int = fate.origin.row
    return row


def numbers(n: int) -> pa.Table:
    return pa.table({"n": list(range(n)), "word": [f"word{i:04d}" for i in range(n)]})


def changed(build: curation.Build, change) -> Manifest:
    content = json.loads(json.dumps(build.manifest.content))
    change(content)
    return Manifest(build.path, content)


def test_explain__a_row_that_the_file_has_not_was_never_seen(tmp_path):
    build = make(tmp_path, numbers(4), ', where: "n < 3"')
    first = build.table().collect()["_row_id"][0]
    beyond = build.explain(first + 1000).fates[0]
    assert (beyond.verdict, beyond.origin) == ("never seen", None)
    assert "has only 4 rows" in beyond.reason
    outside = build.explain(first + 3).fates[0]
    assert (outside.verdict, outside.reason) == ("not selected", "outside `where: n < 3`")
    assert row_of(outside) == 3


def test_explain__tells_condition_and_sample_apart(tmp_path):
    build = make(tmp_path, numbers(200), ', where: "n < 150"', sample=0.5)
    kept = set(build.table().collect()["n"].to_list())
    for n in (*range(0, 200, 9), 149, 150):
        fate = build.explain(f"n={n}").fates[0]
        expected = "" if n in kept else "outside `where" if n >= 150 else "outside the sample of this build (0.5"
        assert fate.verdict == ("kept" if n in kept else "not selected")
        assert fate.reason.startswith(expected)


def test_explain__says_unknown_when_the_file_is_gone(tmp_path):
    build = make(tmp_path, numbers(4), ', where: "n < 3"')
    first = build.table().collect()["_row_id"][0]
    (tmp_path / "data/a.parquet").unlink()
    fate = build.explain(first + 3).fates[0]
    assert fate.verdict == "unknown"
    assert "was not found" in fate.reason


def test_explain__reads_the_prefix_of_a_file_from_the_manifest(tmp_path):
    build = make(tmp_path, numbers(4), ', where: "n < 3"')

    def other(content):
        content["inputs"]["rows"]["files"][0]["row_bits"] = 77

    fate = explain(changed(build, other), str((77 << 39) | 3)).fates[0]
    assert (fate.verdict, row_of(fate)) == ("not selected", 3)


def test_explain__a_condition_with_a_variable_is_not_guessed(tmp_path, monkeypatch):
    monkeypatch.setenv("WORD", "word0003")
    build = make(tmp_path, numbers(4), ", where: \"word <> '${WORD}'\"")
    fate = build.explain("n=3").fates[0]
    assert fate.verdict == "unknown"
    assert "${WORD}" in fate.reason


def test_explain__keys_that_were_hashed_again(tmp_path):
    build = make(tmp_path, numbers(20), ', key: n, where: "n < 10"')
    plain = build.explain("n=15").fates[0]

    def again(content):
        content["inputs"]["rows"]["keys_hashed_again"] = [plain.row_id]

    manifest = changed(build, again)
    fate = explain(manifest, "n=15").fates[0]
    assert fate.row_id != plain.row_id
    assert row_of(explain(manifest, str(fate.row_id)).fates[0]) == 15
    assert explain(manifest, str(plain.row_id)).fates[0].verdict == "never seen"


@pytest.mark.parametrize("key", ["", ", key: n"])
def test_explain__a_broken_row_group_hides_no_other(tmp_path, key):
    build = make(tmp_path, numbers(300), f', where: "n < 5"{key}', group=100)
    path = tmp_path / "data/a.parquet"
    place = pq.ParquetFile(path).metadata.row_group(1).column(1)
    raw = bytearray(path.read_bytes())
    raw[place.data_page_offset : place.data_page_offset + 60] = b"\xff" * 60
    path.write_bytes(raw)
    found = build.explain("word=word0250")
    assert [row_of(fate) for fate in found.fates] == [250]
    assert any("rows 100 to 199: cannot be decoded" in note for note in found.notes)
    assert not build.explain("word=word0150").fates


def test_explain__refused_rows_have_their_own_numbers(tmp_path):
    table = pa.concat_tables([numbers(20), numbers(1), pa.table({"n": [90], "word": ["x"]}), numbers(2).slice(1)])
    build = make(tmp_path, table, ", key: n, on_bad_rows: quarantine, max_bad: 0.5")
    refused = {n: build.explain(f"word=word000{n}").fates[-1] for n in (0, 1)}
    assert {n: (fate.verdict, row_of(fate)) for n, fate in refused.items()} == {
        0: ("quarantined", 20),
        1: ("quarantined", 22),
    }


@pytest.mark.parametrize("name", ["../secret.arrow", "/tmp/secret.arrow", ".."])
def test_explain__reads_no_refused_rows_from_elsewhere(tmp_path, name):
    table = pa.concat_tables([numbers(20), numbers(1)])
    build = make(tmp_path, table, ", key: n, on_bad_rows: quarantine, max_bad: 0.5")
    folder = build.manifest.path("quarantine")
    assert isinstance(folder, Path)
    path = folder / "rows.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": name}) + "\n")
    found = build.explain("n=0")
    assert [fate.verdict for fate in found.fates] == ["kept"]
    assert any("which is no file beside it" in note for note in found.notes)


@pytest.mark.parametrize("path", ["../shard.arrow", "/etc/shard.arrow"])
def test_rows__reads_no_shard_from_elsewhere(tmp_path, path):
    build = make(tmp_path, numbers(4))

    def other(content):
        content["shards"][0]["path"] = path

    with pytest.raises(curation.errors.CurationError, match="outside the build"):
        curation.Build(changed(build, other)).table()


def test_explain__synthetic_ids_are_not_decoded(tmp_path):
    build = make(tmp_path, numbers(4))
    fate = build.explain((1 << 63) | (5 << 32) | 3).fates[0]
    assert (fate.verdict, fate.origin) == ("never seen", None)
