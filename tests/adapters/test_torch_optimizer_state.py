import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import arrange, reorganize  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

KMEANS = Recipe.preserving(method="kmeans")
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
    "capturable": lambda p: torch.optim.NAdam(p, 1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "adafactor": lambda p: torch.optim.Adafactor(p, 1e-2),
}


def gradients(model, batch):
    model.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    result = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return result


def train(model, optimizer, batches):
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("outgoing", ["sum", "least_squares"])
def test_momentum_becomes_that_of_the_merged_network(duplicated_network, torch_batches, outgoing):
    model, batch = duplicated_network, torch_batches[0]
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    grown = gradients(model, batch)
    for name, parameter in model.named_parameters():
        optimizer.state[parameter]["momentum_buffer"] = grown[name].clone()
    report = reorganize(
        model,
        torch_batches,
        ["8"],
        Recipe.preserving(method="kmeans", outgoing=outgoing),
        optimizer,
    )
    plan = report.plan.groups[0]
    merged = gradients(model, batch)
    for name in ("8.weight", "9.weight", "9.bias", "13.weight"):
        axis = 1 if name == "13.weight" else 0
        state = optimizer.state[dict(model.named_parameters())[name]]["momentum_buffer"]
        state, expected = state.movedim(axis, 0), merged[name].movedim(axis, 0)
        kept = torch.as_tensor(plan.survivors)
        scale = float(expected[kept].abs().max())
        torch.testing.assert_close(state[kept], expected[kept], rtol=1e-3, atol=1e-4 * scale)
        assert not state[torch.as_tensor(plan.new)].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_with_every_optimizer(trained_network, torch_batches, name):
    optimizer = OPTIMIZERS[name](trained_network.parameters())
    train(trained_network, optimizer, torch_batches)
    keys = {p: set(state) for p, state in optimizer.state.items()}
    steps = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
    groups = copy.deepcopy(
        [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    )
    reorganize(trained_network, torch_batches, ["8"], optimizer=optimizer)
    assert keys == {p: set(state) for p, state in optimizer.state.items()}
    assert steps == [float(s["step"]) for s in optimizer.state.values() if "step" in s]
    assert groups == [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    before = gradients(trained_network, torch_batches[0])
    train(trained_network, optimizer, torch_batches)
    for parameter, state in optimizer.state.items():
        assert torch.isfinite(parameter).all()
        assert all(torch.isfinite(v).all() for v in state.values() if isinstance(v, torch.Tensor))
    assert before.keys() == dict(trained_network.named_parameters()).keys()


def test_second_moments_stay_positive_and_bound_those_of_the_members(
    duplicated_network, torch_batches
):
    optimizer = torch.optim.Adam(duplicated_network.parameters(), 0.0)
    train(duplicated_network, optimizer, torch_batches)
    state = optimizer.state[duplicated_network[8].weight]
    before = state["exp_avg_sq"].clone()
    plan = reorganize(duplicated_network, torch_batches, ["8"], KMEANS, optimizer).plan.groups[0]
    after = state["exp_avg_sq"]
    assert (after >= 0).all()
    for place in plan.survivors:
        members = np.flatnonzero(plan.A[place])
        roots = before[members].sqrt().sum(0)
        # The refit of exact duplicates leaves B at the sum of both.
        torch.testing.assert_close(after[place], roots**2, rtol=2e-2, atol=1e-12)
    assert not after[torch.as_tensor(plan.new)].any()


@pytest.mark.parametrize("how", ["reset", "keep"])
def test_state_is_reset_or_kept(trained_network, torch_batches, how):
    optimizer = torch.optim.AdamW(trained_network.parameters(), 1e-3)
    train(trained_network, optimizer, torch_batches)
    before = {p: s["exp_avg"].clone() for p, s in optimizer.state.items()}
    reorganize(trained_network, torch_batches, ["8"], Recipe.preserving(optimizer=how), optimizer)
    touched = [trained_network[8].weight, trained_network[13].weight]
    for parameter, state in optimizer.state.items():
        if how == "reset" and any(parameter is t for t in touched):
            assert not state["exp_avg"].any()
            assert not state["exp_avg_sq"].any()
        elif how == "keep" or parameter is trained_network[0].weight:
            assert torch.equal(state["exp_avg"], before[parameter])


def test_state_follows_a_permutation_exactly(trained_network, torch_batches):
    twin = copy.deepcopy(trained_network)
    optimizers = [torch.optim.Adam(m.parameters(), 1e-3) for m in (trained_network, twin)]
    for model, optimizer in zip((trained_network, twin), optimizers, strict=True):
        model.double()
        train(model, optimizer, [(x.double(), y) for x, y in torch_batches])
    batches = [(x.double(), y) for x, y in torch_batches]
    arrange(trained_network, batches[0][0][:2], order="random", optimizer=optimizers[0])
    for model, optimizer in zip((trained_network, twin), optimizers, strict=True):
        train(model, optimizer, batches)
    x = batches[0][0]
    torch.testing.assert_close(trained_network(x), twin(x), rtol=1e-7, atol=1e-8)


def test_a_strange_optimizer_is_refused(trained_network, torch_batches):
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    with pytest.raises(ValueError, match="holds none of the parameters"):
        reorganize(trained_network, torch_batches, optimizer=optimizer)


def test_wrapped_optimizers_are_found(trained_network, torch_batches):
    class Sharpness:
        """Keeps its state in the optimizer that it wraps, as SAM does."""

        def __init__(self, base):
            self.base_optimizer, self.param_groups, self.state = base, base.param_groups, {}

    base = torch.optim.SGD(trained_network.parameters(), 1e-3, momentum=0.9)
    train(trained_network, base, torch_batches)
    before = base.state[trained_network[8].weight]["momentum_buffer"].clone()
    report = reorganize(trained_network, torch_batches, ["8"], optimizer=Sharpness(base))
    after = base.state[trained_network[8].weight]["momentum_buffer"]
    assert not torch.equal(before, after)
    assert not after[torch.as_tensor(report.plan.groups[0].new)].any()


class Holder:
    """An averaged copy as timm's ModelEmaV3 holds it."""

    def __init__(self, model):
        self.module = copy.deepcopy(model)


@pytest.mark.parametrize("kind", ["swa", "ema", "holder"])
def test_averaged_copy_of_equal_weights_stays_equal(trained_network, torch_batches, kind):
    if kind == "holder":
        average = Holder(trained_network)
    else:
        function = None if kind == "swa" else get_ema_multi_avg_fn(0.99)
        average = AveragedModel(trained_network, multi_avg_fn=function)
    reorganize(trained_network, torch_batches, ["4", "8"], ema=average)
    for name, value in trained_network.state_dict().items():
        torch.testing.assert_close(average.module.state_dict()[name], value, rtol=1e-5, atol=1e-6)


def test_averaged_copy_keeps_its_own_survivors(duplicated_network, torch_batches):
    average = AveragedModel(duplicated_network)
    average.module.eval()
    with torch.no_grad():
        for parameter in (average.module[8].weight, average.module[13].bias):
            parameter.mul_(1.1)
    x = torch_batches[0][0]
    before = average.module(x).detach()
    plan = reorganize(duplicated_network, torch_batches, ["8"], KMEANS, ema=average).plan.groups[0]
    change = (average.module(x) - before).abs().max()
    assert change < 1e-4 * before.abs().max()
    new = torch.as_tensor(plan.new)
    assert torch.equal(average.module[8].weight[new], duplicated_network[8].weight[new])
    assert not torch.equal(average.module[8].weight, duplicated_network[8].weight)
