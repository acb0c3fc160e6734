"""Exactly so many rows, with the right chances, and the same ones however the rows are cut into chunks."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from curation.errors import BuildError
from curation.methods.sample import Sample, apportion, long_tail_sizes
from curation.stages import sample as module
from curation.stages.base import BindError
from curation.types import COPY, copies_of, ids_of
from tests.flow.helpers import people, read, run, write
from tests.stages.hands import chi_square_p, fit, outcomes, pieces_of, rows_of, stage_of, through

N = 700
GROUP = np.array(["a", "b", "a", "c", "a", None, "b"])[np.arange(N) % 7]
WEIGHT = np.random.default_rng(1).exponential(size=N) * (np.arange(N) % 13 != 0)
TABLE = rows_of(N, g=pa.array(GROUP.tolist()), w=WEIGHT, number=np.arange(N))
SIZES = Counter(GROUP.tolist())

MODES: dict[str, dict[str, Any]] = {
    "n": {"n": 123},
    "one": {"n": 1},
    "all": {"n": N},
    "fraction": {"fraction": 0.305},
    "fraction of one": {"fraction": 1.0},
    "n by": {"n": 123, "by": "g"},
    "weight": {"n": 123, "weight": "w"},
    "weight by": {"n": 123, "weight": "w", "by": "g"},
    "quotas": {"quotas": {"a": 50, "c": 7, "b": 0}, "by": "g"},
    "quotas weight": {"quotas": {"a": 50, "c": 7}, "by": "g", "weight": "w"},
    "long tail": {"long_tail": {"imbalance": 10.0}, "by": "g"},
    "replacement": {"n": 900, "replacement": True},
    "few replaced": {"n": 3, "replacement": True},
    "fraction replaced": {"fraction": 2.5, "replacement": True},
    "replacement by": {"n": 900, "by": "g", "replacement": True},
    "replacement weight": {"n": 900, "weight": "w", "replacement": True},
    "quotas replaced": {"quotas": {"c": 400, "a": 1}, "by": "g", "weight": "w", "replacement": True},
}


def sampler(options, table=TABLE, **more):
    return stage_of("sample", Sample.model_validate(options), table.schema, **more)


def drawn(table):
    return sorted(zip(ids_of(table).tolist(), copies_of(table).tolist(), strict=True))


def expected(options):
    """Rows per stratum that are asked for."""
    if "quotas" in options:
        return {value: n for value, n in options["quotas"].items() if n}
    names = sorted(SIZES, key=str)
    rows = [SIZES[name] for name in names]
    if "long_tail" in options:
        sizes = long_tail_sizes(rows, 10.0)
    else:
        total = options.get("n", int(options.get("fraction", 0) * N + 0.5))
        if "by" not in options:
            return total
        sizes = apportion(total, rows)
    return {name: int(n) for name, n in zip(names, sizes, strict=True) if n}


@pytest.mark.parametrize("mode", MODES)
def test_sample__draws_exactly_as_many_as_asked(mode):
    options = MODES[mode]
    table = through(sampler(options), TABLE, np.random.default_rng(0))
    found = Counter(table.column("g").to_pylist()) if "by" in options else table.num_rows
    assert found == expected(options)


@pytest.mark.parametrize("mode", MODES)
def test_sample__does_not_depend_on_chunks(mode):
    rng = np.random.default_rng(5)
    stage = sampler(MODES[mode])
    whole = drawn(through(stage, TABLE))
    for _ in range(4):
        shuffled = TABLE.take(pa.array(rng.permutation(N)))
        assert drawn(through(stage, TABLE, rng)) == whole
        assert drawn(through(stage, shuffled, rng)) == whole


@pytest.mark.parametrize("mode", MODES)
def test_sample__balances_every_chunk(mode):
    stage = sampler(MODES[mode])
    pieces = pieces_of(TABLE, np.random.default_rng(2))
    for piece, outcome in zip(pieces, outcomes(stage, pieces, fit(stage, pieces)), strict=True):
        gone = np.concatenate([drop.row_id for drop in outcome.drops] or [ids_of(piece)[:0]])
        kept = ids_of(outcome.tables[""])
        assert piece.num_rows + outcome.created == len(kept) + len(gone)
        assert set(kept.tolist()) | set(gone.tolist()) == set(ids_of(piece).tolist())
        assert not set(kept.tolist()) & set(gone.tolist())


@pytest.mark.parametrize("mode", MODES)
def test_sample__leaves_rows_as_they_are_and_in_order(mode):
    table = through(sampler(MODES[mode]), TABLE, np.random.default_rng(3))
    number = table.column("number").to_numpy()
    assert (np.diff(number) >= 0).all()
    assert table.select(TABLE.column_names).equals(TABLE.take(pa.array(number)))
    if MODES[mode].get("replacement"):
        assert all(copies == list(range(len(copies))) for copies in copies_by_row(table).values())


def copies_by_row(table):
    found: dict[int, list[int]] = {}
    for row, copy in zip(ids_of(table).tolist(), copies_of(table).tolist(), strict=True):
        found.setdefault(row, []).append(copy)
    return found


def test_sample__never_draws_a_row_of_no_weight():
    for replacement in (False, True):
        table = through(sampler({"n": 500, "weight": "w", "replacement": replacement}), TABLE)
        assert min(table.column("w").to_pylist()) > 0


def test_sample__of_a_few_strata_and_of_many_takes_the_same_rows(monkeypatch):
    rows = drawn(through(sampler({"n": 200, "by": "g"}), TABLE))
    monkeypatch.setattr(module, "COLLECT", 1)  # narrower digits, more rounds
    assert drawn(through(sampler({"n": 200, "by": "g"}), TABLE)) == rows


def test_sample__larger_n_holds_the_smaller():
    small, large = (set(drawn(through(sampler({"n": n, "weight": "w"}), TABLE))) for n in (50, 80))
    assert small < large


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "there"}])
def test_sample__of_another_seed_or_name_draws_anew(other):
    first, second = (set(drawn(through(each, TABLE))) for each in (sampler({"n": 350}), sampler({"n": 350}, **other)))
    assert chi_square_p([len(first & second), 350 - len(first & second)], [1, 1]) > 1e-4


def test_sample__of_equal_hashes_of_values_is_by_value_not_by_type():
    table = rows_of(60, g=pa.array([i % 3 for i in range(60)], pa.int8()))
    found = through(sampler({"quotas": {0: 4, 2: 1}, "by": "g"}, table), table)
    assert Counter(found.column("g").to_pylist()) == {0: 4, 2: 1}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.date32(), "1970-01-02"),
        (pa.binary(), "1"),
        (pa.string_view(), "1"),
        (pa.float32(), 1),
        (pa.bool_(), True),
        (pa.timestamp("s"), "1970-01-02"),
    ],
)
def test_quotas__are_read_as_values_of_the_column(kind, value):
    texts = ["1970-01-02", "1970-01-03"] if pa.types.is_temporal(kind) else ["1", "0"]
    column = pa.array(texts * 20)
    if pa.types.is_boolean(kind) or pa.types.is_floating(kind):
        column = column.cast(pa.int8())
    table = rows_of(40, g=column.cast(kind))
    assert through(sampler({"quotas": {value: 3}, "by": "g"}, table), table).num_rows == 3


# Chances. Every stratum is a trial of its own: its rows have other ids.

WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0, 6.0])
TRIALS = 20_000


def trials(weights, k, *, seed=0, replacement=False):
    """Positions drawn of each trial, in order."""
    m = len(weights)
    columns: dict[str, Any] = {
        "trial": np.repeat(np.arange(TRIALS), m),
        "w": np.tile(weights, TRIALS),
        "at": np.tile(np.arange(m), TRIALS),
    }
    table = rows_of(m * TRIALS, **columns)
    options = {"n": k * TRIALS, "by": "trial", "weight": "w", "replacement": replacement}
    found = through(sampler(options, table, seed=seed), table, np.random.default_rng(seed))
    order = np.lexsort((found.column("at").to_numpy(), found.column("trial").to_numpy()))
    return found.column("at").to_numpy()[order].reshape(TRIALS, k)


def subset_chances(weights, k):
    """Chance of every set of k rows when they are drawn one after the other by weight."""
    chances: dict[tuple[int, ...], float] = dict.fromkeys(itertools.combinations(range(len(weights)), k), 0.0)
    for order in itertools.permutations(range(len(weights)), k):
        left, chance = sum(weights), 1.0
        for i in order:
            chance *= weights[i] / left
            left -= weights[i]
        chances[tuple(sorted(order))] += chance
    return chances


def subset_p(found, weights, k):
    counts, chances = Counter(map(tuple, found.tolist())), subset_chances(weights, k)
    assert counts.keys() <= chances.keys()
    return chi_square_p([counts[s] for s in chances], list(chances.values()))


@pytest.mark.parametrize("seed", range(3))
def test_weighted__sets_have_the_chances_of_sequential_draws(seed):
    assert subset_p(trials(WEIGHTS, 2, seed=seed), WEIGHTS, 2) > 1e-4


def test_weighted__the_test_has_power():
    assert subset_p(trials(WEIGHTS**1.1, 2), WEIGHTS, 2) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_weighted__rows_are_included_as_in_a_simulation(seed):
    found = trials(WEIGHTS, 3, seed=seed)
    rng = np.random.default_rng(seed)
    simulated = [rng.choice(5, 3, replace=False, p=WEIGHTS / WEIGHTS.sum()) for _ in range(TRIALS)]
    counts = [np.bincount(np.ravel(each), minlength=5) for each in (found, simulated)]
    z = np.abs(counts[0] - counts[1]) / np.sqrt(TRIALS / 2)  # a count's variance is at most TRIALS / 4
    assert z.max() < stats.norm.isf(1e-4 / 5)


@pytest.mark.parametrize("seed", range(3))
def test_uniform__every_set_is_as_likely(seed):
    assert subset_p(trials(np.ones(5), 2, seed=seed), np.ones(5), 2) > 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_replacement__draws_are_multinomial(seed):
    found = trials(WEIGHTS, 4, seed=seed, replacement=True)
    assert chi_square_p(np.bincount(found.ravel(), minlength=5), WEIGHTS) > 1e-4
    for at, share in enumerate(WEIGHTS / WEIGHTS.sum()):  # draws of one trial are independent
        times = np.bincount(np.minimum((found == at).sum(axis=1), 3), minlength=4)
        chances = stats.binom.pmf(np.arange(4), 4, share)
        chances[3] = stats.binom.sf(2, 4, share)  # three times or four
        assert chi_square_p(times, chances) > 1e-4


def test_replacement__the_test_has_power():
    found = trials(WEIGHTS**1.05, 4, replacement=True)
    assert chi_square_p(np.bincount(found.ravel(), minlength=5), WEIGHTS) < 1e-4


@pytest.mark.parametrize("weighted", [False, True])
def test_copies__of_a_row_have_equal_chances(weighted):
    trial = np.repeat(np.arange(TRIALS), 3)
    table = rows_of(TRIALS, x=np.zeros(TRIALS)).take(pa.array(trial))
    table = table.append_column("trial", pa.array(trial)).append_column("w", pa.array(np.ones(len(trial))))
    table = table.append_column(COPY, pa.array(np.tile([0, 1, 2], TRIALS), pa.uint32()))
    options = {"n": TRIALS, "by": "trial"} | ({"weight": "w"} if weighted else {})
    found = through(sampler(options, table), table, np.random.default_rng(0))
    assert chi_square_p(np.bincount(copies_of(found), minlength=3), np.ones(3)) > 1e-4


# Faults


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": N + 1}, rf"stage 'here': {N + 1} rows wanted, {N} there; lower `n`, or set `replacement: true`"),
        ({"quotas": {"c": 101}, "by": "g"}, "101 rows wanted of g = 'c', which has 100 rows; lower the number"),
        ({"quotas": {"a": 1, "z": 1, "y": 0}, "by": "g"}, "no row has g = z, y; values there: None, a, b, c"),
        ({"n": N, "weight": "w"}, r"rows wanted of the input, which has 646 rows of weight > 0"),
        (
            {"quotas": {"c": 99}, "by": "g", "weight": "w"},
            r"99 rows wanted of g = 'c', which has 9\d rows of weight > 0",
        ),
    ],
)
def test_sample__refuses_more_than_there_is(options, message):
    with pytest.raises(BuildError, match=message):
        through(sampler(options), TABLE)


def test_sample__refuses_to_replace_what_has_no_weight():
    table = rows_of(10, w=np.zeros(10))
    with pytest.raises(BuildError, match="which has 0 rows of weight > 0"):
        through(sampler({"n": 3, "weight": "w", "replacement": True}, table), table)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf, None])
def test_sample__names_the_row_of_a_bad_weight(value):
    weights = [1.0] * 10
    weights[7] = value
    table = rows_of(10, w=pa.array(weights, pa.float64()))
    expected = rf"stage 'here', column 'w', row id {ids_of(table)[7]}: expected a weight >= 0, got .*; filter such rows"
    with pytest.raises(BuildError, match=expected):
        through(sampler({"n": 3, "weight": "w"}, table), table)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 1, "by": "h"}, "no column 'h'"),
        ({"n": 1, "weight": "g"}, "column 'g' is string, a weight is a number"),
        ({"n": 1, "by": "tags"}, "column 'tags' is nested"),
        ({"quotas": {"x": 1}, "by": "w"}, "values 'x' are not all double, as column 'w' is"),
        ({"n": 1, "replacement": True}, "rows come in as copies already"),
    ],
)
def test_sample__refuses_columns_that_do_not_fit(options, message):
    schema = pa.schema([("g", pa.string()), ("w", pa.float64()), ("tags", pa.list_(pa.int8())), (COPY, pa.uint32())])
    with pytest.raises(BindError, match=message):
        stage_of("sample", Sample.model_validate(options), schema)


def test_sample__needs_its_own_columns():
    stage = sampler({"n": 1, "by": "g", "weight": "w", "replacement": True})
    assert stage.needs(frozenset(["x", COPY])) == {"x", "g", "w"}


# Whole builds


RECIPE = """
recipe: 1
name: sample
seed: 3
inputs: {a: {path: data, key: id}}
stages: [{use: sample, n: 77, weight: weight, by: lang, replacement: %s}]
output: {path: out}
"""


@pytest.mark.parametrize("replacement", ["false", "true"])
def test_build__draws_exactly_n_over_many_files(tmp_path, replacement):
    for i in range(5):
        write(tmp_path / f"data/{i}.parquet", people(30, start=30 * i), row_group_size=7)
    result = run(tmp_path, RECIPE % replacement)
    table = read(tmp_path / "out")
    assert table.num_rows == 77
    assert (COPY in table.column_names) == (replacement == "true")
    stage = result.manifests["output"].content["stages"]["sample"]
    assert stage["in"] + stage["created"] - stage["dropped"]["not drawn"] == 77


@pytest.mark.parametrize(
    "kind",
    [pa.timestamp("ns"), pa.timestamp("us"), pa.duration("ns"), pa.dictionary(pa.int32(), pa.timestamp("ns"))],
    ids=str,
)
def test_by__takes_times_that_python_cannot_hold(kind):
    values = pa.array([10**18 + 1, 10**18 + 2] * 20, pa.int64()).cast(getattr(kind, "value_type", kind))
    table = rows_of(40, t=values.dictionary_encode() if pa.types.is_dictionary(kind) else values)
    found = through(sampler({"n": 20, "by": "t"}, table), table)
    assert sorted(Counter(found["t"].cast(values.type).cast(pa.int64()).to_pylist()).items()) == [
        (10**18 + 1, 10),
        (10**18 + 2, 10),
    ]
