"""From the recipe's ``feed:`` to the options of a plan."""

from __future__ import annotations

from curation.feed.plan import FeedOptions, Shares
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2
from curation.methods.temperature import Temperature
from curation.recipe.model import FeedSpec, Mixture


def feed_options(spec: FeedSpec) -> FeedOptions:
    """Options of :func:`curation.feed.plan.write_plan` that a ``feed:`` asks for."""
    subset = None if spec.subset is None else RS2(**spec.subset.model_dump(exclude={"use"}))
    return FeedOptions(
        batch_size=spec.batch_size,
        epochs=spec.epochs,
        groups=spec.groups,
        mixture=None if spec.mixture is None else _mixture(spec.mixture),
        subset=subset,
        drop_last=spec.drop_last,
    )


def _mixture(mixture: Mixture) -> Temperature | Cooldown | Shares | None:
    if mixture.temperature is not None:
        return Temperature(tau=mixture.temperature)
    if mixture.shares is not None:
        return Shares("shares", dict(mixture.shares.items()))
    if mixture.rows is not None:
        return Shares("rows", dict(mixture.rows.items()))
    if mixture.cooldown is not None:
        return Cooldown(**mixture.cooldown.model_dump())
    return None
