"""A whole build: bind, refuse or go, run the passes, close the balance, hold the gates, publish."""

from __future__ import annotations

import os
import platform
import re
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import psutil

from curation.engine.events import Events, Silent
from curation.engine.executor import Executor
from curation.engine.local import Serial, Threads
from curation.engine.lock import held
from curation.engine.runner import Runner
from curation.engine.store import Mark, Store, load_artifact, load_state
from curation.errors import BuildError, RecipeError
from curation.feed.plan import Plan, write_plan
from curation.feed.preview import remarks
from curation.flow import gates
from curation.flow.bind import Bound, bind
from curation.flow.estimate import estimate, refuse
from curation.flow.evaluate import Made, release
from curation.flow.feeding import feed_options
from curation.flow.graph import Step
from curation.flow.jobs import LedgerJob
from curation.flow.measure import Measured, measure_feed
from curation.flow.passes import OutputResult, Passes, ShardResult
from curation.flow.publish import check_writable, lay_out_folder, release_folders, upload
from curation.flow.quarantine import write_quarantine
from curation.flow.reading import ReadJob, chunks_of_parts, refuse_bad
from curation.hashing import combine
from curation.io import commits
from curation.io.atomic import explained, flush, link_or_copy, write_json
from curation.io.chunks import Chunk
from curation.io.files import FileRef
from curation.io.location import Location, RemotePath, location_of
from curation.io.manifest import (
    FORMAT,
    Manifest,
    ManifestError,
    clean_up,
    generations,
    put_manifest,
    read_manifest,
    schema_text,
)
from curation.io.remote import RemoteError
from curation.io.spread import spread
from curation.recipe.model import FeedSpec, OutputSpec, Recipe
from curation.report.page import write_report

SMALL_BYTES = 256 << 20
"""Inputs up to this decoded size are built by threads of this process: a cluster takes seconds to start."""

LINKS = 8
"""Shards that are put in place at a time."""

ExecutorName = Literal["serial", "threads", "dask"]


@dataclass(frozen=True)
class BuildOptions:
    """How to build, as opposed to what.

    Parameters
    ----------
    workers
        Processes to start; ``None`` chooses (threads for small inputs).
    scheduler
        Address of a running Dask scheduler.
    executor
        ``serial``, ``threads`` or ``dask``; ``None`` chooses.
    memory
        Bytes that a worker may use, those of an idle one (350 MB) included; ``None`` is 80 % of what is free, shared.
    work
        Folder for intermediates, local; default beside the output, or ``build/NAME.work`` beside the recipe if the
        output is in a store.
    sample
        Share of every input's rows to take, by a hash of the row id.
    force
        Throw earlier work away and build anew.
    verify_inputs
        Recognise input files by all their bytes.
    task_bytes
        Bytes of a task; results never depend on it.
    """

    workers: int | None = None
    scheduler: str | None = None
    executor: ExecutorName | None = None
    memory: int | None = None
    work: Path | None = None
    sample: float = 1.0
    force: bool = False
    verify_inputs: bool = False
    task_bytes: int | None = None


@dataclass
class BuildResult:
    """What a build has left: a manifest for every output, and whether anything had to be done."""

    manifests: dict[str, Manifest]
    fresh: bool
    ran: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def work_folder(recipe: Recipe, options: BuildOptions) -> Path:
    """Folder for intermediates: as asked, else beside the first output, or beside the recipe if that is in a store."""
    if options.work is not None:
        return options.work
    first = location_of(recipe.outputs[0].path)
    if isinstance(first, RemotePath):
        name = re.sub(r"[^\w.-]+", "-", recipe.name)
        return Path(recipe.root) / "build" / f"{name}.work"
    return first.with_name(f"{first.name}.work")


