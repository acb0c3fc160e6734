"""Writes the rows of a build for trainers that read front to back: in the order of its plan, or as they are stored.

A trainer that reads shards one after another, without a shuffle of its own, then sees exactly what the plan says, with
its subsets, shares and schedules. A row that the plan draws twice is written twice.

An export is a folder that appears whole: it is written under a temporary name beside its own, and ``export.json`` last.
In a store, where folders cannot be renamed, shards are sent as they are done and ``export.json`` last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.export.formats import MARKS, Writer, said, writer_of
from curation.export.options import ExportError, ExportOptions, Order, order_of, schema_of, steps_of
from curation.export.places import Place, placed, standing
from curation.export.rows import Source, drawn, pieces, stored
from curation.feed.plan import Plan
from curation.io.atomic import void
from curation.io.location import Location
from curation.io.manifest import Manifest
from curation.report.rows import Rows, open_plan

FORMAT = 1
"""Version of what exports hold; those of another are not taken for the same."""

SHARD_BYTES = 64 << 20
"""Size of a shard, unless rows are asked for, by the first rows of the build [bytes of Arrow data]."""
SHARD_ROWS = 50_000
"""Most rows of a shard, unless others are asked for."""


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes
    ----------
    root
        Where it lies.
    content
        What its ``export.json`` says.
    fresh
        Whether it stood there already.
    """

    root: Location
    content: dict[str, Any]
    fresh: bool = False


def export(
    manifest: Manifest, out: Location, options: ExportOptions, *, progress: Callable[[int], None] | None = None
) -> Export:
    """Export the rows of a build, unless just that export stands there already.

    Holds one shard in memory. Parquet shards of the build are copied as Arrow files to the folder for temporary files
    (``TMPDIR``) first if they are read in the order of a plan, which jumps.

    Parameters
    ----------
    manifest
        Of the build.
    out
        Folder or prefix of the export; must not be there yet, or be empty.
    options
        What is exported.
    progress
        Called with the rows written so far, after each shard.

    Raises
    ------
    CurationError
        If the build or the place does not allow it; no export stands under ``out`` then.
    """
    plan = _plan(manifest)
    order = order_of(manifest, plan, options)
    schema = schema_of(manifest, options)
    steps = steps_of(plan, options) if plan is not None and order == "plan" else None
    head = _head(manifest, plan, order, steps, schema, options)
    if (found := standing(out, head)) is not None:
        return Export(out, found, fresh=True)
    if not manifest.complete():
        raise ExportError(f"{manifest.root}: shards are missing or cut short; build again")
    shard_rows = options.shard_rows or _default_rows(manifest, schema.names)
    writer = writer_of(manifest, schema, options)
    with placed(out, head) as place, tempfile.TemporaryDirectory(prefix="curation-") as scratch:
        if steps is None or plan is None:
            tables = stored(manifest, schema, shard_rows)
        else:
            source = Source(manifest, schema.names, Path(scratch))
            tables = (drawn(source, piece, options.mark) for piece in pieces(plan, steps, shard_rows))
        content = _written(place, options.format, writer, tables, progress or (lambda _: None))
        place.finish(head | content)
        return Export(out, head | content)


def _plan(manifest: Manifest) -> Plan | None:
    path = manifest.path("plan")
    return None if path is None else open_plan(path)


def _head(
    manifest: Manifest,
    plan: Plan | None,
    order: Order,
    steps: tuple[int, int] | None,
    schema: pa.Schema,
    options: ExportOptions,
) -> dict[str, Any]:
    """What decides every byte of an export."""
    return {
        "export": FORMAT,
        "format": options.format,
        "order": order,
        "build_id": manifest.build_id,
        "name": manifest.content["name"],
        "output": manifest.content["output"],
        "plan": None if plan is None or order == "stored" else plan.fingerprint,
        "steps": None if steps is None else list(steps),
        "columns": [*schema.names, *(MARKS if options.mark else ())],
        "shard_rows": options.shard_rows,
    }


def _default_rows(manifest: Manifest, columns: Sequence[str]) -> int:
    rows = Rows(manifest)
    some = rows.at(0, 1024, columns) if rows.n_rows else None
    per_row = 1 if some is None else max(1, some.nbytes // some.num_rows)
    return max(1, min(SHARD_ROWS, SHARD_BYTES // per_row))


def _written(
    place: Place, form: str, writer: Writer, tables: Iterator[pa.Table], progress: Callable[[int], None]
) -> dict[str, Any]:
    shards: list[dict[str, Any]] = []
    rows = 0
    for table in tables:
        with said(form):
            entry = place.put(writer.name(len(shards)), partial(writer.write, table, first=rows))
        shards.append(entry | {"rows": table.num_rows})
        rows += table.num_rows
        progress(rows)
    index = writer.index()
    if index is not None:
        place.put(index[0], lambda path: void(path.write_text(index[1], "utf-8")))
    return {"rows": rows, "shards": shards}
