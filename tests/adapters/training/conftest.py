"""One small task for the callbacks: the tutorial's loops on a network of 16 channels."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

TUTORIALS = Path(__file__).parents[3] / "tutorials"


@pytest.fixture(scope="session")
def tutorial():
    """The module ``tutorials/training.py``."""
    spec = importlib.util.spec_from_file_location("tutorial_training", TUTORIALS / "training.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def task(tutorial):
    """Five epochs of four batches; events after the second and (stop=1) the fourth."""
    nn = torch.nn

    def model():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip

    return dataclasses.replace(
        tutorial.digits(256), model=model, layer="3.weight", epochs=5, every=2
    )


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def assert_same():
    """Two models hold the same values, to the last bit."""

    def check(a, b):
        a, b = a.state_dict(), b.state_dict()
        assert list(a) == list(b)
        for name in a:
            assert torch.equal(a[name], b[name]), name

    return check
