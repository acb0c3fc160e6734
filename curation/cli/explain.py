"""``curate explain``: what became of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from curation.cli import options
from curation.cli.session import count
from curation.cli.verb import Exampled

if TYPE_CHECKING:
    from curation.explain import Fate, Origin

VALUE_CHARS = 60


@click.command(
    "explain",
    cls=Exampled,
    short_help="Say what became of a row.",
    examples=(
        "curate explain build/digits 1234567",
        "curate explain build/digits id=17",
    ),
)
@options.output_argument
@click.argument("row")
def command(out: str, row: str) -> None:
    """Say what became of ROW (a row id, or column=value) in the build in OUT.

    A row is kept (in which shard, how often), dropped (by which stage, why), quarantined, not selected by the input's
    own condition, or was never seen. A synthetic row names its two parents.
    """
    from curation.explain import explain
    from curation.io.location import location_of
    from curation.io.manifest import read_manifest

    found = explain(read_manifest(location_of(out)), row)
    if not found.fates:
        click.echo(f"{row}: never seen: no row of the outputs or inputs has this value")
    for fate in found.fates:
        _show(fate)
    if found.more:
        click.echo(f"… and {count(found.more, 'more row')}")
    if "=" not in row and any(fate.verdict == "never seen" for fate in found.fates):
        click.echo(f"note: {row} was taken as a row id; a value of a column is asked for as `column={row}`", err=True)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


def _show(fate: Fate) -> None:
    name = "row" if fate.row_id is None else f"row {fate.row_id}"
    colour = {"kept": "green", "dropped": "yellow", "quarantined": "red"}.get(fate.verdict)
    click.echo(f"{name}: {click.style(_verdict(fate), fg=colour, bold=True)}")
    if fate.origin is not None:
        click.echo(f"  source: {_place(fate.origin)}")
    if fate.parents is not None:
        each = fate.parents
        click.echo(f"  made by stage '{each.stage}': a + {each.mix:.6g} · (b - a)")
        for letter, parent, origin in (("a", each.a, each.origin_a), ("b", each.b, each.origin_b)):
            click.echo(f"    {letter}: row {parent}" + (f", {_place(origin)}" if origin else ""))
    for kept in fate.kept:
        copy = kept.values.get("_copy")
        number = f", copy {copy}" if copy is not None and len(fate.kept) > 1 else ""
        place = kept.place
        click.echo(f"  in output '{kept.output}': {place.shard}, row {place.row} (position {place.position:,}){number}")
    for drop in fate.dropped:
        number = f" (copy {drop.copy})" if len(fate.dropped) > 1 else ""
        instead = f" of row {drop.instead}" if drop.instead is not None else ""
        where = f", {_place(drop.instead_origin)}" if drop.instead_origin else ""
        click.echo(f"  dropped by stage '{drop.stage}': {drop.reason}{instead}{where}{number}")
    if fate.reason:
        click.echo(f"  {fate.reason}")
    if fate.kept:
        values = [f"{key} = {_cut(value)}" for key, value in fate.kept[0].values.items() if key[0] != "_"]
        click.echo("  values: " + ", ".join(values))


def _verdict(fate: Fate) -> str:
    if fate.verdict == "kept" and len(fate.kept) > 1:
        return f"kept {len(fate.kept)} times"
    if fate.synthetic and fate.verdict == "kept":
        return "kept (synthetic)"
    return fate.verdict


def _place(origin: Origin) -> str:
    row = "" if origin.row is None else f", row {origin.row:,}"
    return f"input '{origin.input}', {origin.file}{row}"


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"
