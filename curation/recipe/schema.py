"""The JSON Schema of a recipe, from which editors complete and check."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from curation.errors import RecipeError
from curation.methods import FEEDS, STAGES, params_of
from curation.methods.base import Params
from curation.plugins import PluginError, find, installed, load
from curation.recipe.model import FeedSpec, Gate, InputSpec, OutputSpec, Recipe, StageSpec

_NAME = "^[A-Za-z_][A-Za-z0-9_-]*$"
_REFERENCE = "^[A-Za-z_][A-Za-z0-9_-]*(\\.[A-Za-z_][A-Za-z0-9_-]*)?$"


def recipe_schema(*, allow_plugins: bool = False) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a recipe, with one kind of stage per method.

    It holds names, types and ranges; what needs more than one key at a time (sources, cycles, sums of shares)
    is checked by `load_recipe` alone.

    Parameters
    ----------
    allow_plugins
        Import the plug-ins of installed packages for their options, and accept any ``module:Attr``.

    Raises
    ------
    RecipeError
        If an installed plug-in cannot be loaded.
    """
    methods = {name: params_of(name) for name in sorted(STAGES)} | (_plugins() if allow_plugins else {})
    models: list[type[BaseModel]] = [InputSpec, Gate, FeedSpec, OutputSpec, *methods.values()]
    refs, shared = models_json_schema([(m, "validation") for m in models], ref_template="#/$defs/{model}")
    defs: dict[str, Any] = shared["$defs"]

    def taken(model: type[BaseModel]) -> dict[str, Any]:
        """Definition of a model, taken out because it is changed before it is used."""
        definition: dict[str, Any] = defs.pop(refs[model, "validation"]["$ref"].rpartition("/")[2])
        return definition

    output = _as_written(taken(OutputSpec))
    output["properties"]["from"] = _reference(_described(OutputSpec, "source"))
    named = {**output, "properties": output["properties"] | {"feed": {"$ref": "#/$defs/FeedSpec"}}}
    written = {model: taken(model) for model in dict.fromkeys(methods.values())}  # two plug-ins may share theirs
    defs["Stage"] = {"oneOf": [_stage(name, written[model], model.many) for name, model in methods.items()]}
    if allow_plugins:
        defs["Stage"]["oneOf"].append(_stage_by_module())
    defs["Output"], defs["NamedOutput"] = output, named
    names = {"propertyNames": {"pattern": _NAME}, "minProperties": 1}
    properties: dict[str, dict[str, Any]] = {
        "recipe": {"const": 1},
        "name": {"type": "string", "minLength": 1},
        "seed": {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**64},
        "inputs": {"type": "object", "additionalProperties": {"$ref": "#/$defs/InputSpec"}, **names},
        "stages": {"type": ["array", "null"], "items": {"$ref": "#/$defs/Stage"}},
        "expect": {"type": ["array", "null"], "items": {"$ref": "#/$defs/Gate"}},
        "feed": {"$ref": "#/$defs/FeedSpec"},
        "output": {"$ref": "#/$defs/Output"},
        "outputs": {"type": "object", "additionalProperties": {"$ref": "#/$defs/NamedOutput"}, **names},
    }
    spoken = {"feed": FeedSpec.__doc__, "output": "where the result goes"}
    for key, schema in properties.items():
        schema["description"] = spoken.get(key) or _described(Recipe, key)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "curation recipe",
        "type": "object",
        "properties": properties,
        "required": ["recipe", "name", "seed", "inputs"],
        "oneOf": [{"required": ["output"]}, {"required": ["outputs"], "not": {"required": ["feed"]}}],
        "additionalProperties": False,
        "$defs": dict(sorted(defs.items())),
    }


def _plugins() -> dict[str, type[Params]]:
    names = [name for name in installed() if name not in STAGES and name not in FEEDS]
    found: dict[str, type[Params]] = {}
    for name in names:
        try:
            origin = find(name)
            found |= {name: load(origin).params} if origin else {}
        except PluginError as error:
            raise RecipeError(f"plug-in '{name}': {error}" + (f"; {error.hint}" if error.hint else "")) from error
    return found


def _stage_by_module() -> dict[str, Any]:
    """Schema of a stage whose options are known only to its module."""
    stage = _stage("", {"type": "object"}, many=False)
    use = {"type": "string", "pattern": "^[^:\\s]+:[^:\\s]+$", "description": "a stage of your own, module:Class"}
    return stage | {"title": "module:Class", "properties": stage["properties"] | {"use": use}}


def _stage(use: str, params: dict[str, Any], many: bool) -> dict[str, Any]:
    flow = _reference("what it reads: an input, a stage or stage.port; default: the stage before")
    if many:
        flow = {"type": "array", "minItems": 2, "items": flow, "description": "tables to put together, in order"}
    common = {
        "use": {"const": use, "description": _described(StageSpec, "use")},
        "name": {"type": "string", "pattern": _NAME, "description": _described(StageSpec, "name")},
        "from": flow,
    }
    required = ["use", *params.get("required", ())]
    return params | {"title": use, "properties": common | params.get("properties", {}), "required": required}


def _as_written(output: dict[str, Any]) -> dict[str, Any]:
    """Leave out of an output what is not one of its keys in a recipe."""
    elsewhere = ("name", "source", "feed")
    properties = {key: value for key, value in output["properties"].items() if key not in elsewhere}
    required = [key for key in output["required"] if key not in elsewhere]
    for key in ("order", "compression"):  # their defaults depend on other keys
        properties[key] = {name: value for name, value in properties[key].items() if name != "default"}
    return output | {"properties": properties, "required": required}


def _reference(description: str) -> dict[str, Any]:
    return {"type": "string", "pattern": _REFERENCE, "description": description}


def _described(model: type[BaseModel], field: str) -> str:
    return model.model_fields[field].description or ""
