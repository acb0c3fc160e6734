"""Planning computes nothing, and a build that cannot fit is refused before it starts."""

from __future__ import annotations

import pytest

from curation.errors import RefusedError
from curation.flow import build as flow
from curation.flow.bind import bind
from curation.flow.estimate import estimate, refuse
from curation.io.chunks import ChunkReader
from curation.recipe.load import load_recipe
from tests.engine.jobs import RaiseIfRun
from tests.flow.helpers import ALL_STAGES, people, run, write


@pytest.fixture
def recipe(tmp_path):
    write(tmp_path / "data/0.parquet", people(600), row_group_size=50)
    (tmp_path / "recipe.yaml").write_text(ALL_STAGES, "utf-8")
    return load_recipe(tmp_path / "recipe.yaml")


@pytest.fixture
def idle(monkeypatch):
    """Nothing may run, and no row may be read."""

    def read(*_):
        raise AssertionError("rows were read")

    monkeypatch.setattr(flow, "make_executor", lambda *_: RaiseIfRun())
    monkeypatch.setattr(ChunkReader, "read", read)


def test_plan__reads_no_row_and_writes_no_file(tmp_path, recipe, idle):
    before = sorted(tmp_path.rglob("*"))
    lines = estimate(bind(recipe))
    refuse(lines, memory=1 << 40, sharing=1, out=tmp_path / "out", work=tmp_path / "work")
    assert [line.rows for line in lines if line.phase == "sample: fit"] == [600]
    assert sorted(tmp_path.rglob("*")) == before


def test_build__would_run_without_the_plan(tmp_path, recipe, idle):
    with pytest.raises(AssertionError, match="tasks were to be run"):
        run(tmp_path, ALL_STAGES)


def test_build__that_is_refused_has_run_nothing(tmp_path, recipe, idle):
    with pytest.raises(RefusedError, match=r"GiB per worker, 0\.0 GiB allowed; .*raise `--memory`"):
        run(tmp_path, ALL_STAGES, memory=1 << 20)
    assert not (tmp_path / "out/train/manifest.json").exists()


def test_refusal__has_its_own_exit_code():
    assert RefusedError.exit_code == 3


def test_refusal__names_the_setting_of_a_shard_that_is_too_large(tmp_path):
    write(tmp_path / "data/0.parquet", people(6000).select(["text", "x"]))
    text = "recipe: 1\nname: a\nseed: 1\ninputs: {a: {path: data}}\noutput: {path: out, order: shuffled}\n"
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    lines = estimate(bind(load_recipe(tmp_path / "recipe.yaml")))
    shards = next(line for line in lines if line.phase == "output: shards")
    assert shards.mend.startswith("set output.shard_rows <= ")
    with pytest.raises(RefusedError, match=r"output: shards: .* set output\.shard_rows <= .*, or raise `--memory`"):
        refuse([shards], memory=300 << 20, sharing=1, out=tmp_path, work=tmp_path)


def test_refusal__of_threads_counts_all_of_them(tmp_path, recipe):
    lines = estimate(bind(recipe))
    places = {"out": tmp_path / "out", "work": tmp_path / "work"}
    refuse(lines, memory=1 << 30, sharing=1, **places)
    with pytest.raises(RefusedError, match="per worker"):
        refuse(lines, memory=1 << 30, sharing=64, **places)


def test_second_build__starts_no_executor(tmp_path, recipe, monkeypatch):
    run(tmp_path, ALL_STAGES)
    monkeypatch.setattr(flow, "make_executor", lambda *_: pytest.fail("an executor was started"))
    assert not run(tmp_path, ALL_STAGES).fresh
