"""Compiled code on disk: where the user says, where it can be written, or nowhere."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest
from rejuvenet.sofm import compiled

KERNELS = """
def double(x):
    return 2 * x

def triple(x):
    return 3 * x
"""


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Two functions in a file, compiled as in a new process with the given ``REJUVENET_CACHE``."""
    file = tmp_path / "code" / "kernels.py"
    file.parent.mkdir()
    file.write_text(KERNELS)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")

    def make(cache):
        if cache is None:
            monkeypatch.delenv("REJUVENET_CACHE", raising=False)
        else:
            monkeypatch.setenv("REJUVENET_CACHE", str(cache))
        module, functions = (loaded(path) for path in (compiled.__file__, file))
        made = module.compiled(functions.double), module.compiled(functions.triple)
        assert [f(2.0) for f in made] == [4.0, 6.0]
        assert numba.config.CACHE_DIR == ""
        return made

    return make


def loaded(path):
    """A module anew, whatever was imported before."""
    spec = importlib.util.spec_from_file_location(f"rejuvenet_test_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kept(functions):
    return [type(f._cache).__name__ == "FunctionCache" for f in functions]


@pytest.fixture
def read_only(monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(30, "Read-only file system")

    # With this Numba finds out whether a folder can be written.
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)


@pytest.mark.filterwarnings("error")
def test_code_is_kept_where_the_user_says(kernels, tmp_path):
    folder = tmp_path / "made" / "by itself"
    first = kernels(folder)
    assert kept(first) == [True, True]
    names = {path.name.split("-")[0] for path in folder.rglob("*.nbi")}
    assert names == {"kernels.double", "kernels.triple"}
    again = kernels(folder)
    assert [sum(f.stats.cache_hits.values()) for f in (*first, *again)] == [0, 0, 1, 1]


def test_without_a_folder_that_can_be_written(kernels, read_only):
    for cache in (None, "/proc/nowhere"):
        with pytest.warns(RuntimeWarning, match=r"cannot be kept.*REJUVENET_CACHE") as caught:
            assert kept(kernels(cache)) == [False, False]
        assert len(caught) == 1


def test_a_folder_that_cannot_be_made_is_said(kernels):
    with pytest.warns(RuntimeWarning, match="cannot be kept") as caught:
        assert kept(kernels(Path(__file__) / "folder")) == [False, False]
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("word", ["off", "0"])
def test_nothing_is_kept_if_the_user_says_so(word, kernels, read_only):
    assert kept(kernels(word)) == [False, False]


def test_the_package_works_where_nothing_can_be_written():
    """No kernel is compiled in another way."""
    code = """
import tempfile

def refused(*arguments, **options):
    raise PermissionError(30, "Read-only file system")

tempfile.TemporaryFile = refused
import numba
from rejuvenet.sofm import SOFM, Grid
from rejuvenet.sofm.grid import touch_of
assert Grid(1, 3).adjacent(0, [1, 2]).tolist() == [True, False]
print(type(touch_of._cache).__name__, numba.config.CACHE_DIR == "")
"""
    names = ("NUMBA_CACHE_DIR", "HOME", "REJUVENET_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["NullCache", "True"]
    assert done.stderr.count("RuntimeWarning: rejuvenet: compiled code cannot be kept") == 1


def test_code_is_compiled_anew_where_another_file_of_the_package_has_changed(tmp_path):
    package = tmp_path / "rejuvenet"
    own = Path(compiled.__file__).parents[1]
    shutil.copytree(own / "sofm", package / "sofm", ignore=shutil.ignore_patterns("__pycache__"))
    for path in own.glob("*.py"):
        shutil.copy(path, package)
    own_cache = {"PYTHONPATH": str(tmp_path), "REJUVENET_CACHE": str(tmp_path / "cache")}
    code = "from rejuvenet.sofm.kernels.tile import n_groups, GROUP; print(n_groups(64), GROUP)"

    def groups():
        command, environment = [sys.executable, "-c", code], {**os.environ, **own_cache}
        shown = subprocess.check_output(command, env=environment, text=True)
        return [int(word) for word in shown.split()]

    count, size = groups()
    assert count == 64 // size
    vectors = package / "sofm" / "kernels" / "vectors.py"
    vectors.write_text(vectors.read_text() + "\nGROUP_NODES *= 2\n")
    assert groups() == [count // 2, size * 2]
