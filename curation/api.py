"""The Python face: build a recipe or open a result, then read its table, plan, loader and ledger."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from curation.errors import CurationError, RecipeError
from curation.io.location import Location, RemotePath, location_of, work_at
from curation.io.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from curation.engine.events import Events
    from curation.explain import Explanation
    from curation.export import Export
    from curation.feed.columns import As
    from curation.feed.evaluate import Order
    from curation.feed.loader import Loader
    from curation.feed.plan import Plan
    from curation.feed.shards import RowSource
    from curation.recipe.model import Recipe
    from curation.rollback import Generation

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_bytes(text: str) -> int:
    """Read a size such as ``4GB``, ``512 MiB`` or ``1000000``; K, M, G and T are powers of 1024.

    Raises
    ------
    RecipeError
        If it is no size.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)i?B?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * (1 << _UNITS[found[2].upper()])) if found else 0
    if size < 1:
        raise RecipeError(f"memory: expected a size such as 4GB, got {text!r}")
    return size


def build(
    recipe_path: str | os.PathLike[str],
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    memory: int | str | None = None,
    out: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    sample: float = 1.0,
    force: bool = False,
    verify_inputs: bool = False,
    allow_plugins: bool = False,
    output: str | None = None,
    events: Events | None = None,
) -> Build:
    """Build a recipe, unless its result stands there already.

    Parameters
    ----------
    recipe_path
        The recipe, a YAML file.
    workers
        Processes to start; None chooses (threads for small inputs).
    scheduler
        Address of a running Dask scheduler.
    memory
        Bytes a worker may use, or text such as ``"4GB"``; None is 80 % of what is free.
    out
        Directory or URL of the result, in the place of the recipe's.
    work
        Directory for intermediates; default beside the output, or beside the recipe if that is in a store.
    overrides
        Changes to the recipe such as ``"stages.rare.k=7"``.
    sample
        Share of every input's rows to take, in (0, 1].
    force
        Throw earlier work away.
    verify_inputs
        Recognise input files by all their bytes.
    allow_plugins
        Import and run stages that are not ours: it is code, so only that of people you trust.
    output
        Name of the output that is returned, of a recipe with several; default the first.
    events
        Receives the progress; default nobody.

    Returns
    -------
    Build
        The result, with all others in ``outputs``.

    Raises
    ------
    CurationError
        If recipe, data or surroundings do not allow it; the old result stands.
    """
    from curation.flow.build import BuildOptions
    from curation.flow.build import build as run

    recipe = read_recipe(recipe_path, overrides=overrides, out=out, allow_plugins=allow_plugins)
    names = [each.name for each in recipe.outputs]
    if output is not None and output not in names:
        raise RecipeError(f"output: expected one of {', '.join(names)}, got {output!r}")
    if not 0 < sample <= 1:
        raise RecipeError(f"sample: expected a share in (0, 1], got {sample:g}")
    options = BuildOptions(
        workers=workers,
        scheduler=scheduler,
        memory=parse_bytes(memory) if isinstance(memory, str) else memory,
        work=work_at(work),
        sample=sample,
        force=force,
        verify_inputs=verify_inputs,
    )
    manifests = run(recipe, options, events).manifests
    builds = {name: Build(manifest) for name, manifest in manifests.items()}
    for each in builds.values():
        each.__dict__["outputs"] = builds
    return builds[output or names[0]]


def open(path: str | os.PathLike[str]) -> Build:
    """Open a result by its directory, or by its URL in a store.

    Raises
    ------
    CurationError
        If no build stands there.
    """
    return Build(read_manifest(location_of(path)))


def read_recipe(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    allow_plugins: bool = False,
) -> Recipe:
    """Load a recipe, with the path of its single output replaced by ``out`` (relative to the current directory).

    The recipe as run, and so every byte of the result, stays the same wherever it is written.

    Raises
    ------
    RecipeError
        If the recipe is wrong, or has several outputs and ``out`` is given.
    """
    from curation.recipe.load import load_recipe

    recipe = load_recipe(path, overrides=overrides, allow_plugins=allow_plugins)
    if out is None:
        return recipe
    if len(recipe.outputs) > 1 or recipe.outputs[0].name != "output":
        changes = " ".join(f"--set outputs.{each.name}.path=DIR" for each in recipe.outputs)
        raise RecipeError(f"{recipe.file}: --out is for recipes with `output:`; here say {changes}")
    at = location_of(out)
    target = at.url if isinstance(at, RemotePath) else str(at)
    # Refuses a path that holds an input.
    load_recipe(path, overrides=[*overrides, f"output.path={target}"], allow_plugins=allow_plugins)
    return recipe.model_copy(update={"outputs": (recipe.outputs[0].model_copy(update={"path": target}),)})


