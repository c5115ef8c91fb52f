"""What an event must not do: merge behind a parametrization, leave infinities, stop half-way."""

import contextlib
import copy
import sys

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, arrange, reorganize, shrink, trace  # noqa: E402
from rejuvenet.adapters.torch import edit as edit_module  # noqa: E402
from rejuvenet.adapters.torch.training import reorganizer as reorganizer_module  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402
from torch._dynamo import eval_frame  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402

RANDOM = Recipe.preserving(method="random")


class Doubled(nn.Module):
    def forward(self, weight):
        return 2.0 * weight.tanh()


def custom(layer):
    return parametrize.register_parametrization(layer, "weight", Doubled())


KINDS = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm over inputs": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "spectral_norm": parametrizations.spectral_norm,
    "Doubled": custom,
    "WeightNorm": nn.utils.weight_norm,
    "SpectralNorm": nn.utils.spectral_norm,
    "L1Unstructured": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", [0, 2])
def test_parametrized_weights_are_refused_by_name(kind, where):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(),
              nn.Linear(8, 3)]  # fmt: skip
    layers[where] = KINDS[kind](layers[where])
    model = nn.Sequential(*layers).eval()
    batches = [(torch.randn(30, 6), torch.arange(30) % 3)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    label = kind.split()[0].replace("WeightNorm", "weight_norm")
    with pytest.raises(ValueError, match=label.replace("SpectralNorm", "spectral_norm")):
        reorganize(model, batches, ["0"], RANDOM)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    report = reorganize(model, batches, "all", RANDOM)
    free = {0: ["2.weight", "4.weight"], 2: ["4.weight"]}[where]
    assert [plan.group for plan in report.plan.groups] == free
    assert any("cannot be merged" in reason for reason in report.skipped.values())
    assert all(torch.isfinite(value).all() for value in model(batches[0][0]))


def test_weights_that_are_replaced_after_the_trace_are_named():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    batches = [(torch.randn(30, 6), torch.arange(30) % 3)]
    reorganizer = Reorganizer(model, None, batches, layers="all", ratio=0.5, every=1)
    parametrizations.weight_norm(model[0])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match=r"no '0\.weight' any more.*trace the model again"):
        reorganizer.step(0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_parametrized_weights_can_be_arranged(kind):
    torch.manual_seed(0)
    model = nn.Sequential(*(KINDS[kind](nn.Linear(6, 6)) for _ in range(3))).double()
    x = torch.randn(5, 6, dtype=torch.double)
    for _ in range(20):
        model(x)
    model.eval()
    before = model(x)
    arrange(model, x, order="random")
    torch.testing.assert_close(model(x), before, rtol=1e-9, atol=1e-12)


def small(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, [(torch.randn(30, 6), torch.arange(30) % 3)]


def trained(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    nn.functional.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    optimizer.step()
    return optimizer


def everything(model, optimizer):
    states = [v for state in optimizer.state.values() for v in state.values()]
    return [*(p.detach().clone() for p in model.parameters()), *(v.clone() for v in states)]


def test_an_event_that_overflows_is_undone():
    model, batches = small()
    with torch.no_grad():  # duplicates, whose momenta add up
        model[0].weight[4:], model[0].bias[4:] = model[0].weight[:4], model[0].bias[:4]
    optimizer = trained(model, batches)
    momentum = optimizer.state[model[0].weight]["momentum_buffer"]
    momentum.fill_(3e38)
    average = copy.deepcopy(model)
    before = everything(model, optimizer)
    reorganizer = Reorganizer(
        model, optimizer, batches, every=1, ema=average,
        recipe=Recipe.preserving(outgoing="sum", optimizer="merge"),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="nothing was reorganized"):
        assert reorganizer.step(0) is None
    assert all(map(torch.equal, everything(model, optimizer), before))
    assert reorganizer.last_epoch == 0
    assert reorganizer.history == []


def test_what_leaves_its_range_is_reported():
    model, batches = small()
    optimizer = trained(model, batches)
    reorganizer = Reorganizer(model, optimizer, batches, every=1, recipe=RANDOM)
    reorganizer.step(0)
    with torch.no_grad():
        model[2].bias.mul_(1e5)
    with pytest.warns(UserWarning, match=r"'2\.bias': .* to "):
        reorganizer.step(1)


def test_gradients_are_dropped_all_or_none():
    model, batches = small()
    trained(model, batches)
    reorganize(model, batches, recipe=Recipe.preserving(method="random", ratio=1.0, outgoing="sum"))
    assert all(p.grad is not None for p in model.parameters())
    reorganize(model, batches, recipe=RANDOM)
    assert all(p.grad is None for p in model.parameters())


class Interrupt:
    """Ctrl-C at the n-th line of the modules that change weights."""

    def __init__(self, n):
        self.left = n
        self.files = {edit_module.__file__, reorganizer_module.__file__}

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename not in self.files:
            return None
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self

    def __enter__(self):
        sys.settrace(self)

    def __exit__(self, *_):
        sys.settrace(None)


@pytest.mark.parametrize("step", [31, pytest.param(3, marks=pytest.mark.nightly)])
def test_an_interrupt_leaves_no_mixture_and_repeats_nothing(step):
    model, batches = small()
    optimizer = trained(model, batches)
    recipe = Recipe.preserving(method="random", optimizer="reset")
    untouched = everything(model, optimizer)
    twin = copy.deepcopy((model, optimizer))
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    done = None
    n, outcomes = 0, set()
    while True:
        n += step
        model.load_state_dict(start[0])
        optimizer.load_state_dict(start[1])
        reorganizer = Reorganizer(model, optimizer, batches, every=1, recipe=recipe)
        if done is None:
            Reorganizer(*twin, batches, every=1, recipe=recipe).step(0)
            done = everything(*twin)
        try:
            with Interrupt(n):
                reorganizer.step(0)
        except KeyboardInterrupt:
            pass
        else:
            break
        now = everything(model, optimizer)
        changed = all(map(torch.equal, now, done))
        assert changed or all(map(torch.equal, now, untouched)), n
        assert (reorganizer.last_epoch == 0) == changed, n
        outcomes.add(changed)
    assert outcomes == {True, False}


class InterruptOfEnds(Interrupt):
    """Ctrl-C at the n-th point of what ends a block."""

    def __init__(self, n):
        super().__init__(n)
        self.files = {edit_module.__file__, contextlib.__file__}

    def __call__(self, frame, event, arg):
        ends = frame.f_code.co_name in ("__exit__", "close")
        return super().__call__(frame, event, arg) if ends else None


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.nightly)])
def test_an_interrupt_between_a_block_and_its_end_leaves_nothing_open(stride):
    """Also while the error is kept, as a notebook does."""
    reorganize(*small(), recipe=RANDOM)  # imports what it needs
    model, batches = small()
    optimizer = trained(model, batches)
    start = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    gradients = [p.grad for p in model.parameters()]
    traced, untouched = trace(model, batches[0][0]), everything(model, optimizer)

    def interrupted(n):
        model.load_state_dict(start[0])
        optimizer.load_state_dict(copy.deepcopy(start[1]))
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        interrupt, held = InterruptOfEnds(n), None
        try:
            with interrupt:
                reorganize(traced, batches, recipe=RANDOM, optimizer=optimizer)
        except KeyboardInterrupt as error:
            held = error
        now = everything(model, optimizer)
        changed = not all(map(torch.equal, now, untouched))
        assert [p.grad is None for p in model.parameters()] == [changed] * 4, n
        assert all(module.training for module in model.modules()), n
        assert eval_frame._stance.stance == "default", n
        assert torch._C._get_graph_executor_optimize(), n
        assert (held is None) == (n == 0)
        return changed, interrupt

    _, counted = interrupted(0)
    points = -counted.left
    tried = [*range(1, points - 60, 29 * stride), *range(points - 60, points, stride)]
    assert {interrupted(n)[0] for n in tried} == {True, False}


