import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import arrange, reorganize, shrink, trace  # noqa: E402
from rejuvenet.adapters.torch.edit import Edit  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402

LAYER = "8.weight"


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(before, model):
    return all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def outputs(model, x):
    was = model.training
    with torch.no_grad():
        result = model.eval()(x)
    model.train(was)
    return result


def accuracy(model, x, y):
    return float((outputs(model, x).argmax(1) == y).float().mean())


def step(model, optimizer, batch):
    model.train()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()
    model.eval()


def test_random_arrangement_of_every_group_keeps_the_outputs(trained_network, torch_batches):
    model = trained_network.double()
    x = torch_batches[0][0].double()
    before, weights = outputs(model, x), values(model)
    report = arrange(model, x[:4], order="random", seed=1)
    assert len(report.groups) == 3
    assert sum(group.moved for group in report.groups) > 30
    torch.testing.assert_close(outputs(model, x), before, rtol=1e-12, atol=1e-12)
    # Negative control: one weight left behind changes the outputs.
    with torch.no_grad():
        model[4].weight.copy_(weights["4.weight"])
    assert (outputs(model, x) - before).abs().max() > 1e-3


def test_arrangement_along_the_map_puts_like_channels_side_by_side(trained_network, torch_batches):
    before = outputs(trained_network, torch_batches[0][0])
    arrange(trained_network, groups=["8"], batches=torch_batches)
    torch.testing.assert_close(
        outputs(trained_network, torch_batches[0][0]), before, rtol=1e-4, atol=1e-5
    )
    from rejuvenet.adapters.torch import collect

    traced = trace(trained_network, torch_batches[0][0][:2])
    Q = collect(traced, torch_batches, [LAYER])[LAYER].Q
    x = np.moveaxis(Q, 1, 0).reshape(16, -1)

    def path(order):
        return np.linalg.norm(np.diff(x[order], axis=0), axis=1).sum()

    rng = np.random.default_rng(0)
    assert path(np.arange(16)) < min(path(rng.permutation(16)) for _ in range(20))


def test_given_order_is_followed_and_a_wrong_one_refused(trained_network, torch_batches):
    weight = trained_network[8].weight.detach().clone()
    order = np.arange(16)[::-1].copy()
    arrange(trained_network, torch_batches[0][0][:2], ["8"], order)
    assert torch.equal(trained_network[8].weight, weight.flip(0))
    with pytest.raises(ValueError, match="permutation"):
        arrange(trained_network, torch_batches[0][0][:2], ["8"], np.zeros(16, int))


@pytest.mark.parametrize(
    ("outgoing", "placement"), [("sum", "map"), ("least_squares", "in_place")]
)
def test_four_kinds_of_channels_keep_four_nodes_of_the_map(
    trained_network, torch_batches, outgoing, placement
):
    with torch.no_grad():
        for values in (
            trained_network[8].weight,
            *trained_network[9].parameters(),
            trained_network[9].running_mean,
            trained_network[9].running_var,
        ):
            values.copy_(values[:4].repeat(4, *(1,) * (values.ndim - 1)))
    x = torch_batches[0][0]
    before = outputs(trained_network, x)
    recipe = Recipe.preserving(outgoing=outgoing, placement=placement)
    group = reorganize(trained_network, torch_batches, ["8"], recipe)[LAYER]
    assert (group.survivors, group.merged, group.new) == (4, 16, 12)
    assert (outputs(trained_network, x) - before).abs().max() < 1e-5 * before.abs().max()


def test_half_of_a_layer_keeps_the_accuracy(trained_network, torch_batches, torch_digits):
    _, _, x, y = torch_digits
    before = accuracy(trained_network, x, y)
    literal = copy.deepcopy(trained_network)
    report = reorganize(trained_network, torch_batches)
    reorganize(literal, torch_batches, recipe=Recipe.paper())
    assert before > 0.9
    assert report[LAYER].new >= 8
    assert accuracy(trained_network, x, y) > before - 0.15
    assert accuracy(trained_network, x, y) > accuracy(literal, x, y)
    assert report[LAYER].after.effective_rank > 0
    assert 0 < report.output_change < 1


