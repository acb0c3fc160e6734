"""Options together: any choice of them is either refused with a reason, or keeps all that every plan promises."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from curation.errors import RecipeError
from curation.feed import Shares
from curation.feed.misfits import misfits
from curation.feed.options import FeedOptions
from curation.feed.preview import preview
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature
from tests.feed.plans import LANGUAGES, make

WEIGHTS = np.random.default_rng(0).pareto(1.5, 960)
MIXTURES = [
    None,
    Temperature(tau=3.0),
    Cooldown(at=0.3),
    Cooldown(schedule="linear", at=20, unit="steps"),
    Cooldown(steps=[[0, 9], [500, 2], [900, 1]], unit="rows"),
    Shares("shares", {"en": 0.2, "fr": 0.8, "sw": 0}),
    Shares("rows", {"en": 1, "fr": 2, "sw": 3}),
]
SUBSETS = [
    RS2(fraction=fraction, tail=tail, replacement=replacement, stratify=stratify)
    for fraction in (1.0, 0.35)
    for tail in ("carry", "short", "drop")
    for replacement in (False, True)
    for stratify in (None, True)
]
OPTIONS = st.fixed_dictionaries(
    {
        "groups": st.sampled_from([None, "language", "language", "language"]),
        "mixture": st.sampled_from(MIXTURES),
        "subset": st.sampled_from([None, None, *SUBSETS]),
        "size": st.sampled_from([None, None, "tokens"]),
        "max_repeats": st.sampled_from([None, None, 3.0, 6.5]),
        "scalarize": st.sampled_from([False, False, True]),
        "sample_by": st.sampled_from([None, None, None, "w"]),
        "batches": st.sampled_from(["mixed", "mixed", "unmixed"]),
        "group_batch_size": st.sampled_from([None, None, {"fr": 7, "sw": 100}]),
        "drop_last": st.booleans(),
        "batch_size": st.sampled_from([16, 50]),
    }
)


def write(folder, options):
    sized = {"sizes": [70.0, 100.0, 6.0]} if options["size"] else {}
    weighed = {"weights": [WEIGHTS]} if options["sample_by"] else {}
    data = LANGUAGES if options["groups"] else [(None, 960)]
    return make(Path(folder), data, **options, **sized, **weighed)


def check_promises(plan, options):
    steps = [plan.batch(step) for step in range(plan.n_steps)]
    epochs = [plan.rows(epoch) for epoch in range(plan.epochs)]
    assert np.array_equal(np.concatenate(epochs), plan.draws(0, plan.n_draws))
    for epoch, rows in enumerate(epochs):
        own = np.concatenate(steps[plan.first_step(epoch) : plan.first_step(epoch + 1)])
        assert np.array_equal(own, rows[: len(own)])
        assert len(rows) - len(own) < (plan.batch_size if options["drop_last"] else 1)
    step = plan.n_steps // 2
    for ask in (plan.batch, plan.batch_weights, plan.batch_keys):
        assert np.array_equal(np.concatenate([ask(step, rank, 3) for rank in range(3)]), ask(step))
    assert (plan.batch_weights(step) >= 0).all()
    assert sum(plan.shares(step).values()) == pytest.approx(1)
    assert sum(plan.size_shares(step).values()) == pytest.approx(1)
    assert sum(plan.group_draws().values()) == pytest.approx(plan.n_draws)
    if options["max_repeats"]:
        assert np.bincount(plan.draws(0, plan.n_draws)).max() <= np.ceil(options["max_repeats"])
    assert [row.position for row in preview(plan, step, 4).rows] == plan.batch(step)[:4].tolist()
    assert sum(segment.draws for segment in plan.segments) == plan.n_draws


@settings(max_examples=500, deadline=None)
@given(OPTIONS)
def test_plans__any_options_are_refused_with_a_reason_or_keep_the_promises(options):
    with TemporaryDirectory() as folder:
        try:
            plan = write(folder, options)
        except RecipeError as error:
            refusal = str(error)
        else:
            refusal = ""
            assert not list(misfits(FeedOptions(**options | {"epochs": 3})))
            check_promises(plan, options)
    event("refused" if refusal else "planned")
    assert not refusal or re.match(r"feed\.[a-z_.]+: expected .*, got .*; ", refusal), refusal


def test_plans__most_choices_are_told_apart_by_the_fingerprint():
    """No two plans with other options are taken for one another."""
    base: dict[str, Any] = dict.fromkeys(("subset", "size", "max_repeats", "sample_by", "group_batch_size"))
    base |= {"groups": "language", "mixture": MIXTURES[1], "scalarize": False, "batches": "mixed", "batch_size": 16}
    changes: list[dict[str, Any]] = [
        {},
        {"mixture": MIXTURES[4]},
        {"mixture": Cooldown(steps=[[0, 9], [500, 2], [901, 1]], unit="rows")},
        {"size": "tokens"},
        {"max_repeats": 9.0},
        {"scalarize": True},
        {"batches": "unmixed"},
        {"batches": "unmixed", "group_batch_size": {"sw": 3}},
        {"batches": "unmixed", "group_batch_size": {"sw": 4}},
        {"mixture": None, "subset": SUBSETS[0]},
        {"mixture": None, "subset": SUBSETS[1]},
        {"mixture": None, "sample_by": "w"},
    ]
    found = set()
    for change in changes:
        with TemporaryDirectory() as folder:
            found.add(write(folder, base | change).fingerprint)
    assert len(found) == len(changes)
