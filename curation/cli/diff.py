"""``curate diff``: how two results differ."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curation.cli.session import Session, count, shown, table
from curation.cli.verb import Exampled

if TYPE_CHECKING:
    from curation.diff import Difference, Erasure, Example
    from curation.io.manifest import Manifest

VALUE_CHARS = 60
GROUPS = 20
"""Groups that are shown, those whose share moved most; `--json` has all."""


@click.command(
    "diff",
    cls=Exampled,
    short_help="Say how two results differ.",
    examples=(
        "curate diff build/digits build/other --rows 5",
        "curate diff build/digits@0123456789abcdef build/digits",
        "curate diff build/digits@0123456789abcdef build/digits --erased gone.csv --on id",
    ),
)
@click.argument("a", metavar="OUT_A")
@click.argument("b", metavar="OUT_B")
@click.option("--rows", type=click.IntRange(min=0), default=0, metavar="N", help="Show N rows of each kind.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON line.")
@click.option(
    "--erased", type=click.Path(), metavar="LIST", help="Prove that rows with these keys (.csv, .parquet) are gone."
)
@click.option("--on", metavar="COLUMN", help="Column that holds the keys of --erased.")
@click.pass_obj
def command(session: Session, /, a: str, b: str, rows: int, as_json: bool, erased: str | None, on: str | None) -> int:
    """Compare the results in OUT_A and OUT_B, or generations of them by OUT@BUILD_ID.

    Rows are the same by `_row_id` and `_copy`. Shown are rows that one side alone has, values that differ by column,
    shares of the feed's groups, and settings of the recipe. The exit code is 0 whatever differs.

    With --erased it is 1 unless OUT_B has no row with a key of the list, no synthetic row with such a parent, and every
    other row of OUT_A.
    """
    from curation.diff import diff, erasure, open_side

    session.json = as_json
    if (erased is None) != (on is None):
        raise click.UsageError("--erased LIST and --on COLUMN belong together, got one of them")
    sides = open_side(a), open_side(b)
    if erased is not None and on is not None:
        proof = erasure(*sides, Path(erased), on)
        if as_json:
            session.emit("erasure", **_sides(*sides), **asdict(proof), holds=proof.holds)
        else:
            _show_erasure(proof, *sides)
        return 0 if proof.holds else 1
    found = diff(*sides, examples=rows)
    if as_json:
        session.emit("diff", **_sides(*sides), **_plain(asdict(found)), equal=found.equal)
    else:
        _show(found, *sides)
    return 0


def _sides(a: Manifest, b: Manifest) -> dict[str, Any]:
    return {
        side: {"path": shown(manifest.root), "build_id": manifest.build_id} for side, manifest in (("a", a), ("b", b))
    }


def _plain(value: Any) -> Any:
    """Values as JSON has them; what it has not becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    return value if value is None or isinstance(value, str | int) else _cut(value)


def _show(found: Difference, a: Manifest, b: Manifest) -> None:
    _heads(a, b)
    click.echo(
        f"only in A {found.only_a:,} · only in B {found.only_b:,} · changed {found.changed:,} · equal {found.equal:,}"
    )
    _section("changed values", ["column", "rows"], [[name, f"{n:,}"] for name, n in found.columns.items()], right=(1,))
    schema = [[name, "only in A", ""] for name in found.columns_only_a]
    schema += [[name, "only in B", ""] for name in found.columns_only_b]
    schema += [[name, "type", f"{old} → {new}"] for name, (old, new) in found.retyped.items()]
    _section("columns", ["column", "", ""], schema)
    _show_shares(found)
    stages = [[name, "only in A"] for name in found.stages_only_a]
    stages += [[name, "only in B"] for name in found.stages_only_b]
    _section("stages", ["stage", ""], stages)
    settings = [[each.key, _json(each.a), _json(each.b)] for each in found.settings]
    _section("settings", ["setting", "A", "B"], settings)
    for kind, title in (("only_a", "only in A"), ("only_b", "only in B"), ("changed", "changed")):
        _show_examples(title, found.examples.get(kind, []))
    _notes(found.notes)


def _show_shares(found: Difference) -> None:
    rows = [
        [
            each.group,
            *(f"{n:,}" for n in (each.rows_a, each.rows_b)),
            *(f"{share:.2%}" for share in (each.share_a, each.share_b)),
            f"{each.share_b - each.share_a:+.2%}",
        ]
        for each in found.shares[:GROUPS]
    ]
    header = [str(found.group_column), "rows A", "rows B", "share A", "share B", "shift"]
    _section(f"shares of {found.group_column}", header, rows, right=(1, 2, 3, 4, 5))
    if len(found.shares) > GROUPS:
        click.echo(f"… and {count(len(found.shares) - GROUPS, 'more group')}; `--json` has all")


def _heads(a: Manifest, b: Manifest) -> None:
    for side, manifest in (("A", a), ("B", b)):
        name = f"{manifest.content['name']} / {manifest.content['output']}"
        click.echo(f"{side}  {shown(manifest.root)}  {manifest.build_id}  {name}, {count(manifest.rows, 'row')}")


def _section(title: str, header: list[str], rows: list[list[str]], *, right: tuple[int, ...] = ()) -> None:
    if rows:
        click.secho(f"\n{title}", bold=True)
        table(header, rows, right=right)


def _show_examples(title: str, examples: list[Example]) -> None:
    if examples:
        click.secho(f"\n{title}", bold=True)
    for each in examples:
        copy = f", copy {each.copy}" if each.copy else ""
        click.echo(f"row {each.row_id}{copy}")
        for name, (old, new) in each.values.items():
            if name.startswith("_") and old is None and new is None:
                continue
            value = {"only in A": _cut(old), "only in B": _cut(new)}.get(title, f"{_cut(old)} → {_cut(new)}")
            click.echo(f"  {name}: {value}")


def _show_erasure(proof: Erasure, a: Manifest, b: Manifest) -> None:
    _heads(a, b)
    click.echo(f"keys {proof.keys:,}, of which A has {proof.found:,}")
    rows = [
        ["with a key of the list", f"{proof.listed_a:,}", f"{proof.listed_b:,}", _verdict(proof.listed_b)],
        ["synthetic, with such a parent", f"{proof.derived_a:,}", f"{proof.derived_b:,}", _verdict(proof.derived_b)],
        ["with the id of such a row", "", f"{proof.renamed_b:,}", _verdict(proof.renamed_b)],
        ["others of A that B lacks", f"{proof.missing:,}", "", _verdict(proof.missing)],
        ["only in B", "", f"{proof.added:,}", ""],
    ]
    table(["rows", "A", "B", ""], rows, right=(1, 2))
    verdict = "holds: the rows are gone, all others are there" if proof.holds else "does not hold"
    click.secho(f"the erasure {verdict}", fg="green" if proof.holds else "red", bold=True)
    _notes(proof.notes)


def _verdict(rows: int) -> str:
    return "must be 0" if rows else "ok"


def _notes(notes: list[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _json(value: Any) -> str:
    text = "" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"
