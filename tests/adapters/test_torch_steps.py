"""Events counted in optimizer steps: no loader, no epochs, no task boundaries."""

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, reorganize  # noqa: E402
from rejuvenet.adapters.torch.training import steps as steps_module  # noqa: E402
from rejuvenet.adapters.torch.training.steps import Steps  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 90)),
    "convolution and BatchNorm": lambda: nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(48, 90)
    ),
    "LayerNorm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(48, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, 90)
    ),
    # Its sets of channels are a group of their own, of the same weight.
    "GroupNorm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(48, 12), nn.GroupNorm(3, 12), nn.ReLU(), nn.Linear(12, 90)
    ),
}


def batch(number, n=32):
    """Five classes of the ninety, others every seven steps."""
    generator = torch.Generator().manual_seed(number)
    y = torch.randint(0, 5, (n,), generator=generator) + 5 * (number // 7) + 40
    return torch.randn(n, 3, 4, 4, generator=generator) + y[:, None, None, None] % 3, y


def make(network="linear", **options):
    torch.manual_seed(0)
    model = NETWORKS[network]()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    options = {"every_steps": 10, "recent": 100, "layers": "all", "ratio": 0.5, **options}
    x, _ = batch(0, 2)
    return model, optimizer, Reorganizer(model, optimizer, example_inputs=x, **options)


def train(model, optimizer, reorganizer, numbers):
    """The steps after which there was an event, with their reports."""
    events = {}
    for number in numbers:
        x, y = batch(number)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report := reorganizer.step(x, y):
            events[number + 1] = report
    return events


@pytest.mark.parametrize("network", NETWORKS)
def test_events_come_every_so_many_steps(network):
    model, optimizer, reorganizer = make(network)
    events = train(model, optimizer, reorganizer, range(25))
    assert list(events) == [10, 20]
    assert [event["step"] for event in reorganizer.history] == [10, 20]
    # Half of 12, then of the 6 that are mature.
    assert [sum(g.new for g in report.groups) for report in events.values()] == [6, 3]
    assert all(report.output_change < 0.5 for report in events.values())
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert model.training


def test_the_optimizer_begins_anew_for_what_changed():
    model, optimizer, reorganizer = make(ratio=1 / 3)
    train(model, optimizer, reorganizer, range(10))
    for state in optimizer.state.values():
        whole = state["exp_avg"].shape == (90,)  # the last bias: nothing of it changed
        assert float(state["step"]) == (10 if whole else 0)
        assert bool(state["exp_avg"].any()) == whole


def test_new_channels_are_left_alone_until_they_are_mature():
    model, optimizer, reorganizer = make(maturity=25, recipe=Recipe(method="random"))
    born, counts = {}, []
    for start in range(0, 40, 10):
        train(model, optimizer, reorganizer, range(start, start + 9))
        before = copy.deepcopy(model.state_dict())
        report = reorganizer.step(*batch(start + 9))  # the event alone
        fresh = report.plan.groups[0].new.tolist()
        young = [place for place, at in born.items() if start + 10 - at < 25]
        assert not set(fresh) & set(young)
        for name, axis in (("1.weight", 0), ("1.bias", 0), ("3.weight", 1)):
            now, then = (values[name].movedim(axis, 0) for values in (model.state_dict(), before))
            assert torch.equal(now[young], then[young])
        born |= dict.fromkeys(fresh, start + 10)
        counts.append(len(fresh))
    # Half of 12, of the 6 old ones, of the 3 that are left; then of these and the first new ones.
    assert counts == [6, 3, 1, 4]


def test_a_cap_of_channels():
    model, optimizer, reorganizer = make(recipe=Recipe(ratio=0.5, max_new=2), ratio=None)
    report = train(model, optimizer, reorganizer, range(10))[10]
    assert [group.new for group in report.groups] == [2]


def test_the_memory_of_batches_is_bounded(monkeypatch):
    steps = Steps(10, 25, 0)  # four times as many are kept, spread over ten steps
    for number in range(20):
        steps.add(*batch(number))
    assert [kept.samples for kept in steps.kept] == [32] * 4
    for kept, number in zip(steps.kept, (12, 14, 17, 19), strict=True):
        assert torch.equal(kept.inputs, batch(number)[0])
    steps = Steps(1, 25, 0)
    x, y = batch(9, 300)
    steps.add({"x": x, "scale": 2.0}, y)
    (kept,) = steps.kept
    assert kept.samples == len(kept.labels) == 100
    x.zero_()  # a loader that fills the same memory again
    assert torch.equal(kept.inputs["x"], batch(9, 300)[0][:100])
    monkeypatch.setattr(steps_module, "MAX_BYTES", 3 * 32 * (3 * 4 * 4 * 4 + 8))
    steps = Steps(10, 10_000, 0)
    for number in range(20):
        steps.add(*batch(number))
    assert len(steps.kept) == 3
    for kept, number in zip(steps.kept, (13, 16, 19), strict=True):
        assert torch.equal(kept.inputs, batch(number)[0])


def test_classes_are_those_that_were_seen():
    steps = Steps(10, 100, 0)
    steps.add(torch.zeros(0, 1), [])  # an empty batch
    steps.add(torch.zeros(3, 1), [[70], [4], [70]])
    steps.add(torch.zeros(2, 1), torch.tensor([12, 4]))
    found = steps.batches(lambda own: [own, {5}])  # another process saw class 5
    assert [b.labels.tolist() for b in found] == [[3, 0, 3], [2, 0]]


def test_what_is_judged_by_has_as_many_samples_of_every_class():
    steps = Steps(100, 60, 0)
    for number in range(100):  # three classes, then one of them alone
        labels = torch.arange(8) % 3 if number < 20 else torch.full((8,), 2)
        steps.add({"x": torch.full((8, 1), float(number))}, labels)
    found = steps.batches(lambda own: [own])
    labels = torch.cat([batch.labels for batch in found])
    assert labels.bincount().tolist() == [18, 18, 24]  # what there is of the first two
    numbers = torch.cat([batch.inputs["x"] for batch in found])[labels == 2]
    assert numbers.min() < 40
    assert numbers.max() > 90
    assert numbers.unique().numel() > 10
    steps = Steps(8, 2, 0)
    for width in range(1, 9):  # pictures of several sizes: every fourth batch, the last one too
        steps.add(torch.zeros(1, 1, width), torch.zeros(1, dtype=torch.int64))
    assert [batch.inputs.shape[-1] for batch in steps.batches(lambda own: [own])] == [4, 8]


def test_a_training_resumed_at_any_step_ends_with_the_same_weights():
    options = {"maturity": 15, "seed": 3}
    straight = make("convolution and BatchNorm", **options)
    files = {}
    for number in range(25):
        train(*straight, [number])
        if number in (4, 9, 17):
            files[number] = io.BytesIO()
            torch.save([part.state_dict() for part in straight], files[number])
    assert len(straight[2].history) == 2
    for number, file in files.items():
        file.seek(0)
        resumed = make("convolution and BatchNorm", **options)
        for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
            part.load_state_dict(state)
        train(*resumed, range(number + 1, 25))
        for name, value in straight[0].state_dict().items():
            assert torch.equal(value, resumed[0].state_dict()[name]), (number, name)


def test_a_failure_changes_nothing_and_training_goes_on():
    model, optimizer, reorganizer = make()
    train(model, optimizer, reorganizer, range(9))
    states = [model.state_dict(), optimizer.state_dict()["state"]]
    before = copy.deepcopy(states)
    with pytest.raises(ValueError, match="batch 2 has 32 inputs"):
        reorganizer.step(batch(9)[0], torch.zeros(5, dtype=torch.long))
    assert all(torch.equal(states[0][name], value) for name, value in before[0].items())
    for now, then in zip(states[1].values(), before[1].values(), strict=True):
        assert all(torch.equal(now[key], value) for key, value in then.items())
    assert list(train(model, optimizer, reorganizer, range(10, 20))) == [20]


def test_the_same_event_as_by_hand():
    model, optimizer, reorganizer = make(seed=0, recipe=Recipe(seed=0), recent=320)
    train(model, optimizer, reorganizer, range(9))
    twin = copy.deepcopy(model)
    report = reorganizer.step(*batch(9))
    seen = [batch(number) for number in range(10)]
    known = torch.cat([y for _, y in seen]).unique()
    seen = [(x, torch.searchsorted(known, y)) for x, y in seen]
    by_hand = reorganize(twin, seen, "all", Recipe(seed=10, refit="groups"))
    assert report.output_change == by_hand.output_change
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_steps": 0}, "every_steps"),
        ({"recent": 0}, "recent"),
        ({"maturity": -1}, "maturity"),
        ({"every": 2, "epochs": 3}, "leave out every, epochs"),
        ({"loader": [batch(0)]}, "leave out loader"),
        ({"every_steps": None}, "expected a loader, or every_steps"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (torch.rand(32), "of other targets leave them out"),
        (torch.zeros(32, 4, 4, dtype=torch.int64), "of other targets leave them out"),
        (torch.ones(32, dtype=torch.bool), "of other targets leave them out"),
        (torch.full((32,), -100), "at least 0, got -100: leave out samples"),
        (torch.full((32, 2), -0.5), "at least 0, got -0.5: leave out samples"),
    ],
)
def test_targets_that_are_no_classes_are_refused_at_once(targets, said):
    _, _, reorganizer = make()
    x, _ = batch(0)
    with pytest.raises(ValueError, match=said):
        reorganizer.step(x, targets)
    assert reorganizer.steps.count == len(reorganizer.steps.kept) == 0


