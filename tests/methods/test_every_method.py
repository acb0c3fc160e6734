"""What holds for every method: it has options that explain themselves, a card, and a stage of its name."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module, resources
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from curation.methods import FEEDS, METHODS, STAGES, params_of
from curation.methods.base import Params, Shape
from curation.stages.base import ArtifactStage, FitStage, Stage

HEADINGS = ["What", "Formula", "Inputs / outputs", "Cost", "Use when", "Do not use when", "Source", "Checked against"]
EXAMPLES: dict[str, dict[str, Any]] = {
    "concat": {},
    "derive": {"columns": {"a": "b"}},
    "erase": {"keys": "a", "on": "b"},
    "filter": {"where": "a > 1"},
    "group_stats": {},
    "join": {"right": "a", "on": "b"},
    "rename": {"columns": {"a": "b"}},
    "sample": {"n": 1},
    "select": {"drop": ["a"]},
    "smote": {"label": "a", "features": ["b"]},
    "sort": {"by": ["a", "-b"]},
    "split": {"shares": {"a": 1.0}},
    "cooldown": {},
    "rs2": {"fraction": 0.5},
    "temperature": {},
}

every_method = pytest.mark.parametrize("name", METHODS)
every_stage = pytest.mark.parametrize("name", STAGES)


def card(name: str) -> str:
    return (resources.files("curation.methods") / "cards" / f"{name}.md").read_text("utf-8")


def models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """The options and those nested in them."""
    found = [model]
    for field in model.model_fields.values():
        kinds = [field.annotation, *get_args(field.annotation)]
        found += [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return found


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
def test_params__accept_an_example_and_cannot_be_changed(name):
    params = params_of(name)(**EXAMPLES[name])
    with pytest.raises(ValidationError, match="frozen"):
        setattr(params, next(iter(params_of(name).model_fields)), None)


@every_method
def test_params__refuse_unknown_keys(name):
    for model in models(params_of(name)):
        assert model.model_config.get("extra") == "forbid"
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        params_of(name)(**EXAMPLES[name] | {"no_such_key": 1})


@every_method
def test_params__explain_every_field(name):
    silent = [
        f"{model.__name__}.{key}"
        for model in models(params_of(name))
        for key, field in model.model_fields.items()
        if not field.description
    ]
    assert silent == []


@every_method
def test_params__survive_json(name):
    params = params_of(name)(**EXAMPLES[name])
    assert params_of(name).model_validate_json(params.model_dump_json()) == params


@every_method
def test_params__state_version_and_shape(name):
    params = params_of(name)
    assert type(params.version) is int
    assert params.version >= 1
    assert params.shape in get_args(Shape)
    assert (params.shape == "plan") == (name in FEEDS)


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


@every_stage
def test_stage__is_keyed_by_name_options_version_and_the_seed_if_it_draws(name, monkeypatch):
    stage = import_module(f"curation.stages.{name}").STAGE
    params = params_of(name)(**EXAMPLES[name])
    keys = {stage(who, params, seed).key(name) for who, seed in (("a", 1), ("b", 1), ("a", 2), ("a", 1))}
    assert len(keys) == (3 if name in {"sample", "smote", "split"} else 2)
    monkeypatch.setattr(params_of(name), "version", params.version + 1)
    assert stage("a", params, 1).key(name) not in keys
