"""Reads exports back with the packages that they are made for, each in an environment of its own.

Not a test that pytest runs, since the packages bring much along. From the root of the repository, with an environment
of this package as ``.venv``::

    .venv/bin/python -m tests.export.peers write build/peers
    python3 -m venv build/wds && build/wds/bin/python -m pip install numpy webdataset
    build/wds/bin/python tests/export/peers.py webdataset build/peers
    python3 -m venv build/mds && build/mds/bin/python -m pip install mosaicml-streaming
    build/mds/bin/python tests/export/peers.py mds build/peers
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def write(folder: Path) -> None:
    """Export epochs of a build with repeats in both formats, and say what must come back."""
    from tests.export.project import expected, make_build

    build = make_build(folder / "project")
    for form in ("webdataset", "mds"):
        build.export(folder / form, form, epochs=(0, 3), shard_rows=25, mark=True)
    rows = expected(build, range(build.plan.first_step(3)))
    (folder / "expected.json").write_text(json.dumps(rows, default=_plain), "utf-8")
    print(f"{len(rows)} rows, {len({row['id'] for row in rows})} different")


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else value.isoformat(sep=" ")


def webdataset(folder: Path) -> list[dict[str, Any]]:
    """Rows as ``webdataset`` gives them, with its own decoders."""
    wds = importlib.import_module("webdataset")
    shards = [str(path) for path in sorted((folder / "webdataset").glob("*.tar"))]
    found = []
    for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode():
        row = dict(sample["json"])
        row["picture"] = next(value for name, value in sample.items() if name.startswith("picture")).hex()
        row |= {"latent": sample["latent.npy"].tolist(), "tokens": sample["tokens.npy"].tolist()}
        row |= {"cls": sample["cls"], "note": sample.get("note.txt"), "lang": sample["lang.txt"]}
        found.append(row)
    return found


def mds(folder: Path) -> list[dict[str, Any]]:
    """Rows as MosaicML Streaming gives them, through a torch ``DataLoader``."""
    streaming = importlib.import_module("streaming")
    data = importlib.import_module("torch.utils.data")
    dataset = streaming.StreamingDataset(local=str(folder / "mds"), shuffle=False, batch_size=7, num_canonical_nodes=1)
    loader = data.DataLoader(dataset, batch_size=None, collate_fn=lambda sample: sample)
    return [{name: _listed(value) for name, value in sample.items()} for sample in loader]


def _listed(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value.tolist() if hasattr(value, "tolist") else value


READERS = {"webdataset": (webdataset, "webdataset"), "mds": (mds, "mosaicml-streaming")}


def compare(form: str, folder: Path) -> None:
    """End with an error unless the rows that come back are those that were exported, in their order."""
    read, package = READERS[form]
    wanted, found = json.loads((folder / "expected.json").read_text("utf-8")), read(folder)
    if len(found) != len(wanted):
        sys.exit(f"{form}: expected {len(wanted)} rows, got {len(found)}")
    for number, (row, other) in enumerate(zip(wanted, found, strict=True)):
        for name, value in row.items():
            same = str(other[name]).startswith(value) if name == "when" else other[name] == value
            if not same:
                sys.exit(f"{form}: row {number}, column {name}: expected {value!r}, got {other[name]!r}")
    print(f"{form}: {len(found)} rows come back in order, {len(wanted[0])} columns, {package} {version(package)}")


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    if task == "write":
        write(place)
    else:
        compare(task, place)
