import subprocess
import sys
import textwrap

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curation.errors import RecipeError
from curation.methods import STAGES
from curation.recipe.load import load_recipe
from curation.recipe.model import Recipe

HEAD = "recipe: 1\nname: x\nseed: 7\ninputs: {d: {path: in.parquet}}\n"
OUT = "output: {path: out}\n"
SPLIT = "stages:\n  - {use: split, shares: {a: 0.5, b: 0.5}}\n"


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(text, *overrides, env=None):
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return load_recipe("recipe.yaml", overrides=overrides, env=env or {})

    return run


@pytest.fixture
def refuse(load):
    def run(text, *overrides, env=None):
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides, env=env)
        assert caught.value.exit_code == 2
        return [str(problem) for problem in caught.value.problems]

    return run


def stages(*lines):
    return HEAD + "stages:\n" + "".join(f"  - {line}\n" for line in lines)


BAD = {
    "empty file": ("", ["recipe.yaml:1: recipe: the file is empty\n  hint: begin with `recipe: 1`"]),
    "not a mapping": ("[1, 2]", ["recipe.yaml:1: recipe: expected a mapping, got [1, 2]"]),
    "syntax": (
        "recipe: 1\nname: [1",
        [
            "recipe.yaml:2: recipe: not YAML: expected ',' or ']', but got '<stream end>'"
            "\n  hint: while parsing a flow sequence"
        ],
    ),
    "unquoted variable": (
        HEAD + "output: {path: ${OUT}/x}\n",
        [
            "recipe.yaml:5: recipe: not YAML: expected ',' or '}', but got '{'"
            "\n  hint: quote '${VAR}' inside { } and [ ]"
        ],
    ),
    "duplicate keys": (
        HEAD + "name: y\n" + OUT,
        ["recipe.yaml:5: name: duplicate key; it stands on line 2 already"],
    ),
    "code tag": (
        HEAD + "output:\n  path: !!python/name:os.system x\n",
        ["recipe.yaml:6: output.path: tag !!python/name:os.system is not allowed"],
    ),
    "unknown keys": (
        stages("{use: filter, wher: a > 1}") + "output: {path: out, name: z}\nzzz: 3\n",
        [
            "recipe.yaml:6: stages[0].wher: unknown key\n  hint: did you mean 'where'?",
            "recipe.yaml:7: output.name: unknown key"
            "\n  hint: known: compression, format, from, keep, order, path, shard_rows",
            "recipe.yaml:8: zzz: unknown key"
            "\n  hint: known: expect, feed, inputs, name, output, outputs, recipe, seed, stages",
        ],
    ),
    "missing keys": (
        "recipe: 1\nname: x\ninputs:\n  d:\n    key: k\n",
        [
            "recipe.yaml:1: seed: field required\n  hint: seed of all randomness, 0 <= seed < 2^64",
            "recipe.yaml:1: output: field required\n  hint: where the result goes, e.g. output: {path: build/digits}",
            "recipe.yaml:4: inputs.d.path: field required\n  hint: file, directory, glob or URL, or a list of them",
        ],
    ),
    "values": (
        HEAD + OUT + "feed:\n  batch_size: 0\n  epochs: 1.5\n  subset:\n    use: rs3\n    fraction: 2\n",
        [
            "recipe.yaml:7: feed.batch_size: input should be greater than or equal to 1, got 0"
            "\n  hint: rows of a global batch, over all ranks",
            "recipe.yaml:8: feed.epochs: input should be a valid integer, got 1.5"
            "\n  hint: number of epochs that the plan covers",
            "recipe.yaml:10: feed.subset.use: input should be 'rs2', got 'rs3'"
            "\n  hint: rs2: a fresh random subset every epoch",
            "recipe.yaml:11: feed.subset.fraction: input should be less than or equal to 1, got 2"
            "\n  hint: share of the rows that an epoch visits",
        ],
    ),
    "several types": (
        HEAD.replace("path: in.parquet", "path: 3") + OUT,
        [
            "recipe.yaml:4: inputs.d.path: input should be a valid string or a valid list, got 3"
            "\n  hint: file, directory, glob or URL, or a list of them"
        ],
    ),
    "one of several paths": (
        HEAD.replace("path: in.parquet", "path: [in.parquet, 3]") + OUT,
        [
            "recipe.yaml:4: inputs.d.path[1]: input should be a valid string, got 3"
            "\n  hint: file, directory, glob or URL, or a list of them"
        ],
    ),
    "methods": (
        stages("{use: filtre}", "{use: rs2}", "3", "{where: a}") + OUT,
        [
            "recipe.yaml:6: stages[0].use: unknown method, got 'filtre'\n  hint: did you mean 'filter'?",
            "recipe.yaml:7: stages[1].use: unknown method, got 'rs2'\n  hint: 'rs2' is an option of `feed`",
            "recipe.yaml:8: stages[2]: expected a mapping of options, got 3\n  hint: use: METHOD",
            f"recipe.yaml:9: stages[3].use: field required\n  hint: methods: {', '.join(sorted(STAGES))}",
        ],
    ),
    "names": (
        stages(
            "{use: filter, where: a}",
            "{use: filter, where: b}",
            "{name: d, use: filter, where: c}",
            "{name: 1x, use: filter, where: c}",
        )
        + OUT,
        [
            "recipe.yaml:7: stages[1].use: name 'filter' is taken by the stage on line 6"
            "\n  hint: give one of the two a `name`",
            "recipe.yaml:8: stages[2].name: name 'd' is the name of an input already"
            "\n  hint: give the stage another `name`",
            "recipe.yaml:9: stages[3].name: expected the name of a stage, got '1x'"
            "\n  hint: letters, digits, '_' and '-', not a digit or '-' first",
        ],
    ),
    "ports": (
        HEAD + SPLIT + "  - {use: filter, where: a}\n  - {name: f2, use: filter, from: split.c, where: a}\n"
        "  - {name: f3, use: filter, from: splt.a, where: a}\n"
        "  - {name: f4, use: filter, from: d.a, where: a}\n" + OUT,
        [
            "recipe.yaml:7: stages[1].from: stage 'split' has several outputs\n  hint: from: split.a | split.b",
            "recipe.yaml:8: stages[2].from: 'split' has no output 'c'\n  hint: did you mean 'split.b'?",
            "recipe.yaml:9: stages[3].from: no input or stage is called 'splt'\n  hint: did you mean 'split.a'?",
            "recipe.yaml:10: stages[4].from: 'd' has no output 'a'\n  hint: from: d",
        ],
    ),
    "ports at the end": (
        HEAD + SPLIT + OUT,
        ["recipe.yaml:7: output.from: stage 'split' has several outputs\n  hint: from: split.a | split.b"],
    ),
    "cycles": (
        stages(
            "{name: a, use: filter, from: c, where: x}",
            "{name: b, use: filter, where: x}",
            "{name: c, use: filter, where: x}",
            "{name: e, use: filter, where: x}",
            "{name: z, use: filter, from: z, where: x}",
        )
        + OUT,
        [
            "recipe.yaml:6: stages[0].from: the stages form a cycle: a -> b -> c -> a"
            "\n  hint: one of them has to read an input",
            "recipe.yaml:10: stages[4].from: the stages form a cycle: z -> z\n  hint: one of them has to read an input",
        ],
    ),
    "several inputs": (
        HEAD.replace("in.parquet}}", "in.parquet}, e: {path: e}}") + "stages:\n  - {use: filter, where: a}\n" + OUT,
        ["recipe.yaml:6: stages[0].from: field required, since there are several inputs\n  hint: from: d | e"],
    ),
    "both outputs": (
        HEAD + OUT + "outputs: {a: {path: b}}\n",
        ["recipe.yaml:6: outputs: expected either `output` or `outputs`, got both\n  hint: keep `outputs`"],
    ),
    "feed beside outputs": (
        HEAD + "outputs: {a: {path: b}}\nfeed: {batch_size: 1, epochs: 1}\n",
        ["recipe.yaml:6: feed: belongs into one of `outputs`\n  hint: outputs: {NAME: {path: ..., feed: ...}}"],
    ),
    "equal paths": (
        HEAD + "outputs:\n  a: {path: b}\n  c: {path: ./b/}\n",
        [
            "recipe.yaml:7: outputs.c.path: output 'a' has the same path"
            "\n  hint: give each output a directory of its own"
        ],
    ),
    "gates": (
        HEAD + OUT + "expect:\n  - {min_rows: 1, max_rows: 2}\n  - {max_null: 0.1}\n  - {min_share: 0.1}\n"
        "  - {min_rows: 3, output: oo}\n",
        [
            "recipe.yaml:7: expect[0]: expected exactly one of min_rows, max_rows, min_share, "
            "max_share, max_null, "
            "got min_rows, max_rows",
            "recipe.yaml:8: expect[1]: max_null needs `columns`, the columns whose nulls count",
            "recipe.yaml:9: expect[2]: min_share needs `by`, the column whose values have shares",
            "recipe.yaml:10: expect[3].output: no output is called 'oo'\n  hint: known: output",
        ],
    ),
    "sql": (
        HEAD.replace("in.parquet", "in.parquet, where: 'a >'") + "stages:\n"
        "  - {use: filter, where: sum(a) > 1}\n  - use: derive\n    columns:\n      b: a\n      c: now()\n" + OUT,
        [
            "recipe.yaml:4: inputs.d.where: not a SQL expression",
            "recipe.yaml:6: stages[0].where: sum() combines several rows; only row-wise expressions "
            "are allowed, "
            "since rows are processed in chunks",
            "recipe.yaml:10: stages[1].columns.c: now reads the clock, so two builds would differ; "
            "write the date itself",
        ],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipe__says_what_where_and_how_to_mend(refuse, case):
    text, problems = BAD[case]
    assert refuse(text) == problems


def test_all_problems__come_at_once_in_the_order_of_the_file(refuse):
    text = "recipe: 2\nname: 3\nseed: -1\ninputs: {d: {pth: x}}\nstages: [{use: filtre}]\noutput: {}\nfeed: 3\n"
    assert [problem.split(": ")[0] for problem in refuse(text)] == [f"recipe.yaml:{i}" for i in range(1, 8)]


def test_defaults__read_the_stage_before_and_end_with_the_last(load):
    recipe = load(stages("{use: select, columns: [a]}", "{use: filter, where: a > 1}") + OUT)
    assert [(s.name, s.sources) for s in recipe.stages] == [("select", ("d",)), ("filter", ("select",))]
    assert [(o.name, o.source) for o in recipe.outputs] == [("output", "filter")]


def test_no_stages__give_the_input_itself(load):
    assert load(HEAD + OUT).outputs[0].source == "d"


def test_stages__come_in_topological_order_and_keep_their_place_in_the_file(load):
    text = stages(
        "{name: c, use: filter, from: b, where: x}",
        "{name: a, use: filter, from: d, where: x}",
        "{name: b, use: split, from: a, shares: {p: 1}}",
        "{name: e, use: filter, from: d, where: x}",
    ).replace("from: b,", "from: b.p,")
    recipe = load(text + OUT)
    assert [(s.name, s.index) for s in recipe.stages] == [("a", 1), ("b", 2), ("c", 0), ("e", 3)]


def test_paths__are_relative_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "recipe.yaml"
    file.write_text(HEAD.replace("in.parquet", "[../in, 's3://b/x', /abs/y]") + OUT, encoding="utf-8")
    recipe = load_recipe(file, env={})
    assert recipe.inputs["d"].paths == (str(tmp_path / "in"), "s3://b/x", "/abs/y")
    assert recipe.outputs[0].path == str(tmp_path / "sub" / "out")
    assert recipe.root == str(tmp_path / "sub")


@pytest.mark.parametrize(
    ("path_in", "path_out", "overlap"),
    [
        ("data", "data", True),
        ("data", "data/out", True),
        ("data/x/in.parquet", "data", True),
        ("data/*.parquet", "data", True),
        ("data/*.parquet", "data/out", False),
        ("data/*", "data/out", True),
        ("data/**/*.parquet", "data/out", True),
        ("data", "data2", False),
        ("s3://b/x/*.parquet", "s3://b/x", True),
        ("s3://b/x", "s3://c/x", False),
        ("s3://b/x", "b/x", False),
    ],
)
def test_output__must_not_meet_an_input(load, path_in, path_out, overlap):
    text = HEAD.replace("in.parquet", f"'{path_in}'") + f"output: {{path: '{path_out}'}}\n"
    if not overlap:
        assert load(text)
        return
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:5: output.path: the output and the input 'd' lie in each other"
    ):
        load(text)


def test_scalars__follow_yaml_1_2(load):
    shares = "{NO: 1e-1, on: .4, 1: 0.25, '1': +0.05, 01: 2E-1}"
    feed = "{batch_size: 1, epochs: 1, groups: g, mixture: {shares: " + shares + "}}"
    recipe = load(HEAD + OUT + f"feed: {feed}\n")
    assert recipe.outputs[0].feed.mixture.shares == {"NO": 0.1, "on": 0.4, 1: 0.25, "1": 0.05, "01": 0.2}


@pytest.mark.parametrize("text", ["inf", ".inf", "1e999", '"inf"'])
def test_temperature__may_be_infinite(load, text):
    recipe = load(HEAD + OUT + f"feed: {{batch_size: 1, epochs: 1, groups: g, mixture: {{temperature: {text}}}}}\n")
    assert recipe.outputs[0].feed.mixture.temperature == float("inf")
    assert recipe.canonical()["outputs"]["output"]["feed"]["mixture"] == {"temperature": "inf"}


def test_integers__are_taken_for_floats(load):
    recipe = load(HEAD + OUT + "feed: {batch_size: 1, epochs: 1, groups: g, mixture: {temperature: 5}}\n")
    assert recipe.outputs[0].feed.mixture.temperature == 5.0


def test_dates__stay_text(load):
    assert load(HEAD.replace("name: x", "name: 2024-01-31") + OUT).name == "2024-01-31"


def test_anchors_and_merge_keys__work(load):
    text = HEAD + textwrap.dedent("""\
        stages:
          - &base {name: a, use: filter, where: x > 1}
          - {<<: *base, name: b}
    """)
    recipe = load(text + OUT)
    assert [(s.name, s.params.where) for s in recipe.stages] == [("a", "x > 1"), ("b", "x > 1")]


def test_anchors__that_hold_themselves_or_grow_without_end_are_refused(refuse):
    assert "recipe.yaml:1: a[0]: an anchor may not hold itself" in refuse("a: &a [*a]")
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
    assert any("more than 100000 values" in problem for problem in refuse(bomb))


def test_order_and_compression__have_defaults_that_depend(load):
    feed = "feed: {batch_size: 1, epochs: 1}"
    text = f"outputs:\n  a: {{path: a, {feed}}}\n  b: {{path: b, format: parquet}}\n"
    outputs = load(HEAD + text).outputs
    assert [(o.order, o.compression) for o in outputs] == [("shuffled", "none"), ("input", "zstd")]


# --- overrides


def test_override__changes_adds_and_removes(load):
    text = stages("{use: filter, where: a}", "{name: s, use: select, columns: [a]}") + OUT
    text += "feed: {batch_size: 2, epochs: 1}\n"
    recipe = load(
        text, "stages.filter.where=b > 1", "stages.1.columns=[x, y]", "feed.subset.use=rs2",
        "feed.subset.fraction=1e-1", "output.order=input", "seed=3", "inputs.d.path=other",
    )  # fmt: skip
    assert recipe.stages[0].params.where == "b > 1"
    assert recipe.stages[1].params.columns == ["x", "y"]
    assert recipe.outputs[0].feed.subset.fraction == 0.1
    assert (recipe.outputs[0].order, recipe.seed) == ("input", 3)
    assert recipe.canonical()["inputs"]["d"]["path"] == "other"
    assert load(text, "feed=null").outputs[0].feed is None


def test_override__problems_name_the_override(refuse):
    text = stages("{use: filter, where: a}") + OUT
    overrides = [
        "stages.filtre.where=b", "stages.filter.were=b", "stages.7.where=b", "sede=1", "inputs.e.path=1",
        "output.path.x=1", "nonsense", "seed=: :", "seed=x",
    ]  # fmt: skip
    assert refuse(text, *overrides) == [
        "--set:1: stages.filtre: no such item\n  hint: did you mean 'filter'?",
        "--set:2: stages[0].were: unknown key\n  hint: did you mean 'where'?",
        "--set:3: stages.7: no such item\n  hint: known: filter",
        "--set:4: sede: unknown key\n  hint: did you mean 'seed'?",
        "--set:5: inputs.e: no input has this name\n  hint: known: d",
        "--set:6: output.path.x: 'output.path' has no keys of its own",
        "--set:7: nonsense: expected KEY=VALUE, such as stages.rare.k=7",
        "--set:8: seed: not YAML: expected <block end>, but found ':'",
        "--set:9: seed: input should be a valid integer, got 'x'\n  hint: seed of all randomness, 0 <= seed < 2^64",
    ]


def test_override__of_an_ambiguous_stage_asks_for_the_index(refuse):
    text = stages("{use: filter, where: a}", "{use: filter, where: b}") + OUT
    assert refuse(text, "stages.filter.where=c")[-1] == (
        "--set:1: stages.filter: several stages are called 'filter'\n  hint: use the index, counted from 0"
    )


# --- variables


def test_variables__are_filled_in_and_redacted(load):
    text = HEAD + 'output:\n  path: "/o/${RUN}/$${x}"\n  shard_rows: ${N}\n'
    recipe = load(text, env={"RUN": "secret", "N": "5"})
    assert recipe.outputs[0].path == "/o/secret/${x}"
    assert recipe.outputs[0].shard_rows == 5
    redacted = recipe.canonical()["outputs"]["output"]
    assert (redacted["path"], redacted["shard_rows"]) == ("/o/${RUN}/$${x}", "${N}")
    assert recipe.canonical(redacted=False)["outputs"]["output"]["path"] == "/o/secret/${x}"


def test_variables__in_stages_and_feeds_are_redacted(load):
    text = stages("{use: filter, where: \"c = '${C}'\"}") + OUT + "feed: {batch_size: 1, epochs: 1, groups: '${G}'}\n"
    recipe = load(text, env={"C": "hush", "G": "hush"})
    assert recipe.stages[0].params.where == "c = 'hush'"
    assert "hush" not in str(recipe.canonical())


def test_variables__problems_never_show_their_contents(refuse):
    text = HEAD + 'output:\n  path: x\n  format: "${F}"\n  keep: ${K}\n  order: ${Q}\n  shard_rows: "${x y}"\n'
    problems = refuse(text, env={"F": "hush", "K": "hush"})
    assert "hush" not in "".join(problems)
    assert problems[0].startswith("recipe.yaml:7: output.format: input should be 'arrow' or 'parquet', got '${F}'")
    assert problems[2] == (
        "recipe.yaml:9: output.order: variable 'Q' is not set\n  hint: set it in the environment; $${ stands for ${"
    )
    assert problems[3].startswith("recipe.yaml:10: output.shard_rows: expected a variable as ${NAME}, got '${x y}'")


# --- the recipe itself


def test_canonical__is_a_recipe_that_loads_to_itself(load, tmp_path):
    text = (
        HEAD
        + SPLIT
        + textwrap.dedent("""\
          - {name: f, use: filter, from: split.a, where: x > 1}
        expect: [{max_null: 0.1, columns: [x], output: one}]
        outputs:
          one: {path: one, feed: {batch_size: 4, epochs: 2, groups: g, mixture: {shares: {a: 0.5, b: 0.5}}}}
          two: {path: two, from: split.b, format: parquet}
    """)
    )
    once = load(text).canonical()
    assert load(yaml.safe_dump(once, sort_keys=False)).canonical() == once


def test_canonical__keeps_the_types_of_keys(load):
    feed = "feed: {batch_size: 1, epochs: 1, groups: g, mixture: {rows: {1: 2, '1': 3}}}\n"
    rows = load(HEAD + OUT + feed).canonical()["outputs"]["output"]["feed"]["mixture"]["rows"]
    assert rows == [[1, 2], ["1", 3]]


def test_problem__names_the_line_of_any_key(load):
    recipe = load(HEAD + SPLIT + "output:\n  path: out\n  from: split.a\nfeed:\n  batch_size: 1\n  epochs: 1\n")
    assert str(recipe.problem(("stages", 0, "shares", "b"), "no", "yes")) == (
        "recipe.yaml:6: stages[0].shares.b: no\n  hint: yes"
    )
    assert str(recipe.problem(recipe.output_path("output", "path"), "no")) == "recipe.yaml:8: output.path: no"
    assert (
        str(recipe.problem(recipe.output_path("output", "feed", "groups"), "no")) == "recipe.yaml:10: feed.groups: no"
    )


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"name: \xff"])
def test_file__that_cannot_be_read_is_a_recipe_error(tmp_path, content):
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(file)


