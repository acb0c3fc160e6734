from curation.methods.derive import Derive
from curation.recipe.load import load_recipe
from curation.recipe.sql import check_expressions

TEXT = """recipe: 1
name: x
seed: 7
inputs:
  d: {path: in.parquet, where: a > 1}
stages:
  - {name: b, use: filter, from: c, where: x > 1}
  - {name: c, use: derive, from: d, columns: {y: a + 1, z: upper(s)}}
output: {path: out}
"""


def test_check_expressions__finds_nothing_in_a_loaded_recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT, encoding="utf-8")
    assert check_expressions(load_recipe(file, env={})) == []


def test_check_expressions__names_the_line_of_each_text(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(TEXT, encoding="utf-8")
    recipe = load_recipe(file, env={})
    first = recipe.stages[0].model_copy(update={"params": Derive(columns={"z": "max(a)"})})
    stages = (first, *recipe.stages[1:])
    problems = check_expressions(recipe.model_copy(update={"stages": stages}))
    assert [(p.line, p.path) for p in problems] == [(8, "stages[1].columns.z")]