@pytest.mark.parametrize("first", ["with labels", "without"])
def test_labels_come_with_every_batch_or_with_none(first):
    _, _, reorganizer = make()
    x, y = batch(0)
    both = [y, None] if first == "with labels" else [None, y]
    reorganizer.step(x, both[0])
    with pytest.raises(ValueError, match="with every batch or with none"):
        reorganizer.step(x, both[1])


def test_states_of_the_other_kind_and_damaged_ones_are_refused():
    _, _, reorganizer = make()
    model = NETWORKS["linear"]()
    by_epochs = Reorganizer(model, None, [batch(0)], layers="all")
    with pytest.raises(ValueError, match="counts steps, got one that counts epochs"):
        reorganizer.load_state_dict(by_epochs.state_dict())
    with pytest.raises(ValueError, match="counts epochs, got one that counts steps"):
        by_epochs.load_state_dict(reorganizer.state_dict())
    reorganizer.step(*batch(0))
    right = reorganizer.state_dict()
    for name, wrong in (
        ("count", -1), ("young", {"1.weight": [[3, 2]]}), ("young", [3]), ("kept", [3]),
        ("kept", [("x", None)]), ("kept", [(torch.zeros(3), [1, 2, 3])]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"with {name} as"):
            reorganizer.load_state_dict({**right, "steps": {**right["steps"], name: wrong}})
    assert reorganizer.steps.count == 1
