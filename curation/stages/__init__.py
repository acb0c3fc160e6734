"""Adapters between columns and kernels; a stage lives in the module that has its method's name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from curation.methods.base import Params
from curation.stages.base import Stage


def make_stage(use: str, name: str, params: Params, seed: int) -> Stage[Any]:
    """Stage of a method, by the convention ``curation.stages.NAME:STAGE``."""
    stage: Stage[Any] = import_module(f"curation.stages.{use}").STAGE(name, params, seed)
    return stage
