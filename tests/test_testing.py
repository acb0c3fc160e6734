"""The test kit lets right stages pass, and catches each wrong one with a message that says what to mend."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ConfigDict, Field

from curation.methods.base import Params
from curation.testing import check_build, check_params, check_stage, rows_of, with_ids
from tests import wrong_stages
from tests.wrong_stages import Right, RightFit, Scale, ScaleByAll

RECIPE = """
recipe: 1
name: kit
seed: 1
inputs: {rows: {path: rows}}
stages: [{use: "tests.wrong_stages:%s"}]
output: {path: out}
"""


def table():
    x = [None if i == 4 else value for i, value in enumerate(np.random.default_rng(0).normal(size=20).tolist())]
    return rows_of(20, x=pa.array(x), n=np.arange(20.0), t=[f"row {i}" for i in range(20)])


# stages


def test_stage__that_is_right_passes():
    check_stage(Right, Scale(), table())


def test_stage__that_is_right_passes_with_ids_that_the_kit_gives():
    check_stage(Right, Scale(), table().drop_columns(["_row_id"]))


def test_stage__that_counts_first_passes():
    check_stage(RightFit, ScaleByAll(), table())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LooksAround", r"column 'y' of row \d+ comes out otherwise .* in 2 pieces; .* never on the other rows"),
        ("LooksBehind", r"column 'y' of row \d+ comes out otherwise .* in 2 pieces; .* never on the other rows"),
        ("Overwrites", r"apply: changed the table that came in, which other stages read; work on a copy"),
        ("LosesRows", r"20 \+ 0 rows, but \d+ \+ 0; list every row taken out in a Drop with its reason"),
        ("NeedsMore", r"only \['x', 't', '_row_id'\], which is what `needs` asks for \['t'\], but it raised KeyError"),
        ("NeedsMoreInSecret", r"comes out otherwise .* asks for \['y'\]; name every column that it looks at"),
        ("NeedsWhatIsNew", r"needs: names \['y'\] for .*; name columns as they are before the stage"),
        ("AcceptsAll", r"bind: accepts a schema without column 'x', which the stage needs; raise a BindError"),
        ("Stumbles", r"bind: raised KeyError: .* where column 'x' is missing; raise a BindError"),
        ("BlamesNobody", r"bind: a Fault has the path \[\(\)\]; its first part is the option that is wrong"),
        ("LosesIds", r"bind: the schema lacks _row_id \(uint64\); keep our own columns"),
        ("Returns", r"apply: expected an Outcome, got Table; return Outcome\({'': table}\)"),
        ("OtherType", r"apply: column 'y' is float, but `bind` has promised double; cast it"),
        ("Forgets", r"apply: column 'y' is missing at port ''; `bind` has promised it"),
        ("GivesMore", r"apply: gives columns \['z'\] at port '', which `bind` has not promised; drop them"),
        ("NewIds", r"apply: row id \d+ did not come in; rows keep their ids"),
        ("NoIds", r"apply: no column _row_id of type uint64 at port ''; carry it along unchanged"),
        ("Repeats", r"apply: a row id stands twice at port ''; number the copies in _copy"),
        ("WantsRows", r"expected to work on a chunk without rows, but it raised IndexError"),
        ("Draws", r"under another seed; set `draws = True`, so that content keys hold the seed"),
        ("Remembers", r"comes out otherwise"),
        ("WrongShape", r"WrongShape: is a fit stage, but Scale.shape is 'map'"),
    ],
)
def test_stage__that_is_wrong_is_caught(name, message):
    with pytest.raises(AssertionError, match=message):
        check_stage(getattr(wrong_stages, name), Scale(), table())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SpoilsTheState", r"apply: changed the state, which other chunks read; copy it"),
        ("FitNeedsMore", r"with only \['x', '_row_id'\] of `fit_columns`, but it raised KeyError"),
        ("FitNeedsRows", r"expected to work on a chunk without rows .* but it raised IndexError"),
    ],
)
def test_stage__that_counts_wrongly_is_caught(name, message):
    with pytest.raises(AssertionError, match=message):
        check_stage(getattr(wrong_stages, name), ScaleByAll(), table())


def test_stage__needs_enough_rows_to_tell():
    with pytest.raises(AssertionError, match="table: expected at least 8 rows, got 3; add some"):
        check_stage(Right, Scale(), table().slice(0, 3))


def test_with_ids__keeps_those_that_are_there():
    assert with_ids(table()).equals(table())


# options


class Free(Params):
    """Can be changed."""

    model_config = ConfigDict(frozen=False)


class Lenient(Params):
    """Takes any key."""

    model_config = ConfigDict(extra="allow")


class Loose(Params):
    """Takes text for numbers."""

    model_config = ConfigDict(strict=False)


class Silent(Params):
    """Says nothing of its option."""

    n: int = 1


class Outer(Params):
    """Holds options that say nothing."""

    inner: list[Silent] = Field(default=[], description="some")


class Taken(Params):
    """Has a key of every stage."""

    name: str = Field(default="a", description="a name")


class Unversioned(Params):
    """Has no number for a version."""

    version = "1"  # type: ignore[assignment]


class Nameless(Params):
    n: int = Field(default=1, description="a number")


class Lossy(Params):
    """Is not what its JSON says."""

    n: float = Field(default=1.0, description="a number")


def test_params__that_are_right_pass():
    check_params(Scale, column="x")


@pytest.mark.parametrize(
    ("params", "example", "message"),
    [
        (Free, {}, "Free: can be changed after it was checked; keep frozen=True"),
        (Lenient, {}, "Lenient: accepts unknown keys, so typing errors pass; keep extra='forbid'"),
        (Loose, {}, "Loose: turns values into other types; keep strict=True"),
        (Silent, {}, r"Silent: options \['n'\] have no description; give each Field\(description=...\)"),
        (Outer, {}, r"Silent: options \['n'\] have no description"),
        (Taken, {}, r"Taken: option \['name'\] is a key of every stage; give it another name"),
        (Unversioned, {}, "Unversioned.version: expected an integer >= 1"),
        (Nameless, {}, "Nameless: has no docstring"),
        (Lossy, {"n": float("inf")}, "Lossy: expected to be read back from its JSON"),
        (Scale, {"column": 3}, "Scale: expected to accept the example {'column': 3}, but it raised ValidationError"),
    ],
)
def test_params__that_are_wrong_are_caught(params, example, message):
    with pytest.raises(AssertionError, match=message):
        check_params(params, **example)


# builds


def test_build__that_depends_on_the_process_is_caught():
    with pytest.raises(AssertionError, match=r"'2 Dask processes' differs from 'serial' in .*/shards/.*"):
        check_build(RECIPE % "ByProcess", {"rows": table().drop_columns(["_row_id"])})
