"""One finished build of each recipe, shared by the tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.project import TWO_OUTPUTS, curate, make_project


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the built recipe ``tiny``; do not change it."""
    folder = tmp_path_factory.mktemp("tiny")
    result = curate("build", make_project(folder))
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the built recipe ``two`` of two outputs; do not change it."""
    folder = tmp_path_factory.mktemp("two")
    result = curate("build", make_project(folder, TWO_OUTPUTS))
    assert result.exit_code == 0, result.output
    return folder