def test_new_channels_learn(trained_network, torch_batches):
    report = reorganize(trained_network, torch_batches, ["4"])
    conv = trained_network[4]
    new = report.plan.groups[0].new
    assert len(new) > 0
    born = conv.weight[new].detach().clone()
    optimizer = torch.optim.SGD(trained_network.parameters(), 0.1)
    for _ in range(2):  # first the outgoing weights move, then the incoming ones
        step(trained_network, optimizer, torch_batches[0])
    assert ((conv.weight[new] - born).abs().amax((1, 2, 3)) > 0).all()


def test_new_channels_are_normalized_by_the_statistics_of_the_batches(
    trained_network, torch_batches
):
    report = reorganize(trained_network, torch_batches, ["8"])
    new = report.plan.groups[0].new
    x = torch.cat([x for x, _ in torch_batches])
    with torch.no_grad():
        read = nn.Sequential(*list(trained_network)[:9])(x)
    norm = trained_network[9]
    torch.testing.assert_close(
        norm.running_mean[new], read.mean((0, 2, 3))[new], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        norm.running_var[new], read.var((0, 2, 3), correction=0)[new], rtol=1e-4, atol=1e-6
    )


def test_untouched_weights_and_parameter_identity(trained_network, torch_batches):
    before, identity = values(trained_network), [id(p) for p in trained_network.parameters()]
    pointers = [p.data_ptr() for p in trained_network.parameters()]
    for parameter in trained_network.parameters():
        parameter.grad = torch.ones_like(parameter)
    report = reorganize(trained_network, torch_batches, ["8"])
    assert identity == [id(p) for p in trained_network.parameters()]
    assert pointers == [p.data_ptr() for p in trained_network.parameters()]
    touched = set(report.plan.weights)
    assert touched == {
        "8.weight", "9.weight", "9.bias", "9.running_mean", "9.running_var", "13.weight",
    }  # fmt: skip
    touched.add("13.bias")  # fitted along with what reads the group
    for name, value in trained_network.state_dict().items():
        assert torch.equal(before[name], value) == (name not in touched), name
    assert all(parameter.grad is None for parameter in trained_network.parameters())


def test_one_seed_gives_one_result_whatever_the_random_state(trained_network, torch_batches):
    results = []
    for global_seed, seed in ((1, 0), (2, 0), (3, 1)):
        model = copy.deepcopy(trained_network)
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        reorganize(model, torch_batches, recipe=Recipe.preserving(seed=seed))
        assert torch.equal(state, torch.get_rng_state())
        results.append(values(model))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    assert not torch.equal(results[0]["8.weight"], results[2]["8.weight"])


def test_checkpoints_load_without_this_library(trained_network, torch_batches):
    reorganize(trained_network, torch_batches)
    file = io.BytesIO()
    torch.save(trained_network.state_dict(), file)
    file.seek(0)
    fresh = copy.deepcopy(trained_network)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = torch_batches[0][0]
    assert torch.equal(outputs(fresh, x), outputs(trained_network, x))


def test_a_failure_in_the_last_group_undoes_the_others(trained_network, torch_batches):
    class Unfitting:
        module = nn.Sequential(*list(copy.deepcopy(trained_network))[:13])

    optimizer = torch.optim.SGD(trained_network.parameters(), 0.1, momentum=0.9)
    step(trained_network, optimizer, torch_batches[0])
    before, averaged = values(trained_network), values(Unfitting.module)
    momentum = {p: s["momentum_buffer"].clone() for p, s in optimizer.state.items()}
    with pytest.raises(ValueError, match=r"13.weight"):
        reorganize(trained_network, torch_batches, ["4", "8"], optimizer=optimizer, ema=Unfitting)
    assert same(before, trained_network)
    assert same(averaged, Unfitting.module)
    for parameter, state in optimizer.state.items():
        assert torch.equal(momentum[parameter], state["momentum_buffer"])


