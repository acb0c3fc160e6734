"""Synthetic rows lie between neighbours of their class, name their parents, and leave all other rows alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import yaml
from sklearn.neighbors import NearestNeighbors

from curation.errors import BuildError, RecipeError
from curation.methods.smote import Smote
from curation.stages import smote as module
from curation.stages.base import BindError
from curation.stages.smote import LINEAGE
from curation.types import SYNTHETIC, ids_of
from tests.flow.helpers import iris, people, read, run, write
from tests.stages.hands import stage_of

K = 3
SIZES = {"en": 250, "fr": 100, "is": 50}
GROWN = {"is": 170, "fr": 130}


def grown(folder, table=None, *, stages=(), seed=1, files=3, group=37, **options):
    """Result of a build whose last stage is ``rare``."""
    table = people(400) if table is None else table
    each = -(-table.num_rows // files)
    for i in range(files):
        write(folder / f"data/{i}.parquet", table.slice(i * each, each), row_group_size=group)
    defaults = {"name": "rare", "use": "smote", "label": "lang", "features": ["x"], "target": GROWN, "k": K}
    recipe = {
        "recipe": 1,
        "name": "smote",
        "seed": seed,
        "inputs": {"people": {"path": "data", "key": "id"}},
        "stages": [*stages, defaults | options],
        "output": {"path": "out"},
    }
    run(folder, yaml.safe_dump(recipe, sort_keys=False))
    return read(folder / "out")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:  # several pieces and blocks even of a small table
        patch.setattr(module, "PIECE_ROWS", 31)
        patch.setattr(module, "SEARCH_ROWS", 17)
        return grown(tmp_path_factory.mktemp("smote"), keep=["weight"])


def parted(table):
    """Rows that came in, and rows that were made."""
    made = ids_of(table) >= SYNTHETIC
    return table.filter(pa.array(~made)), table.filter(pa.array(made))


def matrix(table, column="x"):
    return np.array(table.column(column).to_pylist())


def parents(table):
    """Rows that came in, positions of both parents of each made row, and the made rows."""
    old, new = parted(table)
    place = {row: i for i, row in enumerate(ids_of(old).tolist())}
    pairs = [[place[i] for i in new.column(name).to_pylist()] for name in ("_parent_a", "_parent_b")]
    return old, np.array(pairs), new


def test_smote__brings_classes_to_their_target(table):
    assert Counter(table.column("lang").to_pylist()) == SIZES | GROWN


def test_smote__passes_its_input_through(table):
    old, _ = parted(table)
    assert old.select(people(1).column_names).equals(people(400))
    assert all(old.column(name).null_count == 400 for name in LINEAGE)


def test_smote__ids_are_unique_and_carry_the_synthetic_bit(table):
    ids = ids_of(table)
    assert len(set(ids.tolist())) == len(ids) == 550
    assert (ids >= SYNTHETIC).sum() == 150


def test_smote__ids_count_the_rows_of_a_class(table):
    _, new = parted(table)
    low = ids_of(new) & np.uint64((1 << 32) - 1)
    for label, rows in {"is": 120, "fr": 30}.items():
        of_class = np.array(new.column("lang").to_pylist()) == label
        assert sorted(low[of_class].tolist()) == list(range(rows))
        assert len(set((ids_of(new)[of_class] >> np.uint64(32)).tolist())) == 1


def test_smote__parents_belong_to_the_class(table):
    old, pairs, new = parents(table)
    label = np.array(old.column("lang").to_pylist())
    assert (label[pairs] == np.array(new.column("lang").to_pylist())).all()
    assert (pairs[0] != pairs[1]).all()


def test_smote__rows_lie_where_mix_says(table):
    old, (a, b), new = parents(table)
    x, mix = matrix(old), np.array(new.column("_mix").to_pylist())[:, None]
    assert ((mix >= 0) & (mix < 1)).all()
    np.testing.assert_allclose(matrix(new), x[a] + mix * (x[b] - x[a]), rtol=1e-6, atol=1e-6)


def test_smote__second_parent_is_one_of_the_nearest(table):
    old, pairs, new = parents(table)
    x, label = matrix(old), np.array(old.column("lang").to_pylist())
    for value in GROWN:
        rows = np.flatnonzero(label == value)
        near = NearestNeighbors(n_neighbors=K + 1).fit(x[rows]).kneighbors(x[rows], return_distance=False)
        allowed = {(int(rows[i]), int(rows[j])) for i, line in enumerate(near) for j in line[1:]}
        of_class = np.array(new.column("lang").to_pylist()) == value
        assert set(map(tuple, pairs[:, of_class].T.tolist())) <= allowed


def test_smote__every_row_of_a_class_is_a_base_equally_often(table):
    _, (a, _), new = parents(table)
    for label, rows in {"is": 50, "fr": 100}.items():
        times = Counter(a[np.array(new.column("lang").to_pylist()) == label].tolist())
        made = sum(times.values())
        assert {times.get(i, 0) for i in times} <= {made // rows, made // rows + 1}
        assert len(times) == min(rows, made)


def test_smote__kept_columns_are_the_base_parents(table):
    old, (a, _), new = parents(table)
    assert new.column("weight").equals(old.column("weight").take(pa.array(a)))


def test_smote__other_columns_are_null(table):
    _, new = parted(table)
    assert {name: new.column(name).null_count for name in ("id", "text", "score")} == dict.fromkeys(
        ("id", "text", "score"), 150
    )


def test_smote__names_its_stage_as_the_origin(table):
    assert set(parted(table)[1].column("_origin").to_pylist()) == {"rare"}


def test_smote__balance_counts_made_rows(tmp_path):
    grown(tmp_path)
    from curation.io.manifest import read_manifest

    stage = read_manifest(tmp_path / "out").content["stages"]["rare"]
    assert (stage["in"], stage["created"], stage["out"], stage["dropped"]) == (400, 150, 550, {})


def described(table):
    """Made rows as a set: id, parents, mix and features."""
    _, new = parted(table)
    columns = [new.column(name).to_pylist() for name in ("_row_id", "_parent_a", "_parent_b", "_mix", "x", "lang")]
    return {(*row[:4], tuple(row[4]), row[5]) for row in zip(*columns, strict=True)}


@pytest.mark.parametrize("options", [{}, {"base": "iid"}, {"gap": "box"}], ids=str)
def test_smote__of_permuted_rows_with_a_key_makes_the_same_rows(tmp_path, options):
    order = np.random.default_rng(0).permutation(400)
    first = grown(tmp_path / "a", **options)
    again = grown(tmp_path / "b", people(400).take(pa.array(order)), files=2, group=90, **options)
    assert described(again) == described(first)


def test_smote__does_not_depend_on_pieces_and_blocks(table, tmp_path):
    assert described(grown(tmp_path, keep=["weight"])) == described(table)


@pytest.mark.parametrize("options", [{"seed": 2}, {"name": "other"}], ids=str)
def test_smote__of_another_seed_or_name_draws_anew(table, tmp_path, options):
    mixes = [set(parted(each)[1].column("_mix").to_pylist()) for each in (table, grown(tmp_path, **options))]
    assert not mixes[0] & mixes[1]


def test_smote__classes_of_equal_size_share_no_draws(tmp_path):
    base = people(60)
    labels = pa.array(["big"] * 40 + ["one"] * 10 + ["two"] * 10)
    same = pa.concat_tables([base.slice(0, 50), base.slice(40, 10)]).column("x")  # equal features, too
    table = base.set_column(1, "lang", labels).set_column(5, "x", same)
    _, new = parted(grown(tmp_path, table, target="auto"))
    mixes = [
        set(new.filter(pa.compute.equal(new.column("lang"), v)).column("_mix").to_pylist()) for v in ("one", "two")
    ]
    assert [len(each) for each in mixes] == [30, 30]
    assert not mixes[0] & mixes[1]


@pytest.mark.parametrize(
    ("target", "sizes"),
    [
        ("auto", {"en": 250, "fr": 250, "is": 250}),
        ("all", {"en": 250, "fr": 250, "is": 250}),
        ("not majority", {"en": 250, "fr": 250, "is": 250}),
        ("not minority", {"en": 250, "fr": 250, "is": 50}),
        ("minority", {"en": 250, "fr": 100, "is": 250}),
        ({"en": 260}, {"en": 260, "fr": 100, "is": 50}),
        ({"en": 250, "is": 50}, SIZES),
    ],
)
def test_target__in_every_form(tmp_path, target, sizes):
    assert Counter(grown(tmp_path, target=target).column("lang").to_pylist()) == sizes


def test_target__as_a_ratio_of_two_classes(tmp_path):
    two = {"name": "two", "use": "filter", "where": "lang <> 'is'"}
    found = Counter(grown(tmp_path, stages=[two], target=0.6).column("lang").to_pylist())
    assert found == {"en": 250, "fr": 150}


@pytest.mark.parametrize("kind", [pa.int8(), pa.bool_(), pa.large_string(), pa.string_view()], ids=str)
def test_label__of_every_plain_type(tmp_path, kind):
    label = pa.array([i % 4 == 0 for i in range(400)])
    label = label if pa.types.is_boolean(kind) else label.cast(pa.int8())
    table = people(400).append_column("label", label.cast(kind))
    found = grown(tmp_path, table, label="label", target="auto", keep=["text"])
    assert set(Counter(found.column("label").to_pylist()).values()) == {300}
    assert found.schema.field("label").type == kind


def test_label__of_a_dictionary_stays_one(tmp_path):
    table = people(400)
    table = table.set_column(1, "lang", table.column("lang").dictionary_encode())
    found = grown(tmp_path, table)
    assert found.schema.field("lang").type == table.schema.field("lang").type
    assert Counter(found.column("lang").to_pylist()) == SIZES | GROWN


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.decimal128(5, 2), pa.binary(), pa.float64()])
def test_label__of_other_types_is_refused_before_any_pass(kind):
    schema = pa.schema([("label", kind), ("x", pa.list_(pa.float32(), 4))])
    with pytest.raises(BindError, match=r"column 'label' is .*, a label is text, an integer or a boolean"):
        stage_of("smote", Smote(label="label", features=["x"]), schema)


def test_features__of_mixed_columns_are_read_as_one_matrix(tmp_path):
    found = grown(
        tmp_path,
        iris().filter(pa.array(np.arange(150) % 3 != 0)),
        label="species",
        features=["sl", "sw", "pl", "pw"],
        target={"setosa": 70},
    )
    old, (a, b), new = parents(found)
    mix = np.array(new.column("_mix").to_pylist())
    for name in ("sl", "sw", "pl", "pw"):
        x = matrix(old, name)
        np.testing.assert_allclose(matrix(new, name), x[a] + mix * (x[b] - x[a]), rtol=1e-12)


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_features__keep_their_types(tmp_path, kind):
    h = pa.array(np.random.default_rng(0).normal(size=400)).cast(kind, safe=False)
    found = grown(tmp_path, people(400).append_column("h", h), features=["h", "x"])
    assert found.schema.field("h").type == kind
    old, (a, b), new = parents(found)
    low, high = (f(matrix(old, "h")[a], matrix(old, "h")[b]) for f in (np.minimum, np.maximum))
    assert ((matrix(new, "h") >= low) & (matrix(new, "h") <= high)).all()


def test_box__mixes_every_feature_alone(tmp_path):
    old, (a, b), new = parents(grown(tmp_path, gap="box"))
    x, made = matrix(old), matrix(new)
    mix = (made - x[a]) / (x[b] - x[a])
    assert ((mix > -1e-3) & (mix < 1 + 1e-3)).all()
    assert (mix.std(axis=1) > 1e-3).all()
    np.testing.assert_allclose(mix.mean(axis=1), np.array(new.column("_mix").to_pylist()), atol=1e-2)


def test_small__copy_repeats_a_lone_row(tmp_path):
    lone = {"name": "lone", "use": "filter", "where": "lang <> 'is' or id = 6"}
    old, (a, b), new = parents(grown(tmp_path, stages=[lone], target={"is": 5}, small="copy"))
    assert (a == b).all()
    assert np.array_equal(matrix(new), matrix(old)[a])


def test_small__shrink_takes_the_neighbours_there_are(tmp_path):
    few = {"name": "few", "use": "filter", "where": "lang <> 'is' or id < 20"}
    _, (a, b), new = parents(grown(tmp_path, stages=[few], target={"is": 9}, small="shrink", k=5))
    assert new.num_rows == 9 - 2
    assert (a != b).all()


def test_smote__twice_gives_every_row_its_own_id_and_stage(tmp_path):
    first = {"name": "first", "use": "smote", "label": "lang", "features": ["x"], "target": {"is": 80}, "k": K}
    found = grown(tmp_path, stages=[first])
    assert Counter(found.column("_origin").to_pylist()) == {None: 400, "first": 30, "rare": 120}
    assert len(set(ids_of(found).tolist())) == 550


def test_smote__with_nothing_to_grow_adds_no_row(tmp_path):
    found = grown(tmp_path, target=SIZES)
    assert found.num_rows == 400
    assert set(LINEAGE) <= set(found.column_names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": {"is": 10}}, r"stage 'rare': target\['is'\]: expected >= 50 \(rows present\), got 10"),
        ({"target": {"xx": 10}}, r"stage 'rare': target\['xx'\]: expected one of \['en', 'fr', 'is'\]"),
        ({"target": 0.5}, "expected two classes with a ratio, got 3"),
        ({"k": 50}, r"stage 'rare', column 'lang': class 'is': expected >= 51 rows for k=50, small=error, got 50"),
        ({"label": "text"}, r"stage 'rare', column 'text', row id \d+: no label; filter such rows out first"),
    ],
)
def test_smote__says_what_it_cannot_do(tmp_path, options, message):
    with pytest.raises(BuildError, match=message):
        grown(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "long"}, "no column 'long'\n  hint: did you mean 'lang'"),
        ({"features": ["x", "y"]}, r"features\[1\]: no column 'y'"),
        ({"keep": ["z"]}, r"keep\[0\]: no column 'z'"),
    ],
)
def test_smote__refuses_columns_that_are_not_there(tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        grown(tmp_path, **options)


def test_smote__refuses_rows_that_are_copies(tmp_path):
    copies = {"name": "copies", "use": "sample", "n": 500, "replacement": True}
    with pytest.raises(RecipeError, match=r"rows come in as copies\n  hint: .*draw with replacement after"):
        grown(tmp_path, stages=[copies])
