"""The page of files of others says what was measured, and what measures it is right."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")

sys.path.insert(0, str(Path(__file__).parents[2] / "tutorials"))

import files_of_others as files


def test_the_page_is_that_of_the_figures():
    assert files.PAGE.read_text() == files.page(json.loads(files.RESULT.read_text()))


def test_detections_agree_by_class_and_place():
    """Three places, each a box and the scores of two classes."""
    found = np.zeros((3, 6, 3), "f4")
    found[:, :4] = np.array([10, 10, 4, 4])[:, None]
    found[:, 4, 1] = 0.9
    moved, other = found.copy(), found.copy()
    moved[0, :2] += 1  # 9 of 23 in common
    moved[1, 0] += 1  # 12 of 20
    other[2, 5, 0] = 0.95
    assert files.same_box(found, found, Path()) == 1
    assert files.same_box(found, moved, Path()) == pytest.approx(2 / 3)
    assert files.same_box(found, other, Path()) == pytest.approx(2 / 3)


@pytest.mark.skipif(importlib.util.find_spec("openwakeword") is None, reason="a package's file")
def test_what_cannot_be_shrunk_is_refused_in_words(tmp_path):
    said = files.refused(tmp_path)
    assert said["status"] == 1
    assert "holds a graph of its own" in " ".join(said["printed"])
    assert not (tmp_path / "smaller.onnx").exists()