def build(recipe: Recipe, options: BuildOptions | None = None, events: Events | None = None) -> BuildResult:
    """Build all outputs of a recipe.

    Raises
    ------
    RecipeError
        If the recipe does not fit the data.
    RefusedError
        If memory or disk cannot suffice; nothing was computed.
    LockedError
        If another build holds an output.
    BuildError
        If data cannot be read, a stage cannot go on, or a gate is not met; the old result stands.
    """
    started = time.perf_counter()
    options, events = options or BuildOptions(), events or Silent()
    bound = bind(recipe, sample=options.sample, verify=options.verify_inputs, note=events.note)
    outputs = {name: location_of(output.path) for name, output in bound.outputs.items()}
    if not options.force:
        current = _current(bound, outputs)
        if current is not None:
            return BuildResult(current, fresh=False, seconds=time.perf_counter() - started)
    work = work_folder(recipe, options)
    _refuse_work(bound, work)
    with ExitStack() as stack:
        for path in sorted({*(each for each in outputs.values() if isinstance(each, Path)), work}):
            stack.enter_context(held(path))
        for each in outputs.values():
            check_writable(each)
        executor = make_executor(bound, options, work)
        stack.callback(executor.close)
        stack.callback(release)
        memory = options.memory or default_memory(executor.workers if executor.name == "dask" else 1)
        sharing = executor.workers if executor.name == "threads" else 1
        refuse(estimate(bound), memory=memory, sharing=sharing, out=next(iter(outputs.values())), work=work)
        store = Store(str(work))
        if options.force:
            store.clear()
        load_state.cache_clear()
        load_artifact.cache_clear()
        runner = Runner(store, executor, events, memory, options.task_bytes, verify=store.rebooted())
        try:
            bound = _read(bound, runner, options)
            manifests = _Build(bound, runner, outputs, anew=options.force).run(started)
        except RemoteError as error:
            if error.failure in ("changed", "missing"):
                _refuse_changed(bound)
            raise
        store.sweep(runner.used)
    ran = {record.phase: record.ran for record in runner.records}
    return BuildResult(manifests, fresh=True, ran=ran, seconds=time.perf_counter() - started)


def _read(bound: Bound, runner: Runner, options: BuildOptions) -> Bound:
    """Read what has to be read front to back; bind the recipe again to the columns and rows that are there."""
    found = {}
    for name, each in bound.inputs.items():
        if each.batches:
            strict = each.spec.on_bad_rows == "error"
            root = bound.graph.root_key
            jobs = [ReadJob(name, batch, each.stored, each.options, strict, root) for batch in each.batches]
            marks = runner.run(f"{name}: read", jobs)
            found[name] = chunks_of_parts(name, jobs, marks, runner.store.data)
            if strict:  # an earlier run may have set rows aside and left its parts
                refuse_bad(found[name])
    if not found:
        return bound
    note = runner.events.note
    return bind(bound.recipe, sample=options.sample, note=note, before=bound, found=found)


def _refuse_work(bound: Bound, work: Path) -> None:
    """Intermediates must not become input files of the next build."""
    for name, each in bound.inputs.items():
        for path in map(Path, each.spec.paths):
            if path.is_dir() and (work.absolute() == path or path in work.absolute().parents):
                raise RecipeError(f"--work {work}: lies in {path}, which input '{name}' reads; name another folder")


def _refuse_changed(bound: Bound) -> None:
    """Publish nothing of inputs that have been written to meanwhile."""
    for name, each in bound.inputs.items():
        changed = spread(FileRef.changed, each.files)
        if any(changed):
            path = each.files[changed.index(True)].path
            raise BuildError(
                f"input '{name}': {path} was changed while the build read it; nothing is published, run the same "
                "command again when the file is complete"
            )


def _current(bound: Bound, outputs: Mapping[str, Location]) -> dict[str, Manifest] | None:
    """Manifests of all outputs if this very build stands there already."""
    found = {}
    for name, path in outputs.items():
        try:
            manifest = read_manifest(path)
        except ManifestError:
            return None
        if manifest.build_id != bound.build_id or manifest.content["output"] != name or not manifest.complete():
            return None
        found[name] = manifest
    return found


def choose_executor(bound: Bound, options: BuildOptions) -> tuple[ExecutorName, int]:
    """Say where tasks will run, and on how many workers: as asked, threads for small inputs, else processes."""
    size = sum(each.about_bytes for each in bound.inputs.values())
    name = options.executor
    if name is None:
        asked = options.workers is not None or options.scheduler is not None
        name = "dask" if asked or size > SMALL_BYTES else "threads"
    return name, 1 if name == "serial" else options.workers or len(os.sched_getaffinity(0))


