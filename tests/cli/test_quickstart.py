from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import curation
from tests.cli.project import curate

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "data" / "digits.parquet"
    runpy.run_path(str(ROOT / "pipelines/quickstart/make_data.py"))["write_digits"](path)
    return path


@pytest.fixture(scope="module")
def built(digits):
    folder = digits.parents[1]
    shutil.copytree(ROOT / "pipelines/quickstart", folder / "pipelines/quickstart")
    result = curate("build", folder / "pipelines/quickstart/recipe.yaml")
    assert result.exit_code == 0, result.output
    return folder / "build/quickstart"


def test_data__are_what_their_page_says(digits):
    table = pq.read_table(digits)
    pixels = table["pixels"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    features = table["pixels_pca"].combine_chunks().flatten().to_numpy().reshape(-1, 16)
    assert table.column_names == ["id", "label", "ink", "pixels", "pixels_pca"]
    assert (table.num_rows, pixels.max()) == (1797, 16)
    assert sorted(np.bincount(table["label"].to_numpy()))[:: len("123456789")] == [174, 183]
    np.testing.assert_array_equal(table["ink"].to_numpy(), pixels.sum(axis=1))
    # components are uncorrelated, in order of variance
    covariance = np.cov(features.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.1
    assert (np.diff(np.diag(covariance)) < 0).all()


def test_data__are_the_same_bytes_every_time(digits, tmp_path):
    runpy.run_path(str(ROOT / "pipelines/quickstart/make_data.py"))["write_digits"](tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == digits.read_bytes()


def test_recipe__gives_the_rows_that_its_page_names(built):
    train, held_out = curation.open(built / "train"), curation.open(built / "held_out")
    created = train.manifest.content["stages"]["rare"]["created"]
    said = (ROOT / "pipelines/quickstart/README.md").read_text("utf-8")
    assert f"{train.rows} rows to train on ({created} of them made by SMOTE) and {held_out.rows} held-out" in said


def test_recipe__holds_out_what_nothing_was_made_of(built):
    train = curation.open(built / "train").table().collect()
    held_out = curation.open(built / "held_out").table().collect()
    parents = set(train["_parent_a"].drop_nulls()) | set(train["_parent_b"].drop_nulls())
    assert not parents & set(held_out["_row_id"])
    assert parents <= set(train["_row_id"])


def test_recipe__feeds_a_trainer(built):
    build = curation.open(built / "train")
    batch = next(build.loader(columns=["label", "pixels_pca"], epoch=0))
    assert batch["pixels_pca"].shape == (64, 16)
    assert build.plan.epochs == 20
