"""Calibration data that change, are odd, or are many; what an event takes is told before."""

import itertools

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, reorganize  # noqa: E402
from rejuvenet.adapters.torch import batches as batches_module  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def batch(n=8, seed=0):
    images = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return images, torch.arange(n) % 4


class Changing:
    """Its own random numbers, which no one puts back."""

    def __init__(self, what):
        self.what, self.seed = what, itertools.count()

    def __iter__(self):
        images, labels = batch(seed=next(self.seed) if self.what == "inputs" else 0)
        if self.what == "labels":
            labels = labels.roll(next(self.seed))
        yield images, labels
        if self.what == "length" and next(self.seed) > 1:
            yield images, labels


@pytest.mark.parametrize("what", ["inputs", "labels", "length"])
def test_data_that_change_between_passes_are_refused(monkeypatch, what):
    monkeypatch.setattr(batches_module.calibration, "KEPT_BYTES", 0)
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="must be the same in every pass"):
        reorganize(model, Changing(what), "0")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    monkeypatch.undo()  # in memory they are one thing
    reorganize(model, Changing(what), "0")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([batch(), batch(0)], "batch 1 holds no sample"),
        ([batch(0), batch()], "batch 0 holds no sample"),
        ([(batch(3)[0], ["cat", "dog", "cat"])], "got 'cat'"),
        ([(batch(3)[0], [0, None, 1])], "labels as whole numbers"),
    ],
)
def test_odd_batches_are_refused_in_one_sentence(data, said):
    with pytest.raises(ValueError, match=said):
        reorganize(network(), data, "0")


def test_batches_of_any_length_and_extent_are_read():
    wide = (torch.randn(4, 3, 12, 9), torch.arange(4))
    report = reorganize(network(), [batch(8), wide, batch(4)])
    assert report.plan.groups[0].new.size


@pytest.mark.parametrize(
    ("data", "said"),
    [([batch()[0]], "no labels"), ([batch(4)], "every class has one sample")],
)
def test_poor_data_are_told(data, said):
    with pytest.warns(UserWarning, match=said):
        reorganize(network(), data, "0")


def test_a_warning_is_said_once_and_points_at_the_line_of_the_user(recwarn):
    torch.manual_seed(0)
    x, y = torch.randn(8, 6), torch.arange(8) % 2
    layers = [nn.Linear(6, 32), *(nn.Linear(32, 32) for _ in range(7)), nn.Linear(32, 2)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())))
    reorganize(model, [(x, y)], "all", Recipe.preserving(ratio="redundant", tolerance=0.0))
    reorganize(model, [(x, y)], "all", Recipe.preserving(ratio=0.5))
    assert Reorganizer(model, None, [x], layers="all", every=1).step(0)
    idle, few, unlabelled = (str(caution.message) for caution in list(recwarn)[:3])
    assert idle.startswith("nothing was freed in '0.weight', '2.weight'")
    assert "'8.weight' and 3 more: in the first, nothing is redundant" in idle
    assert "values for the refit of 16 channels of '0.weight', and too few for '2.wei" in few
    assert "'10.weight' and 2 more: give 250 samples or more" in few
    assert "no labels" in unlabelled
    assert {caution.filename for caution in recwarn} == {__file__}


class Long:
    def __init__(self):
        self.read = 0

    def __len__(self):
        return 1000

    def __iter__(self):
        for _ in range(1000):
            self.read += 1
            yield batch(4)


@pytest.mark.filterwarnings("ignore:every class")
def test_of_a_long_loader_the_first_hundred_batches_are_read(monkeypatch):
    monkeypatch.setattr(batches_module, "LONG", 3)
    data = Long()
    reorganize(network(), data, "0", example_inputs=batch(2)[0])
    assert data.read <= 4  # kept in memory
    data = Long()
    reorganize(network(), data, "0", example_inputs=batch(2)[0], max_batches=5)
    assert data.read >= 5


@pytest.mark.parametrize("outgoing", ["least_squares", "sum"])
def test_passes_are_told_before_the_event(caplog, outgoing):
    recipe = Recipe.preserving(outgoing=outgoing)
    with caplog.at_level("INFO", "rejuvenet"):
        report = reorganize(network(), [batch()], "all", recipe)
    (told,) = [r.message for r in caplog.records if "passes" in r.message]
    assert told.startswith(f"up to {report.passes} passes")


def test_the_history_is_capped(monkeypatch):
    from rejuvenet.adapters.torch.training import reorganizer as module

    monkeypatch.setattr(module, "EVENTS", 4)
    monkeypatch.setattr(module, "RECENT", 2)
    reorganizer = Reorganizer(network(), None, [batch()], every=1, recipe=Recipe.comparison("l2"))
    for epoch in range(6):
        reorganizer.step(epoch)
    assert [event["epoch"] for event in reorganizer.history] == [2, 3, 4, 5]
    assert [bool(event["sources"]) for event in reorganizer.history] == [False, False, True, True]
    Reorganizer(network(), None, [batch()]).load_state_dict(reorganizer.state_dict())
