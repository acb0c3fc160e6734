from __future__ import annotations

import signal
import subprocess
import sys

import click
import pytest

from curation.cli.main import VERBS, cli
from tests.cli.project import curate, curate_process, environment, make_project

HEAVY = [
    "dask",
    "distributed",
    "polars",
    "faiss",
    "numba",
    "sklearn",
    "pyarrow",
    "pydantic",
    "rich",
    "numpy",
    "jinja2",
    "yaml",
]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help__imports_nothing_heavy(option, tmp_path):
    code = (
        "import sys, curation.cli.main as main\n"
        f"sys.argv = ['curate', {option!r}]\n"
        "try:\n    main.main()\nexcept SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment(), check=True
    )
    assert run.stdout.splitlines()[-1] == "HEAVY []"


def test_import__curation_imports_nothing_heavy(tmp_path):
    code = f"import sys, curation; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment(), check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_help__every_verb_has_an_example(verb):
    result = curate(verb, "--help")
    assert result.exit_code == 0
    assert f"  curate {verb}" in result.stdout.partition("Example")[2]


def test_module__does_what_curate_does(tmp_path):
    run = curate_process("--version", cwd=tmp_path)
    assert (run.returncode, run.stdout) == (0, "curate, version 0.1.0\n")


def test_verb__unknown_names_the_nearest():
    result = curate("biuld", "recipe.yaml")
    assert result.exit_code == 2
    assert "no command 'biuld'; did you mean 'build'?" in result.stderr


def test_option__unknown_is_usage(tmp_path):
    result = curate("build", "--frce", "recipe.yaml")
    assert result.exit_code == 2
    assert "--force" in result.stderr


def test_error__of_the_recipe_is_shown_without_a_traceback(tmp_path):
    recipe = make_project(tmp_path).read_text().replace("where:", "wher:")
    path = make_project(tmp_path, recipe)
    result = curate("build", path)
    assert result.exit_code == 2
    assert f"{path}:8: stages[0].wher: unknown key\n  hint: did you mean 'where'?" in result.stderr
    assert "Traceback" not in result.output


def test_error__of_ours_shows_a_traceback(monkeypatch):
    @click.command()
    def broken():
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(type(cli), "get_command", lambda *_: broken)
    result = curate("schema")
    assert result.exit_code == 1
    assert "ZeroDivisionError: oops" in result.stderr
    assert "this is a fault of curation" in result.stderr


def test_error__notes_are_shown(monkeypatch):
    from curation.errors import BuildError

    @click.command()
    def failing():
        error = BuildError("cannot go on")
        error.add_note("while working on rows 0 to 9")
        raise error

    monkeypatch.setattr(type(cli), "get_command", lambda *_: failing)
    result = curate("schema")
    assert (result.exit_code, result.stderr) == (1, "cannot go on\n  while working on rows 0 to 9\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal__ends_with_130(number, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "curation", "build", str(make_project(tmp_path))],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("building ")
        process.send_signal(number)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted; finished work is kept, run the same command again to go on" in said
    assert "Traceback" not in said


def test_pipe__closed_early_is_quiet(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "curation", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert said == ""
