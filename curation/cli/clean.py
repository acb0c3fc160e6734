"""``curate clean``: remove the intermediates of a build."""

from __future__ import annotations

from pathlib import Path

import click

from curation.cli import options
from curation.cli.inspect import folder_size, work_of
from curation.cli.session import shown, size
from curation.cli.verb import Exampled
from curation.errors import CurationError


@click.command(
    "clean",
    cls=Exampled,
    short_help="Remove the intermediates of a build.",
    examples=(
        "curate clean build/digits --dry-run",
        "curate clean recipe.yaml",
    ),
)
@click.argument("target", metavar="OUT|RECIPE", type=click.Path())
@click.option("--work", type=click.Path(), metavar="DIR", help="The work directory, if the build named one.")
@options.plugin_option
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def command(target: str, work: str | None, allow_plugins: bool, dry_run: bool) -> None:
    """Remove the work directory of the build in OUT, or of RECIPE; the result itself stays.

    The next build after a change of the recipe then starts from the inputs again.
    """
    outputs, found = _places(target, allow_plugins)
    folder = Path(work) if work is not None else found
    if folder is None or not folder.is_dir():
        click.echo(f"{target}: no work directory, nothing to free")
        return
    if not (folder / "boot").is_file() and any(folder.iterdir()):
        raise CurationError(f"{folder}: is no work directory of a build; nothing is removed")
    freed = size(folder_size(folder))
    if dry_run:
        click.echo(f"would free {freed} in {shown(folder)}")
        return
    _remove(folder, outputs)
    click.echo(f"freed {freed} in {shown(folder)}")


def _places(target: str, allow_plugins: bool) -> tuple[list[Path], Path | None]:
    """Local outputs whose build must not be running, and the work directory."""
    from curation.io.location import location_of

    at = location_of(target)
    if not isinstance(at, Path) or at.is_dir():
        from curation.explain import siblings
        from curation.io.manifest import read_manifest

        manifest = read_manifest(at)
        roots = [at, *(other.root for other in siblings(manifest).values())]
        return [root for root in roots if isinstance(root, Path)], work_of(manifest)
    from curation.api import read_recipe
    from curation.flow.build import BuildOptions, work_folder

    recipe = read_recipe(target, allow_plugins=allow_plugins)
    roots = [location_of(output.path) for output in recipe.outputs]
    return [root for root in roots if isinstance(root, Path)], work_folder(recipe, BuildOptions())


def _remove(folder: Path, outputs: list[Path]) -> None:
    """Remove what builds have put into the folder, and the folder if nothing else is in it."""
    from contextlib import ExitStack

    from curation.engine.lock import held
    from curation.engine.store import Store

    with ExitStack() as stack:
        for path in sorted(outputs):
            if path.is_dir():
                stack.enter_context(held(path))
        Store(str(folder)).clear()
    if (folder / "objects").exists():
        raise CurationError(f"{folder}: not everything in it can be removed; look at its permissions")
    (folder / ".lock").unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
