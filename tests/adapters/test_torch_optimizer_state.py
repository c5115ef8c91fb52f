import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, arrange, reorganize  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: E402

MERGE = Recipe.preserving(optimizer="merge")
KMEANS = Recipe.preserving(method="kmeans", optimizer="merge")


class Lion(torch.optim.Optimizer):
    """Sign of an interpolation between gradient and momentum (Chen et al. 2023)."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    # Known by its shape: no optimizer of PyTorch uses this name.
                    m = self.state[p].setdefault("direction", torch.zeros_like(p))
                    p.sub_(group["lr"] * m.lerp(p.grad, 0.1).sign())
                    m.lerp_(p.grad, 0.01)


class SAM(torch.optim.Optimizer):
    """Two steps, and the weights in between kept in its state (Foret et al. 2021)."""

    def __init__(self, parameters, base, **options):
        super().__init__(parameters, options)
        self.base_optimizer = base(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["old_p"] = p.data.clone()
            p.add_(0.05 * p.grad / (p.grad.norm() + 1e-12))

    @torch.no_grad()
    def second_step(self):
        for p in (p for group in self.param_groups for p in group["params"]):
            p.data = self.state[p]["old_p"]  # the state and the weight are now one memory
        self.base_optimizer.step()


class SlowWeights:
    """Wraps an optimizer and keeps an average of the weights beside its state (Lookahead)."""

    def __init__(self, base):
        self.optimizer, self.param_groups, self.state = base, base.param_groups, {}
        for p in (p for group in base.param_groups for p in group["params"]):
            self.state[p] = {"slow": p.detach() * 1.01}


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, 1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-3, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, 1e-3, foreach=True),
    "fused sgd": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, fused=True),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, 1e-2, fused=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, 1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, 1e-4),
    "lion": lambda p: Lion(p, 1e-4),
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
        Recipe.preserving(method="kmeans", outgoing=outgoing, optimizer="merge"),
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


@pytest.mark.parametrize("how", ["reset", "merge"])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_history_of_all_parameters_begins_anew(trained_network, torch_batches, how, search):
    """LBFGS took its steps by gradients of the network before, and diverged."""
    model, (x, y) = trained_network, torch_batches[0]
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=4, line_search_fn=search)

    def loss():
        optimizer.zero_grad()
        found = nn.functional.cross_entropy(model(x), y)
        found.backward()
        return found

    model.eval()
    for _ in range(3):
        optimizer.step(loss)
    recipe = Recipe.preserving(ratio=0.3, optimizer=how)
    reorganize(model, torch_batches, ["8"], recipe, optimizer)
    begun, twin = loss().item(), copy.deepcopy(model)
    optimizer.step(loss)
    assert loss().item() < begun
    fresh = torch.optim.LBFGS(twin.parameters(), 0.1, max_iter=4, line_search_fn=search)
    model, optimizer = twin, fresh
    optimizer.step(loss)
    for one, other in zip(trained_network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_continues_with_every_optimizer(trained_network, torch_batches, name):
    optimizer = OPTIMIZERS[name](trained_network.parameters())
    train(trained_network, optimizer, torch_batches)
    keys = {p: set(state) for p, state in optimizer.state.items()}
    steps = [float(s["step"]) for s in optimizer.state.values() if "step" in s]
    groups = copy.deepcopy(
        [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    )
    reorganize(trained_network, torch_batches, ["8"], MERGE, optimizer)
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
        # No larger than the largest of any channel, or it would grow from event to event.
        expected = torch.minimum(roots**2, before.amax(0))
        torch.testing.assert_close(after[place], expected, rtol=2e-2, atol=1e-12)
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
    report = reorganize(trained_network, torch_batches, ["8"], MERGE, Sharpness(base))
    after = base.state[trained_network[8].weight]["momentum_buffer"]
    assert not torch.equal(before, after)
    assert not after[torch.as_tensor(report.plan.groups[0].new)].any()


def test_a_wrapper_that_shares_memory_with_the_weights(trained_network, torch_batches):
    def base(groups):
        return torch.optim.SGD(groups, 0.01, momentum=0.9)

    optimizer = SAM(trained_network.parameters(), base)
    expected = copy.deepcopy(trained_network)

    def step(x, y):
        for half in (optimizer.first_step, optimizer.second_step):
            nn.functional.cross_entropy(trained_network(x), y).backward()
            half()
            trained_network.zero_grad()

    step(*torch_batches[0])
    expected.load_state_dict(trained_network.state_dict())
    plain = torch.optim.SGD(expected.parameters(), 0.01, momentum=0.9)
    for ours, theirs in zip(trained_network.parameters(), expected.parameters(), strict=True):
        momentum = optimizer.base_optimizer.state[ours]["momentum_buffer"]
        plain.state[theirs]["momentum_buffer"] = momentum.clone()
    reorganize(trained_network, torch_batches, ["8"], MERGE, optimizer)
    reorganize(expected, torch_batches, ["8"], MERGE, plain)
    for ours, theirs in zip(trained_network.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(
            optimizer.base_optimizer.state[ours]["momentum_buffer"],
            plain.state[theirs]["momentum_buffer"],
        )
    step(*torch_batches[0])
    assert all(torch.isfinite(p).all() for p in trained_network.parameters())


def test_averages_of_weights_are_changed_as_weights(duplicated_network, torch_batches):
    optimizer = SlowWeights(torch.optim.SGD(duplicated_network.parameters(), 0.01))
    reorganize(duplicated_network, torch_batches, ["8"], KMEANS, optimizer)
    # New channels are the model's own; the others are what the average had, merged.
    for layer, ratios in ((8, {100, 101}), (13, {101})):
        weight = duplicated_network[layer].weight
        found = optimizer.state[weight]["slow"][weight != 0] / weight[weight != 0]
        assert set(found.mul(100).round().int().tolist()) == ratios


def test_several_optimizers_change_their_own_part(trained_network, torch_batches):
    convolution, rest = [trained_network[8].weight], []
    rest += [p for p in trained_network.parameters() if p is not convolution[0]]
    several = [torch.optim.SGD(part, 1e-3, momentum=0.9) for part in (convolution, rest)]
    for x, y in torch_batches:
        nn.functional.cross_entropy(trained_network(x), y).backward()
        for optimizer in several:
            optimizer.step()
            optimizer.zero_grad()
    plan = reorganize(trained_network, torch_batches, ["8"], MERGE, several).plan.groups[0]
    new = torch.as_tensor(plan.new)
    assert not several[0].state[convolution[0]]["momentum_buffer"][new].any()
    assert not several[1].state[trained_network[13].weight]["momentum_buffer"][:, new].any()


def test_the_scale_of_mixed_precision_stays(trained_network, torch_batches):
    optimizer = torch.optim.SGD(trained_network.parameters(), 1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    x, y = torch_batches[0]
    for event in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(trained_network(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if event:
            state = scaler.state_dict()
            reorganize(trained_network, torch_batches, ["8"], MERGE, optimizer)
            assert scaler.state_dict() == state
    assert scaler.get_scale() == 256.0
    assert all(torch.isfinite(p).all() for p in trained_network.parameters())


def test_states_that_cannot_follow_are_named(trained_network, torch_batches, caplog):
    optimizer = torch.optim.Adafactor(trained_network.parameters(), 1e-2)
    train(trained_network, optimizer, torch_batches)
    with caplog.at_level("INFO", "rejuvenet"):
        reorganize(trained_network, torch_batches, ["8"], MERGE, optimizer)
    assert "left as it is: col_var, row_var" in caplog.text


def test_an_average_must_be_a_copy(trained_network, torch_batches):
    with pytest.raises(ValueError, match="holds the model's own weight"):
        reorganize(trained_network, torch_batches, ["8"], ema=Holder.of(trained_network))


def test_averages_cannot_follow_a_refit_of_products(trained_network, torch_batches):
    before = copy.deepcopy(trained_network.state_dict())
    recipe = Recipe.preserving(refit="products")
    average = AveragedModel(trained_network)
    with pytest.raises(ValueError, match="averaged copies cannot follow: choose refit='groups'"):
        reorganize(trained_network, torch_batches, ["8"], recipe, ema=average)
    for name, value in trained_network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="averaged copies cannot follow"):
        Reorganizer(trained_network, None, torch_batches, recipe=recipe, ema=average)


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_real_averages_of_timm(trained_network, torch_batches, kind):
    timm = pytest.importorskip("timm.utils")
    make = {"v2": timm.ModelEmaV2, "v3": timm.ModelEmaV3}[kind]
    average = make(trained_network, decay=0.9)
    optimizer = torch.optim.SGD(trained_network.parameters(), 0.01)
    for x, y in torch_batches[:2]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(trained_network(x), y).backward()
        optimizer.step()
        average.update(trained_network)
    x = torch_batches[0][0]
    before = average.module.eval()(x).detach()
    report = reorganize(trained_network, torch_batches, ["8"], MERGE, optimizer, ema=average)
    new = torch.as_tensor(report.plan.groups[0].new)
    assert len(new) > 0
    assert torch.equal(average.module[8].weight[new], trained_network[8].weight[new])
    assert not torch.equal(average.module[8].weight, trained_network[8].weight)
    change = (average.module(x) - before).norm() / before.norm()
    assert change < 2 * report.output_change
    average.update(trained_network)


class Holder:
    """An averaged copy as timm's ModelEmaV3 holds it."""

    def __init__(self, model):
        self.module = copy.deepcopy(model)

    @classmethod
    def of(cls, model):
        holder = cls(model)
        holder.module = model
        return holder


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
