import copy
import io

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402


def epoch(model, optimizer, batches, number):
    torch.manual_seed(number)
    model.train()
    for x, y in batches:
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make(model, batches, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    options = {"every": 2, "epochs": 8, "stop": 0.75, **options}
    return optimizer, Reorganizer(model, optimizer, batches, **options)


def test_events_come_every_r_epochs_until_stop(trained_network, torch_batches):
    _, reorganizer = make(trained_network, torch_batches[:1], classes=10)
    events = [n for n in range(8) if reorganizer.step(n) is not None]
    assert events == [1, 3, 5]
    assert [event["epoch"] for event in reorganizer.history] == events
    assert reorganizer.step(5) is None


def test_training_resumed_from_any_epoch_ends_with_the_same_weights(
    trained_network, torch_batches
):
    batches = torch_batches[:2]
    straight = copy.deepcopy(trained_network)
    optimizer, reorganizer = make(straight, batches, seed=3)
    files = []
    for number in range(6):
        epoch(straight, optimizer, batches, number)
        reorganizer.step(number)
        file = io.BytesIO()
        parts = (straight, optimizer, reorganizer)
        torch.save([part.state_dict() for part in parts], file)
        files.append(file)
    assert len(reorganizer.history) == 3
    for stopped in (0, 1, 2, 3):
        files[stopped].seek(0)
        resumed = copy.deepcopy(trained_network)
        optimizer, again = make(resumed, batches)
        saved = torch.load(files[stopped], weights_only=True)
        for part, state in zip((resumed, optimizer, again), saved, strict=True):
            part.load_state_dict(state)
        for number in range(stopped + 1, 6):
            epoch(resumed, optimizer, batches, number)
            again.step(number)
        for name, value in straight.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), (stopped, name)


def test_a_pass_over_the_data_does_not_disturb_the_training(trained_network, torch_batches):
    _, reorganizer = make(trained_network, torch_batches[:1], classes=10)
    trained_network.train()
    state = torch.get_rng_state()
    reorganizer.step(1)
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in trained_network.modules())


def test_the_recipe_may_depend_on_the_epoch(trained_network, torch_batches):
    _, reorganizer = make(
        trained_network,
        torch_batches[:1],
        classes=10,
        recipe=lambda n: Recipe(method="random", ratio=0.25 if n < 2 else 0.75),
    )
    assert reorganizer.step(1).groups[0].survivors == 4
    assert reorganizer.step(3).groups[0].survivors == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": "8.weihgt"}, "did you mean"),
        ({"layers": "13"}, "cannot be reorganized"),
        ({"every": 0}, "every"),
        ({"stop": 2.0}, "stop"),
        ({"epochs": None}, "give epochs"),
    ],
)
def test_wrong_settings_are_refused_before_training(
    trained_network, torch_batches, options, message
):
    with pytest.raises(ValueError, match=message):
        make(trained_network, torch_batches, **options)