def test_compiled_and_wrapped_models_are_looked_through(trained_network, torch_batches):
    wrapped = nn.DataParallel(trained_network)
    expected = copy.deepcopy(trained_network)
    reorganize(expected, torch_batches)
    reorganize(wrapped, torch_batches)
    assert same(values(expected), trained_network)


def test_edit_shows_the_model_as_it_was():
    model = nn.Linear(2, 1, bias=False)
    old = model.weight.detach().clone()
    with Edit(model) as edit:
        edit.write({"weight": np.full((1, 2), 7.0, np.float32)})
        with edit.undone():
            assert torch.equal(model.weight, old)
        assert (model.weight == 7).all()
    assert (model.weight == 7).all()


class Routed(nn.Module):
    """One of two experts for each sample, by its mean."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8)) for _ in range(2)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        z = self.b(torch.relu(self.a(x)))
        for number, expert in enumerate(self.experts):
            rows = torch.where((x.mean(1) > 0).long() == number)[0]
            if len(rows):
                z = z.index_add(0, rows, expert(x[rows]))
        return self.head(z)


@pytest.mark.filterwarnings("ignore:the pass that was traced", "ignore:.*samples give")
@pytest.mark.parametrize("change", [reorganize, shrink])
def test_an_expert_that_sees_a_part_of_the_samples_is_skipped_alone(change):
    x = torch.randn(64, 6).abs()
    x[50:] *= -1.0  # the traced samples are all of one expert
    report = change(Routed(), [(x, torch.arange(64) % 2)], layers="all")
    assert "holds its channels, has no axis of 64 samples" in report.skipped["experts.1.0.weight"]
    assert [group.group for group in report.groups] == ["a.weight"]


def scaled(x, s):
    return x * torch.sigmoid(x) + s.view(1, -1, 1, 1) * x


class Scaled(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.l = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
        self.s = nn.Parameter(torch.linspace(-1, 1, 8))
        self.function = function

    def forward(self, x):
        return self.l(self.function(self.a(x), self.s).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("change", [reorganize, shrink])
def test_a_warm_function_of_torchscript_is_what_it_was_written_as(change):
    x = torch.randn(64, 3, 8, 8)
    plain = Scaled(scaled)
    scripted = copy.deepcopy(plain)
    scripted.function = torch.jit.script(scaled)
    for _ in range(4):
        outputs(scripted, x)
    for model in (plain, scripted):
        change(model, [(x, torch.arange(64) % 2)], layers="all")
    for a, b in zip(plain.parameters(), scripted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


class WithFactors(nn.Module):
    """A product and its bias, each with a factor, or with one number as bias."""

    def __init__(self, bias, factors):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.bias = nn.Parameter(torch.randn(bias))
        self.factors = factors
        with torch.no_grad():
            for copies in (self.first.weight, self.first.bias, self.weight.T):
                copies[4:] = copies[:4]
            if bias > 1:
                self.bias[4:] = self.bias[:4]

    def forward(self, x):
        x = torch.addmm(self.bias, self.first(x).relu(), self.weight, **self.factors)
        return self.last(nn.functional.leaky_relu(x))


@pytest.mark.parametrize(
    ("bias", "factors"),
    [(8, {"alpha": 0.5}), (8, {"beta": 2}), (8, {"alpha": 0.5, "beta": 2}), (1, {})],
)
def test_copies_merge_without_a_trace_around_a_product_with_factors(bias, factors):
    torch.manual_seed(0)
    model, x = WithFactors(bias, factors).eval(), torch.randn(200, 6)
    before = outputs(model, x)
    recipe = Recipe.preserving(ratio=0.5, method="kmeans")
    report = reorganize(model, [(x, torch.arange(200) % 5)], "all", recipe)
    assert [group.new for group in report.groups] == [4, 4]
    torch.testing.assert_close(outputs(model, x), before, rtol=0, atol=1e-5 * float(before.max()))
