"""Adapters between columns and kernels; a stage lives in the module that has its method's name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from curation.methods.base import Params
from curation.stages.base import Stage

if TYPE_CHECKING:
    from curation.plugins import Plugin


def make_stage(use: str, name: str, params: Params, seed: int, plugin: Plugin | None = None) -> Stage[Any]:
    """Stage of a method, by the convention ``curation.stages.NAME:STAGE``, or that of a plug-in."""
    kind = import_module(f"curation.stages.{use}").STAGE if plugin is None else plugin.stage
    stage: Stage[Any] = kind(name, params, seed)
    if plugin is not None:
        stage.code = plugin.key
    return stage
