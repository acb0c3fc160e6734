"""The plan: a pure function of a small file, exact in what it promises about every epoch and group."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curation.errors import RecipeError
from curation.feed import ALGORITHM, FeedError, FeedOptions, Plan, Shares, write_plan
from curation.feed.mixture import WINDOW
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature, temperature_shares

LANGUAGES = [("en", 700), ("fr", 200), ("sw", 60)]


def make(path, data=LANGUAGES, *, seed=7, name="digits", **options):
    options = {"batch_size": 32, "epochs": 3} | options
    if "mixture" in options:
        options = {"groups": "language"} | options
    write_plan(path / "plan.json", options=FeedOptions(**options), groups=data, seed=seed, name=name)
    return Plan.open(path)


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rs2": {"subset": RS2(fraction=0.17), "epochs": 8},
    "rs2 large": {"subset": RS2(fraction=0.83), "epochs": 5},
    "rs2 short": {"subset": RS2(fraction=0.3, tail="short"), "epochs": 9},
    "rs2 drop": {"subset": RS2(fraction=0.3, tail="drop"), "epochs": 5},
    "rs2 replacement": {"subset": RS2(fraction=0.3, replacement=True), "epochs": 5},
    "drop last": {"drop_last": True},
    "temperature": {"mixture": Temperature(tau=5.0)},
    "cooldown": {"mixture": Cooldown()},
    "cooldown linear": {"mixture": Cooldown(schedule="linear")},
    "shares": {"mixture": Shares("shares", {"en": 0.5, "fr": 0.5, "sw": 0})},
    "rows": {"mixture": Shares("rows", {"en": 3, "fr": 2, "sw": 5})},
    "mixture of subsets": {"mixture": Temperature(tau=2.0), "subset": RS2(fraction=0.4)},
}


@pytest.fixture(params=KINDS)
def plan(request, tmp_path):
    return make(tmp_path, **KINDS[request.param])


def every_draw(plan):
    return np.concatenate([plan.rows(epoch) for epoch in range(plan.epochs)])


# slices


def test_rows__any_slice_is_the_slice_of_the_whole(plan):
    rng = np.random.default_rng(0)
    for epoch in range(plan.epochs):
        whole = plan.rows(epoch)
        assert len(whole) == plan.epoch_size(epoch)
        for start, stop in np.sort(rng.integers(0, len(whole) + 1, (5, 2)), axis=1).tolist():
            assert np.array_equal(plan.rows(epoch, start, stop), whole[start:stop])


def test_draws__are_the_epochs_one_after_the_other(plan):
    whole = every_draw(plan)
    assert len(whole) == plan.n_draws
    assert np.array_equal(plan.draws(0, plan.n_draws), whole)
    for start, stop in ((0, 0), (5, 40), (plan.n_draws // 3, plan.n_draws), (plan.n_draws, plan.n_draws)):
        assert np.array_equal(plan.draws(start, stop), whole[start:stop])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 8, 64])
def test_batch__ranks_share_the_global_batch(plan, world_size):
    for step in {0, 1, plan.steps_per_epoch - 1, plan.n_steps - 1}:
        parts = [plan.batch(step, rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts), plan.batch(step))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_batch__steps_tile_every_epoch(plan):
    steps = [plan.batch(step) for step in range(plan.n_steps)]
    for epoch in range(plan.epochs):
        own = np.concatenate(steps[plan.first_step(epoch) : plan.first_step(epoch + 1)])
        assert np.array_equal(own, plan.rows(epoch, 0, len(own)))
        dropped = plan.epoch_size(epoch) - len(own)
        assert dropped == 0 or (KINDS["drop last"]["drop_last"] and dropped < plan.batch_size)
    assert {plan.epoch_of(step)[0] for step in range(plan.n_steps)} == set(range(plan.epochs))


@pytest.mark.parametrize("world_size", [1, 3, 8])
@pytest.mark.parametrize("ask", [Plan.batch_weights, Plan.batch_keys])
def test_batch_weights_and_keys__ranks_share_those_of_the_global_batch(plan, ask, world_size):
    for step in {0, plan.n_steps - 1}:
        parts = [ask(plan, step, rank, world_size) for rank in range(world_size)]
        assert [len(part) for part in parts] == [len(plan.batch(step, rank, world_size)) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts), ask(plan, step))


def test_batch_weights__are_one_where_nothing_is_weighted(plan):
    weights = plan.batch_weights(1)
    assert weights.dtype == np.float64
    assert (weights == 1).all()


def test_batch_keys__no_two_draws_have_the_same(plan):
    keys = np.concatenate([plan.batch_keys(step) for step in range(plan.n_steps)])
    assert keys.dtype == np.uint64
    assert np.unique(keys).size == keys.size


def test_batch_keys__every_bit_is_a_coin(tmp_path):
    plan = make(tmp_path, [(None, 20_000)], batch_size=20_000, epochs=1)
    bits = (plan.batch_keys(0)[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 4.6 * 0.5 / np.sqrt(20_000)  # p > 1e-4 over 64 bits
    changes = (bits[1:] != bits[:-1]).mean(axis=0)  # a counter would fail here
    assert np.abs(changes - 0.5).max() < 4.6 * 0.5 / np.sqrt(20_000)


def test_batch_keys__belong_to_seed_and_name(tmp_path):
    keys = [make(tmp_path, seed=seed, name=name).batch_keys(0) for seed, name in ((7, "a"), (8, "a"), (7, "b"))]
    assert np.unique(np.concatenate(keys)).size == 96


def test_plan__is_the_same_after_reopening_and_pickling(plan):
    assert np.array_equal(pickle.loads(pickle.dumps(plan)).batch(1), plan.batch(1))
    assert pickle.loads(pickle.dumps(plan)).fingerprint == plan.fingerprint


# what the orders promise


def test_plain__every_epoch_is_a_new_permutation(tmp_path):
    plan = make(tmp_path)
    epochs = [plan.rows(epoch) for epoch in range(3)]
    assert all(np.array_equal(np.sort(rows), np.arange(960)) for rows in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("fraction", [0.05, 0.17, 0.5, 0.61, 0.83, 0.999])
def test_rs2__no_row_twice_before_every_row_once(tmp_path, fraction):
    plan = make(tmp_path, subset=RS2(fraction=fraction), epochs=40)
    drawn = plan.draws(0, plan.n_draws)
    assert all(np.unique(plan.rows(epoch)).size == plan.epoch_draws for epoch in range(plan.epochs))
    for cycle in range(len(drawn) // 960):
        assert np.array_equal(np.sort(drawn[cycle * 960 : (cycle + 1) * 960]), np.arange(960))


def test_rs2__short_and_drop_tails(tmp_path):
    short = make(tmp_path, subset=RS2(fraction=0.3, tail="short"), epochs=8)
    assert [short.epoch_size(epoch) for epoch in range(4)] == [288, 288, 288, 96]
    assert (short.n_draws, short.steps_per_epoch, short.n_steps) == (1920, 9, 60)
    drop = make(tmp_path, subset=RS2(fraction=0.3, tail="drop"), epochs=6)
    assert np.unique(drop.draws(0, 3 * 288)).size == 864


def test_mixture__groups_follow_the_shares_and_pass_without_repeats(tmp_path):
    plan = make(tmp_path, mixture=Temperature(tau=5.0), epochs=30)
    drawn = plan.draws(0, plan.n_draws)
    counts = np.bincount(np.searchsorted([700, 900], drawn, side="right"), minlength=3)
    expected = plan.n_draws * temperature_shares(np.array([700, 200, 60]), 5.0)
    assert np.abs(counts - expected).max() < 1.5
    times = np.bincount(drawn, minlength=960)
    for g, (offset, rows) in enumerate(((0, 700), (700, 200), (900, 60))):
        own = times[offset : offset + rows]
        assert own.max() - own.min() <= 1, g
        sequence = drawn[(drawn >= offset) & (drawn < offset + rows)]
        passes = sequence[: len(sequence) // rows * rows].reshape(-1, rows)
        assert (np.sort(passes, axis=1) == np.arange(offset, offset + rows)).all()  # never mid-window either


def test_mixture__cursors_survive_the_switch(tmp_path):
    """No row of a group comes again before all of its rows came, also across the change of shares."""
    plan = make(tmp_path, mixture=Cooldown(at=0.3), epochs=4)
    drawn = plan.draws(0, plan.n_draws)
    times = np.bincount(drawn, minlength=960)
    assert all(np.ptp(times[a:b]) <= 1 for a, b in ((0, 700), (700, 900), (900, 960)))


def test_cooldown__shares_before_and_after_the_switch(tmp_path):
    plan = make(tmp_path, mixture=Cooldown(start=5.0, end=1.0, at=0.5), epochs=4)
    rows = np.array([700, 200, 60])
    assert list(plan.shares(0).values()) == pytest.approx(temperature_shares(rows, 5.0).tolist(), rel=1e-12)
    assert list(plan.shares(60).values()) == pytest.approx((rows / 960).tolist(), rel=1e-12)
    assert plan.shares(59) == plan.shares(0)


def test_shares__are_sorted_by_group(tmp_path):
    groups = [("b", 10), (None, 20), ("a", 70)]
    assert list(make(tmp_path, groups, groups="g").shares(0).items()) == [(None, 0.2), ("a", 0.7), ("b", 0.1)]
    numbers = make(tmp_path, [(10, 1), (9, 1), (None, 2)], mixture=Temperature())
    assert list(numbers.shares(0)) == [None, 9, 10]


def test_shares__stated_shares_and_rows(tmp_path):
    stated = make(tmp_path, mixture=Shares("shares", {"en": 0.5, "fr": 0.5, "sw": 0}))
    assert stated.shares(0) == {"en": 0.5, "fr": 0.5, "sw": 0.0}
    assert (stated.draws(0, stated.n_draws) < 900).all()
    rows = make(tmp_path, mixture=Shares("rows", {"en": 300, "fr": 200, "sw": 500}))
    assert rows.shares(0) == {"en": 0.3, "fr": 0.2, "sw": 0.5}


def test_mixture__groups_of_one_row_and_of_none(tmp_path):
    plan = make(tmp_path, [("a", 1), ("b", 0), ("c", 100_000)], mixture=Temperature(tau=float("inf")), epochs=1)
    drawn = plan.rows(0, 0, 5000)
    assert abs((drawn == 0).sum() - 2500) <= 50
    assert np.unique(drawn[drawn > 0]).size == (drawn > 0).sum()
    assert plan.shares(0) == {"a": 0.5, "b": 0.0, "c": 0.5}


def test_plan__other_seeds_and_names_are_unrelated(tmp_path):
    plans = [make(tmp_path, seed=seed, name=name) for seed, name in ((7, "a"), (8, "a"), (7, "b"))]
    orders = [plan.rows(0) for plan in plans]
    assert all((orders[i] == orders[j]).mean() < 0.01 for i, j in ((0, 1), (0, 2), (1, 2)))
    assert len({plan.fingerprint for plan in plans}) == 3


# size


@pytest.mark.parametrize("batches", ["mixed", "unmixed"])
@pytest.mark.parametrize("n_groups", [1000, 100_000])
def test_plan__a_trillion_rows_in_many_groups_are_small(tmp_path, n_groups, batches):
    groups = [(f"g{i:06d}", 10**12 // n_groups) for i in range(n_groups)]
    plan = make(tmp_path, groups, mixture=Cooldown(), batch_size=1024, epochs=30, batches=batches)
    assert plan.n_rows == 10**12
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 50 * n_groups + 20_000
    assert plan.nbytes < 130 * n_groups
    plan.batch(0)
    tracemalloc.start()
    drawn = plan.batch(plan.n_steps - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert drawn.shape == ((10**12 % 1024 or 1024,) if batches == "mixed" else (1024,))
    assert peak < 2_000_000 + 40 * n_groups


@pytest.mark.parametrize("fraction", [1.0, 0.1, 0.3, 0.7])
def test_rs2__a_trillion_rows_need_no_state(tmp_path, fraction):
    plan = make(tmp_path, [(None, 10**12 + 39)], subset=RS2(fraction=fraction), epochs=1000, batch_size=1024)
    plan.rows(3, 0, 1)  # loads the kernels, which is not the plan's memory
    tracemalloc.start()
    rows = plan.rows(997, plan.epoch_draws - 2000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.unique(rows).size == 2000
    assert plan.nbytes < 100
    assert peak < 2_000_000


def test_cooldown__many_groups_get_fewer_segments(tmp_path):
    plan = make(tmp_path, [(i, 5) for i in range(40_000)], mixture=Cooldown(schedule="linear"))
    assert plan._mixture is not None
    assert plan._mixture.shares.shape == (104, 40_000)


# the file


def test_file__is_deterministic_and_names_its_tables(tmp_path):
    for folder in ("one", "two"):
        make(tmp_path / folder, mixture=Cooldown())
    names = ["plan-groups.arrow", "plan-segments.arrow", "plan.json"]
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    body = json.loads((tmp_path / "one" / "plan.json").read_text())
    assert body["algorithm"] == ALGORITHM
    assert body["mixture"] == {"use": "cooldown", "start": 5.0, "end": 1.0, "at": 0.5, "shape": "step"}
    assert {kind: table["file"] for kind, table in body["tables"].items()} == {
        "groups": "plan-groups.arrow",
        "segments": "plan-segments.arrow",
    }


def test_file__groups_table(tmp_path):
    make(tmp_path, [("a\0b", 3), (None, 2), ('"', 1)], mixture=Temperature(tau=float("inf")))
    with pa.ipc.open_file(tmp_path / "plan-groups.arrow") as reader:
        table = reader.read_all()
    assert table.schema == pa.schema({"group": pa.string(), "offset": pa.int64(), "rows": pa.int64()})
    assert [json.loads(text) for text in table["group"].to_pylist()] == ["a\0b", None, '"']
    assert table["offset"].to_pylist() == [0, 3, 5]


def test_fingerprint__changes_with_everything_that_decides_the_order(tmp_path):
    base: dict[str, Any] = {"mixture": Cooldown(), "epochs": 3, "batch_size": 32}
    changes: list[dict[str, Any]] = [
        {},
        {"epochs": 4},
        {"batch_size": 31},
        {"drop_last": True},
        {"mixture": Cooldown(at=0.4)},
        {"mixture": None},
        {"subset": RS2(fraction=0.5)},
        {"data": [("en", 701), ("fr", 200), ("sw", 60)]},
        {"data": [("fr", 200), ("en", 700), ("sw", 60)]},
    ]
    found = {make(tmp_path / str(i), **(base | change)).fingerprint for i, change in enumerate(changes)}
    assert len(found) == len(changes)


def test_open__refuses_what_was_changed(tmp_path):
    plan = make(tmp_path, mixture=Cooldown())
    file = tmp_path / "plan.json"
    text = file.read_text()
    file.write_text(text.replace('"seed": 7', '"seed": 8'))
    with pytest.raises(FeedError, match="expected its content to match its fingerprint"):
        Plan.open(tmp_path)
    file.write_text(text.replace(ALGORITHM, "feistel8/0"))
    with pytest.raises(FeedError, match=r"expected a plan of .*feistel8/1.*, got .*feistel8/0"):
        Plan.open(tmp_path)
    file.write_text("{")
    with pytest.raises(FeedError, match="expected a plan, got"):
        Plan.open(tmp_path)
    file.write_text(text)
    assert Plan.open(file).fingerprint == plan.fingerprint


def test_open__refuses_missing_and_foreign_tables(tmp_path):
    make(tmp_path / "a", mixture=Cooldown())
    make(tmp_path / "b", mixture=Cooldown(at=0.4))
    segments = tmp_path / "a" / "plan-segments.arrow"
    segments.write_bytes((tmp_path / "b" / "plan-segments.arrow").read_bytes())
    with pytest.raises(FeedError, match=r"expected the table that plan\.json names, got another"):
        Plan.open(tmp_path / "a")
    segments.unlink()
    with pytest.raises(FeedError, match="expected a table of the plan, got"):
        Plan.open(tmp_path / "a")
    with pytest.raises(FeedError, match="expected a plan, got"):
        Plan.open(tmp_path / "nowhere.json")


def test_golden__first_rows_of_plans_never_change(tmp_path):
    """A change here breaks the resumption of trainings: bump ``ALGORITHM``, do not edit the numbers."""
    for kind, expected in GOLDEN.items():
        plan = make(tmp_path / kind, **KINDS[kind])
        middle = plan.n_steps // 2
        assert [*plan.batch(0)[:6].tolist(), *plan.batch(middle)[:6].tolist()] == expected, kind
    large = make(tmp_path / "large", [("a", 10**6), ("b", 10**9)], mixture=Temperature(tau=5.0))
    assert large.draws(5 * WINDOW, 5 * WINDOW + 6).tolist() == GOLDEN_LARGE
    assert large.batch_keys(10**6)[:2].tolist() == GOLDEN_KEYS


GOLDEN = {
    "plain": [637, 165, 859, 739, 766, 414, 413, 740, 623, 330, 288, 364],
    "rs2": [637, 165, 859, 739, 766, 414, 646, 167, 927, 189, 201, 707],
    "rs2 large": [938, 373, 74, 553, 85, 253, 546, 631, 881, 844, 918, 93],
    "rs2 short": [637, 165, 859, 739, 766, 414, 621, 495, 276, 391, 724, 521],
    "rs2 drop": [637, 165, 859, 739, 766, 414, 901, 106, 123, 185, 256, 780],
    "rs2 replacement": [686, 201, 318, 128, 786, 731, 576, 315, 308, 580, 566, 191],
    "drop last": [637, 165, 859, 739, 766, 414, 413, 740, 623, 330, 288, 364],
    "temperature": [157, 815, 889, 153, 790, 813, 523, 4, 854, 872, 805, 757],
    "cooldown": [157, 815, 153, 294, 889, 954, 814, 951, 601, 832, 18, 77],
    "cooldown linear": [954, 157, 815, 153, 889, 294, 153, 515, 66, 918, 138, 557],
    "shares": [157, 815, 889, 153, 790, 294, 138, 705, 896, 720, 829, 864],
    "rows": [954, 815, 157, 929, 153, 949, 925, 799, 174, 91, 225, 343],
    "mixture of subsets": [815, 954, 157, 929, 153, 889, 251, 594, 709, 193, 499, 246],
}
GOLDEN_KEYS = [9044226274351258695, 16740927640680667298]
GOLDEN_LARGE = [376634219, 767312792, 769685406, 163447877, 584795209, 486607734]


# refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"feed\.batch_size: expected >= 1, got 0"),
        ({"epochs": 0}, r"feed\.epochs: expected >= 1, got 0"),
        ({"epochs": 1 << 60}, r"feed\.epochs: expected epochs \* rows < 2\*\*62"),
        ({"batch_size": 1000, "drop_last": True}, "expected epochs of at least one batch, got 960 draws"),
        ({"mixture": Temperature(), "groups": None}, r"feed\.mixture: expected groups, got none"),
        (
            {"mixture": Temperature(), "subset": RS2(fraction=0.5, replacement=True)},
            r"feed\.subset\.replacement: expected false with a mixture",
        ),
        (
            {"mixture": Temperature(), "subset": RS2(fraction=0.5, tail="drop")},
            r"feed\.subset\.tail: expected carry with a mixture, got drop",
        ),
    ],
)
def test_write__refuses_options_that_do_not_fit(tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        make(tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("unit", "values", "message"),
    [
        ("shares", {"en": 0.5, "fr": 0.4, "sw": 0.0}, "expected a sum of 1, got 0.9; use rows"),
        ("shares", {"en": 0.5, "fr": 0.5}, 'expected a value for every group, got none for "sw"; state 0'),
        ("shares", {"en": 0.5, "fr": 0.5, "swa": 0.0, "sw": 0}, 'got "swa"; did you mean "sw"?'),
        ("rows", {"en": 0, "fr": 0, "sw": 0}, "expected a sum > 0, got 0"),
        ("rows", {"en": -1, "fr": 0, "sw": 2}, '["en"]: expected a number >= 0, got -1'),
        ("rows", {"en": float("nan"), "fr": 0, "sw": 2}, '["en"]: expected a number >= 0, got nan'),
        ("rows", {1: 3, "en": 1, "fr": 0, "sw": 2}, 'expected groups of the data, got 1; groups: "en"'),
    ],
)
def test_write__refuses_shares_that_do_not_fit(tmp_path, unit, values, message):
    with pytest.raises(RecipeError) as caught:
        make(tmp_path, mixture=Shares(unit, values))
    assert f"feed.mixture.{unit}" in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "expected at least 1 row, got an empty table"),
        ([("a", 0)], "expected at least 1 row, got an empty table"),
        ([("a", -1)], 'expected rows >= 0, got -1 in group "a"'),
        ([("a", 1), ("a", 2)], 'expected each group once, got "a" twice'),
    ],
)
def test_write__refuses_groups_that_do_not_fit(tmp_path, groups, message):
    with pytest.raises(RecipeError, match=message):
        make(tmp_path, groups)


def test_write__refuses_a_share_for_a_group_without_rows(tmp_path):
    with pytest.raises(RecipeError, match="expected 0 for a group without rows, got 1"):
        make(tmp_path, [("a", 5), ("b", 0)], mixture=Shares("rows", {"a": 1, "b": 1}))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda plan: plan.batch(0, 2, 2), "rank: expected 0 <= rank < world_size, got rank 2 of 2"),
        (lambda plan: plan.batch(90), "step: expected 0 <= step < 90, got 90"),
        (lambda plan: plan.shares(-1), "step: expected 0 <= step < 90, got -1"),
        (lambda plan: plan.rows(3), "epoch: expected 0 <= epoch < 3, got 3"),
        (lambda plan: plan.rows(0, 5, 961), "expected 0 <= start <= stop <= 960, got 5, 961 in epoch 0"),
        (lambda plan: plan.rows(0, 5, 4), "expected 0 <= start <= stop <= 960, got 5, 4"),
        (lambda plan: plan.draws(0, 2881), "expected 0 <= start <= stop <= 2880, got 0, 2881"),
    ],
)
def test_plan__refuses_what_it_does_not_have(tmp_path, ask, message):
    with pytest.raises(FeedError, match=message):
        ask(make(tmp_path))
