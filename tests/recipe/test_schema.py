import json
import re
from typing import Any

import pytest
import yaml

from curation.methods import STAGES, params_of
from curation.recipe.schema import recipe_schema

GOOD = """
recipe: 1
name: digits
seed: 7
inputs: {digits: {path: data/digits.parquet}}
stages:
  - {use: filter, where: label <> 9}
  - {use: split, shares: {train: 0.9, held_out: 0.1}}
  - {name: long, use: derive, from: split.train, columns: {long: label > 3}}
expect: [{min_rows: 100, by: label}]
feed:
  {batch_size: 256, epochs: 30, groups: label, mixture: {temperature: 5}, subset: {use: rs2, fraction: 0.1}}
output: {path: build/digits, format: arrow, from: long}
"""
KEYWORDS = """
type const enum anyOf oneOf not required properties additionalProperties items propertyNames minProperties
minItems minLength pattern minimum maximum exclusiveMinimum
exclusiveMaximum title description default $defs $schema
"""
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip


def fits(schema, value, root):
    """Judge a value by the few keywords of JSON Schema that the recipe's schema uses."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        rest = {k: v for k, v in schema.items() if k != "$ref"}
        return fits(root["$defs"][name], value, root) and fits(
            {k: v for k, v in schema.items() if k != "$ref"}, value, root
        )
    known = set(KEYWORDS.split())
    assert set(schema) <= known, set(schema) - known
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    is_bool = isinstance(value, bool)
    number = isinstance(value, (int, float)) and not is_bool
    checks = [
        not kinds or any(isinstance(value, TYPES[k]) and (not is_bool or k == "boolean") for k in kinds),
        "const" not in schema or (value == schema["const"] and is_bool == isinstance(schema["const"], bool)),
        "enum" not in schema or value in schema["enum"],
        "anyOf" not in schema or any(fits(s, value, root) for s in schema["anyOf"]),
        "oneOf" not in schema or sum(fits(s, value, root) for s in schema["oneOf"]) == 1,
        "not" not in schema or not fits(schema["not"], value, root),
        not number or value >= schema.get("minimum", value),
        not number or value <= schema.get("maximum", value),
        not number or value > schema.get("exclusiveMinimum", value - 1),
        not number or value < schema.get("exclusiveMaximum", value + 1),
        not isinstance(value, str) or len(value) >= schema.get("minLength", 0),
        not isinstance(value, str) or re.search(schema.get("pattern", ""), value) is not None,
    ]
    if isinstance(value, list):
        checks += [len(value) >= schema.get("minItems", 0)]
        checks += [fits(schema.get("items", {}), item, root) for item in value]
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        checks += [
            len(value) >= schema.get("minProperties", 0),
            set(schema.get("required", ())) <= set(value),
        ]
        checks += [fits(schema.get("propertyNames", {}), key, root) for key in value]
        for key, item in value.items():
            rest = others if isinstance(others, dict) else {}
            checks.append(
                fits(properties[key], item, root) if key in properties else bool(others) and fits(rest, item, root)
            )
    return all(checks)


@pytest.fixture(scope="module")
def schema():
    return recipe_schema()


def test_schema__accepts_a_recipe(schema):
    assert fits(schema, yaml.safe_load(GOOD), schema)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("recipe: 1", "recipe: 2"),
        ("seed: 7", "seed: -1"),
        ("seed: 7", "sede: 7"),
        ("use: filter", "use: filtre"),
        ("where:", "wher:"),
        ("path: data/digits.parquet", "pth: data"),
        ("temperature: 5", "temperature: 0"),
        ("epochs: 30", "epochs: 1.5"),
        ("{use: rs2, fraction: 0.1}", "{use: rs2}"),
        ("format: arrow", "format: csv"),
        ("from: split.train", "from: 'split train'"),
        ("from: long}", "name: out}"),
        ("output:", "other:"),
        ("{min_rows: 100, by: label}", "{min_rows: -1}"),
    ],
)
def test_schema__refuses_mistakes(schema, old, new):
    assert old in GOOD
    assert not fits(schema, yaml.safe_load(GOOD.replace(old, new)), schema)


def test_schema__accepts_outputs_with_feeds_of_their_own(schema):
    recipe = yaml.safe_load(GOOD)
    feed, output = recipe.pop("feed"), recipe.pop("output")
    assert fits(schema, recipe | {"outputs": {"a": output | {"feed": feed}}}, schema)
    assert not fits(schema, recipe | {"outputs": {"a": output}, "feed": feed}, schema)
    assert not fits(schema, recipe | {"outputs": {"a": output}, "output": output}, schema)


def test_schema__has_every_method_with_its_own_options(schema):
    variants = {v["properties"]["use"]["const"]: v for v in schema["$defs"]["Stage"]["oneOf"]}
    assert set(variants) == set(STAGES)
    for name, variant in variants.items():
        assert set(variant["properties"]) == {"use", "name", "from", *params_of(name).model_fields}
        assert variant["additionalProperties"] is False


def test_schema__is_plain_json_and_every_reference_resolves(schema):
    text = json.dumps(schema, allow_nan=False)
    assert set(re.findall(r'"#/\$defs/([^"]+)"', text)) <= set(schema["$defs"])


def test_schema__describes_every_key(schema):
    objects = [schema, *schema["$defs"].values(), *schema["$defs"]["Stage"]["oneOf"]]
    missing = [
        (part.get("title"), key)
        for part in objects
        for key, value in part.get("properties", {}).items()
        if "description" not in value and "$ref" not in value
    ]
    assert missing == []
