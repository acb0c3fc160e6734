"""Recipes that nobody thought of: the balance closes, rows are who they were, bytes do not depend on who computes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.errors import CurationError
from curation.io.manifest import Manifest
from curation.types import SYNTHETIC
from tests.flow.helpers import digest_tree, people, read, run, write

MOST = 30
"""Recipes to try; each is built four times or five."""


@dataclass
class Draft:
    """A recipe in the making: its stages, and what the columns of :func:`people` are called by now."""

    names: dict[str, str] = field(default_factory=lambda: {n: n for n in people(1).column_names})
    stages: list[dict[str, Any]] = field(default_factory=list)
    free: list[str] = field(default_factory=lambda: [f"new{i}" for i in range(16)])
    copied: bool = False
    ref: str | list[str] | None = None
    ports: list[str] = field(default_factory=list)

    def add(self, use: str, **options: Any) -> None:
        name = f"s{len(self.stages)}"
        source = {"from": self.ref} if self.ref else {}
        self.stages.append({"name": name, "use": use, **source, **options})
        self.ref = None

    @property
    def here(self) -> str:
        """Reference that the next stage would read."""
        assert not isinstance(self.ref, list)
        return self.ref or (self.stages[-1]["name"] if self.stages else "people")

    def aside(self) -> str:
        """Some of the rows, in a branch of their own; the next stage reads what was there before."""
        before = self.here
        self.add("filter", where=f"{self.names['id']} % 3 = 1" if self.has("id") else "1 = 1")
        branch: str = self.stages[-1]["name"]
        self.ref = before
        return branch

    def has(self, *columns: str) -> bool:
        return all(column in self.names for column in columns)

    def pick(self, draw: Any, *columns: str) -> str | None:
        """Present name of one of the columns that are still there, or none."""
        here = [self.names[column] for column in columns if self.has(column)]
        chosen: str | None = draw(st.sampled_from([None, *here]))
        return chosen


def filtered(draw: Any, draft: Draft) -> None:
    n = draft.names
    conditions = {
        "id": f"{n.get('id')} % 3 <> 0",
        "lang": f"{n.get('lang')} <> 'is'",
        "text": f"length({n.get('text')}) > 7",
        "score": f"{n.get('score')} > -0.5",
    }
    here = [text for column, text in conditions.items() if draft.has(column)]
    draft.add("filter", where=draw(st.sampled_from([*here, "1 = 1"])))


def derived(draw: Any, draft: Draft) -> None:
    columns = {draft.free.pop(0): draw(st.sampled_from(["1", "'a'", "2 > 1"]))}
    if draft.has("score"):
        columns[draft.free.pop(0)] = f"{draft.names['score']} * 2"
    if draft.has("weight") and draw(st.booleans()):
        columns[draft.names["weight"]] = f"{draft.names['weight']} + 1"
    draft.add("derive", columns=columns)


def renamed(draw: Any, draft: Draft) -> None:
    chosen = draw(st.lists(st.sampled_from(sorted(draft.names)), min_size=1, max_size=2, unique=True))
    taken = {draft.names[column] for column in draft.names}
    fresh = [name for name in people(1).column_names if name not in taken] + draft.free
    if len(chosen) == 2 and draw(st.booleans()):  # two columns swap their names
        new = [draft.names[chosen[1]], draft.names[chosen[0]]]
    else:
        new = [fresh[i] for i in range(len(chosen))]
    draft.free = [name for name in draft.free if name not in new]
    draft.add("rename", columns={draft.names[old]: name for old, name in zip(chosen, new, strict=True)})
    draft.names |= dict(zip(chosen, new, strict=True))


def selected(draw: Any, draft: Draft) -> None:
    if len(draft.names) > 1 and draw(st.booleans()):
        gone = draw(st.sampled_from(sorted(draft.names)))
        draft.add("select", drop=[draft.names.pop(gone)])
    else:
        kept = draw(st.lists(st.sampled_from(sorted(draft.names)), min_size=1, unique=True))
        draft.names = {column: draft.names[column] for column in kept}
        draft.add("select", columns=list(draft.names.values()))


def dealt(draw: Any, draft: Draft) -> None:
    by = draft.pick(draw, "lang", "text")
    draft.add("split", shares={"a": 0.7, "b": 0.3}, **({"by": by} if by else {}))
    refs = [f"{draft.stages[-1]['name']}.{port}" for port in "ab"]
    draft.ref = draw(st.sampled_from(refs))
    draft.ports.append(next(ref for ref in refs if ref != draft.ref))


def sampled(draw: Any, draft: Draft) -> None:
    options: dict[str, Any] = {}
    by, weight = draft.pick(draw, "lang", "text"), draft.pick(draw, "weight")
    if not draft.copied and draw(st.booleans()):
        options, draft.copied = {"replacement": True, "fraction": draw(st.sampled_from([0.2, 1.0, 1.7]))}, True
    elif by and draw(st.booleans()):
        options, weight = {"long_tail": {"imbalance": 5.0}}, None
    elif draft.has("lang") and draw(st.booleans()):
        options, by = {"quotas": {"en": 2, "fr": 1}}, draft.names["lang"]
    else:
        options = {"fraction": draw(st.sampled_from([0.1, 0.5, 1.0]))}
    draft.add("sample", **options, **({"by": by} if by else {}), **({"weight": weight} if weight else {}))


def grown(draw: Any, draft: Draft) -> None:
    if draft.copied or not draft.has("lang", "x"):
        return
    features = [draft.names["x"]]
    if draft.has("weight") and draw(st.booleans()):
        features.insert(0, draft.names["weight"])
    keep = draft.pick(draw, "text", "id")
    draft.add(
        "smote",
        label=draft.names["lang"],
        features=features,
        target=draw(st.sampled_from(["auto", "minority", "all", {"en": 150}])),
        small="copy",
        k=draw(st.integers(1, 5)),
        base=draw(st.sampled_from(["even", "iid"])),
        gap=draw(st.sampled_from(["segment", "box"])),
        **({"keep": [keep]} if keep else {}),
    )


def together(draw: Any, draft: Draft) -> None:
    before = draft.here
    if draw(st.booleans()):
        draft.add("split", shares={"a": 0.5, "b": 0.5})
        draft.ref = [f"{draft.stages[-1]['name']}.{port}" for port in "ba"]
    else:  # some rows come twice
        draft.ref, draft.copied = [before, draft.aside()], True
    draft.add("concat")


def looked_up(draw: Any, draft: Draft) -> None:
    if not draft.has("id"):
        return
    how = draw(st.sampled_from(["inner", "left", "semi", "anti", "erase"]))
    branch, on = draft.aside(), draft.names["id"]
    if how == "erase":
        draft.add("erase", keys=branch, on=on)
    elif how in ("semi", "anti") or not draft.has("text"):
        draft.add("join", right=branch, on=on, how="anti" if how == "anti" else "semi")
    else:
        matches, draft.copied = ("all", True) if not draft.copied else ("one", True)
        suffix = draft.free.pop(0)
        draft.add("join", right=branch, on=on, how=how, columns=[draft.names["text"]], suffix=suffix, matches=matches)


def described(draw: Any, draft: Draft) -> None:
    if draft.has("score"):
        by = draft.pick(draw, "lang", "text")
        draft.add("group_stats", columns=[draft.names["score"]], **({"by": by} if by else {}))


def ordered(draw: Any, draft: Draft) -> None:
    by = draft.pick(draw, "lang", "text", "score", "weight")
    if by:
        draft.add("sort", by=[draw(st.sampled_from(["", "-"])) + by])


STAGES = [
    grown,
    sampled,
    selected,
    renamed,
    dealt,
    derived,
    filtered,
    together,
    looked_up,
    described,
    ordered,
]


@st.composite
def recipes(draw) -> dict[str, Any]:
    draft = Draft()
    for stage in draw(st.lists(st.sampled_from(STAGES), min_size=draw(st.integers(1, 4)), max_size=4)):
        stage(draw, draft)
    source = {"path": "data"} | draw(st.sampled_from([{}, {"key": "id"}, {"key": "id"}]))
    if draw(st.booleans()):
        source["where"] = "id % 5 <> 4"
    last = {"from": draft.here}
    outputs = {"one": {**last, "path": "out/one", **draw(shapes(draft))}}
    if draw(st.booleans()):
        other = draft.ports[-1] if draft.ports else "people"
        outputs["two"] = {"from": other, "path": "out/two", **draw(shapes(Draft(names={})))}
    return {
        "recipe": 1,
        "name": "any",
        "seed": draw(st.integers(0, 3)),
        "inputs": {"people": source},
        "stages": draft.stages,
        "outputs": outputs,
    }


@st.composite
def shapes(draw, draft: Draft) -> dict[str, Any]:
    shape = {
        "format": draw(st.sampled_from(["arrow", "parquet"])),
        "order": draw(st.sampled_from(["input", "shuffled"])),
        "shard_rows": draw(st.sampled_from([1000, 25, 7])),
    }
    if shape["order"] == "shuffled" and draw(st.booleans()):
        groups = {"groups": draft.names["lang"]} if draft.has("lang") else {}
        shape["feed"] = {"batch_size": 4, "epochs": 2, **groups}
    return shape


def lay_out(folder: Path, table: pa.Table, files: int, group: int) -> None:
    each = -(-table.num_rows // files)
    for i in range(files):
        part = table.slice(i * each, each)
        write(folder / f"data/{i}.parquet", part, row_group_size=group)


def outcome(folder: Path, recipe: dict[str, Any], **options: Any) -> dict[str, Manifest] | str:
    """Manifests of a build, or what it says it cannot do."""
    try:
        return run(folder, yaml.safe_dump(recipe, sort_keys=False), **options).manifests
    except CurationError as error:
        return str(error).replace(str(folder), "")


def prints(found: dict[str, Manifest] | str) -> dict[str, str]:
    """Fingerprint of every output of a build that went well."""
    assert not isinstance(found, str), found
    return {name: manifest.content["data_fingerprint"] for name, manifest in found.items()}


def check_balance(manifest: Manifest, rows: int) -> None:
    account = manifest.content["inputs"]["people"]
    assert account["read"] == rows
    ends = ("kept", "dropped", "not_selected", "quarantined")
    assert account["read"] == sum(account[end] for end in ends)
    for stage in manifest.content["stages"].values():
        assert stage["in"] + stage["created"] == stage["out"] + sum(stage["dropped"].values())


def check_ledger(manifest: Manifest, outputs: list[pa.Table], sources: set[int]) -> None:
    """It lists as many rows of each reason as the balance says, and every row that is in no output."""
    path = manifest.path("ledger")
    assert path is not None
    with pa.memory_map(str(path)) as file:
        ledger = pa.ipc.open_file(file).read_all()
    listed = Counter(zip(ledger.column("stage").to_pylist(), ledger.column("reason").to_pylist(), strict=True))
    stages = manifest.content["stages"]
    stated = {(name, why): n for name, stage in stages.items() for why, n in stage["dropped"].items()}
    assert listed == {place: n for place, n in stated.items() if n}
    dropped = set(ledger.column("row_id").to_pylist())
    kept = {i for table in outputs for i in table.column("_row_id").to_pylist()}
    assert sources - kept <= dropped <= sources | {i for i in dropped if i >= int(SYNTHETIC)}
    stages_read = manifest.content["recipe"]["stages"]
    branches = any("right" in stage or "keys" in stage or isinstance(stage["from"], list) for stage in stages_read)
    if len(outputs) == 1 and "_copy" not in outputs[0].column_names and not branches:
        assert not kept & dropped


def check_rows(table: pa.Table, plain: pa.Table) -> None:
    """Every row is one that was read, with its id, or a synthetic one that says so; none stands there twice."""
    ids = table.column("_row_id").to_numpy()
    made = ids >= SYNTHETIC
    names = dict(zip(plain.column("_row_id").to_pylist(), plain.column("id").to_pylist(), strict=True))
    assert set(ids[~made].tolist()) <= names.keys()
    if "_origin" in table.column_names:
        assert np.asarray(table.column("_origin").is_valid()).tolist() == made.tolist()
        parents = {i for i in table.column("_parent_a").drop_null().to_pylist() if i < int(SYNTHETIC)}
        assert parents <= names.keys()
    else:
        assert not made.any()
    copies = table.column("_copy").to_pylist() if "_copy" in table.column_names else [0] * len(ids)
    assert len(set(zip(ids.tolist(), copies, strict=True))) == len(ids)


@pytest.fixture(scope="module")
def small_chunks():
    """Chunks of a few rows, so that small tables have many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curation.io.chunks.CHUNK_ROWS", 16)
        patch.setattr("curation.stages.smote.PIECE_ROWS", 11)
        patch.setattr("curation.stages.smote.SEARCH_ROWS", 13)
        patch.setattr("curation.stages.lookup.PARTITION_BYTES", 400)
        patch.setattr("curation.flow.sorting.SAMPLE", 4)
        yield