def test_loading__imports_nothing_heavy(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(HEAD + OUT, encoding="utf-8")
    code = (
        "import sys; from curation.recipe.load import load_recipe; load_recipe(sys.argv[1]);"
        "print(sorted({'polars', 'pyarrow', 'dask', 'numba', 'faiss', 'torch'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- any text

WORDS = """
recipe name seed inputs stages expect feed output outputs d path use from where shares columns filter split
smote mixture temperature batch_size epochs subset cooldown <<
"""
KEYS = st.sampled_from(WORDS.split()) | st.integers(0, 3) | st.booleans() | st.none() | st.floats()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | KEYS | st.dates() | st.binary()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(KEYS, v, max_size=5), max_leaves=20)
SKELETON = {
    "recipe": 1, "name": "x", "seed": 1, "inputs": {"d": {"path": "p"}},
    "stages": [{"use": "filter", "where": "a"}, {"use": "split", "shares": {"a": 1.0}}],
    "output": {"path": "o"},
}  # fmt: skip


def outcome(tmp_path, text, *overrides):
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        return load_recipe(file, env={}, overrides=overrides)
    except RecipeError as error:
        return error


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=4), st.text(max_size=20), st.text(max_size=20))
def test_any_data__gives_a_recipe_or_a_recipe_error(tmp_path, changes, key, value):
    text = yaml.dump(SKELETON | changes)
    assert isinstance(outcome(tmp_path, text, f"{key}={value}", f"stages.{key}={value}"), (Recipe, RecipeError))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(alphabet="abc01.:-[]{}&*!<>|?#%@'\"\n \t${}~\\,=", max_size=60))
def test_any_text__gives_a_recipe_or_a_recipe_error(tmp_path, text):
    for whole in (text, HEAD + OUT + text):
        assert isinstance(outcome(tmp_path, whole), (Recipe, RecipeError))


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000, "seed: " + "9" * 5000, "a: " + "[" * 200 + "]" * 200])
def test_extreme_text__gives_a_recipe_error(tmp_path, text):
    assert isinstance(outcome(tmp_path, text), RecipeError)
