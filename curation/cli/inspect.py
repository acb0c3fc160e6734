"""``curate inspect``: what a finished build holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curation.cli import options
from curation.cli.session import count, duration, shown, size, table
from curation.cli.verb import Exampled

if TYPE_CHECKING:
    from curation.io.manifest import Manifest


@click.command(
    "inspect", cls=Exampled, short_help="Show what a finished build holds.", examples=("curate inspect build/digits",)
)
@options.output_argument
def command(out: str) -> None:
    """Show rows, shards, groups, balance and versions of the build in OUT."""
    from curation.io.location import location_of
    from curation.io.manifest import read_manifest

    manifest = read_manifest(location_of(out))
    content = manifest.content
    click.secho(f"{content['name']} / {content['output']}", bold=True)
    for name, value in _facts(manifest).items():
        click.echo(f"  {name:<12}{value}")
    click.echo()
    _inputs(content)
    click.echo()
    _stages(content)
    if not manifest.complete():
        click.secho("some shards are missing or cut short; build again", fg="red", err=True)


def _facts(manifest: Manifest) -> dict[str, str]:
    content, shards = manifest.content, manifest.shards
    facts = {
        "rows": f"{manifest.rows:,}",
        "shards": f"{len(shards):,} ({content['shard_format']}, {size(sum(shard.bytes for shard in shards))})",
        "columns": ", ".join(field["name"] for field in content["schema"]),
        "build": content["build_id"],
        "fingerprint": content["data_fingerprint"],
        "seed": str(content["seed"]),
        "versions": ", ".join(f"{name} {value}" for name, value in content["versions"].items()),
    }
    if foreign := content.get("plugins"):
        facts["plug-ins"] = ", ".join(
            f"{each['use']} ({each['package']} {each['version']})" if each["package"] else each["use"]
            for each in foreign
        )
    if content["group_column"] is not None:
        facts["groups"] = f"{content['groups']:,} of {content['group_column']}"
    run = _run(manifest)
    if run:
        executor = run["executor"]
        facts["built"] = (
            f"{run['finished']} in {duration(run['seconds'])}, "
            f"{executor['name']}, {count(executor['workers'], 'worker')}"
        )
    work = work_of(manifest)
    if work is not None:
        facts["work"] = f"{shown(work)} ({size(folder_size(work))}); free it with `curate clean`"
    report = manifest.path("report")
    if report is not None:
        facts["report"] = shown(report)
    return facts


def _run(manifest: Manifest) -> dict[str, Any]:
    import json

    path = manifest.path("run")
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path and path.is_file() else {}
    return found


def work_of(manifest: Manifest) -> Path | None:
    """Work directory of a build, if it can be found: as the run noted it, else beside the first output."""
    from curation.explain import candidates

    noted = _run(manifest).get("work")
    first = next(iter(manifest.content["recipe"]["outputs"].values()))["path"]
    here = [manifest.root.resolve()] if isinstance(manifest.root, Path) else []
    places = [*here, *candidates(manifest, str(first))]
    beside = [path.with_name(f"{path.name}.work") for path in places if isinstance(path, Path)]
    for path in ([Path(noted)] if noted else []) + beside:
        if (path / "objects").is_dir():
            return path
    return None


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _inputs(content: Mapping[str, Any]) -> None:
    rows = [
        [
            name,
            count(len(each["files"]), "file"),
            *(f"{each[key]:,}" for key in ("read", "kept", "dropped", "not_selected", "quarantined")),
        ]
        for name, each in content["inputs"].items()
    ]
    header = ["input", "files", "read", "= kept", "+ dropped", "+ not selected", "+ quarantined"]
    table(header, rows, right=(2, 3, 4, 5, 6))


def _stages(content: Mapping[str, Any]) -> None:
    rows = []
    for name in content["stage_order"]:
        each = content["stages"][name]
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in sorted(each["dropped"].items()))
        if "looked_up" in each:
            beside = f"looked up in {each['looked_up']:,} rows"
            reasons = f"{reasons}; {beside}" if reasons else beside
        dropped = sum(each["dropped"].values())
        numbers = [f"{n:,}" for n in (each["in"], each["created"], each["out"], dropped)]
        rows.append([name, each["use"], *numbers, reasons])
    header = ["stage", "method", "in", "+ created", "= out", "+ dropped", "reasons"]
    table(header, rows, right=(2, 3, 4, 5))
