"""A build with columns of many types and a feed with repeats, and readers that know nothing of our writers."""

from __future__ import annotations

import datetime
import io
import json
import struct
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import curation

ROWS = 60
JPEG, PNG = b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"
RECIPE = """\
recipe: 1
name: mixed
seed: 5
inputs: {rows: {path: rows.parquet, key: id}}
stages: []
output: {path: build, shard_rows: 25, format: FORMAT}
feed: {batch_size: 7, epochs: 4, groups: lang, mixture: {temperature: 5}, subset: {use: rs2, fraction: 0.5}}
"""


def mixed() -> pa.Table:
    """Rows of many types: pictures by their first bytes, text, numbers, lists, times, a struct, and some NULL."""
    index = np.arange(ROWS)
    return pa.table(
        {
            "id": pa.array(index * 3),
            "lang": np.where(index % 6 == 0, "is", "en").tolist(),
            "picture": pa.array([(PNG if i % 2 else JPEG) + bytes([i, 255]) for i in index]),
            "latent": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(ROWS * 4, dtype=np.float32) / 3), 4),
            "tokens": pa.array([list(range(i % 5 + 1)) for i in index], pa.list_(pa.uint16())),
            "cls": pa.array(index % 10, pa.int8()),
            "score": pa.array(index / 7, pa.float64()),
            "good": pa.array(index % 3 == 0),
            "maybe": pa.array([None if i % 4 == 0 else int(i) for i in index], pa.int32()),
            "note": pa.array([None if i % 5 == 0 else f"né {i}" for i in index]),
            "when": pa.array([datetime.datetime(2026, 1, 1) + datetime.timedelta(days=int(i)) for i in index]),
            "more": pa.array([{"a": int(i), "b": [f"{i}"]} for i in index]),
        }
    )


def make_build(folder: Path, form: str = "arrow", feed: bool = True) -> curation.Build:
    """Build the rows in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(mixed(), folder / "rows.parquet")
    text = RECIPE.replace("FORMAT", form)
    (folder / "recipe.yaml").write_text(text if feed else text.partition("feed:")[0], "utf-8")
    return curation.build(folder / "recipe.yaml")


def expected(build: curation.Build, steps: range | None = None) -> list[dict[str, Any]]:
    """Rows as Python values, as the plan draws them in some steps, or as they are stored."""
    rows: list[dict[str, Any]] = build.table().collect().to_arrow().to_pylist()
    if steps is None:
        return rows
    return [rows[i] for step in steps for i in build.plan.batch(step).tolist()]


def read_tars(folder: Path) -> list[dict[str, bytes]]:
    """Samples of all tar files, by the part of the name behind the key."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                assert name not in samples.setdefault(key, {})
                samples[key][name] = file.read()
    return list(samples.values())


def npy(data: bytes) -> list[Any]:
    """Array of a member as a list."""
    values: list[Any] = np.load(io.BytesIO(data), allow_pickle=False).tolist()
    return values


SCALARS = {"int8": "<b", "uint8": "<B", "int32": "<i", "int64": "<q", "uint64": "<Q", "float64": "<d"}


def read_mds(folder: Path) -> list[dict[str, Any]]:
    """Samples of all shards that the index names, by the published description of the format."""
    index = json.loads((folder / "index.json").read_text("utf-8"))
    assert index["version"] == 2
    return [sample for shard in index["shards"] for sample in _read_shard(folder, shard)]


def _read_shard(folder: Path, shard: dict[str, Any]) -> list[dict[str, Any]]:
    data = (folder / shard["raw_data"]["basename"]).read_bytes()
    assert len(data) == shard["raw_data"]["bytes"]
    (count,) = struct.unpack_from("<I", data)
    assert count == shard["samples"]
    offsets = struct.unpack_from(f"<{count + 1}I", data, 4)
    config = json.loads(data[4 * (count + 2) : offsets[0]])
    assert config == {key: shard[key] for key in config}
    return [_read_sample(data[a:b], shard) for a, b in pairwise(offsets)]


def _read_sample(data: bytes, shard: dict[str, Any]) -> dict[str, Any]:
    sizes, at = [], 0
    for size in shard["column_sizes"]:
        sizes.append(size or struct.unpack_from("<I", data, at)[0])
        at += 0 if size else 4
    sample = {}
    for name, encoding, size in zip(shard["column_names"], shard["column_encodings"], sizes, strict=True):
        sample[name] = _decoded(encoding, data[at : at + size])
        at += size
    assert at == len(data)
    return sample


def _decoded(encoding: str, data: bytes) -> Any:
    kind, _, rest = encoding.partition(":")
    if kind == "ndarray":
        dtype, _, shape = rest.partition(":")
        head = 0 if shape else 1 + (1 << (data[0] & 3))
        if head:
            assert data[0] >> 2 == 1
            shape = str(int.from_bytes(data[1:head], "little"))
        return np.frombuffer(data[head:], dtype).reshape([int(side) for side in shape.split(",")]).tolist()
    if kind in SCALARS:
        return struct.unpack(SCALARS[kind], data)[0]
    if kind == "json":
        return json.loads(data)
    return data.decode() if kind == "str" else data
