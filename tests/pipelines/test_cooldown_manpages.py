"""The schedules of ``cooldown-manpages`` have the shares that they say, and train; on a small stand-in for its data."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curation

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "pipelines/cooldown-manpages"
LANGUAGES = ("de", "fr", "pl", "es", "it", "pt-br", "nl", "da")
ROWS = {language: max(2, 128 >> number) for number, language in enumerate(LANGUAGES)}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manpages")
    rows = [
        {"language": language, "package": "p", "page": f"page{i % 40}.1", "text": f"{language} text number {i} é"}
        for language in LANGUAGES
        for i in range(240)
    ]
    (folder / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data/manpages.parquet")
    shutil.copytree(FOLDER, folder / "pipelines/cooldown-manpages")
    quotas = [f"stages.tail.quotas.{language}={n}" for language, n in ROWS.items()]
    quotas += [f"stages.judged.quotas.{language}=10" for language in LANGUAGES]
    return curation.build(folder / "pipelines/cooldown-manpages/recipe.yaml", overrides=quotas).outputs


@pytest.fixture(scope="module")
def fetch():
    return runpy.run_path(str(FOLDER / "fetch_data.py"))


@pytest.fixture(scope="module")
def train():
    pytest.importorskip("torch", reason="needs torch")
    return runpy.run_path(str(FOLDER / "train.py"))


def shares(rows, tau):
    weight = np.array([rows[language] for language in LANGUAGES]) ** (1 / tau)
    return dict(zip(LANGUAGES, weight / weight.sum(), strict=True))


def test_schedules__have_the_shares_of_their_temperature(outputs):
    last = outputs["cooldown"].plan.n_steps - 1
    assert outputs["tau_1"].plan.shares(0) == pytest.approx(shares(ROWS, 1))
    assert outputs["tau_5"].plan.shares(last) == pytest.approx(shares(ROWS, 5))
    assert outputs["cooldown"].plan.shares(0) == pytest.approx(shares(ROWS, 5))
    assert outputs["cooldown"].plan.shares(last) == pytest.approx(shares(ROWS, 1))


def test_split__keeps_pages_of_all_languages_on_one_side(outputs):
    held_out = set(outputs["held_out"].table().collect()["page"])
    assert held_out
    assert held_out.isdisjoint(outputs["tau_1"].table().collect()["page"])


def test_recipe__is_about_a_hundred_to_one():
    recipe = curation.api.read_recipe(FOLDER / "recipe.yaml")
    quotas = next(stage for stage in recipe.stages if stage.name == "tail").params.model_dump()["quotas"]
    sizes = [quotas[language] for language in LANGUAGES]
    np.testing.assert_allclose(sizes, 20_000 * 100 ** (-np.arange(8) / 7), atol=1)


def test_paragraphs__are_running_text_alone(fetch):
    source = (
        '.TH LS 1\n.SH NAVN\nls \\- vis\n.PP\nVis \\fIfiler\\fP\n.B "med fed"\ntekst.\n.nf\nkode\n.fi\n.PP\nSlut\\&.'
    )
    assert [each for each in fetch["paragraphs"](source) if each] == ["ls - vis", "Vis filer med fed tekst.", "Slut."]


def test_pieces__are_cut_at_spaces_and_lose_nothing(fetch):
    text = " ".join(f"ord{i}é" for i in range(60))
    pieces = list(fetch["pieces"](text))
    assert " ".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= 128


def test_weights__make_the_expected_loss_that_of_the_other_plan(train, outputs):
    weights = train["weights_of"](outputs["tau_1"].plan, outputs["tau_5"].plan)
    flat, hot = shares(ROWS, 1), shares(ROWS, 5)
    assert {each: weights[each] * flat[each] for each in LANGUAGES} == pytest.approx(hot)


def test_train__takes_steps_and_looks_at_gradients(train, outputs):
    held_out = outputs["held_out"].table().select("language", "text").collect()
    seen: list[object] = []
    model, curve = train["train"](outputs["cooldown"], held_out, seed=0, max_steps=4, halfway=seen.append)
    assert (curve[-1]["step"], set(curve[-1]["held_out"]), len(seen)) == (4, set(LANGUAGES), 1)
    assert sum(each.numel() for each in model.parameters()) == 166_144


def test_bits__are_those_of_uniform_guessing_for_an_empty_model(train):
    import torch

    model = train["ByteModel"]()
    for each in model.parameters():
        torch.nn.init.zeros_(each)
    assert train["bits"](model, ["né", "n"]).tolist() == pytest.approx([3 * 8, 8])
