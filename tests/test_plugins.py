"""Stages that are not ours: found without an import, loaded only when allowed, known by their code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import curation
from curation import plugins
from curation.engine.dask import DaskExecutor
from curation.errors import BuildError, RecipeError
from curation.plugins import Origin, PluginError, find, installed, lacking, load
from curation.recipe.load import load_recipe
from curation.recipe.schema import recipe_schema
from curation.sources import source_key
from curation.testing import check_params, check_stage, rows_of
from tests.cli.project import curate
from tests.engine.test_executors import cluster

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs/examples/curation-mask-emails"

SHOUT = """
from pathlib import Path

import pyarrow.compute as pc
from pydantic import Field

from curation.methods.base import Params
from curation.stages.base import BindError, Outcome, Stage
from curation.stages.columns import missing
from how import HOW

Path(__file__).with_name("imported").touch()


class Shout(Params):
    column: str = Field(description="column of text")


class ShoutStage(Stage[Shout]):
    params_type = Shout

    def bind(self, schema):
        if fault := missing(schema, self.params.column, ("column",)):
            raise BindError([fault])
        return schema

    def needs(self, wanted):
        return wanted

    def apply(self, table, state):
        if self.params.column not in table.column_names:
            return Outcome({"": table})
        at = table.column_names.index(self.params.column)
        louder = pc.binary_join_element_wise(table.column(at), HOW, "")
        return Outcome({"": table.set_column(at, table.schema.field(at), louder)})
"""
RECIPE = """\
recipe: 1
name: loud
seed: 1
inputs: {rows: {path: data}}
stages:
  - {use: %s, column: text}
output: {path: out}
"""
WRONG = """
from curation.methods.base import Params
from curation.stages.base import Drop, Outcome, Stage

class Passes(Stage):
    params_type = Params
    def bind(self, schema): return schema
    def needs(self, wanted): return wanted
    def apply(self, table, state): return Outcome({"": table})

class Half(Stage):
    params_type = Params

class WithoutParams(Passes):
    params_type = dict

class Named(Params):
    name: str

class WithName(Passes):
    params_type = Named

class LosesRows(Passes):
    def apply(self, table, state): return Outcome({"": table.slice(1)})

class LosesColumns(Passes):
    def apply(self, table, state): return Outcome({"": table.select(["_row_id"])})

class BindsNothing(Passes):
    def bind(self, schema): return None

class Fails(Passes):
    def apply(self, table, state): return {}["a"]

