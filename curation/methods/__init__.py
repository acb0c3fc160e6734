"""The registry of methods: name -> where its options live. Listing it imports nothing heavy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curation.methods.base import Params

STAGES: dict[str, str] = {
    "bucket": "curation.methods.bucket:Bucket",
    "dedup": "curation.methods.dedup:Dedup",
    "concat": "curation.methods.concat:Concat",
    "derive": "curation.methods.derive:Derive",
    "erase": "curation.methods.erase:Erase",
    "filter": "curation.methods.filter:Filter",
    "image_stats": "curation.methods.image_stats:ImageStats",
    "group_stats": "curation.methods.group_stats:GroupStats",
    "join": "curation.methods.join:Join",
    "rename": "curation.methods.rename:Rename",
    "sample": "curation.methods.sample:Sample",
    "select": "curation.methods.select:Select",
    "smote": "curation.methods.smote:Smote",
    "sort": "curation.methods.sort:Sort",
    "split": "curation.methods.split:Split",
    "text_stats": "curation.methods.text_stats:TextStats",
}
"""Methods of ``stages:`` (``use: NAME``)."""

FEEDS: dict[str, str] = {
    "cooldown": "curation.methods.cooldown:Cooldown",
    "rs2": "curation.methods.rs2:RS2",
    "temperature": "curation.methods.temperature:Temperature",
}
"""Methods of ``feed:`` (they write a plan and touch no row)."""

METHODS: dict[str, str] = dict(sorted((STAGES | FEEDS).items()))


def params_of(name: str) -> type[Params]:
    """Options class of a method.

    Raises
    ------
    KeyError
        If no method has that name.
    """
    module, _, attribute = METHODS[name].partition(":")
    found: type[Params] = getattr(import_module(module), attribute)
    return found
