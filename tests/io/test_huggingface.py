"""Folders saved by Hugging Face datasets."""

from __future__ import annotations

import json

import pytest

from curation.errors import InputError
from curation.io.huggingface import hf_files


def saved(folder, *names, **state):
    for name in names:
        (folder / name).write_bytes(b"")
    state = {"_data_files": [{"filename": name} for name in names], "_indices_data_files": None, **state}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_files__come_in_the_order_of_the_state(tmp_path):
    names = ["data-00001-of-00002.arrow", "data-00000-of-00002.arrow"]
    assert hf_files(saved(tmp_path, *names)) == list(names)


def test_files__of_another_folder_are_none(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    assert hf_files(tmp_path) is None


def test_files__of_several_splits_ask_for_one(tmp_path):
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match=r"holds the splits train, test; name one of them: path: .*/train"):
        hf_files(tmp_path)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"_data_files": [{"filename": "../x.arrow"}]}, "outside the folder"),
        ({"_data_files": [{"filename": "/x.arrow"}]}, "outside the folder"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "gone.arrow is missing"),
        ({"_data_files": None}, "expected _data_files"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, r"call flatten_indices\(\)"),
    ],
)
def test_files__that_cannot_be_are_refused(tmp_path, state, why):
    with pytest.raises(InputError, match=why):
        hf_files(saved(tmp_path, "a.arrow", **state))


@pytest.mark.parametrize("text", ["{", "[]"])
def test_files__of_a_damaged_state_are_refused(tmp_path, text):
    (saved(tmp_path) / "state.json").write_text(text)
    with pytest.raises(InputError, match=r"state\.json: (cannot be read|expected a JSON object)"):
        hf_files(tmp_path)
