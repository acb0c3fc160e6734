"""Stage ``erase``: rows whose key is on a list go; the manifest says how many keys were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curation.engine.store import Mark
from curation.errors import BuildError
from curation.methods.erase import Erase
from curation.stages.base import PROBE, BindError, Coming, Drop, Fault, Outcome, State, Tables
from curation.stages.columns import missing
from curation.stages.lookup import Lookup, LookupStage, common_key
from curation.tables import keep
from curation.types import PARENT_A, PARENT_B, ids_of

SHOWN = 3
"""Row ids of the list that an error names."""


class EraseStage(LookupStage[Erase]):
    """Drops the rows whose key is on the list ``keys``; a NULL is no key.

    What is to be forgotten is written down nowhere anew: manifest and errors name counts and row ids, never keys.
    """

    side = "keys"
    steps = ("partition", "keys", PROBE, "found")

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Bind a table whose rows are all on the list."""
        return self.bind_all(Coming((schema,), {"keys": schema}))[""]

    def bind_all(self, coming: Coming) -> Mapping[str, pa.Schema]:
        """Check the key on both sides; synthetic rows may not come in."""
        rows, listed, on = coming.flows[0], coming.sides["keys"], self.params.on
        faults = [missing(rows, on, ("on",)), missing(listed, on, ("keys",))]
        if {PARENT_A, PARENT_B} & set(rows.names):
            text = "synthetic rows come in, and those made of erased rows cannot be told from here"
            faults.append(Fault(("use",), text, "erase before rows are synthesized"))
        if any(faults):
            raise BindError([fault for fault in faults if fault])
        kind = common_key(rows.field(on), listed.field(on), ("on",))
        if isinstance(kind, Fault):
            raise BindError([kind])
        self._lookup = Lookup((on,), (on,), pa.schema([kind.with_name("k0")]), pa.schema([]))
        return {"": rows}

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """The key, besides what is wanted."""
        return wanted | {self.params.on}

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Is never called: rows pass with the list at hand."""
        raise AssertionError(f"stage '{self.name}' looks rows up")

    def flow(self, tables: Sequence[pa.Table | None], state: State, artifact: Tables | None) -> Outcome:
        """Drop the rows of a chunk that are on the list."""
        (table,) = tables
        assert table is not None
        assert artifact is not None
        erased = np.zeros(table.num_rows, bool)
        for _, rows, _, _ in self.pairs(table, state, artifact):
            erased[rows] = True
        if not erased.any():
            return Outcome({"": table})
        return Outcome({"": keep(table, ~erased)}, (Drop.of(keep(table, erased), "erased"),))

    # The account of the list

    def probe_columns(self) -> frozenset[str]:
        """The key."""
        return frozenset([self.params.on])

    def probe(self, table: pa.Table, state: State, tables: Tables) -> pa.Table:
        """Places on the list that rows of this chunk have found."""
        places = [(part, np.unique(found)) for part, _, found, _ in self.pairs(table, state, tables)]
        parts = [np.full(len(found), part, np.int64) for part, found in places]
        none = np.zeros(0, np.int64)
        return pa.table(
            {
                "part": pa.array(np.concatenate([none, *parts])),
                "place": pa.array(np.concatenate([none, *(found for _, found in places)])),
            }
        )

    def jobs(self, step: str, state: State) -> list[Mapping[str, Any]]:
        """As for every lookup, and one job that counts what was found."""
        if step != "found":
            return super().jobs(step, state)
        return [{"bytes": -(-state["bytes"] // state["parts"]), "listed": state["rows"]}]

    def memory(self, step: str, detail: Mapping[str, Any]) -> int:
        """As for every lookup; what was found is one byte an entry of the list."""
        return super().memory(step, detail) + int(detail.get("listed", 0))

    def run(self, step: str, detail: Mapping[str, Any], tables: Tables) -> tuple[pa.Table, Mark]:
        """As for every lookup, or count what was found."""
        return self._found(tables) if step == "found" else super().run(step, detail, tables)

    def _found(self, tables: Tables) -> tuple[pa.Table, Mark]:
        sides = tables.all("partition")
        offsets = np.concatenate([[0], np.cumsum([side.num_rows for side in sides])])
        hit = np.zeros(offsets[-1], bool)
        for probe in tables.all(PROBE):
            hit[offsets[probe.column("part").to_numpy()] + probe.column("place").to_numpy()] = True
        counts, examples = np.zeros(2, np.int64), list[int]()
        for side, low, high in zip(sides, offsets, offsets[1:], strict=False):
            first = _firsts(side)
            lacking = first & ~hit[low:high]
            counts += [int(first.sum()), int(lacking.sum())]
            examples += ids_of(side)[lacking][: SHOWN - len(examples)].tolist()
        keys, lacking_keys = counts.tolist()
        if lacking_keys and self.params.not_found == "error":
            raise BuildError(
                f"stage '{self.name}': expected every key of `{self.params.keys}` in some row, got {lacking_keys} of "
                f"{keys} in none (row ids on the list: {', '.join(map(str, examples))}); correct the list, or set "
                "`not_found: note`"
            )
        notes = {"keys": keys, "found": keys - lacking_keys, "not_found": lacking_keys}
        return pa.table({"keys": pa.array([keys], pa.int64())}), notes


def _firsts(side: pa.Table) -> NDArray[np.bool_]:
    """Which rows of a partition are the first of their key; equal keys stand side by side."""
    if not side.num_rows:
        return np.zeros(0, bool)
    keys, hashes = side.column("k0"), side.column("hash").to_numpy()
    again = np.asarray(pc.equal(keys[1:], keys[:-1])) & (hashes[1:] == hashes[:-1])
    return np.concatenate([[True], ~again])


STAGE = EraseStage
