"""What every stage promises of the outcome of a chunk, so that the balance closes and rows keep their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from curation.stages.base import Outcome, Stage
from curation.types import OWN_COLUMNS, ROW_ID, Ids, ids_of, in_order


def schema_fault(schema: Any) -> str:
    """Say what is wrong with what ``bind`` returned; empty if nothing is."""
    if not isinstance(schema, pa.Schema):
        return f"bind: expected a pyarrow Schema, got {type(schema).__name__}; return the schema that goes out"
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        return f"bind: column {twice[0]!r} stands twice in the schema; refuse it with a BindError"
    if not _has_ids(schema):
        return f"bind: the schema lacks {ROW_ID} (uint64); keep our own columns, those that begin with '_'"
    if in_order(schema) != schema:
        return "bind: our own columns do not stand last; return curation.types.in_order(schema)"
    return ""


def fault_of(stage: Stage[Any], tables: Sequence[pa.Table], outcome: Any, wanted: Mapping[str, pa.Schema]) -> str:
    """Say which promise the outcome of a chunk breaks, and how to mend it; empty if it keeps them all.

    Parameters
    ----------
    stage, tables, outcome
        The stage, what came in (a table for each flow that has rows), and what ``apply`` gave.
    wanted
        Columns that have to come out, by port.
    """
    if not isinstance(outcome, Outcome):
        return f"apply: expected an Outcome, got {type(outcome).__name__}; return Outcome({{'': table}})"
    if not set(stage.ports) - stage.optional_ports <= set(outcome.tables) <= set(stage.ports):
        return (
            f"apply: expected a table for each of the ports {sorted(stage.ports)}, got {sorted(outcome.tables)}; "
            "ports are what `Params.ports` names, or '' alone"
        )
    for port, each in outcome.tables.items():
        if not isinstance(each, pa.Table):
            return f"apply: expected a pyarrow Table at port {port!r}, got {type(each).__name__}"
        if not _has_ids(each.schema):
            return f"apply: no column {ROW_ID} of type uint64 at port {port!r}; carry it along unchanged"
        for field in wanted.get(port, ()):
            if field.name not in each.column_names:
                return f"apply: column {field.name!r} is missing at port {port!r}; `bind` has promised it"
            if (kind := each.schema.field(field.name).type) != field.type:
                return f"apply: column {field.name!r} is {kind}, but `bind` has promised {field.type}; cast it"
    return _balance(tables, outcome)


def _has_ids(schema: pa.Schema) -> bool:
    return ROW_ID in schema.names and schema.field(ROW_ID).type == OWN_COLUMNS[ROW_ID]


def _balance(tables: Sequence[pa.Table], outcome: Outcome) -> str:
    into = sum(each.num_rows for each in tables)
    out = sum(each.num_rows for each in outcome.tables.values())
    dropped = sum(len(drop.row_id) for drop in outcome.drops)
    if into + outcome.created != out + dropped:
        return (
            f"apply: in + created = out + dropped does not hold: {into} + {outcome.created} rows, but "
            f"{out} + {dropped}; list every row taken out in a Drop with its reason, and count copies in `created`"
        )
    before = np.concatenate([ids_of(each) for each in tables])
    after = _all_ids(outcome)
    if unknown := np.setdiff1d(after, before).tolist():
        return f"apply: row id {unknown[0]} did not come in; rows keep their ids, never make or change any"
    if lost := np.setdiff1d(before, after).tolist():
        return f"apply: row {lost[0]} is neither in the outcome nor dropped; list it in a Drop with its reason"
    if not outcome.created and not np.array_equal(np.sort(before), np.sort(after)):
        return "apply: rows come out more often than they came in; count the copies in `created`"
    return ""


def _all_ids(outcome: Outcome) -> Ids:
    found: Ids = np.concatenate(
        [*(ids_of(each) for each in outcome.tables.values()), *(drop.row_id for drop in outcome.drops)]
    )
    return found