class Build:
    """A finished build, open for reading.

    Parameters
    ----------
    manifest
        What ``manifest.json`` says.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    @property
    def path(self) -> Location:
        """Directory of the build, or its prefix in a store."""
        return self.manifest.root

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return self.manifest.rows

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the shards."""
        return self.manifest.schema

    def table(self) -> pl.LazyFrame:
        """Lazy frame over the shards, in order: row i is position i of the plan."""
        from curation.report.rows import Rows

        return Rows(self.manifest).scan()

    @cached_property
    def plan(self) -> Plan:
        """How a trainer visits the rows.

        Raises
        ------
        CurationError
            If the recipe has no feed, or the build no rows.
        """
        from curation.report.rows import open_plan

        path = self.manifest.path("plan")
        if path is None:
            why = "its recipe has no `feed:`" if self.rows else "it has no rows"
            raise CurationError(f"{self.path}: no plan, since {why}; add one and build again")
        return open_plan(path)

    def loader(
        self,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] | None = None,
        epoch: int | None = None,
        *,
        as_: As = "numpy",
        weights: bool = False,
        keys: bool = False,
        decode: Mapping[str, str] | None = None,
        prefetch: int = 0,
        evaluate: bool = False,
        batch_size: int | None = None,
        verify: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str | None = None,
    ) -> Loader:
        """Batches of the plan for one rank: iterates ``dict[str, numpy array]``.

        Shards in a store are fetched once and checked by their hash. Without ``cache_dir`` they are removed when the
        process ends.

        Parameters
        ----------
        rank, world_size
            This rank and the number of ranks, 0 <= rank < world_size.
        columns
            Columns of a batch; None is all.
        epoch
            Only this epoch; None is the whole training.
        as_
            ``arrow``: columns that numpy holds only as objects (text, bytes, lists) come as Arrow arrays.
        weights, keys
            Add ``_weight_factor``, by which the loss of a row is to be multiplied, and ``_draw_key``, which seeds its
            augmentation.
        decode
            Column of encoded pictures -> ``pillow``: it comes as a list of RGB arrays (height, width, 3), uint8.
        prefetch
            Batches that are read ahead, by as many threads.
        evaluate
            Give every row once, in order, instead of the plan; needs no feed.
        batch_size
            Rows of a batch over all ranks, for ``evaluate`` alone; default that of the plan.
        verify
            Check the hashes of all shards first; sizes are checked anyway.
        cache_dir
            Folder that keeps shards of a store from run to run; all processes of a machine may share it.
        cache_bytes
            Most bytes there, or text such as ``"100GB"``; None is no limit.

        Raises
        ------
        CurationError
            If there is no plan, or no such rank, column or epoch; or if shards are missing, changed or of another
            build than the plan.
        """
        from curation.feed.loader import Loader

        order = self.order(evaluate=evaluate, batch_size=batch_size)
        shards = self.shards(verify=verify, cache_dir=cache_dir, cache_bytes=cache_bytes, plan=not evaluate)
        return Loader(
            order,
            shards,
            rank=rank,
            world_size=world_size,
            columns=columns,
            epoch=epoch,
            as_=as_,
            weights=weights,
            keys=keys,
            decode=decode,
            prefetch=prefetch,
        )

    def order(self, *, evaluate: bool = False, batch_size: int | None = None) -> Order:
        """What a loader reads when: the plan, or with ``evaluate`` every row once; see `loader`."""
        from curation.feed.source import evaluation

        if not evaluate:
            if batch_size is not None:
                raise CurationError(
                    f"batch_size: expected none, got {batch_size}; the plan says it, build with another"
                )
            return self.plan
        if batch_size is None:
            if self.manifest.path("plan") is None:
                raise CurationError(f"batch_size: expected a number, got none; {self.path} has no plan that says it")
            batch_size = self.plan.batch_size
        return evaluation(self.manifest, batch_size)

    def shards(
        self,
        *,
        verify: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | str | None = None,
        plan: bool = False,
    ) -> RowSource:
        """Rows by position, read from the shards; with ``plan``, only if its groups are where it says. See `loader`."""
        from curation.feed.source import check_groups, open_shards

        found = open_shards(
            self.manifest,
            verify=verify,
            cache_dir=None if cache_dir is None else Path(cache_dir).absolute(),
            cache_bytes=parse_bytes(cache_bytes) if isinstance(cache_bytes, str) else cache_bytes,
        )
        if plan:
            check_groups(self.plan, found, self.manifest.content["group_column"])
        return found

    def export(
        self,
        out: str | os.PathLike[str],
        format: str,
        *,
        epochs: tuple[int, int] | None = None,
        steps: tuple[int, int] | None = None,
        order: Literal["plan", "stored"] | None = None,
        columns: Sequence[str] | None = None,
        shard_rows: int | None = None,
        mark: bool = False,
    ) -> Export:
        """Write rows as files for trainers that read front to back, unless just that export stands there already.

        Parameters
        ----------
        out
            New folder or URL.
        format
            ``webdataset``, ``mds``, ``parquet`` or ``arrow``.
        epochs, steps
            Stretches of the plan, (start, stop); steps count over the training.
        order
            ``plan``, or ``stored``: every row once, in the order of the shards.
        columns
            Columns, in this order; None is all.
        shard_rows
            Rows of a file; None is about 64 MiB.
        mark
            Add ``_epoch`` and ``_step``.

        Raises
        ------
        CurationError
            If the build or the place does not allow it.
        """
        from curation.export import ExportOptions, export

        asked = ExportOptions(format, epochs, steps, order, columns, shard_rows, mark)
        return export(self.manifest, location_of(out), asked)

    def ledger(self) -> pl.LazyFrame:
        """Rows that are not simply kept: ``row_id``, ``copy``, ``stage``, ``reason``, ``instead``."""
        from curation.report.rows import scan

        path = self.manifest.path("ledger")
        if path is None:
            raise CurationError(f"{self.path}: the build has no ledger; build again")
        return scan([path], "arrow")

    @cached_property
    def outputs(self) -> Mapping[str, Build]:
        """All outputs of the recipe that stand beside this one, of the same build, by name."""
        from curation.explain import siblings

        found = {name: Build(manifest) for name, manifest in siblings(self.manifest).items()}
        return found | {str(self.manifest.content["output"]): self}

    @property
    def generations(self) -> list[Generation]:
        """Generations that stand in the directory, the newest first."""
        from curation.rollback import generations_of

        return generations_of(self.path)

    def rollback(self, to: str | None = None) -> Build:
        """Make another generation the current one, and return it; this build stays what it is.

        Parameters
        ----------
        to
            Build id, or the beginning of one; None is the generation before the current one.

        Raises
        ------
        CurationError
            If there is no such generation, or a build holds the output.
        """
        from curation.rollback import rollback

        return Build(rollback(self.path, to)[1])

    def explain(self, row: int | str) -> Explanation:
        """Say what became of a row.

        Parameters
        ----------
        row
            Row id, or ``column=value``.
        """
        from curation.explain import explain

        return explain(self.manifest, str(row))

    def __repr__(self) -> str:
        content = self.manifest.content
        feed = ", with a plan" if self.manifest.path("plan") else ""
        return (
            f"<Build {content['name']}/{content['output']}: {self.rows:,} rows, {len(self.schema)} columns, "
            f"{len(self.manifest.shards)} shards in {self.path}{feed}>"
        )

    def _repr_html_(self) -> str:
        content = self.manifest.content
        facts: dict[str, Any] = {
            "rows": f"{self.rows:,}",
            "shards": f"{len(self.manifest.shards):,} ({content['shard_format']})",
            "columns": ", ".join(f"{field.name}: {field.type}" for field in self.schema),
            "groups": f"{content['groups']:,} of {content['group_column']}" if content["group_column"] else "",
            "build": content["build_id"],
            "report": self.manifest.path("report") or "",
        }
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{escape(str(value))}</td></tr>"
            for name, value in facts.items()
            if value
        )
        title = f"{escape(str(content['name']))} / {escape(str(content['output']))}"
        return f"<table><caption><b>{title}</b> in <code>{escape(str(self.path))}</code></caption>{cells}</table>"
