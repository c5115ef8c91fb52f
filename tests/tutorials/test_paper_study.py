"""``tutorials/paper/study.py``: both of its settings, on a few images of noise."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "tutorials" / "paper"


@pytest.fixture(scope="module")
def study():
    """The module; ``cifar100``, which it finds beside its folder, leaves with the fixture."""
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location("paper_study", FOLDER / "study.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    for name in (spec.name, "cifar100"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "groups"), [("small", ["6.weight"]), ("resnet20", ["layer3.0.conv1.weight"])]
)
def test_events_come_when_they_are_due(study, name, groups):
    setting = dataclasses.replace(
        study.SETTINGS[name], classes=4, size=8, epochs=4, period=2, layers=(groups[0],)
    )
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 4
    data = {"train": (x, y), "test": (x, y)}
    plain, preserving = (
        study.run(setting, arm, "step", 0, data) for arm in ("plain", "preserving")
    )
    assert not plain["events"]
    assert [event["epoch"] for event in preserving["events"]] == [1]
    assert [group["group"] for group in preserving["events"][0]["groups"]] == groups
    assert preserving["epochs"][:2] == plain["epochs"][:2]  # the same until the first event
    assert preserving["epochs"][2:] != plain["epochs"][2:]
    assert len(plain["epochs"]) == 4


@pytest.mark.parametrize("name", ["small", "resnet20"])
def test_layers_of_a_setting_are_in_its_network(study, name):
    setting = study.SETTINGS[name]
    traced = study.trace(setting.network(setting.classes, False), torch.zeros(2, 3, 32, 32))
    chosen, _ = study.select_groups(traced.groups, setting.layers)
    expected = {"small": [192], "resnet20": [64] * 4}[name]
    assert [choice.group.channels for choice in chosen] == expected
