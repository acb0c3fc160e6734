"""``curate preview``: what a trainer will see."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from curation.cli import options
from curation.cli.session import table
from curation.cli.verb import Exampled

if TYPE_CHECKING:
    from curation.feed.preview import GroupPreview, Preview

GROUPS_SHOWN = 30
PLACES_SHOWN = 6
COLUMNS_SHOWN = 4
VALUE_CHARS = 24


@click.command(
    "preview",
    cls=Exampled,
    short_help="Show what a trainer will see when.",
    examples=(
        "curate preview build/digits",
        "curate preview build/digits --epoch 3 --step 10 --rows 20",
    ),
)
@options.output_argument
@click.option("--epoch", type=click.IntRange(min=0), metavar="E", help="Epoch of the step, from 0 [all epochs].")
@click.option("--step", type=click.IntRange(min=0), default=0, metavar="S", help="Batch to look into, from 0 [0].")
@click.option("--rows", type=click.IntRange(min=0), default=8, metavar="N", help="First rows of the batch to show [8].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with all groups and places.")
def command(out: str, epoch: int | None, step: int, rows: int, as_json: bool) -> None:
    """Show the sampling plan of the build in OUT: lengths, shares over the training, repeats, the rows of a batch."""
    from curation.api import Build
    from curation.errors import CurationError
    from curation.feed.preview import preview
    from curation.io.location import location_of
    from curation.io.manifest import read_manifest

    build = Build(read_manifest(location_of(out)))
    plan = build.plan
    if epoch is not None:
        plan.epoch_size(epoch)  # refuses an epoch that does not exist
        first, end = plan.first_step(epoch), plan.first_step(epoch + 1)
        if step >= end - first:
            raise CurationError(f"--step: expected 0 <= step < {end - first} in epoch {epoch}, got {step}")
        step += first
    found = preview(plan, step, rows)
    values = _values(build, [row.position for row in found.rows])
    if as_json:
        content = asdict(found)
        for row, own in zip(content["rows"], values, strict=True):
            row |= {"key": f"{row['key']:016x}", "columns": own}  # JSON numbers are exact to 53 bits only
        click.echo(json.dumps(content, ensure_ascii=False))
        return
    _facts(found)
    _groups(found)
    _segments(found)
    _rows(found, values)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


def _values(build: Any, positions: list[int]) -> list[dict[str, Any]]:
    """A few short columns of some rows, as text."""
    import pyarrow as pa

    from curation.report.rows import Rows
    from curation.types import ROW_ID

    def is_short(kind: pa.DataType) -> bool:
        return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    names = [f.name for f in build.schema if is_short(f.type) and not f.name.startswith("_")][:COLUMNS_SHOWN]
    taken = Rows(build.manifest).take(positions, [ROW_ID, *names])
    return [{name: _text(taken.column(name)[i].as_py()) for name in taken.column_names} for i in range(len(positions))]


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = " ".join(str(value).split())
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"


def _facts(found: Preview) -> None:
    facts = found.facts
    click.echo(
        f"{facts['rows']:,} rows, {facts['epochs']:,} epochs of {facts['draws_per_epoch']:,} draws in "
        f"{facts['steps_per_epoch']:,} steps of {facts['batch_size']:,}; in all {facts['steps']:,} steps, "
        f"{facts['draws']:,} draws"
    )
    click.echo(f"plan {facts['fingerprint']}\n")


def _groups(found: Preview) -> None:
    places = found.places
    if len(places) > PLACES_SHOWN:  # spread over all of them, both ends among them
        places = [places[i * (len(places) - 1) // (PLACES_SHOWN - 1)] for i in range(PLACES_SHOWN)]
    at = [found.places.index(place) for place in places]
    weighed = any(group.weights is not None for group in found.groups)
    sized = any(abs(group.row_share - group.size_share) > 1e-9 for group in found.groups)
    header = ["group", "rows", *(f"step {place:,}" for place in places), "drawn"]
    header += ["of size"] * sized + [f"weight at {place:,}" for place in places] * weighed
    header += ["repeats: least", "mean", "most"]
    shown = sorted(found.groups, key=lambda group: -group.rows)[:GROUPS_SHOWN]
    names = {group.name for group in shown}
    rows = [_group(group, at, sized) for group in found.groups if group.name in names]
    table(header, rows, right=tuple(range(1, len(header))))
    if len(found.groups) > len(shown):
        click.echo(f"… and {len(found.groups) - len(shown):,} smaller groups; --json shows all")
    click.echo()


def _group(group: GroupPreview, at: list[int], sized: bool) -> list[str]:
    cells = ["-" if group.name is None else str(group.name), f"{group.rows:,}"]
    cells += [f"{group.shares[i]:.2%}" for i in at]
    cells += [f"{group.row_share:.2%}"] + [f"{group.size_share:.2%}"] * sized
    cells += [f"{group.weights[i]:.4g}" for i in at] if group.weights is not None else []
    least, most = ("-" if number is None else f"{number:,}" for number in (group.least, group.most))
    return [*cells, least, f"{group.mean:.3g}", most]


def _segments(found: Preview) -> None:
    if len(found.segments) < 2 and all(each["ess"] == each["draws"] for each in found.segments):
        return
    rows = [
        [f"{each['first_step']:,}", f"{each['draws']:,}", f"{each['ess']:,.0f}", f"{each['ess'] / each['draws']:.1%}"]
        for each in found.segments[:GROUPS_SHOWN]
    ]
    table(["from step", "draws", "worth, if weighted", "of the draws"], rows, right=(0, 1, 2, 3))
    if len(found.segments) > len(rows):
        click.echo(f"… and {len(found.segments) - len(rows):,} more stretches; --json shows all")
    click.echo()


def _rows(found: Preview, values: list[dict[str, Any]]) -> None:
    facts = found.facts
    of = "" if facts["step_group"] is None else f", all of group {facts['step_group']}"
    click.echo(
        f"step {facts['step']:,} (epoch {facts['epoch']:,}, step {facts['step_in_epoch']:,}): "
        f"{facts['step_rows']:,} rows{of}"
    )
    if not found.rows:
        return
    names = list(values[0])
    rows = [
        [
            *(f"{row.draw:,}", f"{row.position:,}", "-" if row.group is None else str(row.group), f"{row.weight:.4g}"),
            *("NULL" if value is None else value for value in own.values()),
        ]
        for row, own in zip(found.rows, values, strict=True)
    ]
    table(["draw", "position", "group", "weight", *names], rows, right=(0, 1, 3))
