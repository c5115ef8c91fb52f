"""Compiled code on disk: where the user says, where it can be written, or nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

READ_ONLY = """
import tempfile

def refused(*arguments, **options):
    raise PermissionError(30, "Read-only file system")

tempfile.TemporaryFile = refused  # with which Numba finds out whether a folder can be written
"""
WORK = """
import numba, warnings
warnings.simplefilter("always")
from rejuvenet.sofm import Grid
from rejuvenet.sofm.grid import touch_of
assert Grid(1, 3).adjacent(0, [1, 2]).tolist() == [True, False]
print(type(touch_of._cache).__name__, numba.config.CACHE_DIR == "")
"""


def run(code, **environment):
    inherited = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "HOME")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **environment}, capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A folder with compiled code."""
    folder = tmp_path_factory.mktemp("warm") / "made" / "by itself"
    done = run(WORK, REJUVENET_CACHE=str(folder))
    assert done.stdout.split() == ["FunctionCache", "True"], done.stderr
    assert done.stderr == ""
    return folder


def test_code_is_kept_where_the_user_says(warm):
    assert [path.name.split("-")[0] for path in warm.rglob("*.nbi")] == ["grid.touch_of"]
    before = {path: path.stat().st_mtime_ns for path in warm.rglob("*.nb?")}
    assert run(WORK, REJUVENET_CACHE=str(warm)).stderr == ""
    assert {path: path.stat().st_mtime_ns for path in warm.rglob("*.nb?")} == before


def test_without_a_folder_that_can_be_written():
    done = run(READ_ONLY + WORK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["NullCache", "True"]
    assert done.stderr.count("RuntimeWarning: rejuvenet: compiled code cannot be kept") == 1
    assert "REJUVENET_CACHE" in done.stderr
    elsewhere = run(READ_ONLY + WORK, REJUVENET_CACHE="/proc/nowhere")
    assert elsewhere.stdout.split() == ["NullCache", "True"]
    assert elsewhere.stderr.count("RuntimeWarning") == 1


def test_a_folder_that_cannot_be_made_is_said():
    file = Path(__file__)
    done = run(WORK, REJUVENET_CACHE=str(file / "folder"))
    assert done.stdout.split() == ["NullCache", "True"]
    assert done.stderr.count("RuntimeWarning") == 1


@pytest.mark.parametrize("word", ["off", "0"])
def test_nothing_is_kept_if_the_user_says_so(word):
    done = run(READ_ONLY + WORK, REJUVENET_CACHE=word)
    assert done.stdout.split() == ["NullCache", "True"]
    assert done.stderr == ""
