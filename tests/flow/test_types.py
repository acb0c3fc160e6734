"""Every Arrow type goes through a build unchanged."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.errors import RecipeError
from curation.tables import take
from tests.flow.helpers import read, run

ARROW = """
recipe: 1
name: types
seed: 1
inputs: {a: {path: a.arrow}}
output: {path: out, order: %s, shard_rows: 3}
"""

EPOCH = datetime.datetime(2020, 1, 2, 3, 4, 5)
SAMPLES: dict[pa.DataType, object] = {
    pa.null(): None,
    pa.bool_(): True,
    **{kind(): 7 for kind in (pa.int8, pa.int16, pa.int32, pa.int64, pa.uint8, pa.uint16, pa.uint32, pa.uint64)},
    **{kind(): 1.5 for kind in (pa.float32, pa.float64)},
    **{kind(): "é" for kind in (pa.string, pa.large_string, pa.string_view)},
    **{kind(): b"\x00\xff" for kind in (pa.binary, pa.large_binary, pa.binary_view)},
    pa.binary(4): b"abcd",
    pa.date32(): EPOCH.date(),
    pa.date64(): EPOCH.date(),
    pa.time32("s"): datetime.time(1, 2, 3),
    pa.time32("ms"): datetime.time(1, 2, 3),
    pa.time64("us"): datetime.time(1, 2, 3),
    pa.time64("ns"): datetime.time(1, 2, 3),
    **{pa.timestamp(unit): EPOCH for unit in ("s", "ms", "us", "ns")},
    **{pa.timestamp(unit, tz="Europe/Paris"): EPOCH.replace(tzinfo=datetime.UTC) for unit in ("s", "ms", "us", "ns")},
    **{pa.duration(unit): datetime.timedelta(seconds=5) for unit in ("s", "ms", "us", "ns")},
    pa.month_day_nano_interval(): pa.MonthDayNano([1, 2, 3]),
    pa.decimal32(7, 2): decimal.Decimal("1.25"),
    pa.decimal64(12, 2): decimal.Decimal("1.25"),
    pa.decimal128(20, 3): decimal.Decimal("1.125"),
    pa.decimal256(50, 3): decimal.Decimal("1.125"),
    pa.dictionary(pa.int8(), pa.string()): "a",
    pa.dictionary(pa.int32(), pa.int64(), ordered=True): 3,
    pa.list_(pa.field("element", pa.int32())): [1, None, 3],
    pa.large_list(pa.string()): ["x"],
    pa.list_view(pa.int16()): [1, 2],
    pa.list_(pa.float32(), 2): [1.0, 2.0],
    pa.struct([pa.field("a", pa.int32()), pa.field("b", pa.list_(pa.string()))]): {"a": 1, "b": ["x", None]},
    pa.map_(pa.string(), pa.int64()): [("k", 1)],
    pa.list_(pa.struct([pa.field("t", pa.timestamp("ns"))])): [{"t": EPOCH}],
    pa.struct([pa.field("l", pa.large_list(pa.dictionary(pa.int8(), pa.string())))]): {"l": ["p", "q"]},
}


def column(kind: pa.DataType, pattern: list[bool]) -> pa.Array:
    values = [SAMPLES[kind] if here else None for here in pattern]
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode().cast(kind)
    if kind == pa.struct([pa.field("l", pa.large_list(pa.dictionary(pa.int8(), pa.string())))]):
        inner = pa.array(["p", "q"] * len(values)).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
        lists = pa.LargeListArray.from_arrays(pa.array(range(0, 2 * len(values) + 1, 2), pa.int64()), inner)
        return pa.StructArray.from_arrays([lists], fields=list(kind))
    return pa.array(values, kind)


def build(folder: Path, table: pa.Table, order: str) -> pa.Table:
    with pa.ipc.new_file(str(folder / "a.arrow"), table.schema) as writer:
        for batch in table.to_batches(max_chunksize=5):
            writer.write_batch(batch)
    run(folder, ARROW % order)
    out = read(folder / "out")
    assert set(out.column_names) == {*table.column_names, "_row_id"}
    return take(out, np.argsort(out.column("_row_id").to_numpy())).select(table.column_names)


@pytest.mark.parametrize("order", ["input", "shuffled"])
@pytest.mark.parametrize("kind", list(SAMPLES), ids=str)
def test_type__survives(kind, order, tmp_path):
    field = pa.field("v", kind, metadata={"unit": "m"})
    table = pa.table([column(kind, [True, False, True, True, False, True, True])], pa.schema([field], {"who": "us"}))
    out = build(tmp_path, table, order)
    assert out.schema.field("v").equals(field, check_metadata=True)
    assert out.schema.metadata == {b"who": b"us"}
    assert out.column("v").to_pylist() == table.column("v").to_pylist()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(list(SAMPLES)), min_size=1, max_size=4), st.lists(st.booleans(), max_size=23))
def test_tables__of_any_types_survive(tmp_path_factory, kinds, pattern):
    table = pa.table({str(i): column(kind, pattern) for i, kind in enumerate(kinds)})
    out = build(tmp_path_factory.mktemp("types"), table, "shuffled")
    assert out.schema.equals(table.schema)
    assert out.to_pylist() == table.to_pylist()


PARQUET = ARROW.replace("a.arrow", "a.parquet").replace("shard_rows: 3", "shard_rows: 3, format: parquet")


@pytest.mark.parametrize("kind", [k for k in SAMPLES if k != pa.month_day_nano_interval()], ids=str)
def test_type__survives_parquet_or_is_refused(kind, tmp_path):
    table = pa.table({"v": column(kind, [True, False, True, True])})
    try:
        pq.write_table(table, tmp_path / "a.parquet")
        came_back = pq.read_schema(tmp_path / "a.parquet").field("v").type == kind
    except pa.ArrowException:
        came_back = False
    if not came_back:
        with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(RecipeError, match="does not survive Parquet"):
            run(tmp_path, PARQUET.replace("a.parquet", "a.arrow") % "input")
        return
    run(tmp_path, PARQUET % "input")
    out = read(tmp_path / "out")
    assert out.schema.field("v").type == kind
    assert out.column("v").to_pylist() == table.column("v").to_pylist()
