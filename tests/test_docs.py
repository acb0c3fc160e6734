"""What README and docs say is true of the code: commands, options, recipes, keys, links, and the worked example."""

import re
import shlex
import subprocess
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import curation.methods
from curation.api import build
from curation.cli.main import VERBS, cli
from curation.expressions import FUNCTIONS
from curation.methods import FEEDS, METHODS, STAGES, params_of
from curation.methods.bucket import AspectBuckets, LengthBuckets
from curation.methods.dedup import Near, Prefer
from curation.methods.sample import LongTail
from curation.recipe.load import load_recipe
from curation.recipe.model import CooldownSpec, FeedSpec, Gate, InputSpec, Mixture, OutputSpec, SubsetSpec

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/examples").glob("*/README.md")),
    *sorted((ROOT / "data").glob("*.md")),
    *sorted((ROOT / "pipelines").rglob("*.md")),
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text("utf-8") for page in PAGES}
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Places of one machine, and where its packages come from, are nobody else's concern.
FORBIDDEN = re.compile(
    r"(?<![\w.~])/(?:root|home|work|mnt|opt|srv|tmp|usr|var)/|--(?:extra-)?index-url|--find-links|PIP_\w+"
)


def blocks(kind):
    """Fenced blocks of one kind, each with its page."""
    return [(page, body) for page, text in TEXTS.items() for info, body in FENCE.findall(text) if info == kind]


def prose(text):
    return FENCE.sub("", text)


def commands_in_blocks():
    lines = [(page, line.strip()) for page, body in blocks("sh") for line in body.splitlines()]
    found = [(page, re.sub(r"^\S*/curate ", "curate ", line)) for page, line in lines]
    return [(page, line) for page, line in found if line.startswith("curate ")]


def commands_in_prose():
    spans = [(page, span) for page, text in TEXTS.items() for span in re.findall(r"`(curate [^`]+)`", prose(text))]
    return sorted(set(spans))


def command_of(verb):
    found = cli.get_command(click.Context(cli), verb)
    assert found is not None, f"no command {verb}"
    return found


@pytest.mark.parametrize(("page", "line"), commands_in_blocks())
def test_commands__in_blocks_parse_whole(page, line):
    _, verb, *arguments = shlex.split(line, comments=True)
    with command_of(verb).make_context(f"curate {verb}", arguments):
        pass


@pytest.mark.parametrize(("page", "span"), commands_in_prose())
def test_commands__in_prose_name_verbs_and_options_that_exist(page, span):
    words = shlex.split(span)[1:]
    if words[0].startswith("-"):
        command, options = cli, words
    else:
        command, options = command_of(words[0]), words[1:]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
    assert {word.partition("=")[0] for word in options if word.startswith("-")} <= known


def test_commands__every_verb_is_in_the_readme():
    assert set(re.findall(r"^\| `curate (\w+)", TEXTS["README.md"], re.MULTILINE)) == set(VERBS)
    assert {line.split()[1] for page, line in commands_in_blocks() if page == "README.md"} == set(VERBS)


def test_methods__every_one_is_in_the_readme():
    table = TEXTS["README.md"].partition("## Methods")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*`) \| `([\w.]+)` \|", table, re.MULTILINE)
    named = {name: under.partition(".")[0] for names, under in rows for name in re.findall(r"`(\w+)`", names)}
    assert named == dict.fromkeys(STAGES, "stages") | dict.fromkeys(FEEDS, "feed")


@pytest.mark.parametrize(("page", "text"), blocks("yaml recipe"))
def test_recipes__load(page, text, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    load_recipe(path, env={})


def test_recipes__are_found():
    assert {page for page, _ in blocks("yaml recipe")} >= {"README.md", "docs/recipe.md"}


@pytest.mark.parametrize(("page", "body"), blocks("python"))
def test_python__compiles(page, body):
    if body.lstrip().startswith('"'):
        body = "{" + body + "}" if body.rstrip().endswith(",") else body
    compile(body, page, "exec")


@pytest.mark.parametrize("page", TEXTS)
def test_links__inside_the_repository_resolve(page):
    here = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#\s]+)", prose(TEXTS[page])):
        if not re.match(r"[a-z]+:", target):
            assert (here / target).exists(), target


@pytest.mark.parametrize("page", TEXTS)
def test_pages__hold_no_forbidden_words(page):
    assert FORBIDDEN.findall(TEXTS[page]) == []


@pytest.mark.parametrize("page", TEXTS)
def test_pages__name_no_path_outside_the_repository(page):
    climbing = re.findall(r"(?:\.\./)+[\w./-]*", TEXTS[page])
    assert [path for path in climbing if not ((ROOT / page).parent / path).resolve().is_relative_to(ROOT)] == []


def test_urls__are_few_and_known():
    found = {host for text in TEXTS.values() for host in re.findall(r"https?://([^/\s)>]+)", text)}
    assert found <= {"keepachangelog.com", "semver.org", "archive.ics.uci.edu"}


# docs/recipe.md against the models

SECTIONS: dict[str, tuple[type[BaseModel], set[str]]] = {
    "Inputs": (InputSpec, set()),
    "Expect": (Gate, set()),
    "Output": (OutputSpec, {"name", "source"}),
    "Feed": (FeedSpec, set()),
    "mixture": (Mixture, set()),
    "cooldown": (CooldownSpec, set()),
    "subset": (SubsetSpec, set()),
    "bucket aspect": (AspectBuckets, set()),
    "bucket length": (LengthBuckets, set()),
    "near": (Near, set()),
    **{name: (params_of(name), set()) for name in STAGES},
}


def sections_of(text):
    parts = re.split(r"^#{2,3} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def keys_of(section):
    """Cells of the tables of keys, by key."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip("| ") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`")}


