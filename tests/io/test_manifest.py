"""The manifest: what it refuses to read, which generations stand, and what is cleaned up."""

from __future__ import annotations

import json

import pytest

from curation.io.atomic import TEMPORARY
from curation.io.manifest import (
    FORMAT,
    Manifest,
    ManifestError,
    Shard,
    clean_up,
    generations,
    put_manifest,
    read_manifest,
    schema_text,
)
from tests.flow.helpers import people


def content(build_id="b1", **more):
    files = {"run": f"meta/{build_id}/run.json"}
    schema = schema_text(people(1).schema.with_metadata({"who": "us"}))
    return {"format": FORMAT, "build_id": build_id, "rows": 0, "shards": [], "files": files, **schema, **more}


def generation(root, build_id, previous=()):
    """A published generation with one shard."""
    folder = root / "shards" / build_id
    folder.mkdir(parents=True)
    (folder / "part-00000.arrow").write_bytes(b"rows")
    shard = {"path": f"shards/{build_id}/part-00000.arrow", "rows": 2, "bytes": 4, "xxh3": "0"}
    (root / "meta" / build_id).mkdir(parents=True)
    (root / "meta" / build_id / "run.json").write_text(json.dumps({"previous": list(previous)}))
    put_manifest(root, content(build_id, rows=2, shards=[shard]))


def test_read__gives_back_what_was_put(tmp_path):
    generation(tmp_path, "b1")
    manifest = read_manifest(tmp_path)
    assert (manifest.build_id, manifest.rows, len(manifest.shards)) == ("b1", 2, 1)
    assert manifest.schema.equals(people(1).schema, check_metadata=False)
    assert manifest.schema.metadata == {b"who": b"us"}


def test_read__where_nothing_is_says_so(tmp_path):
    with pytest.raises(ManifestError, match=r"no build here \(no manifest\.json\); name the output directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "3", '{"format": "x"}', '{"format": null}', '{"format": 1}', "\x00"]
)
def test_read__refuses_a_damaged_manifest(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=r"manifest\.json: cannot be read as a manifest"):
        read_manifest(tmp_path)


def test_read__refuses_a_newer_format(tmp_path):
    put_manifest(tmp_path, content(format=FORMAT + 1))
    expected = rf"format {FORMAT + 1}, this version reads up to {FORMAT}; upgrade curation"
    with pytest.raises(ManifestError, match=expected):
        read_manifest(tmp_path)


def test_complete__sees_a_shard_that_is_gone_or_cut(tmp_path):
    generation(tmp_path, "b1")
    manifest = read_manifest(tmp_path)
    assert manifest.complete()
    path = tmp_path / manifest.shards[0].path
    path.write_bytes(b"row")
    assert not manifest.complete()
    path.unlink()
    assert not manifest.complete()


def test_path__of_what_a_build_has_not_is_none(tmp_path):
    manifest = Manifest(tmp_path, content())
    assert manifest.path("plan") is None
    assert manifest.path("run") == tmp_path / "meta/b1/run.json"


def test_put__keeps_a_copy_with_the_generation(tmp_path):
    generation(tmp_path, "b1")
    generation(tmp_path, "b2", ["b1"])
    assert (tmp_path / "meta/b2/manifest.json").read_bytes() == (tmp_path / "manifest.json").read_bytes()
    assert json.loads((tmp_path / "meta/b1/manifest.json").read_text())["build_id"] == "b1"


def test_generations__are_the_current_one_and_those_that_still_stand(tmp_path):
    generation(tmp_path, "b1")
    generation(tmp_path, "b2", ["b1"])
    generation(tmp_path, "b3", ["b2", "gone", "b1"])
    assert generations(tmp_path) == ["b3", "b2", "b1"]


def test_generations__without_a_record_are_the_current_one(tmp_path):
    generation(tmp_path, "b1")
    (tmp_path / "meta/b1/run.json").unlink()
    assert generations(tmp_path) == ["b1"]


def test_clean_up__removes_other_generations_and_unfinished_files(tmp_path):
    one, two, three = (str(i) * 16 for i in (1, 2, 3))
    for name in (one, two, three):
        generation(tmp_path, name)
    (tmp_path / "quarantine" / one).mkdir(parents=True)
    (tmp_path / f"meta/{three}/{TEMPORARY}9-x").touch()
    (tmp_path / f"shards/{three}/notes").touch()
    clean_up(tmp_path, [three, two])
    standing = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert not [path for path in standing if one in path or TEMPORARY in path]
    assert {"manifest.json", f"shards/{two}", f"meta/{two}/run.json", f"shards/{three}/notes"} <= standing


def test_clean_up__leaves_what_is_not_ours(tmp_path):
    generation(tmp_path, "1" * 16)
    (tmp_path / "meta/notes").mkdir()
    (tmp_path / "meta/notes/n.txt").touch()
    (tmp_path / f"mine/{TEMPORARY}x").mkdir(parents=True)
    clean_up(tmp_path, ["1" * 16])
    assert (tmp_path / "meta/notes/n.txt").exists()
    assert (tmp_path / f"mine/{TEMPORARY}x").exists()


@pytest.mark.parametrize("path", ["../other/shards/a.arrow", "/etc/passwd", "shards/../../x"])
def test_read__refuses_paths_outside_the_build(tmp_path, path):
    generation(tmp_path, "1" * 16)
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["shards"] = [{"path": path, "rows": 1, "bytes": 1, "xxh3": "0"}]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ManifestError, match="lies outside the build"):
        read_manifest(tmp_path)


def test_shard__keys_of_a_later_version_are_not_looked_at():
    shard = Shard.of({"path": "shards/a", "rows": 1, "bytes": 2, "xxh3": "0", "colour": "red"})
    assert shard == Shard("shards/a", 1, 2, "0", None)


def test_read__refuses_a_sidecar_outside_the_build(tmp_path):
    shard = {
        "path": "shards/a",
        "rows": 1,
        "bytes": 1,
        "xxh3": "0",
        "sidecar": {"path": "../x", "bytes": 1, "xxh3": "0"},
    }
    put_manifest(tmp_path, content(shards=[shard]))
    with pytest.raises(ManifestError, match="lies outside the build"):
        read_manifest(tmp_path)
