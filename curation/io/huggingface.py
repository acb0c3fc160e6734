"""Folders that Hugging Face ``datasets`` has saved: which Arrow files they hold, in which order."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from curation.errors import InputError
from curation.io.location import Location

DICT, STATE = "dataset_dict.json", "state.json"
"""Files by which such a folder is known."""


def hf_files(folder: Location) -> list[str] | None:
    """Arrow files of a folder written by ``Dataset.save_to_disk``.

    Parameters
    ----------
    folder
        The folder, or its place in a store.

    Returns
    -------
        Paths below the folder, in the order of the rows; ``None`` if it is no such folder.

    Raises
    ------
    InputError
        If it holds several splits, its files are not all there, or the rows are chosen by an index.
    """
    if (folder / DICT).is_file():
        splits = _loaded(folder / DICT).get("splits", [])
        first = splits[0] if splits else "train"
        raise InputError(
            f"{folder}: holds the splits {', '.join(map(str, splits))}; name one of them: path: {folder / str(first)}"
        )
    if not (folder / STATE).is_file() or not (folder / "dataset_info.json").is_file():
        return None
    state = _loaded(folder / STATE)
    try:
        names = [str(each["filename"]) for each in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / STATE}: expected _data_files with a filename each, got none") from error
    if state.get("_indices_data_files"):
        raise InputError(f"{folder}: its rows are chosen by an index; call flatten_indices() and save it again")
    return [_inside(folder, name) for name in names]


def _inside(folder: Location, name: str) -> str:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise InputError(f"{folder / STATE}: names {name!r}, which lies outside the folder; do not trust it")
    if not (folder / place).is_file():
        raise InputError(f"{folder}: {name} is missing, which state.json names; copy the whole folder")
    return place.as_posix()


def _loaded(path: Location) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
