"""Gates: limits that a result must keep before anybody sees it, measured shard by shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.keys import content_key
from curation.report.values import to_names


@dataclass(frozen=True)
class GateSpec:
    """One limit: ``kind`` is min_rows, max_rows, min_share, max_share or max_null; ``values`` must not be missing."""

    kind: str
    limit: float
    by: str | None
    columns: tuple[str, ...]
    values: tuple[str, ...]
    text: str

    @property
    def key(self) -> str:
        """Content key of what is measured (not of the limit)."""
        return content_key("gate", self.by, self.columns)


def measure(gate: GateSpec, table: pa.Table) -> dict[str, Any]:
    """Counts of one shard that the verdict needs: rows, rows by value, nulls by column."""
    counts: dict[str, Any] = {"rows": table.num_rows}
    if gate.by is not None:
        column = table.column(gate.by)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        found = pc.value_counts(column)
        names = ["NULL" if name is None else name for name in to_names(found.field("values"))]
        counts["by"] = {}
        for name, rows in zip(names, found.field("counts").to_pylist(), strict=True):
            counts["by"][name] = counts["by"].get(name, 0) + rows
    if gate.columns:
        counts["nulls"] = {name: table.column(name).null_count for name in gate.columns}
    return counts


def add(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum the counts of all shards."""
    total: dict[str, Any] = {"rows": 0, "by": {}, "nulls": {}}
    for part in parts:
        total["rows"] += part["rows"]
        for kind in ("by", "nulls"):
            for name, count in part.get(kind, {}).items():
                total[kind][name] = total[kind].get(name, 0) + count
    return total


def verdict(gate: GateSpec, counts: dict[str, Any]) -> list[str]:
    """Sentences that say what is out of bounds; empty where the gate is met."""
    rows = max(1, counts["rows"])
    if not counts["rows"] and gate.kind.startswith("min") and gate.limit > 0:
        return ["there are no rows at all"]
    if gate.kind == "max_null":
        shares = {name: nulls / rows for name, nulls in counts["nulls"].items()}
        return [
            f"column '{name}' is NULL in {share:.3%} of the rows, {gate.limit:.3%} allowed"
            for name, share in shares.items()
            if share > gate.limit
        ]
    if gate.by is None:
        measured: dict[str, float] = {"all rows": counts["rows"]}
    else:
        seen = {**dict.fromkeys(gate.values, 0), **counts["by"]}
        measured = {f"{gate.by} = {name}": count for name, count in sorted(seen.items())}
    if gate.kind.endswith("share"):
        measured = {name: count / rows for name, count in measured.items()}
    low = gate.kind.startswith("min")
    wrong = {n: v for n, v in measured.items() if (v < gate.limit if low else v > gate.limit)}
    unit = "of the rows" if gate.kind.endswith("share") else "rows"
    bound = "at least" if low else "at most"
    return [f"{name}: {value:g} {unit}, {bound} {gate.limit:g} expected" for name, value in wrong.items()]
