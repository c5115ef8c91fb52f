"""The tutorial's code runs, in order."""

import re
import runpy
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "tutorials"
PAGE = TUTORIALS / "sofm.md"
FASHION = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")


def blocks():
    return re.findall(r"^```python *([\w-]*)\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def run(wanted, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("dask.array")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for kind, code in blocks():
        if kind in wanted:
            exec(compile(code, str(PAGE), "exec"), names)
    return names


def test_tutorial(tmp_path, monkeypatch):
    names = run({""}, tmp_path, monkeypatch)
    assert (tmp_path / "planes.png").exists()
    assert names["weights"].shape == (8, 9, 64)


@pytest.mark.nightly
@pytest.mark.skipif(not FASHION.exists(), reason="Debian's dataset-fashion-mnist is absent")
def test_tutorial_fashion(tmp_path, monkeypatch):
    assert run({"", "fashion-mnist"}, tmp_path, monkeypatch)["share"] > 0.7


def test_gallery():
    """The page is what its script writes, with all pictures."""
    gallery = runpy.run_path(str(TUTORIALS / "sofm_gallery.py"))
    assert gallery["page"]() == gallery["PAGE"].read_text(), "run tutorials/sofm_gallery.py"
    for name in gallery["SECTIONS"]:
        assert (gallery["PICTURES"] / f"{name}.png").stat().st_size > 1000
