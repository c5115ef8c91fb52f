"""Small networks of many kinds: everything that can move moves, and the function stays."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parent))

from exactness import verify  # noqa: E402
from small_networks import NETWORKS, OUTPUT, UNMOVED, small_network  # noqa: E402


@pytest.mark.parametrize("name", NETWORKS)
def test_every_convolution_moves_but_those_that_make_outputs(name):
    model, inputs = small_network(name)
    verdict = verify(model, *inputs)
    assert verdict.outcome == "right", verdict
    assert verdict.unmoved == dict.fromkeys(UNMOVED.get(name, ()), OUTPUT)
    assert verdict.moved == verdict.convolutions - len(UNMOVED.get(name, ()))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, dtype) for name in ("unet", "fpn") for dtype in (torch.float16, torch.bfloat16)),
        *((name, torch.float32) for name in ("r3d", "gru", "lstm")),
    ],
)
def test_other_precisions(name, dtype):
    model, inputs = small_network(name)
    verdict = verify(model, *inputs, dtype=dtype)
    assert verdict.outcome == "right", verdict
    assert verdict.moved == verdict.convolutions - len(UNMOVED.get(name, ()))