number = 1
"""


@pytest.fixture(autouse=True)
def _as_new_process(monkeypatch):
    """What was imported in a test, and where from, is forgotten after it."""
    before = dict(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_LOADED", {})
    yield
    forget(before)


def forget(before):
    for name in set(sys.modules) - set(before):
        if name.partition(".")[0] in ("shout", "how", "wrong", "broken", "pack", "lengths", "curation_mask_emails"):
            del sys.modules[name]


@pytest.fixture
def project(tmp_path):
    """A recipe with a stage beside it that puts `HOW` behind a text."""
    return make(tmp_path, "shout:ShoutStage")


def make(folder, use, *, how="!"):
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a", "b", None], "n": [1, 2, 3]}), folder / "data/rows.parquet")
    (folder / "shout.py").write_text(SHOUT, "utf-8")
    (folder / "how.py").write_text(f"HOW = {how!r}\n", "utf-8")
    (folder / "wrong.py").write_text(WRONG, "utf-8")
    (folder / "recipe.yaml").write_text(RECIPE % use, "utf-8")
    return folder / "recipe.yaml"


def install(place, package, version, **stages):
    """Metadata of a package with entry points, as an installer leaves it."""
    folder = place / f"{package.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", "utf-8")
    lines = [f"{name} = {target}" for name, target in stages.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[curation.stages]", *lines]), "utf-8")


def problem(path, **options):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, **options)
    (found,) = caught.value.problems
    return found


def texts(folder):
    return curation.open(folder / "out").table().collect()["text"].to_list()


# Found without an import


def test_recipe__refuses_a_module_that_is_not_allowed(project):
    found = problem(project)
    assert (found.line, found.path) == (6, "stages[0].use")
    assert found.message == (
        "'shout:ShoutStage' is a plug-in of module shout; plug-ins run code, allow them with --allow-plugins"
    )
    assert not (project.parent / "imported").exists()


def test_recipe__refuses_a_package_that_is_not_allowed(project, monkeypatch):
    install(project.parent / "site", "example-shout", "0.1", shout="shout:ShoutStage")
    monkeypatch.syspath_prepend(project.parent / "site")
    project.write_text(RECIPE % "shout", "utf-8")
    assert problem(project).message == (
        "'shout' is a plug-in of package example-shout 0.1; plug-ins run code, allow them with --allow-plugins"
    )


def test_installed__lists_names_without_importing_anything(project, monkeypatch):
    install(project.parent, "example-shout", "0.1", shout="shout:ShoutStage", broken="no.such.module:Stage")
    monkeypatch.syspath_prepend(project.parent)
    found = installed()
    assert [str(found[name][0]) for name in ("broken", "shout")] == ["package example-shout 0.1"] * 2
    assert "shout" not in sys.modules


def test_names__of_ours_win(project, monkeypatch):
    install(project.parent, "example-shout", "0.1", filter="shout:ShoutStage")
    monkeypatch.syspath_prepend(project.parent)
    project.write_text(RECIPE.replace("column: text", 'where: "n > 1"') % "filter", "utf-8")
    assert load_recipe(project, allow_plugins=True).plugins == ()


def test_names__of_two_packages_are_refused(project, monkeypatch):
    install(project.parent, "a-shout", "1", shout="shout:ShoutStage")
    install(project.parent, "b-shout", "2", shout="other:Stage")
    monkeypatch.syspath_prepend(project.parent)
    with pytest.raises(PluginError, match="'shout' is a plug-in of two packages, a-shout 1 and b-shout 2"):
        find("shout")


def test_names__nearly_right_are_told(project, monkeypatch):
    install(project.parent, "example-shout", "0.1", shout="shout:ShoutStage")
    monkeypatch.syspath_prepend(project.parent)
    project.write_text(RECIPE % "shoot", "utf-8")
    assert str(problem(project)).endswith("unknown method, got 'shoot'\n  hint: did you mean 'shout'?")


def test_methods__lists_plugins_without_importing_them(project, monkeypatch):
    install(project.parent, "example-shout", "0.1", shout="shout:ShoutStage")
    monkeypatch.syspath_prepend(project.parent)
    assert re.search(r"^shout +plug-in +of package example-shout 0.1", curate("methods").stdout, re.MULTILINE)
    assert "'shout' is a plug-in of package example-shout 0.1" in curate("methods", "shout").stderr
    assert "shout" not in sys.modules


# Loaded, or said why not


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("nosuch:Stage", "module 'nosuch' cannot be imported: ModuleNotFoundError: No module named 'nosuch'"),
        ("broken:Stage", "module 'broken' cannot be imported: NameError: name 'undefined' is not defined"),
        ("wrong:half", "module 'wrong' has no 'half'"),
        ("wrong:number", "'number' is of type int and not a stage"),
        ("wrong:Named", "'Named' is a class and not a stage"),
        ("wrong:Half", "stage 'Half' lacks apply, bind, needs"),
        ("wrong:WithoutParams", "stage 'WithoutParams' names no options"),
        ("wrong:WithName", "option 'name' of stage 'WithName' is a key of every stage"),
        ("'wrong:'", "expected module:Attr, got 'wrong:'"),
        ("__main__:Stage", "workers cannot import '__main__'"),
    ],
)
def test_module__that_is_wrong_is_told_with_its_line(project, use, message):
    (project.parent / "broken.py").write_text("\nundefined\n", "utf-8")
    project.write_text((RECIPE % use).replace(", column: text", ""), "utf-8")
    found = problem(project, allow_plugins=True)
    assert found.message.startswith(message)
    assert found.line == 6


def test_module__says_where_it_fails(project):
    (project.parent / "broken.py").write_text("\nundefined\n", "utf-8")
    project.write_text(RECIPE % "broken:Stage", "utf-8")
    assert problem(project, allow_plugins=True).message.endswith("(broken.py, line 2)")


def test_options__of_a_plugin_are_checked_like_ours(project):
    found = problem(project, allow_plugins=True, overrides=["stages.ShoutStage.colum=n"])
    assert (found.message, found.hint) == ("unknown key", "did you mean 'column'?")


def test_columns__of_a_plugin_are_checked_like_ours(project):
    with pytest.raises(RecipeError, match=r"stages\[0\].column: no column 'txt'\n  hint: did you mean 'text'"):
        curation.build(project, allow_plugins=True, overrides=["stages.ShoutStage.column=txt"])


def test_name__is_required_where_the_entry_point_cannot_be_one(project, monkeypatch):
    install(project.parent, "example-shout", "0.1", **{"my.shout": "shout:ShoutStage"})
    monkeypatch.syspath_prepend(project.parent)
    project.write_text(RECIPE % "my.shout", "utf-8")
    assert problem(project, allow_plugins=True).message == (
        "field required, since 'my.shout' cannot be the name of a stage"
    )


def test_module__that_was_edited_after_it_was_loaded_is_refused(project):
    load_recipe(project, allow_plugins=True)
    (project.parent / "how.py").write_text("HOW = '?'\n", "utf-8")
    assert problem(project, allow_plugins=True).message == (
        "module 'shout' was changed after this process had loaded it"
    )


def test_module__that_was_mended_is_read_anew(project):
    (project.parent / "shout.py").write_text("", "utf-8")
    assert problem(project, allow_plugins=True).message == "module 'shout' has no 'ShoutStage'"
    (project.parent / "shout.py").write_text(SHOUT, "utf-8")
    assert load_recipe(project, allow_plugins=True).plugins


def test_module__of_another_recipe_does_not_stand_in(project):
    load_recipe(project, allow_plugins=True)
    other = make(project.parent / "other", "shout:ShoutStage", how="?")
    assert problem(other, allow_plugins=True).message.startswith("this process has loaded another module 'shout'")


# Known by its code


def test_source__holds_what_lies_beside_and_is_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(make(tmp_path, "shout:ShoutStage").parent)
    __import__("shout")
    keys = [source_key(["shout"])]
    for name in ("wrong.py", "how.py", "shout.py"):  # the first is not imported
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n# edited", "utf-8")
        keys.append(source_key(["shout"]))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_source__of_a_package_is_all_of_it(tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    for name in ("__init__", "stages", "late"):
        (tmp_path / f"pack/{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    __import__("pack.stages")
    before = source_key(["pack.stages"])
    (tmp_path / "pack/late.py").write_text("edited = True", "utf-8")
    assert source_key(["pack.stages"]) != before


def test_key__holds_source_package_and_version(project):
    (plugin,) = load_recipe(project, allow_plugins=True).plugins
    others = [
        replace(plugin, source="other"),
        replace(plugin, origin=replace(plugin.origin, package="example-shout")),
        replace(plugin, origin=replace(plugin.origin, version="0.2")),
    ]
    assert len({each.key for each in [plugin, *others]}) == 4


def test_build__of_edited_code_is_no_old_result(project):
    first = curation.build(project, allow_plugins=True)
    assert texts(project.parent) == ["a!", "b!", None]
    (project.parent / "how.py").write_text("HOW = '?'\n", "utf-8")  # of the same length, within the same second
    plugins._LOADED.clear()
    for name in ("shout", "how"):
        del sys.modules[name]
    second = curation.build(project, allow_plugins=True)
    assert texts(project.parent) == ["a?", "b?", None]
    assert first.manifest.build_id != second.manifest.build_id


def test_manifest__names_the_plugins(project):
    manifest = curation.build(project, allow_plugins=True).manifest
    (plugin,) = load_recipe(project, allow_plugins=True).plugins
    assert manifest.content["plugins"] == [
        {
            "use": "shout:ShoutStage",
            "target": "shout:ShoutStage",
            "package": "",
            "version": "",
            "source": plugin.source,
        }
    ]


def test_inspect__names_the_plugins(project):
    curation.build(project, allow_plugins=True)
    assert "plug-ins    shout:ShoutStage\n" in curate("inspect", project.parent / "out").stdout


# Held to its promises while it runs


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            "wrong:LosesRows",
            r"stage 'LosesRows': the plug-in LosesRows is wrong: .* 3 \+ 0 rows, but 2 \+ 0",
        ),
        ("wrong:LosesColumns", r"the plug-in LosesColumns is wrong: apply: column 'text' is missing at port ''"),
        ("wrong:BindsNothing", r"stages\[0\].use: the plug-in wrong:BindsNothing is wrong: bind: expected a pyarrow"),
    ],
)
def test_build__refuses_what_a_plugin_must_not_do(project, use, message):
    project.write_text((RECIPE % use).replace(", column: text", ""), "utf-8")
    with pytest.raises(curation.CurationError, match=message):
        curation.build(project, allow_plugins=True)


def test_build__says_that_the_plugin_failed_and_not_curation(project):
    project.write_text((RECIPE % "wrong:Fails").replace(", column: text", ""), "utf-8")
    result = curate("build", project, "--allow-plugins")
    assert result.exit_code == 1
    assert "KeyError: 'a'" in result.stderr
    assert "the plug-in wrong:Fails has failed, see the lines above; mend it, or tell its author" in result.stderr
    assert "fault of curation" not in result.stderr


# Commands


@pytest.mark.parametrize("command", ["validate", "plan"])
def test_command__needs_the_flag(project, command):
    refused, allowed = curate(command, project), curate(command, project, "--allow-plugins")
    assert (refused.exit_code, allowed.exit_code) == (2, 0)
    assert "allow them with --allow-plugins" in refused.stderr


def test_schema__has_the_options_of_plugins_only_if_allowed(project, monkeypatch):
    install(project.parent, "example-shout", "0.1", shout="shout:ShoutStage")
    monkeypatch.syspath_prepend(project.parent)
    assert "shout" not in [each["title"] for each in recipe_schema()["$defs"]["Stage"]["oneOf"]]
    assert "shout" not in sys.modules
    stages = {each["title"]: each for each in recipe_schema(allow_plugins=True)["$defs"]["Stage"]["oneOf"]}
    assert stages["shout"]["properties"]["column"]["description"] == "column of text"
    assert "module:Class" in stages


def test_schema__names_a_plugin_that_cannot_be_loaded(project, monkeypatch):
    install(project.parent, "example-shout", "0.1", bad="nosuch:Stage")
    monkeypatch.syspath_prepend(project.parent)
    with pytest.raises(RecipeError, match="plug-in 'bad': module 'nosuch' cannot be imported"):
        recipe_schema(allow_plugins=True)


# Other processes


def test_scheduler__whose_workers_lack_the_module_is_told(project, tmp_path_factory):
    lacks = r"worker tcp://.*: plug-in 'shout:ShoutStage': module 'shout' cannot be imported: .*; install the plug-in"
    with cluster(tmp_path_factory.mktemp("elsewhere")) as address, pytest.raises(BuildError, match=lacks):
        curation.build(project, allow_plugins=True, scheduler=address)


def test_scheduler__whose_workers_have_the_module_builds_until_it_is_edited(project):
    with cluster(project.parent) as address:  # Python looks for modules where it was started
        curation.build(project, allow_plugins=True, scheduler=address)
        assert texts(project.parent) == ["a!", "b!", None]
        (plugin,) = load_recipe(project, allow_plugins=True).plugins
        executor = DaskExecutor(1, address=address)
        with pytest.raises(BuildError, match=r"has other code of plug-in 'shout:ShoutStage' than this process"):
            executor.probe(project.parent / "work", {}, [replace(plugin, source="edited")])
        executor.close()


def test_lacking__names_a_package_that_is_not_installed(project):
    plugin = load(Origin("shout:ShoutStage", "shout:ShoutStage"), str(project.parent))
    wanted = replace(plugin, origin=replace(plugin.origin, package="example-shout"))
    assert lacking([plugin.wire()]) == ""
    assert lacking([wanted.wire()]) == "plug-in 'shout:ShoutStage': package example-shout is not installed"


# The worked examples


def test_page__its_stage_keeps_its_promises(tmp_path, monkeypatch):
    code = re.findall(r"```python\n(# lengths.py.*?)```", (ROOT / "docs/plugins.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "lengths.py").write_text(code[0], "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    plugin = load(Origin("lengths:LengthsStage", "lengths:LengthsStage"))
    check_params(plugin.params, column="text")
    table = rows_of(9, text=["a", "bb", "ccc", None, "", "ffffff", "g", "hh", "i"], n=list(range(9)))
    check_stage(plugin.stage, plugin.params.model_validate({"column": "text", "min_chars": 2}), table)


@pytest.fixture
def surroundings(tmp_path):
    """Environment in which the package of the example is installed."""
    install(tmp_path / "site", "curation-mask-emails", "0.1.0", mask_emails="curation_mask_emails:MaskEmailsStage")
    places = [str(ROOT), str(tmp_path / "site"), str(EXAMPLE / "src")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYTHONDONTWRITEBYTECODE": "1"}


def test_example__builds_with_two_workers(tmp_path, surroundings):
    recipe = make(tmp_path, "mask_emails")
    pq.write_table(pa.table({"text": ["to ann@example.com", "none", None]}), tmp_path / "data/rows.parquet")
    command = [sys.executable, "-m", "curation", "build", str(recipe), "--allow-plugins", "--workers", "2"]
    done = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    build = curation.open(tmp_path / "out")
    assert build.table().collect()["text"].to_list() == ["to [email]", "none", None]
    assert build.table().collect()["n_emails"].to_list() == [1, 0, None]
    (plugin,) = build.manifest.content["plugins"]
    assert (plugin["use"], plugin["package"], plugin["version"]) == ("mask_emails", "curation-mask-emails", "0.1.0")


def test_module__beside_the_recipe_reaches_two_workers(project, tmp_path_factory):
    command = [sys.executable, "-m", "curation", "build", str(project), "--allow-plugins", "--workers", "2"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(command, env=env, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert texts(project.parent) == ["a!", "b!", None]


def test_example__passes_its_own_tests(surroundings):
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", str(EXAMPLE / "tests")]
    done = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout
