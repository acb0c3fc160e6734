"""Killed anywhere, the same command gives the same bytes; a second run does nothing; a change reruns what it must."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from distributed import LocalCluster

from curation.errors import BuildError, CurationError
from curation.io import commits
from curation.io.atomic import TEMPORARY
from curation.io.manifest import ManifestError, read_manifest
from curation.methods.smote import Smote
from tests.flow.helpers import ALL_STAGES, digest_tree, people, read, run, write

DRIVER = """
import os, signal, sys
from pathlib import Path
from curation.errors import BuildError, CurationError
from curation.io import commits
from tests.flow.helpers import ALL_STAGES, run
folder, point, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = 0
def hook(reached):
    global seen
    seen += reached == point
    if reached == point and seen == number:
        os.kill(os.getpid(), signal.SIGKILL)
commits.hook = hook
run(folder, ALL_STAGES)
"""


def lay_out(folder: Path, rows: int = 600) -> None:
    write(folder / "data/0.parquet", people(rows), row_group_size=50)


def killed_at(folder: Path, point: str, number: int) -> int:
    """Exit status of a build that kills itself when it reaches a commit point for the n-th time."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), point, str(number)], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """An undisturbed build, and how often it reaches each commit point."""
    folder = tmp_path_factory.mktemp("expected")
    lay_out(folder)
    counts = dict.fromkeys(commits.POINTS, 0)

    def count(point: str) -> None:
        counts[point] += 1

    commits.hook = count
    try:
        run(folder, ALL_STAGES)
    finally:
        commits.hook = None
    return folder, counts


def test_points__are_all_reached(expected):
    assert [point for point, count in expected[1].items() if count == 0] == []


@pytest.mark.parametrize("point", commits.POINTS)
def test_kill__at_every_commit_point_is_made_good(expected, tmp_path, point):
    folder, counts = expected
    lay_out(tmp_path)
    for number in sorted({1, counts[point] // 2 + 1, counts[point]}):
        assert killed_at(tmp_path, point, number) in (0, -signal.SIGKILL)
    run(tmp_path, ALL_STAGES)
    assert digest_tree(tmp_path / "out") == digest_tree(folder / "out")
    assert not list(tmp_path.rglob(f"{TEMPORARY}*"))


def test_kill__leaves_readers_the_old_generation_or_the_new_one(tmp_path):
    lay_out(tmp_path)
    run(tmp_path, ALL_STAGES.replace("seed: 11", "seed: 12"))
    old = read_manifest(tmp_path / "out/train").build_id
    seen: dict[str, set[str]] = {}
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            manifest = read_manifest(tmp_path / "out/train")
            for shard in manifest.shards:
                content = hashlib.sha256((tmp_path / "out/train" / shard.path).read_bytes()).hexdigest()
                seen.setdefault(f"{manifest.build_id} {shard.path}", set()).add(content)
            time.sleep(0.001)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for point in ("shard:published", "meta:published", "manifest:written", "manifest:named", "cleanup:done"):
            killed_at(tmp_path, point, 1)
        run(tmp_path, ALL_STAGES)
        time.sleep(0.05)
    finally:
        stop.set()
        reader.join()
    new = read_manifest(tmp_path / "out/train").build_id
    assert {name.partition(" ")[0] for name in seen} == {old, new}
    assert all(len(contents) == 1 for contents in seen.values())


def test_second_run__writes_nothing(expected):
    folder, _ = expected
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "recipe.yaml"}
    again = run(folder, ALL_STAGES)
    after = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != "recipe.yaml"}
    assert not again.fresh
    assert after == before


def test_changed_parameter__reruns_only_what_depends_on_it(tmp_path):
    lay_out(tmp_path)
    run(tmp_path, ALL_STAGES)
    ran = run(tmp_path, ALL_STAGES, overrides=("stages.rare.k=4",)).ran
    assert ran["sample: fit, round 1"] == ran["people: key hashes"] == 0
    assert ran["rare: neighbors"] == 2
    assert ran["held_out: shards"] == 0


def test_appended_file__reworks_only_its_own_chunks(tmp_path):
    recipe = ALL_STAGES.partition("  - use: sample")[0] + "output: {path: out, shard_rows: 50}\n"
    for i in range(3):
        write(tmp_path / f"data/{i}.parquet", people(200, start=200 * i))
    first = run(tmp_path, recipe).ran
    assert first["census"] == 3
    before = digest_tree(tmp_path / "out")
    write(tmp_path / "data/3.parquet", people(200, start=600))
    second = run(tmp_path, recipe).ran
    assert second["census"] == second["people: key hashes"] == 1
    kept = {Path(path).name: digest for path, digest in before.items() if path.startswith("shards")}
    after = {
        Path(p).name: d
        for p, d in digest_tree(tmp_path / "out").items()
        if p.startswith("shards/" + read_manifest(tmp_path / "out").build_id)
    }
    same = [name for name, digest in kept.items() if after[name] == digest]
    assert second["output: shards"] == len(after) - len(same)
    assert len(same) == len(kept) - 1  # the last shard of the first build was not full


def test_changed_byte__is_seen_and_reworks_that_file(tmp_path):
    recipe = ALL_STAGES.partition("  - use: sample")[0] + "output: {path: out}\n"
    for i in range(3):
        write(tmp_path / f"data/{i}.parquet", people(200, start=200 * i), compression="none", use_dictionary=False)
    run(tmp_path, recipe)
    path = tmp_path / "data/1.parquet"
    raw = path.read_bytes()
    at = raw.index(b"row 304 ")
    path.write_bytes(raw[:at] + b"ROW" + raw[at + 3 :])
    ran = run(tmp_path, recipe).ran
    assert ran["census"] == 1
    assert "ROW 304 é" in read(tmp_path / "out").column("text").to_pylist()


def test_lost_intermediate__is_made_again(tmp_path):
    lay_out(tmp_path)
    run(tmp_path, ALL_STAGES)
    expected = digest_tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    for path in list((tmp_path / "out.work/objects").glob("*/*.arrow"))[::2]:
        path.write_bytes(path.read_bytes()[:-7])
    run(tmp_path, ALL_STAGES)
    assert digest_tree(tmp_path / "out") == expected


def test_failed_gate__leaves_the_old_result(tmp_path):
    lay_out(tmp_path)
    run(tmp_path, ALL_STAGES)
    before = digest_tree(tmp_path / "out")
    with pytest.raises(BuildError, match=r"lang = fr: .* rows, at least 10000 expected"):
        run(tmp_path, ALL_STAGES.replace("min_rows: 10", "min_rows: 10000"))
    assert digest_tree(tmp_path / "out") == before


def test_generations__keep_the_one_before(tmp_path):
    lay_out(tmp_path)
    for seed in (11, 12, 13):
        run(tmp_path, ALL_STAGES.replace("seed: 11", f"seed: {seed}"))
    standing = sorted(p.name for p in (tmp_path / "out/train/shards").iterdir())
    history = json.loads(
        (tmp_path / "out/train/meta" / read_manifest(tmp_path / "out/train").build_id / "run.json").read_text()
    )
    assert len(standing) == 2
    assert set(standing) == {read_manifest(tmp_path / "out/train").build_id, *history["previous"]}


def test_interrupted_first_build__shows_no_result(tmp_path):
    lay_out(tmp_path)
    killed_at(tmp_path, "shard:published", 2)
    with pytest.raises(ManifestError, match="no build here"):
        read_manifest(tmp_path / "out/train")
    assert os.listdir(tmp_path / "out/train")


TWO = """
recipe: 1
name: two
seed: 1
inputs: {people: {path: data}}
outputs:
  one: {from: people, path: out/one}
  two: {from: people, path: out/two, feed: {batch_size: 5000, epochs: 2, drop_last: true}}
"""


def test_outputs__show_all_or_none(tmp_path):
    lay_out(tmp_path)
    with pytest.raises(CurationError, match="drop_last"):
        run(tmp_path, TWO)
    assert not (tmp_path / "out/one/manifest.json").exists()
    run(tmp_path, TWO.replace("5000", "50"))
    assert read_manifest(tmp_path / "out/one").build_id == read_manifest(tmp_path / "out/two").build_id


@pytest.mark.parametrize("lost", ["plan.json", "ledger.arrow", "report.html"])
def test_second_run__makes_good_what_was_lost(tmp_path, lost):
    lay_out(tmp_path)
    recipe = TWO.replace("5000", "50")
    run(tmp_path, recipe)
    expected = digest_tree(tmp_path / "out")
    next((tmp_path / "out/two/meta").glob(f"*/{lost}")).unlink()
    assert run(tmp_path, recipe).fresh
    assert digest_tree(tmp_path / "out") == expected


def test_force__leaves_what_is_not_ours(tmp_path):
    lay_out(tmp_path)
    (tmp_path / "out.work/precious").mkdir(parents=True)
    (tmp_path / "out.work/precious/thesis.txt").write_text("years")
    run(tmp_path, TWO.replace("5000", "50"), force=True)
    assert (tmp_path / "out.work/precious/thesis.txt").read_text() == "years"


def test_work__inside_an_input_is_refused(tmp_path):
    lay_out(tmp_path)
    with pytest.raises(CurationError, match="which input 'people' reads; name another folder"):
        run(tmp_path, TWO, out="data/x")


def test_intermediate__that_changed_while_the_machine_was_off_is_made_again(tmp_path):
    lay_out(tmp_path)
    run(tmp_path, ALL_STAGES)
    expected = digest_tree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    for path in (tmp_path / "out.work/objects").glob("*/*.arrow"):
        raw = path.read_bytes()
        path.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))
    (tmp_path / "out.work/boot").write_text("another start of the machine")
    run(tmp_path, ALL_STAGES)
    assert digest_tree(tmp_path / "out") == expected


def test_worker__that_lives_on_sees_a_replaced_file(tmp_path):
    from curation.flow.build import BuildOptions, build
    from curation.recipe.load import load_recipe

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        for start in (0, 600):
            write(tmp_path / "new.parquet", people(600, start=start))
            (tmp_path / "data").mkdir(exist_ok=True)
            os.replace(tmp_path / "new.parquet", tmp_path / "data/0.parquet")
            (tmp_path / "recipe.yaml").write_text(TWO.replace("5000", "50"))
            options = BuildOptions(scheduler=cluster.scheduler_address, work=tmp_path / "work")
            build(load_recipe(tmp_path / "recipe.yaml"), options)
            assert read(tmp_path / "out/one").column("id").to_pylist() == list(range(start, start + 600))


def test_smote__twice_gives_other_ids(tmp_path):
    recipe = """
