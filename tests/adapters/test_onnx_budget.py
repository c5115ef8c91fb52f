"""What a file may make anyone compute, and how more is allowed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")
from rejuvenet.adapters.onnx import arrange, load
from rejuvenet.adapters.onnx.budget import MAX_BYTES, VARIABLE

sys.path.insert(0, str(Path(__file__).parent.parent / "reliability"))

import hostile


@pytest.fixture
def written(tmp_path):
    def write(model):
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def test_the_budget_can_be_raised(written, monkeypatch):
    path = written(hostile.of_size(1 << 16, "Range"))
    assert load(path).groups
    with pytest.raises(ValueError, match=r"'z' of shape \[65536\].*max_bytes=524288"):
        _ = load(path, max_bytes=1 << 18).groups
    assert load(path, max_bytes=1 << 19).groups
    monkeypatch.setenv(VARIABLE, str(1 << 18))
    for use in (lambda: load(path).groups, lambda: load(path).session()):
        with pytest.raises(ValueError, match=VARIABLE):
            use()
    assert load(path, max_bytes=1 << 19).groups
    monkeypatch.setenv(VARIABLE, "much")
    with pytest.raises(ValueError, match="positive number of bytes, got 'much'"):
        load(path)


def test_functions_are_counted_before_they_are_inlined(written):
    path = written(hostile.doubling(10))  # 2^10 calls
    assert [g.name for g in load(path).groups if g.frozen is None] == ["a"]
    with pytest.raises(ValueError, match=r"become 2.05e\+03 nodes, more than the 1024 allowed"):
        load(path, max_bytes=1 << 23)


def test_ten_thousand_nodes_and_a_loop_are_fine(written):
    chain = [
        hostile.node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(10_000)
    ]  # fmt: skip
    assert len(load(written(hostile.model(chain))).analysed.graph) == 10_002
    path = written(hostile.loop(100))
    moved, report = arrange(load(path), order="random")
    assert report.output_change < 1e-5
    assert not np.array_equal(moved.weight("a"), load(path).weight("a"))


def test_the_cap_of_one_model_is_not_that_of_the_next(written):
    path = written(hostile.of_size(1 << 22, "of the data"))
    for max_bytes, fine in ((None, True), (1 << 20, False), (None, True)):
        model = load(path, max_bytes=max_bytes)
        if fine:
            assert model.groups
        else:
            with pytest.raises(ValueError, match="takes over"):
                _ = model.groups


def test_the_cap_holds_for_sizes_that_only_data_shows(written):
    small = hostile.of_size(1 << 10, "of the data")
    assert load(written(small)).groups
    large = hostile.of_size(1 << 34, "of the data")
    assert MAX_BYTES < 1 << 34
    with pytest.raises(ValueError, match="max_bytes"):
        _ = load(written(large)).groups
