"""Stage ``bucket``: adds the bucket of a row's size, by aspect or by length."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.errors import BuildError
from curation.methods.bucket import (
    AspectBuckets,
    Bucket,
    LengthBuckets,
    aspect_buckets,
    aspect_ladder,
    cropped_share,
    length_bucket,
    length_labels,
    nearest_aspect,
    unscaled_aspect,
)
from curation.stages.base import BindError, Drop, Fault, Outcome, Stage, State
from curation.stages.columns import decoded, missing, taken, value_type
from curation.tables import keep
from curation.types import ids_of, in_order

TOO_LONG = "longer than the last bucket"
"""Reason of rows that ``over: drop`` takes out."""

_KINDS = {"width": pa.int32(), "height": pa.int32(), "crop": pa.float64()}
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_LARGEST = (1 << 62) - 1


class BucketStage(Stage[Bucket]):
    """Adds the name of the bucket; what has no size is in none."""

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the columns of sizes and the new names."""
        faults = [_unfit(schema, name, path, tests) for name, path, tests in self._sizes()]
        faults += taken(schema, self._new(), ("into",))
        if found := [fault for fault in faults if fault]:
            raise BindError(found)
        fields = [pa.field(name, kind) for name, kind in self._new().items()]
        return in_order(pa.schema([*schema, *fields], metadata=schema.metadata))

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """The sizes, if a bucket is wanted or rows may be dropped."""
        drops = self.params.length is not None and self.params.length.over == "drop"
        sizes = frozenset(name for name, _, _ in self._sizes())
        return (wanted - self._new().keys()) | (sizes if drops or wanted & self._new().keys() else frozenset())

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Find the bucket of each row of the chunk."""
        if any(name not in table.column_names for name, _, _ in self._sizes()):  # nobody wants the bucket in this pass
            return Outcome({"": table})
        if self.params.aspect is not None:
            return Outcome({"": self._by_aspect(table, self.params.aspect)})
        assert self.params.length is not None
        return self._by_length(table, self.params.length)

    def _by_aspect(self, table: pa.Table, options: AspectBuckets) -> pa.Table:
        width, known_width = self._side(table, options.width)
        height, known_height = self._side(table, options.height)
        known = known_width & known_height
        of_one_area = (options.area, options.step, options.max_aspect)
        buckets = np.concatenate(aspect_ladder(*of_one_area) if options.no_upscale else [aspect_buckets(*of_one_area)])
        index = np.full(table.num_rows, -1, np.int64)
        if options.no_upscale:
            index[known] = unscaled_aspect(width[known], height[known], aspect_ladder(*of_one_area))
        else:
            index[known] = nearest_aspect(width[known], height[known], buckets)
        none, chosen = index < 0, buckets[index]
        labels = pa.array([f"{w}x{h}" for w, h in buckets], pa.string())
        columns = {
            "": labels.take(pa.array(index, mask=none)),
            "width": pa.array(chosen[:, 0].astype(np.int32), mask=none),
            "height": pa.array(chosen[:, 1].astype(np.int32), mask=none),
            "crop": pa.array(cropped_share(np.where(none, 1, width), np.where(none, 1, height), chosen), mask=none),
        }
        for name, what in zip(self._new(), ["", *options.add], strict=True):
            table = table.append_column(name, columns[what])
        return table

    def _side(self, table: pa.Table, column: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Widths or heights, and where they are known."""
        values, known = _whole(decoded(table.column(column)))
        if (bad := known & (values < 1)).any():
            at = int(np.argmax(bad))
            raise BuildError(
                f"stage '{self.name}', column '{column}', row id {ids_of(table)[at]}: expected a size >= 1, got "
                f"{values[at]}; filter such rows out first: `where: {column} > 0`"
            )
        return values, known

    def _by_length(self, table: pa.Table, options: LengthBuckets) -> Outcome:
        edges = options.all_edges()
        lengths, known = _whole(_lengths(decoded(table.column(options.column))))
        index = length_bucket(lengths, edges)
        labels = pa.array(length_labels(edges), pa.string())
        table = table.append_column(self.params.into, labels.take(pa.array(index, mask=~known)))
        over = known & (index == len(edges))
        if options.over == "keep" or not over.any():
            return Outcome({"": table})
        return Outcome({"": keep(table, ~over)}, (Drop.of(keep(table, over), TOO_LONG),))

    def _new(self) -> dict[str, pa.DataType]:
        """Types of the new columns by name."""
        add = [] if self.params.aspect is None else self.params.aspect.add
        return {self.params.into: pa.string()} | {f"{self.params.into}_{what}": _KINDS[what] for what in add}

    def _sizes(self) -> list[tuple[str, tuple[str, ...], tuple[Callable[[pa.DataType], bool], ...]]]:
        """Columns of sizes: name, place in the recipe, what types they may have."""
        if self.params.aspect is not None:
            sides = (("width", self.params.aspect.width), ("height", self.params.aspect.height))
            return [(name, ("aspect", side), (pa.types.is_integer,)) for side, name in sides]
        assert self.params.length is not None
        return [(self.params.length.column, ("length", "column"), (pa.types.is_integer, *_TEXT, *_LISTS))]


def _unfit(
    schema: pa.Schema, name: str, path: tuple[str, ...], tests: tuple[Callable[[pa.DataType], bool], ...]
) -> Fault | None:
    """Fault of a column of sizes that is not there or has another type."""
    if fault := missing(schema, name, path):
        return fault
    kind = schema.field(name).type
    if any(test(value_type(kind)) for test in tests):
        return None
    expected = "an integer" if len(tests) == 1 else "an integer, text or a list"
    return Fault(path, f"column {name!r} is {kind}, expected {expected}", f"derive one: `cast({name} as bigint)`")


def _lengths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lengths of texts [characters] or lists [values]; integers are lengths already."""
    if pa.types.is_integer(column.type):
        return column
    if any(test(column.type) for test in _TEXT):
        return pc.utf8_length(column.cast(pa.large_string()))
    return pc.list_value_length(column)


def _whole(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Integers, 0 where they are NULL, and where they are not."""
    values = column.fill_null(0).to_numpy()
    if values.dtype == np.uint64:
        values = np.minimum(values, np.uint64(_LARGEST))
    return values.astype(np.int64), np.asarray(column.is_valid(), bool)


STAGE = BucketStage
