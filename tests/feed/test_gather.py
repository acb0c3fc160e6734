from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.feed.gather import FixedWidth
from curation.feed.loader import ShardSet

KINDS = [
    pa.int8(),
    pa.uint16(),
    pa.float32(),
    pa.float64(),
    pa.list_(pa.float32(), 3),
    pa.list_(pa.list_(pa.int16(), 2), 2),
]


def column(kind, rows, seed):
    width = 1
    inner = kind
    while pa.types.is_fixed_size_list(inner):
        width, inner = width * inner.list_size, inner.value_type
    flat = np.random.default_rng(seed).integers(0, 100, rows * width)
    array = pa.array(flat).cast(inner)
    sizes = []
    while pa.types.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        kind = kind.value_type
    for size in reversed(sizes):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array, flat.reshape(rows, *sizes)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 30), min_size=1, max_size=6), st.data())
def test_take__is_indexing_of_the_whole(kind, sizes, data):
    parts = [column(kind, rows, seed) for seed, rows in enumerate(sizes)]
    whole = np.concatenate([values for _, values in parts])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    dtype = np.dtype(whole.dtype if kind == pa.int64() else _inner(kind))
    # Slices, too: a batch may begin in the middle of its memory.
    arrays = [pa.concat_arrays([array, array])[len(array) :] for array, _ in parts]
    gather = FixedWidth(arrays, starts, dtype, whole.shape[1:])
    n = len(whole)
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=50) if n else st.just([])), np.int64)
    found = gather.take(positions)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, whole[positions])


def _inner(kind):
    while pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    return kind.to_pandas_dtype()


@pytest.mark.parametrize("shards", [1, 40])
def test_shards__leave_no_file_open(tmp_path, shards):
    import os

    paths = []
    for i in range(shards):
        paths.append(tmp_path / f"{i}.arrow")
        table = pa.table({"a": np.arange(10) + 10 * i})
        with pa.OSFile(str(paths[-1]), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    before = len(os.listdir("/proc/self/fd"))
    held = ShardSet(paths, [10] * shards)
    positions = np.arange(10 * shards)[::-1].copy()
    assert held.take(positions)["a"].tolist() == positions.tolist()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