def test_within_inference_mode_all_is_as_outside():
    model, batches = small()
    model = nn.Sequential(nn.ReLU(inplace=True), *model)
    twin = copy.deepcopy(model)
    expected = reorganize(twin, batches).output_change, shrink(twin, batches).output_change
    with torch.inference_mode():
        given = [(x + 0, y) for x, y in batches]
        found = reorganize(model, given).output_change, shrink(model, given).output_change
        assert arrange(model, batches[0][0], order="random").verdict.within
        assert torch.is_inference_mode_enabled()
    assert found == expected
    assert not any(p.is_inference() for p in model.parameters())


def test_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model, batches = small()
    for change in (reorganize, shrink, Reorganizer):
        arguments = (model, None, batches) if change is Reorganizer else (model, batches)
        with pytest.raises(ValueError, match=r"'0.weight' was made in inference mode"):
            change(*arguments)
    with pytest.raises(ValueError, match="inference mode"):
        arrange(model, batches[0][0], order="random")
    reorganize(copy.deepcopy(model), batches)


def test_new_channels_in_frozen_parameters_are_told_of(recwarn):
    """A fine-tuning with a frozen backbone, whose new channels would stay what they are drawn."""
    model, batches = small()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    options = {"every": 1, "epochs": 4, "ratio": 0.5}
    Reorganizer(model, optimizer, batches, "0", **options).step(0)
    said = [str(w.message) for w in recwarn if "do not learn" in str(w.message)]
    assert said == [
        "new channels in '0.weight' do not learn, as requires_grad is False: choose layers that "
        "are trained, or train these again"
    ]
    recwarn.clear()
    reorganize(model, batches, "0", Recipe.preserving(ratio=0.5))
    assert not any("do not learn" in str(w.message) for w in recwarn)


def test_a_parameter_that_repeats_its_numbers_is_refused():
    model, batches = small()
    model[0].weight = nn.Parameter(model[0].weight.detach()[:1].expand_as(model[0].weight))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"'0.weight' repeats the same numbers in memory"):
        reorganize(model, batches, "0", Recipe.preserving(ratio=0.5))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