recipe: 1
name: twice
seed: 1
inputs: {a: {path: data}}
stages: [{use: smote, label: lang, features: [x], target: {is: %d}}]
output: {path: %s}
"""
    lay_out(tmp_path)
    run(tmp_path, recipe % (100, "one"), out="one")
    run(tmp_path, (recipe % (150, "two")).replace("path: data", "path: one"), out="two")
    ids = read(tmp_path / "two").column("_row_id").to_pylist()
    assert len(set(ids)) == len(ids) == 675


def test_second_run__works_anew_with_a_new_version_of_a_method(tmp_path, monkeypatch):
    lay_out(tmp_path)
    run(tmp_path, ALL_STAGES)
    assert not run(tmp_path, ALL_STAGES).fresh
    monkeypatch.setattr(Smote, "version", Smote.version + 1)
    again = run(tmp_path, ALL_STAGES)
    assert again.fresh
    assert again.ran["rare: gather"] == 2
    assert again.ran["sample: fit, round 1"] == 0


WIDENED = {
    "filter": ("{use: filter, where: \"cast(x as varchar) = '1.0'\"}", [1, 2], [1.0, 2.5]),
    "dedup": ("{use: dedup}", pa.array([1, 2], pa.int32()), pa.array([1, 3])),
    "sample": ("{use: sample, by: x, n: 2}", pa.array([1, 2, 3], pa.int32()), [1.5, 7.0]),
}


@pytest.mark.parametrize("stage", WIDENED)
def test_column__widened_by_another_file_reworks_what_reads_it(tmp_path, stage):
    text, narrow, wide = WIDENED[stage]
    recipe = f"recipe: 1\nname: x\nseed: 1\ninputs: {{a: {{path: data}}}}\nstages: [{text}]\noutput: {{path: %s}}\n"
    for name in ("a", "b"):
        write(tmp_path / f"data/{name}.parquet", pa.table({"x": narrow}))
    run(tmp_path, recipe % "out")
    write(tmp_path / "data/b.parquet", pa.table({"x": wide}))
    run(tmp_path, recipe % "out")
    run(tmp_path, recipe % "anew", out="anew")
    assert read(tmp_path / "out").equals(read(tmp_path / "anew"))


def test_key__that_another_file_gives_in_a_finer_unit_is_still_the_same_key(tmp_path):
    recipe = "recipe: 1\nname: x\nseed: 1\ninputs: {a: {path: data, key: k}}\noutput: {path: out}\n"
    write(tmp_path / "data/a.parquet", pa.table({"k": pa.array([1, 2], pa.timestamp("s"))}))
    run(tmp_path, recipe)
    write(tmp_path / "data/b.parquet", pa.table({"k": pa.array([2_000_000], pa.timestamp("us"))}))
    with pytest.raises(BuildError, match="keys name rows"):
        run(tmp_path, recipe)
