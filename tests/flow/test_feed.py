"""Feeds of whole builds: columns are measured after the shards are written, and what cannot be is refused in time."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from curation.api import Build
from curation.errors import BuildError, RecipeError
from curation.flow.bind import bind
from curation.flow.estimate import estimate
from curation.io.manifest import read_manifest
from curation.recipe.load import load_recipe
from tests.flow.helpers import digest_tree, people, read, run, write

RECIPE = """
recipe: 1
name: fed
seed: 5
inputs: {people: {path: data.parquet, key: id}}
output: {path: out, shard_rows: 50, FORMAT}
feed: {batch_size: 16, epochs: 3, FEED}
"""
TEMPERATURE = "groups: lang, mixture: {temperature: 5}"


def build(folder, feed, *, table=None, shards="format: arrow", **options):
    write(folder / "data.parquet", people(240) if table is None else table)
    run(folder, RECIPE.replace("FEED", feed).replace("FORMAT", shards), **options)
    return Build(read_manifest(folder / "out"))


def changed(column, row, value):
    """The people with one value of a column changed."""
    table = people(240)
    values = table.column(column).to_pylist()
    values[row] = value
    return table.set_column(table.column_names.index(column), column, pa.array(values))


@pytest.mark.parametrize("shards", ["format: arrow", "format: parquet"])
def test_size__shares_are_of_the_sums_of_the_column(tmp_path, shards):
    built = build(tmp_path, f"{TEMPERATURE}, size: weight", shards=shards)
    sums = read(tmp_path / "out").group_by("lang").aggregate([("weight", "sum")]).sort_by("lang")
    expected = sums.column("weight_sum").to_numpy()
    wanted = expected**0.2 / (expected**0.2).sum()
    assert list(built.plan.size_shares(0).values()) == pytest.approx(wanted.tolist(), rel=1e-12)


def test_size__shares_of_rows_and_of_size_are_reported(tmp_path):
    built = build(tmp_path, f"{TEMPERATURE}, size: weight")
    ((said,),) = (notes["drawn"] for notes in built.manifest.content["notes"].values())
    plan = built.plan
    names = read(tmp_path / "out").column("lang").to_numpy()[plan.draws(0, plan.n_draws)]
    for name, size in plan.size_shares(0).items():
        ((of_rows, of_size),) = re.findall(f"{name} ([0-9.]+)% of the rows, ([0-9.]+)% of the size", said)
        assert float(of_rows) / 100 == pytest.approx((names == name).mean(), abs=1e-4)
        assert float(of_size) / 100 == pytest.approx(size, abs=2e-3)


@pytest.mark.parametrize(("groups", "order"), [("", "shuffled"), ("", "input"), ("groups: lang, ", "shuffled")])
def test_sample_by__rows_come_by_their_weight(tmp_path, order, groups):
    built = build(tmp_path, f"{groups}sample_by: weight, drop_last: true", shards=f"order: {order}")
    weights = read(tmp_path / "out").column("weight").to_numpy()
    times = np.bincount(built.plan.rows(0), minlength=240)
    assert np.abs(times - 240 * weights / weights.sum()).max() < 1 + 1e-6
    rows = built.plan.batch(3)
    np.testing.assert_allclose(built.plan.batch_weights(3), weights.sum() / 240 / weights[rows], rtol=1e-6)


@pytest.mark.parametrize("feed", [f"{TEMPERATURE}, size: weight", "sample_by: weight"])
def test_build__gives_the_same_plan_from_other_workers_and_a_second_run(tmp_path, feed):
    found = []
    for name, options in (("a", {}), ("b", {"executor": "threads", "workers": 2})):
        (tmp_path / name).mkdir()
        built = build(tmp_path / name, feed, **options)
        found.append({p: d for p, d in digest_tree(tmp_path / name / "out").items() if "/plan" in str(p)})
        assert built.plan.n_steps == 45
    assert found[0] == found[1]
    assert len(found[0]) >= 2


@pytest.mark.parametrize(
    ("value", "shown"), [(float("nan"), "nan"), (-0.5, "-0.5"), (None, "None"), (float("inf"), "inf")]
)
@pytest.mark.parametrize("feed", [f"{TEMPERATURE}, size: weight", "groups: lang, sample_by: weight"])
def test_build__refuses_what_is_no_size_or_weight_with_the_row(tmp_path, feed, value, shown):
    with pytest.raises(BuildError) as caught:
        build(tmp_path, feed, table=changed("weight", 118, value))
    assert f"column 'weight': expected numbers >= 0, got {shown} in row " in str(caught.value)
    assert "of group 'is'" in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_build__refuses_weights_that_are_all_zero(tmp_path):
    table = people(240)
    zeros = pc.multiply(table.column("weight"), 0.0)
    with pytest.raises(RecipeError, match=r"feed\.sample_by: expected a finite sum > 0 of column weight"):
        build(tmp_path, "sample_by: weight", table=table.set_column(4, "weight", zeros))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_build__refuses_a_cap_that_the_rows_cannot_keep(tmp_path):
    feed = "groups: lang, mixture: {shares: {en: 0, fr: 0.5, is: 0.5}}, max_repeats: 4"
    with pytest.raises(RecipeError, match=r"feed\.max_repeats: expected room for 720 draws, got 360"):
        build(tmp_path, feed)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_build__notes_what_caps_bite_and_schedules_to_think_over(tmp_path):
    cooldown = "mixture: {cooldown: {start: 100, end: 5, shape: linear}}"
    built = build(tmp_path, f"groups: lang, {cooldown}, max_repeats: 4")
    (notes,) = built.manifest.content["notes"].values()
    assert [note.split()[0] for note in notes["notes"]] == ["mixture.cooldown.shape", "max_repeats"]
    assert (
        "did better than every gradual decay"
        in (tmp_path / "out" / built.manifest.content["files"]["report"]).read_text()
    )


def test_build__notes_what_weights_cost(tmp_path):
    built = build(tmp_path, f"{TEMPERATURE}, scalarize: true")
    (segment,) = built.plan.segments
    ((said,),) = (notes["weights"] for notes in built.manifest.content["notes"].values())
    assert said == f"720 weighted draws are worth {segment.ess:,.0f} ({segment.ess / 720:.1%})"


@pytest.mark.parametrize(
    ("feed", "alike"),
    [
        ("groups: lang, mixture: {alpha: 0.2}", "groups: lang, mixture: {temperature: 5}"),
        ("groups: lang, mixture: {alpha: 0}", "groups: lang, mixture: {temperature: inf}"),
        (
            "groups: lang, mixture: {cooldown: {steps: [[0, inf], [20, 1]], unit: steps}}",
            "groups: lang, mixture: {cooldown: {start: inf, end: 1, at: 20, unit: steps}}",
        ),
    ],
)
def test_recipe__two_ways_to_say_the_same(tmp_path, feed, alike):
    plans = []
    for name, text in (("a", feed), ("b", alike)):
        (tmp_path / name).mkdir()
        plans.append(build(tmp_path / name, text).plan)
    assert np.array_equal(plans[0].draws(0, 720), plans[1].draws(0, 720))


def test_recipe__batches_and_strata_reach_the_plan(tmp_path):
    unmixed = build(tmp_path, "groups: lang, batches: unmixed, group_batch_size: {is: 5}").plan
    assert {len(unmixed.batch(step)) for step in range(unmixed.n_steps)} == {16, 5}
    (tmp_path / "b").mkdir()
    strata = build(tmp_path / "b", "groups: lang, subset: {use: rs2, fraction: 0.1, stratify: true}").plan
    assert strata.group_draws() == {"en": 45.0, "fr": 18.0, "is": 9.0}


@pytest.mark.parametrize(
    ("feed", "problem"),
    [
        ("groups: lang, mixture: {temperature: 5, alpha: 0.2}", "expected exactly one of"),
        ("groups: lang, mixture: {cooldown: {steps: [[0, 5], [0.5, 1]], at: 0.5}}", "expected steps alone, got at"),
        ("groups: lang, mixture: {cooldown: {at: 2}}", "expected shares of the training < 1, got 2"),
        (f"{TEMPERATURE}, size: words", "feed.size: no column 'words'"),
        (f"{TEMPERATURE}, size: text", "feed.size: column 'text' is string, not a number"),
        ("sample_by: x", "feed.sample_by: column 'x' is fixed_size_list"),
        (f"{TEMPERATURE}, sample_by: weight", "feed.sample_by: expected none with mixture"),
        ("max_repeats: 2.5", "feed.max_repeats: expected >= 3, as 3 epochs of 1 of the rows are drawn, got 2.5"),
        ("batches: unmixed", "feed.batches: expected groups, got none"),
        (f"{TEMPERATURE}, subset: {{use: rs2, fraction: 0.5, tail: drop}}", "tail: expected carry with a mixture"),
        ("scalarize: true", "feed.scalarize: expected a mixture, got none"),
    ],
)  # fmt: skip
def test_validate__refuses_before_any_row_is_read(tmp_path, feed, problem):
    write(tmp_path / "data.parquet", people(20))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("FEED", feed).replace("FORMAT", "format: arrow"), "utf-8")
    with pytest.raises(RecipeError) as caught:
        bind(load_recipe(path))
    assert problem in str(caught.value)
    assert "recipe.yaml:7: feed" in str(caught.value)


@pytest.mark.parametrize(("shape", "notes"), [("step", 0), ("linear", 1)])
def test_validate__notes_a_gradual_cooldown(tmp_path, shape, notes):
    write(tmp_path / "data.parquet", people(20))
    path = tmp_path / "recipe.yaml"
    feed = f"groups: lang, mixture: {{cooldown: {{shape: {shape}}}}}"
    path.write_text(RECIPE.replace("FEED", feed).replace("FORMAT", "format: arrow"), "utf-8")
    said: list[str] = []
    bind(load_recipe(path), note=said.append)
    assert len([text for text in said if text.startswith("feed of output: mixture.cooldown.shape linear")]) == notes


@pytest.mark.parametrize(("feed", "disk"), [(f"{TEMPERATURE}, size: weight", 0), ("sample_by: weight", 26 * 240)])
def test_estimate__counts_the_pass_over_a_column(tmp_path, feed, disk):
    write(tmp_path / "data.parquet", people(240))
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("FEED", feed).replace("FORMAT", "format: arrow"), "utf-8")
    last = estimate(bind(load_recipe(path)))[-1]
    assert (last.phase, last.jobs, last.disk) == ("output: feed", 5, disk)


def test_file__an_old_feed_says_nothing_of_new_options(tmp_path):
    built = build(tmp_path, TEMPERATURE)
    body = json.loads((tmp_path / "out" / built.manifest.content["files"]["plan"]).read_text())
    assert set(body) == {
        *("plan", "algorithm", "name", "seed", "n_rows", "batch_size", "epochs", "epoch_draws", "drop_last", "groups"),
        *("mixture", "subset", "window", "tables", "fingerprint"),
    }
