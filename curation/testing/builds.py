"""Check of whole builds: the same bytes whoever computes them, in whatever pieces."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

VARIES = {"run.json", ".lock"}
"""Files that may differ between two builds of the same thing."""

FILES = 3
"""Files into which a table is cut, so that there are several chunks."""

WAYS: dict[str, dict[str, Any]] = {
    "serial": {"executor": "serial"},
    "serial, a task for every chunk": {"executor": "serial", "task_bytes": 1},
    "threads, one task": {"executor": "threads", "workers": 3, "task_bytes": 1 << 40},
    "2 Dask processes": {"executor": "dask", "workers": 2, "task_bytes": 1},
}
"""Options of the builds that are compared; the first is the one that the others are compared with."""


def digest_tree(root: Path) -> dict[str, str]:
    """Hash of every file below ``root`` that must not vary, by its path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in VARIES
    }


def check_build(recipe: str, tables: Mapping[str, pa.Table], *, allow_plugins: bool = True) -> dict[str, pa.Table]:
    """Build a small recipe serially, by threads and by two processes, with tasks of several sizes; compare all bytes.

    It starts processes, so it takes some seconds; a script that calls it needs the usual
    ``if __name__ == "__main__":``.

    Parameters
    ----------
    recipe
        Text of the recipe. Its paths are relative, since it is built in temporary folders.
    tables
        Input tables by path: a file (``data/rows.parquet``), or a folder, into which three files are written.
    allow_plugins
        As of ``curation.build``.

    Returns
    -------
    dict
        The table of each output, by name.

    Raises
    ------
    AssertionError
        If two builds differ; the message names the file.
    CurationError
        If the recipe cannot be built.
    """
    found: dict[str, dict[str, str]] = {}
    result: dict[str, pa.Table] = {}
    path = list(sys.path)
    with TemporaryDirectory() as folder:
        for number, (way, options) in enumerate(WAYS.items()):
            here = Path(folder) / str(number)
            outputs = _built(here, recipe, tables, allow_plugins, options)
            found[way] = {f"{name}/{file}": x for name, out in outputs.items() for file, x in digest_tree(out).items()}
            result = result or {name: _table(out) for name, out in outputs.items()}
    sys.path[:] = path  # the folders of the recipes are gone
    _compare(found)
    return result


def _built(
    here: Path, recipe: str, tables: Mapping[str, pa.Table], allow_plugins: bool, options: dict[str, Any]
) -> dict[str, Path]:
    from curation.flow.build import BuildOptions, build
    from curation.recipe.load import load_recipe

    for name, table in tables.items():
        _write(here / name, table)
    (here / "recipe.yaml").write_text(recipe, "utf-8")
    loaded = load_recipe(here / "recipe.yaml", allow_plugins=allow_plugins)
    manifests = build(loaded, BuildOptions(work=here / "work", **options)).manifests
    return {name: root for name, manifest in manifests.items() if isinstance(root := manifest.root, Path)}


def _write(path: Path, table: pa.Table) -> None:
    if path.suffix:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return
    path.mkdir(parents=True)
    each = max(-(-table.num_rows // FILES), 1)
    for i in range(FILES):
        pq.write_table(table.slice(i * each, each), path / f"{i}.parquet")


def _table(root: Path) -> pa.Table:
    from curation.io.manifest import read_manifest

    manifest = read_manifest(root)
    parts = []
    for shard in manifest.shards:
        file = root / shard.path
        parts.append(pq.read_table(file) if file.suffix == ".parquet" else _arrow(file))
    return pa.concat_tables(parts) if parts else manifest.schema.empty_table()


def _arrow(path: Path) -> pa.Table:
    with pa.ipc.open_file(pa.BufferReader(path.read_bytes())) as reader:
        return reader.read_all()


def _compare(found: Mapping[str, Mapping[str, str]]) -> None:
    (first, expected), *others = found.items()
    for way, digests in others:
        differ = sorted(name for name in {*expected, *digests} if expected.get(name) != digests.get(name))
        # Everything else (reports, manifests) follows from the shards and the ledger.
        differ.sort(key=lambda name: "/shards/" not in name)
        if differ:
            raise AssertionError(
                f"the build '{way}' differs from '{first}' in {len(differ)} files, among them {differ[0]}; what "
                "becomes of a row may depend on the row, its id, the options and the fitted state, never on process, "
                "thread, time, order of sets or what was computed before; draws come from curation.rng"
            )
