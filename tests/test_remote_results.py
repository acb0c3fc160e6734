"""Results in a store: read by Python, by the command line and by trainers, as local ones are."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from s3fs.core import S3File

import curation
from curation.errors import CurationError
from curation.io import remote
from curation.io.location import local, location_of
from tests.cli.project import RECIPE, TWO_OUTPUTS, curate, make_project, people
from tests.s3 import SECRET, closed_port, make_bucket, use, used


@pytest.fixture(scope="module")
def shared(s3):
    """A bucket for results that are only read."""
    with pytest.MonkeyPatch.context() as patch:
        use(s3.url, s3.env, patch)
        yield make_bucket(s3)


@pytest.fixture(scope="module", params=["arrow", "parquet"])
def both(request, shared, tmp_path_factory):
    """One result in a folder and in S3; do not change them."""
    recipe = RECIPE.replace("build/tiny}", f"build/tiny, format: {request.param}, shard_rows: 50}}")
    path = make_project(tmp_path_factory.mktemp("both"), recipe)
    return curation.build(path), curation.build(path, out=f"{shared.url}/{request.param}")


@pytest.fixture(scope="module")
def far(shared, tmp_path_factory):
    """URL of a result in S3; do not change it."""
    curation.build(make_project(tmp_path_factory.mktemp("far")), out=f"{shared.url}/tiny")
    return f"{shared.url}/tiny"


@pytest.fixture
def own(bucket, tmp_path):
    """URL of a result in S3 that a test may change; its recipe lies in ``tmp_path``."""
    curation.build(make_project(tmp_path), out=f"{bucket.url}/tiny")
    return f"{bucket.url}/tiny"


def test_table__is_that_of_the_local_build(both):
    here, there = both
    assert there.table().collect_schema() == here.table().collect_schema()
    assert there.table().collect().equals(here.table().collect())
    assert curation.open(str(there.path)).table().select(pl.len()).collect().item() == here.rows


def test_table__answers_queries_as_the_local_one(both):
    query = [
        lambda frame: frame.filter(pl.col("age") > 50).select("id", "x"),
        lambda frame: frame.head(60).select("lang"),
        lambda frame: frame.slice(70, 20),
        lambda frame: frame.group_by("lang").agg(pl.col("age").sum()).sort("lang"),
        lambda frame: frame.with_row_index().filter(pl.col("lang") == "is").select("index", "id").head(3),
    ]
    here, there = both
    for each in query:
        assert each(there.table()).collect().equals(each(here.table()).collect())


def test_head__reads_no_more_shards_than_it_needs(both, s3):
    _, there = both
    before = len(s3.requests("GET"))
    there.table().head(3).collect()
    asked = [path for path in s3.requests("GET")[before:] if "part-" in path]
    assert asked
    assert all("part-00000" in path for path in asked)


@pytest.mark.parametrize("format", ["arrow", "parquet"])
def test_columns__that_are_not_asked_for_do_not_travel(bucket, tmp_path, monkeypatch, format):
    noise = np.random.default_rng(0).bytes(4 << 20)
    table = pa.table({"id": range(1 << 12), "raw": [noise[i << 10 : (i + 1) << 10] for i in range(1 << 12)]})
    recipe = RECIPE.partition("stages")[0] + f"output: {{path: build/tiny, format: {format}}}\n"
    there = curation.build(make_project(tmp_path, recipe, table), out=f"{bucket.url}/tiny")
    fetched: list[int] = []
    read = S3File._fetch_range

    def counted(file, start, end):
        fetched.append(end - start)
        return read(file, start, end)

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    assert there.table().select("id").collect().height == 1 << 12
    assert 0 < sum(fetched) < 1 << 20


def test_plan_and_loader__are_those_of_the_local_build(both):
    here, there = both
    assert there.plan.fingerprint == here.plan.fingerprint
    for ours, theirs in zip(here.loader(), there.loader(), strict=True):
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_loader__refuses_a_shard_that_is_another_one(own):
    (shard, *_) = [path for path in remote.sizes(own) if path.startswith("shards/")]
    remote.put_bytes(bytes(remote.sizes(own)[shard]), f"{own}/{shard}")
    with pytest.raises(CurationError, match=r"part-00000\.arrow: expected the xxh3 [0-9a-f]{32}, got"):
        curation.open(own).loader()


def test_sidecar__of_a_shard_belongs_to_the_result(bucket, tmp_path):
    table = people().select(["id", "lang"]).append_column("raw", pa.array([bytes([i]) * 5000 for i in range(200)]))
    recipe = re.sub("(?s)stages:.*feed", "feed", RECIPE).replace("build/tiny}", f"{bucket.url}/tiny, format: parquet}}")
    path = make_project(tmp_path, recipe, table)
    build = curation.build(path)
    (shard,) = build.manifest.shards
    assert shard.sidecar is not None
    build.loader()
    assert local(build.path / shard.sidecar.path).parent == local(build.path / shard.path).parent
    remote.delete(f"{bucket.url}/tiny/{shard.sidecar.path}")
    assert not build.manifest.complete()
    assert curation.build(path).manifest.complete()


def test_ledger_and_explain__answer(far):
    build = curation.open(far)
    assert build.ledger().collect().height == 20
    assert [fate.verdict for fate in build.explain("id=17").fates] == ["kept"]
    assert [fate.verdict for fate in build.explain("id=3").fates] == ["dropped"]


def test_open__where_nothing_is(bucket):
    with pytest.raises(CurationError, match=r"none: no build here \(no manifest\.json\); name the output"):
        curation.open(f"{bucket.url}/none")


def test_siblings__are_found_in_the_store(bucket, tmp_path):
    recipe = TWO_OUTPUTS.replace("path: build/", f"path: {bucket.url}/")
    train = curation.build(make_project(tmp_path, recipe))
    assert set(curation.open(f"{bucket.url}/held_out").outputs) == {"train", "held_out"}
    assert curation.open(f"{bucket.url}/train").explain("id=1").notes == ()
    assert train.rows + train.outputs["held_out"].rows > 150


# The command line


def test_build__prints_the_url(bucket, tmp_path):
    url = f"{bucket.url}/tiny"
    first = curate("build", make_project(tmp_path), "--out", url)
    again = curate("build", tmp_path / "recipe.yaml", "--out", url)
    assert (first.exit_code, again.exit_code) == (0, 0), first.output
    assert f"in {url}" in first.output
    assert re.search(rf"report: {url}/meta/[0-9a-f]+/report.html", first.output)
    assert again.output.splitlines()[-1] == f"up to date: 180 rows in {url}"


@pytest.mark.parametrize("verb", ["build", "plan"])
def test_work__cannot_lie_in_a_store(tmp_path, verb):
    done = curate(verb, make_project(tmp_path), "--work", f"s3://me:{SECRET}@bucket/work")
    assert done.exit_code == 2
    assert "--work: expected a local directory, got s3://bucket/work; only results" in done.output


def test_plan_and_validate__name_the_store(bucket, tmp_path):
    path = make_project(tmp_path, RECIPE.replace("build/tiny", f"{bucket.url}/tiny"))
    assert f"output in {bucket.url}/tiny" in curate("validate", path).output
    shown = curate("plan", path)
    assert f"result: {bucket.url}/tiny" in shown.output
    assert "build/tiny.work" in shown.output


def test_inspect__shows_a_result_in_a_store(far):
    shown = curate("inspect", far)
    assert shown.exit_code == 0
    assert f"{far}/meta/" in shown.output
    assert "missing" not in shown.output


def test_explain__of_a_result_in_a_store(far):
    shown = curate("explain", far, "id=3")
    assert "dropped by stage 'filter'" in shown.output


def test_report__is_uploaded_anew(own):
    (page,) = [path for path in remote.sizes(own) if path.endswith("report.html")]
    before = remote.read_bytes(f"{own}/{page}")
    remote.put_bytes(b"lost", f"{own}/{page}")
    shown = curate("report", own)
    assert shown.output == f"{own}/{page}\n"
    assert remote.read_bytes(f"{own}/{page}") == before
    assert remote.filesystem(own).info(f"{own}/{page}")["ContentType"] == "text/html"


def test_clean__frees_the_work_folder(own, tmp_path):
    assert (tmp_path / "build/tiny.work/objects").is_dir()
    assert curate("clean", own).exit_code == 0
    assert not (tmp_path / "build/tiny.work").exists()
    assert curation.open(own).manifest.complete()


# Generations


@pytest.fixture
def three(bucket, tmp_path):
    """URL of a result in S3 with three generations, of 180, 160 and 140 rows."""
    url = f"{bucket.url}/three"
    for age in (10, 20, 30):
        recipe = RECIPE.replace("build/tiny}", f"{url}, keep: 2}}").replace("age >= 10", f"age >= {age}")
        curation.build(make_project(tmp_path, recipe))
    return url


def test_keep__holds_in_a_store(three):
    assert [each.rows for each in curation.open(three).generations] == [140, 160, 180]


def test_rollback__of_a_result_in_a_store(three):
    newest = curation.open(three).manifest.build_id
    done = curate("rollback", three)
    assert (done.exit_code, curation.open(three).rows) == (0, 160)
    assert f"{three}: the current generation is now" in done.stdout
    assert f"`curate rollback {three} --to {newest}` brings it back" in done.stdout
    assert curate("rollback", three).exit_code == 0
    assert [each.current for each in curation.open(three).generations] == [False, False, True]
    assert curate("rollback", three, "--to", newest).exit_code == 0
    assert curation.open(three).rows == 140


def test_rollback__list_of_a_result_in_a_store(three):
    shown = curate("rollback", three, "--list").stdout
    assert [line.split()[-2] for line in shown.splitlines()[1:]] == ["140", "160", "180"]


def test_rollback__refuses_a_generation_that_is_not_whole(three):
    before = curation.open(three).generations[1]
    remote.delete_tree(f"{three}/shards/{before.build_id}")
    done = curate("rollback", three)
    assert (done.exit_code, curation.open(three).rows) == (1, 140)
    assert f"{three}: generation {before.build_id} is not whole" in done.stderr


def test_build__after_a_rollback_publishes_its_own_again(three, tmp_path):
    newest = curation.open(three).manifest.build_id
    curation.open(three).rollback()
    assert curation.build(tmp_path / "recipe.yaml").manifest.build_id == newest
    assert [each.rows for each in curation.open(three).generations] == [140, 160, 180]


@pytest.mark.parametrize("sides", [(0, 1), (1, 0), (1, 1)])
def test_diff__takes_results_in_stores(both, sides):
    done = curate("diff", *(both[side].path for side in sides))
    assert done.exit_code == 0, done.output
    assert "only in A 0 · only in B 0 · changed 0 · equal 180" in done.stdout


def test_diff__of_two_generations_in_a_store(three):
    old = curation.open(three).generations[1].build_id
    done = curate("diff", f"{three}@{old}", three, "--rows", "2", "--json")
    found = json.loads(done.stdout)
    assert (found["only_a"], found["only_b"], found["equal"]) == (20, 0, 140)
    assert found["a"] == {"path": three, "build_id": old}
    assert len(found["examples"]["only_a"]) == 2


def test_erasure__is_proved_in_a_store(three, tmp_path):
    old = curation.open(three).generations[1].build_id
    gone = set(curation.open(three).table().collect()["id"]) ^ set(range(20, 200))
    (tmp_path / "gone.csv").write_text("id\n" + "".join(f"{each}\n" for each in sorted(gone)))
    done = curate("diff", f"{three}@{old}", three, "--erased", tmp_path / "gone.csv", "--on", "id")
    assert done.exit_code == 0, done.output


# Failures, as users meet them


@pytest.mark.parametrize(
    ("place", "endpoint", "lacking", "expected"),
    [
        ("", "", ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "no credentials were found"),
        ("", "closed", (), "the store did not answer, tried 4 times"),
        ("s3://no-such-bucket", "", (), "there is no such bucket"),
    ],
    ids=["no credentials", "closed port", "no bucket"],
)
def test_failure__is_told_in_a_line_in_time(bucket, tmp_path, monkeypatch, place, endpoint, lacking, expected):
    for name in lacking:
        monkeypatch.delenv(name)
    url = f"{place or bucket.url}/tiny"
    started = time.monotonic()
    with used(closed_port() if endpoint else bucket.endpoint.url, {}, monkeypatch):
        done = curate("build", make_project(tmp_path), "--out", url)
    assert (done.exit_code, time.monotonic() - started < 30) == (1, True)
    assert re.match(rf"{url}(/manifest\.json)?: {expected}", done.output.splitlines()[-1])


def test_secrets__are_nowhere_in_what_a_build_leaves_and_says(bucket, tmp_path):
    url = f"{bucket.url}/tiny"
    done = curate("build", make_project(tmp_path), "--out", url, "--json")
    assert done.exit_code == 0, done.output
    stored = [remote.read_bytes(f"{url}/{path}") for path in remote.sizes(url)]
    worked = [path.read_bytes() for path in (tmp_path / "build").rglob("*") if path.is_file()]
    for secret in (SECRET, bucket.endpoint.env["AWS_ACCESS_KEY_ID"]):
        assert not [text for text in (done.output.encode(), *stored, *worked) if secret.encode() in text]


def test_json__names_the_place(bucket, tmp_path):
    shown = curate("build", make_project(tmp_path), "--out", f"{bucket.url}/tiny", "--json")
    done = json.loads(shown.output.splitlines()[-1])
    assert done["outputs"]["output"]["path"] == f"{bucket.url}/tiny"


def test_location__keeps_local_paths_local(tmp_path):
    assert location_of(f"file://{tmp_path}") == tmp_path
    assert location_of(tmp_path / "x") == tmp_path / "x"
    assert str(location_of("s3://me:pass@bucket/a/")) == "s3://bucket/a"
