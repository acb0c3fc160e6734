"""What a stage is: columns in, columns out, and one of three shapes (map, fit, artifact).

Most stages have one table that flows in and one that flows out; they write ``bind``, ``needs`` and ``apply``. A stage
that puts several tables together, has outputs of different columns, or looks rows up in an artifact overrides the more
general ``bind_all``, ``needs_from`` and ``flow`` instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curation.engine.store import Mark, Store
from curation.keys import content_key, in_given_order
from curation.methods.base import Params
from curation.types import CarriesSchemas, Ids, copies_of, ids_of

P = TypeVar("P", bound=Params)

State = Any
"""What a fit has found: JSON-able, arrays allowed; ``None`` before the first round."""


@dataclass(frozen=True)
class Fault:
    """Something in the stage's options that the schema does not bear out."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""


class BindError(Exception):
    """The options do not fit the columns that come in; carries every :class:`Fault`."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in faults))


@dataclass(frozen=True)
class Drop:
    """Rows that a stage takes out, for one reason; ``instead`` are rows that stand for them, where there are such."""

    reason: str
    row_id: Ids
    copy: NDArray[np.uint32]
    instead: Ids | None = None

    @classmethod
    def of(cls, table: pa.Table, reason: str) -> Drop:
        """All rows of a table, dropped for ``reason``."""
        return cls(reason, ids_of(table), copies_of(table))


@dataclass(frozen=True)
class Outcome:
    """What became of a chunk: a table for each port, and the rows taken out.

    ``created`` counts rows in ``tables`` beyond those that came in (copies).
    """

    tables: Mapping[str, pa.Table]
    drops: tuple[Drop, ...] = ()
    created: int = 0


@dataclass(frozen=True)
class Coming(CarriesSchemas):
    """What comes into a stage: schemas of the tables that flow in, in order, and of those it looks things up in.

    ``disjoint`` says that no row can come in by two of the flows.
    """

    flows: tuple[pa.Schema, ...]
    sides: Mapping[str, pa.Schema]
    disjoint: bool = True


class Stage(ABC, Generic[P]):
    """A map stage: each chunk alone. The base of all stages.

    Parameters
    ----------
    name
        The stage's name in the recipe; part of every random key.
    params
        Its options.
    seed
        The recipe's seed.
    """

    draws: ClassVar[bool] = False
    """Whether the stage draws at random, so that its result depends on the seed."""

    params_type: ClassVar[type[Params]]
    """Class of the options; stated by plug-ins alone, since the registry knows that of our own stages."""

    code: str = ""
    """Content key of the code of a plug-in, set by the build; our own code is known by its version."""

    def __init__(self, name: str, params: P, seed: int) -> None:
        self.name = name
        self.params = params
        self.seed = seed

    beside: ClassVar[int] = 0
    """Memory [bytes] that a chunk on its way through needs beside its rows: an image decoded, a table looked up in."""

    optional_ports: ClassVar[frozenset[str]] = frozenset()
    """Outputs whose rows are made only if something reads them."""

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the outputs; one nameless output for most stages."""
        return self.params.ports() or ("",)

    def key(self, use: str) -> str:
        """Content key of what the stage does, apart from its input."""
        options = in_given_order(self.params.model_dump(mode="json"))
        seed = self.seed if self.draws else None
        code = [self.code] if self.code else []
        return content_key("stage", use, self.params.version, self.name, options, seed, *code)

    @abstractmethod
    def bind(self, schema: pa.Schema) -> pa.Schema:
        """Check the options against the schema that comes in; return the one that goes out (of every port).

        Raises
        ------
        BindError
            With all faults.
        """

    @abstractmethod
    def needs(self, wanted: frozenset[str]) -> frozenset[str]:
        """Columns that must come in so that ``wanted`` can go out."""

    @abstractmethod
    def apply(self, table: pa.Table, state: State) -> Outcome:
        """Work on one chunk."""

    def carries(self, column: str, port: str) -> str | None:
        """Name under which a column that flows in goes out of a port with the same values; None if it does not."""
        return column

    # The general form: several tables flow in, or several kinds of rows go out.

    def bind_all(self, coming: Coming) -> Mapping[str, pa.Schema]:
        """Check the options against everything that comes in; return the schema of every port.

        Raises
        ------
        BindError
            With all faults.
        """
        return dict.fromkeys(self.ports, self.bind(coming.flows[0]))

    def needs_from(self, flow: int, wanted: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """Columns that table ``flow`` (0 for the only one) must bring so that ``wanted`` can go out of the ports."""
        return self.needs(frozenset().union(*wanted.values()))

    def flow(self, tables: Sequence[pa.Table | None], state: State, artifact: Tables | None) -> Outcome:
        """Work on one chunk of each table that flows in (None where it has no rows of this chunk's origin).

        ``artifact`` holds the tables of an :class:`ArtifactStage` that ``alters`` rows, else it is None.
        """
        (table,) = tables
        assert table is not None
        return self.apply(table, state)


class FitStage(Stage[P]):
    """A stage that first goes over all chunks, once or several rounds, for a small state."""

    @abstractmethod
    def fit_columns(self) -> frozenset[str]:
        """Columns that the rounds read."""

    @abstractmethod
    def partial(self, table: pa.Table, state: State) -> State:
        """State of one chunk; ``state`` is what earlier rounds have found."""

    @abstractmethod
    def merge(self, left: State, right: State) -> State:
        """State of two neighbouring stretches; associative, called in a fixed tree in chunk order."""

    @abstractmethod
    def advance(self, state: State, merged: State) -> tuple[State, bool]:
        """State after a round, and whether it is the last one."""


@dataclass(frozen=True)
class Piece:
    """A block of rows that a stage creates: its place in the stage's plan, how many, and the port they go out of."""

    label: str
    rows: int
    detail: Mapping[str, Any]
    port: str = ""


PROBE = "probe"
"""Name of the step of an artifact that goes over the chunks of what flows in."""


class ArtifactStage(FitStage[P]):
    """A stage whose state is too large to merge: it is written as tables that later jobs open.

    After the fit, ``extract`` saves what is wanted of each chunk; the named ``steps`` follow one after the other, each
    a list of independent jobs that read earlier tables. Two things can come of the tables: new rows, listed by
    ``pieces`` and made by ``create``; and, where ``alters`` is true, other or fewer rows, when ``flow`` gets the tables
    for every chunk that passes.

    A stage whose new rows are made of the state alone sets ``extracts`` to false: no chunk is gone over again.

    With ``side`` the fit and the extract go over the table that this option names, not over what flows in; its rows
    end here, for the reason ``side_reason``.

    A step of the name :data:`PROBE` has a job for every chunk of what flows in: ``probe`` sees its rows and the tables
    so far, and later steps read what it has saved. So a stage can account for what it finds. ``flow`` gets the tables
    before it alone: what becomes of a chunk must not depend on the chunks beside it.
    """

    steps: tuple[str, ...] = ()
    alters: ClassVar[bool] = False
    side: ClassVar[str] = ""
    side_reason: ClassVar[str] = "looked up"
    extracts: ClassVar[bool] = True

    @abstractmethod
    def extract_columns(self) -> frozenset[str]:
        """Columns that ``extract`` reads."""

    @abstractmethod
    def extract(self, table: pa.Table, state: State) -> pa.Table:
        """Rows and columns of a chunk that the artifact is made of; empty where there are none."""

    @abstractmethod
    def jobs(self, step: str, state: State) -> list[Mapping[str, Any]]:
        """Details of the independent jobs of a step."""

    @abstractmethod
    def memory(self, step: str, detail: Mapping[str, Any]) -> int:
        """Peak memory [bytes] of a job of a step (or of ``create``, where ``step`` is "create")."""

    @abstractmethod
    def run(self, step: str, detail: Mapping[str, Any], tables: Tables) -> tuple[pa.Table, Mark]:
        """Do one job of a step; the table is stored, the mark goes to the manifest's notes."""

    def probe_columns(self) -> frozenset[str]:
        """Columns that ``probe`` reads."""
        raise AssertionError(f"stage '{self.name}' has no step {PROBE}")

    def probe(self, table: pa.Table, state: State, tables: Tables) -> pa.Table:
        """What is saved of a chunk that flows in; empty where there is nothing."""
        raise AssertionError(f"stage '{self.name}' has no step {PROBE}")

    def pieces(self, state: State) -> list[Piece]:
        """Blocks of new rows, in order; none for a stage that makes none."""
        return []

    def create(self, piece: Piece, tables: Tables, schema: pa.Schema) -> pa.Table:
        """Make the rows of one piece, with exactly the columns of ``schema``."""
        raise AssertionError(f"stage '{self.name}' makes no rows")


@dataclass(frozen=True)
class Tables:
    """What earlier steps of an artifact have written: keys by step, in job order.

    The number beside a key is the ``class`` that its job's detail names, else the number of the job (of the chunk, for
    the step ``extract``). ``wanted`` names what is to go out of each port, for ``flow``.
    """

    store: Store
    keys: Mapping[str, tuple[tuple[int, str], ...]]
    wanted: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def get(self, step: str, number: int) -> pa.Table:
        """Table of the job of that number, memory-mapped."""
        return self.store.table(self.keys[step][number][1])

    def all(self, step: str) -> list[pa.Table]:
        """Tables of all jobs of a step, in order, memory-mapped."""
        return [self.store.table(key) for _, key in self.keys[step]]

    def select(self, step: str, wanted: int) -> list[pa.Table]:
        """Tables of the jobs whose detail names class ``wanted``, in order."""
        return [self.store.table(key) for number, key in self.keys[step] if number == wanted]
