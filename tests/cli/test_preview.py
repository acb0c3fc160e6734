"""``curate preview``: what the table and the JSON say is what the plan does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from curation.api import open as open_build
from tests.cli.project import RECIPE, curate, make_project

OLD = "mixture: {temperature: 2}"


def built(folder, feed=OLD):
    recipe = make_project(folder, RECIPE.replace(OLD, feed))
    assert curate("build", recipe).exit_code == 0
    return folder / "build/tiny"


def shown(out, *args):
    result = curate("preview", out, "--json", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_preview__shows_lengths_shares_repeats_and_rows(tmp_path):
    out = built(tmp_path, "mixture: {cooldown: {start: inf, end: 1}}")
    result = curate("preview", out, "--epoch", 1, "--step", 2, "--rows", 3)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "180 rows, 2 epochs of 180 draws in 12 steps of 16; in all 24 steps, 360 draws"
    assert lines[3].split()[:8] == ["group", "rows", "step", "0", "step", "11", "step", "12"]
    assert lines[4].split()[:5] == ["en", "90", "33.33%", "33.33%", "50.00%"]
    assert "step 14 (epoch 1, step 2): 16 rows" in lines
    assert [int(line.split()[1]) for line in lines[-3:]] == open_build(out).plan.batch(14)[:3].tolist()


def test_json__rows_are_those_of_the_loader(tmp_path):
    out = built(tmp_path)
    build, found = open_build(out), shown(out, "--step", 13)
    columns = next(iter(build.loader(epoch=1, columns=["id", "_row_id"])))
    assert [row["position"] for row in found["rows"]] == build.plan.batch(13)[:8].tolist()
    assert [int(row["key"], 16) for row in found["rows"]] == build.plan.batch_keys(13)[:8].tolist()
    assert found["facts"]["epoch"] == 1
    other = shown(out, "--epoch", 1)
    assert [int(row["columns"]["id"]) for row in other["rows"]] == columns["id"][:8].tolist()
    assert [int(row["columns"]["_row_id"]) for row in other["rows"]] == columns["_row_id"][:8].tolist()


def test_json__groups_are_counted_over_the_whole_training(tmp_path):
    out = built(tmp_path, f"{OLD}, max_repeats: 2.2")
    plan = open_build(out).plan
    names = open_build(out).table().select("lang").collect()["lang"].to_numpy()[plan.draws(0, plan.n_draws)]
    for group in shown(out)["groups"]:
        assert group["draws"] == (names == group["name"]).sum()
        assert group["most"] <= 3
    assert "max_repeats 2.2 bites group" in curate("preview", out).stderr


@pytest.mark.parametrize(
    ("feed", "text"),
    [
        ("batches: unmixed", "16 rows, all of group "),
        (f"{OLD}, scalarize: true", "weight at 0"),
        (f"{OLD}, scalarize: true", "worth, if weighted"),
        (f"{OLD}, size: age", "of size"),
        ("sample_by: age", "repeats: least"),
    ],
)
def test_preview__says_what_is_special(tmp_path, feed, text):
    assert text in curate("preview", built(tmp_path, feed)).stdout


def test_preview__weights_are_shown_row_by_row(tmp_path):
    out = built(tmp_path, "sample_by: age")
    weights = [row["weight"] for row in shown(out)["rows"]]
    assert np.allclose(weights, open_build(out).plan.batch_weights(0)[:8])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--epoch", "2"), "epoch: expected 0 <= epoch < 2, got 2"),
        (("--epoch", "0", "--step", "12"), "--step: expected 0 <= step < 12 in epoch 0, got 12"),
        (("--step", "24"), "step: expected 0 <= step < 24, got 24"),
    ],
)
def test_preview__refuses_what_is_not_there(tiny, args, message):
    result = curate("preview", tiny / "build/tiny", *args)
    assert result.exit_code == 1
    assert message in result.stderr


def test_preview__needs_a_plan(two):
    result = curate("preview", two / "build/train")
    assert result.exit_code == 1
    assert "no plan, since its recipe has no `feed:`" in result.stderr