@settings(
    max_examples=MOST,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(recipe=recipes(), rows=st.integers(8, 120), files=st.integers(1, 3), group=st.integers(1, 50))
def test_any_recipe__keeps_its_promises(tmp_path_factory, small_chunks, recipe, rows, files, group):
    base = tmp_path_factory.mktemp("any")
    table = people(rows)
    for name in ("serial", "threads", "plain"):
        lay_out(base / name, table, files, group)
    first = outcome(base / "serial", recipe)
    again = outcome(base / "threads", recipe, executor="threads", workers=3, task_bytes=1)
    if isinstance(first, str):
        assert again == first
        return
    assert digest_tree(base / "threads/out") == digest_tree(base / "serial/out")
    run(base / "plain", yaml.safe_dump(recipe | {"stages": [], "outputs": {"o": {"path": "out"}}}))
    plain = read(base / "plain/out")
    outputs = [read(manifest.root) for manifest in first.values()]
    for manifest in first.values():
        check_balance(manifest, rows)
        check_ledger(manifest, outputs, set(plain.column("_row_id").to_pylist()))
    for each in outputs:
        check_rows(each, plain)
    if "key" in recipe["inputs"]["people"]:
        order = np.random.default_rng(rows).permutation(rows)
        lay_out(base / "other", table.take(pa.array(order)), 4 - files, group % 7 + 1)
        assert prints(outcome(base / "other", recipe)) == prints(first)
