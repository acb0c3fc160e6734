"""Looks at the rows of a build for the report: groups, histograms, lineage, pictures, examples; never all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from curation.io.files import suffix_format
from curation.io.location import Location
from curation.io.manifest import Manifest
from curation.report import draw
from curation.report.facts import SMALL_GROUP, SMALL_SHOWN, Small, chain
from curation.report.rows import Rows, counts, open_plan, scan
from curation.report.values import to_python, to_text
from curation.tables import keep, take
from curation.types import MIX, ORIGIN, OWN_COLUMNS, PARENT_A, PARENT_B, ROW_ID, SYNTHETIC

GROUPS_SHOWN = 30
SAMPLE_ROWS = 50_000
PICTURES = 24
LINEAGES = 6
EXAMPLES = 8
HISTOGRAMS = 6
BINS = 32
FIND_ROWS = 50_000_000
"""Parents are looked up by row id only in builds up to this size."""
LOOK_ROWS = 10_000
GROUPS_AT_MOST = 1000
"""A column shows groups only if so many rows, from all over the build, hold no more values than this."""
VALUE_CHARS = 80


@dataclass(frozen=True)
class Group:
    """A group before and after; ``shares`` are those of the feed at its start and end."""

    name: str
    before: int | None
    after: int
    made: int
    shares: tuple[float, float] | None
    bar: Markup


@dataclass(frozen=True)
class Groups:
    """Rows by group; ``rest`` sums up the groups that are not shown."""

    column: str
    shown: list[Group]
    rest: Group | None
    n_rest: int
    has_before: bool
    has_made: bool
    has_shares: bool


@dataclass(frozen=True)
class Histogram:
    """Distribution of a numeric column."""

    column: str
    bars: Markup
    low: str
    median: str
    high: str
    nulls: str


@dataclass(frozen=True)
class Person:
    """A row in a lineage or a gallery."""

    row_id: str
    picture: str | None
    caption: str


@dataclass(frozen=True)
class Lineage:
    """A synthetic row between its parents."""

    row_id: str
    stage: str
    group: str
    mix: str
    line: Markup
    a: Person
    b: Person


@dataclass(frozen=True)
class Cell:
    """A value as text; ``full`` is longer text for a tooltip."""

    text: str
    full: str
    number: bool
    picture: str | None = None


Examples = tuple[list[str], list[list[Cell]]]
"""Column names, and rows of cells."""


class Look:
    """What the rows of a build look like.

    Parameters
    ----------
    manifest
        Of the build; its shards stand already.
    inputs
        Files of the inputs, by name, if they are at hand.
    """

    def __init__(self, manifest: Manifest, inputs: Mapping[str, Sequence[Location]] | None) -> None:
        self._manifest = manifest
        self._content = manifest.content
        self._inputs = inputs or {}
        self._schema = manifest.schema
        self._rows = Rows(manifest)
        self._blocks = 4 if self._content["shard_format"] == "parquet" else 48

    # Groups

    @cached_property
    def group_column(self) -> str | None:
        """Column of the groups: of the feed, else the label of SMOTE, strata, or the first that looks like one.

        All but that of the feed must hold few values in a sample of the rows: a column such as ``user_id`` shows no
        groups, and counting it would take memory for every value.
        """
        if self._content["group_column"] is not None:
            return str(self._content["group_column"])
        _, stages = chain(self._content)
        stated = [each for each in self._content["recipe"]["stages"] if each["name"] in stages]
        named = [each[key] for key in ("label", "by") for each in reversed(stated) if key in each]
        names = list(dict.fromkeys(n for n in named if isinstance(n, str) and n in self._schema.names))
        found = self._few_values(names, LOOK_ROWS, at_least=1, at_most=GROUPS_AT_MOST)
        return found or self._few_values(self._plain_columns(), 2000, at_least=2, at_most=50)

    def _plain_columns(self) -> list[str]:
        source, _ = chain(self._content)
        key = self._content["recipe"]["inputs"][source].get("key")
        return [f.name for f in self._schema if _is_plain(f.type) and f.name not in OWN_COLUMNS and f.name != key]

    def _few_values(self, names: Sequence[str], n_rows: int, *, at_least: int, at_most: int) -> str | None:
        """First of some columns that holds few values, for the number of rows, in a sample."""
        if not names:
            return None
        rows = self._rows.spread(n_rows, names, blocks=self._blocks)
        for name in names:
            distinct = len(set(to_text(rows.column(name))))
            if at_least <= distinct <= min(at_most, max(2, rows.num_rows // 2)):
                return name
        return None

    def groups(self) -> tuple[Groups | None, Small]:
        """Groups to show, and those that are small; of all others only the sum is ever held."""
        name = self.group_column
        if name is None or not self._rows.n_rows:
            return None, Small([], 0)
        made = pl.col(PARENT_A).is_not_null() if PARENT_A in self._schema.names else pl.lit(value=False)
        table = counts(self._rows.scan(), name, made.cast(pl.Int64).sum().alias("made"))
        before = self._before(name)
        if before is not None:
            table = table.join(before, on=name, how="full", coalesce=True)
            table = table.with_columns(pl.col("rows", "made", "before").fill_null(0))
        else:
            table = table.with_columns(pl.lit(0, pl.Int64).alias("before"))
        order = ["rows", "before", name]
        is_small = pl.col("rows").is_between(1, SMALL_GROUP - 1)
        numbers = pl.col("rows", "made", "before")
        top, total, small = pl.collect_all(
            [
                table.top_k(GROUPS_SHOWN, by=order, reverse=[False, False, True]),
                table.select(pl.len().alias("groups"), is_small.sum().alias("small"), numbers.sum()),
                table.filter(is_small).bottom_k(SMALL_SHOWN, by=["rows", name]),
            ],
            engine="streaming",
        )
        few = small.sort(["rows", name]).select(name, "rows").rows()
        found = self._shown(name, top.sort(order, descending=[True, True, False]), total.row(0, named=True), before)
        return found, Small(few, int(total["small"][0]))

    def _shown(
        self, name: str, top: pl.DataFrame, total: Mapping[str, int], before: pl.LazyFrame | None
    ) -> Groups | None:
        if not top.height:
            return None
        has_before = before is not None
        n_rest = total["groups"] - top.height
        sums = top.select(pl.col("rows", "made", "before").sum()).row(0, named=True)
        rest = {each: total[each] - sums[each] for each in sums}
        if not n_rest and _is_number(self._schema.field(name).type):
            top = top.sort(pl.col(name).cast(pl.Float64, strict=False), nulls_last=True)
        largest = max([*top["rows"].to_list(), *top["before"].to_list(), 1])
        shares = self._shares()

        def group(label: str, counted: Mapping[str, int], share: Any, bar: Markup) -> Group:
            return Group(label, counted["before"] if has_before else None, counted["rows"], counted["made"], share, bar)

        def bar(counted: Mapping[str, int]) -> Markup:
            old = counted["before"] / largest if has_before else None
            return draw.group_bar(old, (counted["rows"] - counted["made"]) / largest, counted["made"] / largest)

        shown = [
            group(row[name], row, shares.get(row[name]) if shares else None, bar(row))
            for row in top.iter_rows(named=True)
        ]
        # the bar of the rest is empty: it is not to scale with single groups
        last = group("", rest, None, draw.group_bar(None, 0, 0)) if n_rest else None
        return Groups(name, shown, last, n_rest, has_before, total["made"] > 0, shares is not None)

    def _before(self, name: str) -> pl.LazyFrame | None:
        source, _ = chain(self._content)
        files = list(self._inputs.get(source, ()))
        if not files:
            return None
        stated = self._content["recipe"]["inputs"][source].get("format")
        kinds = [suffix_format(path.name) or stated for path in files]
        if not {"parquet", "arrow"}.issuperset(kinds):
            return None  # text and images would have to be read again
        frames = []
        for kind in ("parquet", "arrow"):
            paths = [path for path, each in zip(files, kinds, strict=True) if each == kind]
            if paths:
                frame = scan(paths, kind)
                if name not in frame.collect_schema().names():
                    return None
                frames.append(counts(frame, name))
        parts = [frame.select(name, pl.col("rows").alias("before")) for frame in frames]
        return pl.concat(parts).group_by(name).agg(pl.col("before").sum())

    def _shares(self) -> dict[str, tuple[float, float]] | None:
        path = self._manifest.path("plan")
        if path is None or self._content["group_column"] is None:
            return None
        plan = open_plan(path)
        first, last = plan.shares(0), plan.shares(plan.n_steps - 1)
        return {_text(group): (share, last[group]) for group, share in first.items()}

    # Histograms

    def histograms(self) -> list[Histogram]:
        """Distributions of a few numeric columns, from a sample of a large build."""
        wanted = [f.name for f in self._schema if _is_number(f.type) and f.name not in OWN_COLUMNS]
        wanted = [name for name in wanted if name != self.group_column and not self._is_key(name)]
        wanted += [MIX] if MIX in self._schema.names else []
        names = wanted[:HISTOGRAMS]
        if not names or not self._rows.n_rows:
            return []
        rows = self._rows.spread(SAMPLE_ROWS, names, blocks=self._blocks)
        return [found for name in names if (found := _histogram(name, rows.column(name))) is not None]

    def _is_key(self, name: str) -> bool:
        return any(spec.get("key") == name for spec in self._content["recipe"]["inputs"].values())

    # Pictures

    @cached_property
    def _picture(self) -> tuple[str, draw.Painter] | None:
        """Column that looks like images, and how to paint it."""
        columns = [f.name for f in self._schema if draw.image_kind(f.type)]
        # names such as pixels or image come first, uint8 before floats
        columns.sort(key=lambda n: (not any(w in n.lower() for w in ("image", "pixel", "picture", "img")), n))
        for name in columns:
            rows = self._rows.spread(256, [name], blocks=self._blocks).column(name)
            known = np.flatnonzero(np.asarray(rows.is_valid()))[:32]
            painter = draw.Painter.of([rows[at].as_py() for at in known.tolist()])
            if painter is not None:
                return name, painter
        return None

    def gallery(self) -> list[Person]:
        """Pictures of rows from all over the build."""
        if self._picture is None:
            return []
        name, painter = self._picture
        columns = [ROW_ID, name, *([self.group_column] if self.group_column else [])]
        rows = self._rows.spread(480, columns, blocks=self._blocks)
        known = np.flatnonzero(np.asarray(rows.column(name).is_valid()))
        chosen = known[np.linspace(0, len(known) - 1, min(PICTURES, len(known))).astype(np.int64)]
        people = []
        for row in _dicts(take(rows, chosen)):
            uri = painter.uri(row[name])
            if uri is not None:
                caption = _text(row[self.group_column]) if self.group_column else ""
                people.append(Person(str(row[ROW_ID]), uri, caption))
        return people

    # Lineage

    def lineages(self) -> list[Lineage]:
        """A few synthetic rows of different groups, with their parents."""
        if PARENT_A not in self._schema.names or not self._rows.n_rows:
            return []
        group = self.group_column
        columns = list(dict.fromkeys([ROW_ID, ORIGIN, PARENT_A, PARENT_B, MIX, *([group] if group else [])]))
        rows = self._rows.spread(4096, columns, blocks=self._blocks)
        made = _dicts(keep(rows, pc.is_valid(rows.column(PARENT_A)).combine_chunks()))
        by_group: dict[Any, list[dict[str, Any]]] = {}
        for row in made:
            by_group.setdefault(row[group] if group else None, []).append(row)
        chosen: list[dict[str, Any]] = []
        for depth in range(LINEAGES):
            chosen += [each[depth * 7 % len(each)] for each in by_group.values() if depth < len(each)]
            if len(chosen) >= LINEAGES:
                break
        chosen = chosen[:LINEAGES]
        people = self._people(sorted({row[key] for row in chosen for key in (PARENT_A, PARENT_B)}))
        return [
            Lineage(
                str(row[ROW_ID]),
                _text(row[ORIGIN]),
                f"{group} {_text(row[group])}" if group else "",
                f"{row[MIX]:.2f}",
                draw.mixing(row[MIX]),
                people[row[PARENT_A]],
                people[row[PARENT_B]],
            )
            for row in chosen
        ]

    def _people(self, ids: list[int]) -> dict[int, Person]:
        people = {i: Person(str(i), None, "synthetic" if i >= int(SYNTHETIC) else "") for i in ids}
        if self._picture is None or self._rows.n_rows > FIND_ROWS:
            return people
        name, painter = self._picture
        for row_id, positions in self._rows.find(ids, each=1).items():
            if positions:
                value = self._rows.take(positions, [name]).column(name)[0].as_py()
                people[row_id] = Person(str(row_id), painter.uri(value), people[row_id].caption)
        return people

    # Examples

    def examples(self) -> Examples:
        """Some rows as text, our own columns last."""
        names = list(self._schema.names)[:16]
        rows = self._rows.spread(EXAMPLES, names, blocks=EXAMPLES if self._blocks > EXAMPLES else self._blocks)
        return names, [
            [self._painted(name, value) for name, value in row.items()] for row in _dicts(rows.slice(0, EXAMPLES))
        ]

    def _painted(self, name: str, value: Any) -> Cell:
        cell = _cell(value)
        if self._picture is None or self._picture[0] != name:
            return cell
        return replace(cell, picture=self._picture[1].uri(value))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_plain(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    return any(test(kind) for test in tests)


def _dicts(table: pa.Table) -> list[dict[str, Any]]:
    """Rows, with values that can be shown."""
    columns = [to_python(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _text(value: Any) -> str:
    """Value of a group as :func:`curation.report.rows.text_of` writes it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(value: Any) -> Cell:
    if isinstance(value, bytes):
        text = f"{len(value):,} bytes"
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, list):
        text = f"[{', '.join(_cell(each).text for each in value[:8])}{', …' if len(value) > 8 else ''}]"
    else:
        text = "" if value is None else str(value)
    full = text if len(text) <= 1000 else text[:999] + "…"
    cut = text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"
    return Cell(cut, full, isinstance(value, int | float))


def _histogram(name: str, column: pa.ChunkedArray) -> Histogram | None:
    values = column.drop_null().to_numpy().astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    whole = pa.types.is_integer(column.type) and high - low < BINS
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high if high > low else low + 1, BINS + 1)
    bars = np.histogram(values, bins=edges)[0].tolist()
    missing = len(column) - values.size
    nulls = f"{missing / len(column):.1%} missing" if missing else ""
    shown = [f"{each:,.4g}" if abs(each) < 1e4 else f"{each:,.0f}" for each in (low, float(np.median(values)), high)]
    return Histogram(name, draw.columns(bars), shown[0], shown[1], shown[2], nulls)