def make_executor(bound: Bound, options: BuildOptions, work: Path) -> Executor:
    """Start what :func:`choose_executor` has chosen."""
    name, workers = choose_executor(bound, options)
    if name == "serial":
        return Serial()
    if name == "threads":
        return Threads(workers)
    from curation.engine.dask import DaskExecutor

    with explained(work):
        work.mkdir(parents=True, exist_ok=True)
    executor = DaskExecutor(workers, address=options.scheduler)
    try:
        executor.probe(work, bound.versions, bound.recipe.plugins)
    except BaseException:
        executor.close()
        raise
    return executor


def default_memory(processes: int) -> int:
    """80 % of the free memory, or of what a container may use, shared by so many processes."""
    return int(0.8 * min(psutil.virtual_memory().available, _container_bytes()) / processes)


def _container_bytes() -> int:
    """Memory limit of the control group that this process is in, if there is one [bytes]."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(path).read_text("ascii"))
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
    return 1 << 62


class _Build:
    """The steps of one build after the lock is held."""

    def __init__(self, bound: Bound, runner: Runner, outputs: Mapping[str, Location], *, anew: bool) -> None:
        self._bound = bound
        self._runner = runner
        self._outputs = outputs
        self._anew = anew
        self._passes = Passes(bound, runner)
        self._measured: dict[str, Measured] = {}

    def run(self, started: float) -> dict[str, Manifest]:
        passes = self._passes
        passes.inspect()
        passes.identify()
        passes.refuse_too_many()
        passes.fit()
        census, ledger = passes.census()
        results = {name: passes.shards(target, census) for name, target in self._bound.targets.items()}
        _refuse_changed(self._bound)
        accounts = self._accounts(census)
        measured = {name: self._gates(name, result) for name, result in results.items()}
        failed = [f"{name}: {text}" for name, found in measured.items() for each in found for text in each["failed"]]
        if failed:
            raise BuildError("the result does not meet `expect`, nothing is published:\n  " + "\n  ".join(failed))
        for name, result in results.items():
            self._measure_feed(name, result)
            self._check_feed(name, result)
        # All outputs are complete before the first of them shows; only the manifests follow one another.
        folders = {n: lay_out_folder(self._outputs[n], Path(self._runner.store.root), n) for n in results}
        staged = {n: self._stage(n, folders[n], r, accounts, measured[n], ledger, started) for n, r in results.items()}
        for name in staged:
            self._upload(name, folders[name])
        before = {name: self._standing(name) for name in staged}
        for name, content in staged.items():
            with explained(folders[name]):
                put_manifest(self._outputs[name], content)
        for name, content in staged.items():
            root, output = self._outputs[name], self._bound.outputs[name]
            clean_up(root, [self._bound.build_id, *before[name], *self._previous(root, output)])
            if not Manifest(root, content).complete():  # another build has cleaned up meanwhile: no lock holds a store
                self._upload(name, folders[name])
                put_manifest(root, content)
        release_folders(Path(self._runner.store.root))
        return {name: Manifest(self._outputs[name], content) for name, content in staged.items()}

    def _upload(self, name: str, folder: Path) -> None:
        root = self._outputs[name]
        if isinstance(root, RemotePath):
            upload(folder, root, self._bound.build_id, name=name, anew=self._anew, events=self._runner.events)

    def _standing(self, name: str) -> list[str]:
        """Generation that readers of a store see up to now, where another build may have put it a moment ago."""
        root = self._outputs[name]
        if not isinstance(root, RemotePath) or not self._bound.outputs[name].keep:
            return []
        try:
            return [read_manifest(root).build_id]
        except ManifestError:
            return []

    def _check_feed(self, name: str, result: OutputResult) -> None:
        """Refuse a feed that the rows cannot serve before anything stands in an output."""
        output = self._bound.outputs[name]
        if output.feed is not None and any(rows for _, rows in result.groups):
            # in the work directory: a plan with weights takes 9 bytes a row
            with TemporaryDirectory(prefix=".tmp-", dir=self._runner.store.root) as folder:
                self._write_plan(Path(folder), output, output.feed, result)
                if said := remarks(Plan.open(Path(folder))):
                    # beside the notes of the stages, none of whose names has a blank
                    self._passes.progress.notes[f"feed of {name}"] = said

    def _measure_feed(self, name: str, result: OutputResult) -> None:
        output = self._bound.outputs[name]
        if output.feed is not None and any(rows for _, rows in result.groups):
            self._measured[name] = measure_feed(self._runner, self._bound.targets[name], output.feed, result)

    # The balance

    def _accounts(self, census: Sequence[tuple[Chunk | Made, Mark]]) -> dict[str, Any]:
        inputs = {name: self._input_account(name) for name in self._bound.inputs}
        stages: dict[str, dict[str, Any]] = {
            step.name: {"use": step.use, "from": _flows(step), "in": 0, "created": 0, "out": 0, "dropped": {}}
            for step in self._bound.graph.steps
        }
        for chunk, mark in census:
            if isinstance(chunk, Chunk):
                _add_to_input(inputs[chunk.input], mark)
            for name, flow in mark["stages"].items():
                _add_to_stage(stages[name], flow)
        for name, account in inputs.items():
            ends = account["kept"] + account["dropped"] + account["not_selected"] + account["quarantined"]
            if ends != account["read"]:
                raise AssertionError(f"input '{name}' does not balance: {account}")
        for name, stage in stages.items():
            if stage["in"] + stage["created"] != stage["out"] + sum(stage["dropped"].values()):
                raise AssertionError(f"stage '{name}' does not balance: {stage}")
        return {"inputs": inputs, "stages": stages}

    def _input_account(self, name: str) -> dict[str, Any]:
        each = self._bound.inputs[name]
        chunks = self._passes.progress.chunks[name]
        return {
            "path": self._bound.recipe.canonical()["inputs"][name]["path"],
            "files": [
                {"path": f.relative, "bytes": f.size, "key": f.key, "row_bits": each.row_bits.get(f.relative)}
                for f in each.files
            ],
            "read": sum(chunk.rows for chunk in chunks),
            "kept": 0,
            "dropped": 0,
            "not_selected": 0,
            "not_selected_by_file": {},
            "keys_hashed_again": sorted(self._passes.progress.salted.get(name, ())),
            "quarantined": sum(skip.stop - skip.start for chunk in chunks for skip in chunk.skips),
            "unreadable_files": [{"path": x.file.relative, "reason": x.reason} for x in each.lost],
            "drift": list(each.drift),
        }

    def _gates(self, name: str, result: OutputResult) -> list[dict[str, Any]]:
        found = []
        for i, gate in enumerate(self._bound.gates[name]):
            counts = gates.add([shard.mark["gates"][i] for shard in result.shards])
            found.append({"gate": gate.text, "failed": gates.verdict(gate, counts)})
        return found

    # Publication

    def _stage(
        self,
        name: str,
        root: Path,
        result: OutputResult,
        accounts: Mapping[str, Any],
        measured: list[dict[str, Any]],
        ledger: LedgerJob,
        started: float,
    ) -> dict[str, Any]:
        """Put everything but the manifest in place; returns what the manifest will say."""
        build_id = self._bound.build_id
        output, target = self._bound.outputs[name], self._bound.targets[name]
        meta = root / "meta" / build_id
        with explained(root):
            shards = self._link_shards(root, result, target.format)
            files = {"ledger": f"meta/{build_id}/ledger.arrow", "run": f"meta/{build_id}/run.json"}
            link_or_copy(self._runner.store.data(ledger.key), meta / "ledger.arrow")
            commits.reached("meta:published")
            if write_quarantine(root / "quarantine" / build_id, self._bound, self._passes.progress.chunks):
                files["quarantine"] = f"quarantine/{build_id}"
            rows = sum(shard["rows"] for shard in shards)
            if output.feed is not None and rows:
                self._write_plan(meta, output, output.feed, result)
                commits.reached("meta:published")
                files["plan"] = f"meta/{build_id}/plan.json"
            files["report"] = f"meta/{build_id}/report.html"
            content = {
                "format": FORMAT,
                "build_id": build_id,
                "name": self._bound.recipe.name,
                "output": name,
                "seed": self._bound.recipe.seed,
                "recipe": self._bound.recipe.canonical(),
                "versions": dict(self._bound.versions),
                "plugins": [plugin.record() for plugin in self._bound.recipe.plugins],
                "sample": self._bound.sample,
                "inputs": accounts["inputs"],
                "stages": accounts["stages"],
                "stage_order": [step.name for step in self._bound.graph.steps],
                "notes": self._passes.progress.notes,
                "gates": measured,
                "rows": rows,
                "data_fingerprint": f"{combine(*(int(s.mark['fingerprint'], 16) for s in result.shards)):032x}",
                "shard_format": target.format,
                "group_column": target.group,
                "groups": len(result.groups),
                "shards": shards,
                "files": files,
                **schema_text(target.schema),
            }
            self._write_run(meta, started, self._previous(self._outputs[name], output))
            write_report(meta / "report.html", Manifest(root, content), self._input_files())
            for path in (*meta.iterdir(), meta, root / "shards" / build_id):
                flush(path)
        return content

    def _link_shards(self, root: Path, result: OutputResult, suffix: str) -> list[dict[str, Any]]:
        names = [f"shards/{self._bound.build_id}/part-{i:05d}.{suffix}" for i in range(len(result.shards))]
        # What takes time is the disk's word that it has the bytes, so several are asked for at once.
        with ThreadPoolExecutor(LINKS) as pool:
            return list(pool.map(lambda shard, name: self._link(root, shard, name), result.shards, names))

    def _link(self, root: Path, shard: ShardResult, name: str) -> dict[str, Any]:
        store, data = self._runner.store, shard.mark["data"]
        if shard.key not in self._runner.made and not store.intact(shard.key, shard.mark):
            store.forget(shard.key)
            raise BuildError(
                f"{store.data(shard.key, data['suffix'])}: has changed since it was written; run the same command "
                "again, which makes it anew"
            )
        link_or_copy(store.data(shard.key, data["suffix"]), root / name)
        commits.reached("shard:published")
        published = {"path": name, "rows": shard.mark["rows"], "bytes": data["bytes"], "xxh3": data["xxh3"]}
        sidecar = shard.mark.get("sidecar")
        if sidecar is None:
            return published
        beside = name.removesuffix(data["suffix"]) + sidecar["suffix"]
        link_or_copy(store.data(shard.key, sidecar["suffix"]), root / beside)
        commits.reached("shard:published")
        return published | {"sidecar": {"path": beside, "bytes": sidecar["bytes"], "xxh3": sidecar["xxh3"]}}

    def _write_plan(self, folder: Path, output: OutputSpec, feed: FeedSpec, result: OutputResult) -> None:
        seed = self._bound.recipe.seed if feed.seed is None else feed.seed
        write_plan(
            folder / "plan.json",
            options=feed_options(feed),
            groups=[(value, rows) for value, rows in result.groups],
            seed=seed,
            name=output.name,
            sizes=self._measured[output.name].sizes,
            weights=self._measured[output.name].weights,
        )

    def _input_files(self) -> dict[str, list[Path]]:
        """Local files that hold the rows of the inputs as they came: those named, or the parts made of them."""
        found = {}
        for name, chunks in self._passes.progress.chunks.items():
            files = dict.fromkeys(chunk.file for chunk in chunks)
            found[name] = [] if any(file.remote for file in files) else [Path(file.path) for file in files]
        return found

    def _previous(self, root: Location, output: OutputSpec) -> list[str]:
        try:
            before = generations(root)
        except (ManifestError, ValueError):
            return []
        return [each for each in before if each != self._bound.build_id][: output.keep]

    def _write_run(self, meta: Path, started: float, previous: list[str]) -> None:
        executor = self._runner.executor
        write_json(
            meta / "run.json",
            {
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - started, 3),
                "host": socket.gethostname(),
                "root": self._bound.recipe.root,
                "work": str(Path(self._runner.store.root).absolute()),
                "python": platform.python_version(),
                "executor": {"name": executor.name, "workers": executor.workers},
                "memory_bytes": self._runner.memory,
                "peak_bytes": max((record.peak_bytes for record in self._runner.records), default=0),
                "phases": [asdict(record) for record in self._runner.records],
                "previous": previous,
            },
            written="meta:published",
            named="meta:published",
        )


def _flows(step: Step) -> str | list[str]:
    return step.sources[0] if len(step.sources) == 1 else list(step.sources)


def _add_to_input(account: dict[str, Any], mark: Mark) -> None:
    account["kept"] += mark["kept"]
    account["dropped"] += mark["dropped"]
    per_file = account["not_selected_by_file"]
    for name, rows in mark["not_selected"].items():
        account["not_selected"] += rows
        per_file[name] = per_file.get(name, 0) + rows


def _add_to_stage(account: dict[str, Any], flow: Mark) -> None:
    account["in"] += flow["into"]
    account["created"] += flow["created"]
    account["out"] += flow["out"]
    for reason, rows in flow["dropped"].items():
        account["dropped"][reason] = account["dropped"].get(reason, 0) + rows
