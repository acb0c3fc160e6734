"""Stage ``split``: parts by share, decided by a hash of the row, or of a column whose values stay together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from curation.hashing import key_hashes
from curation.methods.split import Split, split_port
from curation.rng import stream_key, uniform
from curation.stages.base import BindError, Fault, Outcome, Stage, State
from curation.stages.columns import missing
from curation.tables import keep
from curation.types import ids_of


class SplitStage(Stage[Split]):
    """Sends every row to one port; adding rows never moves another row."""

    draws = True

    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the grouping column."""
        if self.params.by is not None:
            fault = missing(schema, self.params.by, ("by",))
            if fault is None and pa.types.is_nested(schema.field(self.params.by).type):
                fault = Fault(("by",), f"column {self.params.by!r} is nested", "use a plain column")
            if fault:
                raise BindError([fault])
        return schema

    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """The grouping column, besides what is wanted."""
        return wanted if self.params.by is None else wanted | {self.params.by}

    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Deal the rows out."""
        if self.params.by is None:
            ids = ids_of(table)
        else:
            values = table.column(self.params.by)
            ids = np.zeros(table.num_rows, np.uint64)  # rows without a value stay together, too
            known = np.asarray(values.is_valid())
            ids[known] = key_hashes(values.drop_null(), salt="split", bits=63)
        u = uniform(stream_key(self.seed, self.name, "split"), ids)
        # By name, so that the order in which a recipe lists the parts does not matter.
        names = sorted(self.params.shares)
        port = split_port(u, [self.params.shares[name] for name in names])
        return Outcome({name: keep(table, port == i) for i, name in enumerate(names)})


STAGE = SplitStage
