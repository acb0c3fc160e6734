"""One build per output at a time; the system frees the lock of a process that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from curation.engine.lock import held
from curation.errors import LockedError

HOLDER = """
import sys, time
from pathlib import Path
from curation.engine.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder):
    """Another process that holds the lock."""
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        env=os.environ | {"PYTHONPATH": root},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.communicate(timeout=30)


def test_lock__makes_the_folder_and_leaves_no_file(tmp_path):
    with held(tmp_path / "a/b"):
        assert (tmp_path / "a/b/.lock").is_file()
    assert list((tmp_path / "a/b").iterdir()) == []


def test_lock__held_by_another_process_names_it(tmp_path):
    with holder(tmp_path) as process:
        expected = rf"held by another build \(process {process.pid} on .* since .*: -c .*\); wait until it ends"
        with pytest.raises(LockedError, match=expected), held(tmp_path):
            pass
        assert (tmp_path / ".lock").is_file()


def test_lock__is_free_after_the_holder_ends(tmp_path):
    with holder(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_lock__is_free_after_the_holder_is_killed(tmp_path):
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert (tmp_path / ".lock").is_file()
        with held(tmp_path):
            pass


def test_lock__is_free_after_an_error_inside(tmp_path):
    with pytest.raises(ValueError, match="inside"), held(tmp_path):
        raise ValueError("inside")
    with held(tmp_path):
        pass


def test_lock__of_an_unreadable_owner_still_refuses(tmp_path):
    with holder(tmp_path):
        (tmp_path / ".lock").write_text("gone wrong")
        with pytest.raises(LockedError, match="its name could not be read"), held(tmp_path):
            pass


def test_lock__of_other_folders_is_free(tmp_path):
    with holder(tmp_path / "a"), held(tmp_path / "b"):
        pass
