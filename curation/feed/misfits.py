"""Which options of a feed go together: every rule that needs no data, for ``validate`` and for the plan alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from curation.errors import RecipeError
from curation.feed.options import FeedOptions, GroupValue, Shares, name_text
from curation.methods.cooldown import Cooldown
from curation.methods.rs2 import RS2


@dataclass(frozen=True)
class Misfit:
    """Options that do not go together: the key, what was expected and found, and what to do."""

    key: tuple[str, ...]
    message: str
    hint: str


def misfits(options: FeedOptions) -> Iterator[Misfit]:
    """Find options that cannot go together, whatever the data.

    Parameters
    ----------
    options
        What the recipe says.

    Yields
    ------
    Misfit
        One for each; nothing if all fit.
    """
    yield from _wants_groups(options)
    yield from _subset_misfits(options)
    yield from _mixture_misfits(options)
    yield from _batch_misfits(options)
    yield from _repeats_misfits(options)
    if options.sample_by is not None:
        yield from _sample_misfits(options)


def _wants_groups(options: FeedOptions) -> Iterator[Misfit]:
    if options.groups is not None:
        return
    needed = {
        ("mixture",): options.mixture is not None,
        ("batches",): options.unmixed,
        ("subset", "stratify"): options.stratified,
    }
    for key, given in needed.items():
        if given:
            yield Misfit(key, "expected groups, got none", "set feed.groups to the column that names the group")


def _subset_misfits(options: FeedOptions) -> Iterator[Misfit]:
    subset = options.subset
    if subset is None:
        return
    stratify, key = subset.stratify, ("subset", "stratify")
    if isinstance(stratify, str) and options.groups is not None and stratify != options.groups:
        hint = "the rows are stored by that column; say true, or change feed.groups"
        yield Misfit(key, f"expected the column of feed.groups, {options.groups}, got {stratify}", hint)
    endless = "a mixture" if options.mixture is not None and not options.scalarize else ""
    endless = "batches: unmixed" if options.unmixed else endless
    if endless and options.stratified:
        hint = f"the shares of {endless} say already how many rows of a group an epoch has"
        yield Misfit(key, f"expected none with {endless}, got {stratify}", hint)
    if endless and subset.replacement:
        yield Misfit(("subset", "replacement"), f"expected false with {endless}, got true", "drop one of the two")
    if endless and subset.tail != "carry":
        hint = f"the cursors of {endless} go on from epoch to epoch, so that no rows are left over"
        yield Misfit(("subset", "tail"), f"expected carry with {endless}, got {subset.tail}", hint)
    if options.stratified and subset.tail == "short":
        hint = "the groups end their cycles in different epochs; use carry, or drop"
        yield Misfit(("subset", "tail"), "expected carry or drop with stratify, got short", hint)


def _mixture_misfits(options: FeedOptions) -> Iterator[Misfit]:
    mixture = options.mixture
    if options.size is not None and mixture is None:
        hint = "rows are drawn in proportion anyway; leave size out, or give temperature, alpha, cooldown or shares"
        yield Misfit(
            ("size",), f"expected a mixture whose shares it is the unit of, got size {options.size} alone", hint
        )
    if options.size is not None and isinstance(mixture, Shares) and mixture.unit == "rows":
        hint = "rows are numbers of rows; use shares for parts of another unit"
        yield Misfit(("size",), f"expected none with mixture rows, got {options.size}", hint)
    if options.scalarize and mixture is None:
        hint = "rows drawn in proportion weigh 1; leave scalarize out, or give a mixture"
        yield Misfit(("scalarize",), "expected a mixture, got none", hint)


def _batch_misfits(options: FeedOptions) -> Iterator[Misfit]:
    if options.unmixed and options.scalarize:
        hint = "a batch of one group has one weight, by which the trainer can multiply its loss; drop one of the two"
        yield Misfit(("scalarize",), "expected false with batches: unmixed, got true", hint)
    sizes = options.group_batch_size
    if sizes is None:
        return
    if not options.unmixed:
        yield Misfit(("group_batch_size",), "expected batches: unmixed, got mixed", "a mixed batch has batch_size rows")
    for name, size in sizes.items():
        if size < 1:
            yield Misfit(
                ("group_batch_size",), f"expected >= 1, got {name_text(name)}: {size}", "it is a number of rows"
            )
    if isinstance(options.mixture, Cooldown) and options.mixture.unit == "steps":
        hint = "how many steps there are depends on the shares; use unit: share or unit: rows"
        yield Misfit(("mixture", "cooldown", "unit"), "expected share or rows with group_batch_size, got steps", hint)


def _repeats_misfits(options: FeedOptions) -> Iterator[Misfit]:
    cap, key = options.max_repeats, ("max_repeats",)
    if cap is None:
        return
    if not (0 < cap < math.inf):
        yield Misfit(key, f"expected a number > 0, got {cap}", "leave it out for no limit")
        return
    fraction = 1.0 if options.subset is None else options.subset.fraction
    if cap < options.epochs * fraction * (1 - 1e-9):
        demand = f"{options.epochs} epochs of {fraction:g} of the rows"
        hint = "raise max_repeats, or lower epochs or the fraction"
        yield Misfit(key, f"expected >= {options.epochs * fraction:g}, as {demand} are drawn, got {cap:g}", hint)
    if options.sample_by is not None or (options.subset is not None and options.subset.replacement):
        rule = "sample_by" if options.sample_by is not None else "subset.replacement"
        yield Misfit(key, f"expected none with {rule}, got {cap:g}", f"{rule} lets chance say how often a row comes")


def _sample_misfits(options: FeedOptions) -> Iterator[Misfit]:
    subset = options.subset or RS2(fraction=1.0)
    both = {
        "mixture": options.mixture is not None,
        "batches: unmixed": options.unmixed,
        "subset.stratify": options.stratified,
    }
    for other, given in both.items():
        if given:
            hint = "both say how often the rows of a group come; drop one of the two"
            yield Misfit(("sample_by",), f"expected none with {other}, got {options.sample_by}", hint)
    if subset.replacement or subset.tail != "carry":
        key = "replacement" if subset.replacement else "tail"
        hint = "with sample_by every epoch is drawn anew by weight; of subset only fraction has a meaning then"
        yield Misfit(("subset", key), f"expected none with sample_by, got {getattr(subset, key)}", hint)


def check_options(options: FeedOptions, groups: Sequence[tuple[GroupValue, int]]) -> None:
    """Refuse options that fit neither each other nor the groups.

    Parameters
    ----------
    options
        What the recipe says.
    groups
        Name and rows of each group.

    Raises
    ------
    RecipeError
        With the key, what was expected and what to do.
    """
    for key in ("batch_size", "epochs"):
        if getattr(options, key) < 1:
            raise RecipeError(f"feed.{key}: expected >= 1, got {getattr(options, key)}")
    texts = [name_text(name) for name, _ in groups]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise RecipeError(
            f"feed.groups: expected each group once, got {twice} twice; write the table group after group"
        )
    for text, (_, rows) in zip(texts, groups, strict=True):
        if rows < 0:
            raise RecipeError(f"feed.groups: expected rows >= 0, got {rows} in group {text}")
    if sum(rows for _, rows in groups) < 1:
        raise RecipeError("feed: expected at least 1 row, got an empty table; loosen the filters before it")
    for misfit in misfits(options):
        raise RecipeError(f"feed.{'.'.join(misfit.key)}: {misfit.message}; {misfit.hint}")