def test_recipe_page__has_a_section_for_every_method():
    assert set(SECTIONS) <= set(sections_of(TEXTS["docs/recipe.md"]))


@pytest.mark.parametrize("title", SECTIONS)
def test_recipe_page__names_exactly_the_keys_there_are(title):
    model, hidden = SECTIONS[title]
    keys = {field.alias or name for name, field in model.model_fields.items()} - hidden
    if model is OutputSpec:
        keys |= {"from"}
    assert set(keys_of(sections_of(TEXTS["docs/recipe.md"])[title])) == keys


@pytest.mark.parametrize("title", [title for title in SECTIONS if title not in ("mixture", "Expect")])
def test_recipe_page__states_the_defaults(title):
    model, hidden = SECTIONS[title]
    cells = keys_of(sections_of(TEXTS["docs/recipe.md"])[title])
    for name, field in model.model_fields.items():
        if name in hidden or (model is OutputSpec and name in ("order", "compression")):  # those depend on other keys
            continue
        stated = cells[field.alias or name][0]
        if field.default is PydanticUndefined:
            assert stated == "required", name
        elif field.default is None:
            assert "`" not in stated or stated.startswith("shares"), name
        else:
            assert yaml.safe_load(stated.strip("`")) == field.default, name


def test_recipe_page__names_the_options_of_the_feed_methods():
    assert {field.alias or name for name, field in params_of("cooldown").model_fields.items()} == set(
        CooldownSpec.model_fields
    )
    assert set(params_of("rs2").model_fields) == set(SubsetSpec.model_fields) - {"use"}
    assert set(LongTail.model_fields) == {"imbalance"}
    assert set(Prefer.model_fields) == {"column", "order"}


def test_expressions_page__names_functions_that_are_allowed():
    listed = sections_of(TEXTS["docs/expressions.md"])["What there is"].partition("* Numbers")[2]
    words = {word for span in re.findall(r"`([a-z0-9_\s]+)`", listed) for word in span.split()}
    assert words - FUNCTIONS == set()
    assert len(words) > 50


# The worked example of CONTRIBUTING.md


def example(name):
    return next(body for _, body in blocks("python") if body.startswith(f"# {name}\n"))


@pytest.fixture
def band(monkeypatch):
    """The method of CONTRIBUTING.md, installed as it says."""
    line = next(body for page, body in blocks("python") if page == "CONTRIBUTING.md" and body.startswith('"band"'))
    entry = eval("{" + line + "}")
    for registry in (curation.methods.STAGES, METHODS):
        monkeypatch.setitem(registry, "band", entry["band"])
    for package in ("methods", "stages"):
        module = types.ModuleType(f"curation.{package}.band")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(example(f"curation/{package}/band.py"), module.__name__, "exec"), vars(module))
    return import_module("curation.methods.band")


def test_contributing__the_example_builds(band, tmp_path):
    scores = pa.array([-1.0, 0.0, 0.5, None, 7.0, float("nan")])
    pq.write_table(pa.table({"score": scores}), tmp_path / "rows.parquet")
    stages = next(body for page, body in blocks("yaml") if page == "CONTRIBUTING.md")
    head = "recipe: 1\nname: example\nseed: 1\ninputs: {rows: {path: rows.parquet}}\noutput: {path: out}\n"
    (tmp_path / "recipe.yaml").write_text(head + stages, "utf-8")
    table = build(tmp_path / "recipe.yaml").table().collect()
    assert table["band"].to_list() == [0, 1, 1, None, 2, None]


def test_contributing__the_tests_of_the_example_pass(band):
    names: dict[str, Any] = {}
    exec(compile(example("tests/methods/test_band.py"), "test_band.py", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    for test in tests:
        test()
    assert len(tests) == 4


def test_benchmarks_page__names_what_there_is():
    named = set(re.findall(r"^### `(\w+)[ \w]*`", TEXTS["docs/benchmarks.md"], re.MULTILINE))
    assert named == set(import_module("benchmarks.__main__").NAMES)


def test_make__knows_the_targets_that_are_documented():
    targets = set(re.findall(r"`make ([a-z]+)[` ]", "\n".join(TEXTS.values())))
    targets |= {line.split()[1] for _, body in blocks("sh") for line in body.splitlines() if line.startswith("make ")}
    rules = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"quickstart", "test", "bench", "clean"} <= rules
    assert targets <= rules


def test_ci__is_a_script_that_bash_reads():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
