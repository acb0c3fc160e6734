"""What the tests of plans share."""

from __future__ import annotations

from typing import Any

from curation.feed import FeedOptions, Plan, write_plan

LANGUAGES = [("en", 700), ("fr", 200), ("sw", 60)]


def make(path, data=LANGUAGES, *, seed=7, name="digits", sizes=None, weights=None, **options):
    """Write a plan and open it."""
    given: dict[str, Any] = {"batch_size": 32, "epochs": 3, "groups": "language"} | options
    write_plan(
        path / "plan.json",
        options=FeedOptions(**given),
        groups=data,
        seed=seed,
        name=name,
        sizes=sizes,
        weights=weights,
    )
    return Plan.open(path)
