"""What holds for every method: it has options that explain themselves, a card, and a stage of its name."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from curation.methods import FEEDS, METHODS, STAGES, params_of
from curation.methods.base import Params
from curation.stages.base import ArtifactStage, FitStage, Stage
from curation.testing import check_params, check_stage
from tests.flow.helpers import people

HEADINGS = ["What", "Formula", "Inputs / outputs", "Cost", "Use when", "Do not use when", "Source", "Checked against"]
EXAMPLES: dict[str, dict[str, Any]] = {
    "bucket": {"length": {"column": "a", "edges": [1, 2]}},
    "dedup": {"columns": ["a"]},
    "concat": {},
    "derive": {"columns": {"a": "b"}},
    "erase": {"keys": "a", "on": "b"},
    "filter": {"where": "a > 1"},
    "image_stats": {"column": "a"},
    "group_stats": {},
    "join": {"right": "a", "on": "b"},
    "rename": {"columns": {"a": "b"}},
    "sample": {"n": 1},
    "select": {"drop": ["a"]},
    "smote": {"label": "a", "features": ["b"]},
    "sort": {"by": ["a", "-b"]},
    "split": {"shares": {"a": 1.0}},
    "text_stats": {"column": "a"},
    "cooldown": {},
    "rs2": {"fraction": 0.5},
    "temperature": {},
}

ON_PEOPLE: dict[str, list[dict[str, Any]]] = {
    "bucket": [{"length": {"column": "text", "edges": [6, 8]}}],
    "derive": [{"columns": {"long": "length(text) > 7", "score": "score * 2"}}],
    "filter": [{"where": "score > 0"}],
    "group_stats": [{"by": "lang", "columns": ["score", "weight"]}],
    "image_stats": [{"column": "image"}],
    "rename": [{"columns": {"text": "caption"}}],
    "sample": [{"n": 40, "weight": "weight", "by": "lang"}, {"fraction": 1.5, "replacement": True}],
    "select": [{"drop": ["x"]}],
    "smote": [{"label": "lang", "features": ["x"], "target": {"is": 40}, "k": 3}],
    "sort": [{"by": ["lang", "-score"]}],
    "split": [{"shares": {"a": 0.5, "b": 0.5}}, {"shares": {"a": 0.5, "b": 0.5}, "by": "text"}],
    "text_stats": [{"column": "text"}],
}
"""Options that fit the table of :func:`tests.flow.helpers.people` with a picture in every row."""

every_method = pytest.mark.parametrize("name", METHODS)
every_stage = pytest.mark.parametrize("name", STAGES)


def pictured(table: pa.Table) -> pa.Table:
    """A table with a column of small PNG files, some of them missing."""
    found: list[bytes | None] = []
    for i in range(table.num_rows):
        file = io.BytesIO()
        Image.new("L", (4 + i % 5, 3 + i % 3), i % 256).save(file, "PNG")
        found.append(None if i % 9 == 4 else file.getvalue())
    return table.append_column("image", pa.array(found, pa.binary()))


def card(name: str) -> str:
    return (resources.files("curation.methods") / "cards" / f"{name}.md").read_text("utf-8")


def test_registry__is_sorted_and_knows_stages_and_feeds_apart():
    assert list(METHODS) == sorted(METHODS)
    assert not STAGES.keys() & FEEDS.keys()


def test_registry__names_no_unknown_method():
    with pytest.raises(KeyError, match="smoote"):
        params_of("smoote")


def test_registry__and_cards_name_the_same_methods():
    cards = resources.files("curation.methods") / "cards"
    assert sorted(path.name.removesuffix(".md") for path in cards.iterdir()) == list(METHODS)


def test_registry__is_listed_without_loading_anything():
    code = "import sys, curation.methods; print([m for m in sys.modules if m.partition('.')[0] in %r])"
    heavy = {"numpy", "numba", "pyarrow", "polars", "dask", "pydantic", "sklearn"}
    done = subprocess.run(
        [sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


@every_method
def test_params__are_found_in_the_module_of_their_name(name):
    params = params_of(name)
    assert issubclass(params, Params)
    assert params.__module__ == f"curation.methods.{name}"


@every_method
def test_params__keep_what_users_may_expect(name):
    check_params(params_of(name), **EXAMPLES[name])


@every_method
def test_params__plan_is_the_shape_of_feeds(name):
    assert (params_of(name).shape == "plan") == (name in FEEDS)


@every_method
def test_module__opens_with_one_sentence(name):
    text = import_module(f"curation.methods.{name}").__doc__
    assert text
    assert text.strip().partition("\n\n")[0].endswith(".")


@every_method
def test_card__has_all_headings_in_order_and_text_below_each(name):
    assert card(name).splitlines()[0] == f"# {name}"
    parts = re.split(r"^## (.+)$", card(name), flags=re.MULTILINE)
    assert parts[1::2] == HEADINGS
    assert all(part.strip() for part in parts[2::2])


@every_method
def test_card__has_a_table_from_symbols_to_arguments(name):
    formula = card(name).partition("## Formula")[2].partition("\n## ")[0]
    assert re.search(r"^\| symbol \| argument", formula, flags=re.MULTILINE)


@every_method
def test_method__has_a_test_file_of_its_name(name):
    assert Path(__file__).with_name(f"test_{name}.py").is_file()


@every_stage
def test_stage__stands_in_the_module_of_its_name(name):
    stage = import_module(f"curation.stages.{name}").STAGE
    assert issubclass(stage, Stage)
    shapes = {"map": Stage, "fit": FitStage, "artifact": ArtifactStage}
    assert issubclass(stage, shapes[params_of(name).shape])
    assert issubclass(stage, FitStage) == (params_of(name).shape != "map")


@pytest.mark.parametrize(("name", "options"), [(name, each) for name in ON_PEOPLE for each in ON_PEOPLE[name]])
def test_stage__keeps_its_promises(name, options):
    stage = import_module(f"curation.stages.{name}").STAGE
    check_stage(stage, params_of(name)(**options), pictured(people(200).drop_columns(["id"])))


def test_stages__with_one_table_are_all_held_to_the_kit():
    kinds = {
        name: (params_of(name)(**EXAMPLES[name]), import_module(f"curation.stages.{name}").STAGE) for name in STAGES
    }
    several = {n for n, (p, stage) in kinds.items() if p.many or p.sides() or getattr(stage, "alters", False)}
    assert ON_PEOPLE.keys() == STAGES.keys() - several


@every_stage
def test_stage__is_keyed_by_name_options_version_and_the_seed_if_it_draws(name, monkeypatch):
    stage = import_module(f"curation.stages.{name}").STAGE
    params = params_of(name)(**EXAMPLES[name])
    keys = {stage(who, params, seed).key(name) for who, seed in (("a", 1), ("b", 1), ("a", 2), ("a", 1))}
    assert len(keys) == (3 if name in {"sample", "smote", "split"} else 2)
    monkeypatch.setattr(params_of(name), "version", params.version + 1)
    assert stage("a", params, 1).key(name) not in keys
