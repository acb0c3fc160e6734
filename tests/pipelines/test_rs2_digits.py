"""The ways that ``rs2-digits`` compares differ in what they say and in nothing else, and train."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

import curation

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rs2")
    runpy.run_path(str(ROOT / "pipelines/quickstart/make_data.py"))["write_digits"](folder / "data/digits.parquet")
    shutil.copytree(ROOT / "pipelines/rs2-digits", folder / "pipelines/rs2-digits")
    return curation.build(folder / "pipelines/rs2-digits/recipe.yaml").outputs


@pytest.fixture(scope="module")
def train():
    pytest.importorskip("torch", reason="needs torch")
    return runpy.run_path(str(ROOT / "pipelines/rs2-digits/train.py"))


def seen(plan):
    return len(np.unique(plan.draws(0, plan.n_draws)))


@pytest.mark.parametrize(("share", "steps"), [("10", 540), ("30", 1620)])
def test_ways__of_one_share_have_equal_steps(outputs, share, steps):
    ways = [build.plan for name, build in outputs.items() if name.endswith(share)]
    assert [plan.n_steps for plan in ways] == [steps] * 4
    assert {plan.n_draws for plan in ways} == {steps * 16}


def test_ways__see_the_rows_that_they_should(outputs):
    assert {name: seen(outputs[name].plan) for name in ("without_10", "short_10", "static_10", "static_30")} == {
        "without_10": 1440,
        "short_10": 1440,
        "static_10": 144,
        "static_30": 432,
    }
    assert 1400 < seen(outputs["with_10"].plan) < 1440


def test_ways__hold_no_row_of_the_test(outputs):
    test = set(outputs["test"].table().collect()["id"])
    assert all(test.isdisjoint(each.table().collect()["id"]) for name, each in outputs.items() if name != "test")


def test_train__takes_steps(train, outputs):
    model = train["train"](outputs["without_10"], seed=0, max_steps=3)
    assert 0 <= train["accuracy"](model, outputs["test"]) <= 1
    assert sum(each.numel() for each in model.parameters()) == 38_282


def test_summary__pairs_ways_with_their_control_by_seed(train):
    runs = [("short_10", 0, 0.9), ("short_10", 1, 0.8), ("static_10", 0, 0.7), ("static_10", 1, 0.5)]
    results = [{"way": way, "seed": seed, "accuracy": right, "steps": 1, "rows_seen": 1} for way, seed, right in runs]
    static = next(line for line in train["summary"](results) if line["way"] == "static_10")
    assert static["difference"] == pytest.approx((-25.0, 5.0))
    assert static["accuracy"] == pytest.approx((60.0, 10.0))
