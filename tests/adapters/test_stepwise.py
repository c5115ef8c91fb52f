"""A pass that stands at some tensors shows what a whole one does, with the weights of its time."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import onnx_ir as ir  # noqa: E402
from rejuvenet.adapters.onnx import load, shrink  # noqa: E402
from rejuvenet.adapters.onnx.network import OnnxNetwork  # noqa: E402
from rejuvenet.adapters.torch import reorganize, trace  # noqa: E402
from rejuvenet.adapters.torch.distributed import Processes  # noqa: E402
from rejuvenet.adapters.torch.network import TorchNetwork  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from rejuvenet.graph.change.products import products_of  # noqa: E402
from rejuvenet.graph.side_by_side import run_for_each  # noqa: E402
from torch import nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from onnx_exports import export, randomize  # noqa: E402
from test_onnx_networks import NETWORKS  # noqa: E402


class InPlace(nn.Module):
    """What was looked at is written over, and read by two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8, 8))
        self.out = nn.Linear(8, 4)

    def forward(self, x):
        x = self.a(x).relu_()
        y = self.b(x).add_(self.c(x))
        x += torch.sigmoid_(self.d(y.relu_()))
        return self.out(x.mean((2, 3)))


class Filled(InPlace):
    """A part of what a layer reads was filled with a number."""

    def forward(self, x):
        x = self.a(x).relu()
        x[:, :, 0] = 1.5
        y = self.b(x) + self.c(x)
        y[:, :, :, :2].zero_()
        return self.out((x + self.d(y)).mean((2, 3)))


class Copies(InPlace):
    """Weights are copied before anything is made of them."""

    def forward(self, x):
        convs = [(layer.weight.clone(), layer.bias) for layer in (self.a, self.b, self.c, self.d)]
        for weight, bias in convs:
            x = nn.functional.conv2d(x, weight, bias, padding=1).relu()
        return self.out(x.mean((2, 3)))


MODULES = {name: (build, shape) for name, (build, shape, *_) in NETWORKS.items()}
MODULES |= {kind.__name__: (kind, (2, 3, 8, 8)) for kind in (InPlace, Filled, Copies)}


def tensors_of(network):
    """Where a refit stands: what products make, and what they read."""
    weights = set(network.graph.weights.values())
    found = [
        p for p in products_of(network.graph, weights, ()) if p.x.tensor not in network.graph.inputs
    ]
    return [p.y.tensor for p in found], [p.x.tensor for p in found], [p.weight for p in found]


def networks(module, x, tmp_path, form):
    if form == "module":
        return TorchNetwork(trace(module, x), Processes()), x
    return OnnxNetwork(load(export(module, x, tmp_path / "m.onnx", "script, folded"))), x.numpy()


def values(network, array):
    return array if isinstance(array, np.ndarray) else network.arrays.to_numpy(array)


def looked_at(network, inputs, tensor):
    found = []
    network.run(inputs, {tensor: [lambda x: found.append(values(network, x).copy())]})
    return found[0]


@pytest.mark.parametrize("form", ["module", "file"])
@pytest.mark.parametrize("name", MODULES)
def test_it_shows_what_a_whole_run_does(name, form, tmp_path):
    build, shape = MODULES[name]
    torch.manual_seed(0)
    module = randomize(build()).eval()
    network, inputs = networks(module, torch.randn(shape), tmp_path, form)
    made, read, weights = tensors_of(network)
    assert made
    for tensors in (made, read):
        whole = [looked_at(network, inputs, tensor) for tensor in tensors]
        for (activation, kept), expected in zip(
            network.stepwise(inputs, tensors), whole, strict=True
        ):
            assert kept is not None
            np.testing.assert_allclose(
                values(network, activation), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
            )
    with network.transaction() as edit:  # every product with another weight before it runs
        standing = network.stepwise(inputs, read)
        shown = []
        for weight in weights:
            shown.append(values(network, next(standing)[0]).copy())
            edit.write({weight: -1.5 * edit.read([weight])[weight]})
        changed = [looked_at(network, inputs, tensor) for tensor in read]
    for activation, expected in zip(shown, changed, strict=True):
        np.testing.assert_allclose(
            activation, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max()
        )


class Counting(InPlace):
    """Keeps a number from pass to pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return super().forward(x * self.count)


class Deciding(InPlace):
    """Looks at values."""

    def forward(self, x):
        return super().forward(x if x.sum() > 1e9 else -x)


class Outside(InPlace):
    """Values leave PyTorch and come back."""

    def forward(self, x):
        scale = float(np.tanh(x.abs().mean().numpy()))
        return super().forward(x * scale)


class Behind(InPlace):
    """Reads a weight by another name."""

    def forward(self, x):
        self.alias = self.__dict__.get("alias", self.d.weight.data)
        return super().forward(x + self.alias.mean())


@pytest.mark.parametrize("kind", [Counting, Deciding, Outside, Behind])
def test_a_module_that_cannot_stand_runs_for_every_tensor(kind):
    torch.manual_seed(0)
    module = randomize(kind()).eval()
    module(torch.randn(2, 3, 8, 8))
    batches = [(torch.randn(40, 3, 8, 8), torch.arange(40) % 4) for _ in range(2)]
    network = TorchNetwork(trace(module, batches[0][0][:2]), Processes())
    _, read, _ = tensors_of(network)
    state = copy.deepcopy(module.state_dict())
    for (activation, kept), tensor in zip(network.stepwise(batches[0][0], read), read, strict=True):
        assert kept is None
        expected = looked_at(network, batches[0][0], tensor)
        np.testing.assert_allclose(activation.numpy(), expected, rtol=1e-4, atol=1e-4)
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name])


class Named(InPlace):
    def forward(self, x, scale, twice):
        return super().forward(x * scale * (2 if twice else 1))


def test_batches_of_any_structure_and_size():
    torch.manual_seed(0)
    module = randomize(InPlace()).eval()
    named = Named()
    named.load_state_dict(module.state_dict())
    xs = [torch.randn(n, 3, 8, 8) for n in (20, 20, 12)]
    recipe = Recipe.preserving(ratio=0.5, refit="products")
    reorganize(module, [(x, torch.arange(len(x)) % 4) for x in xs], "all", recipe)
    batches = [
        ({"x": x / (2 + 2 * twice), "scale": torch.full((len(x), 1, 1, 1), 2.0), "twice": twice},
         torch.arange(len(x)) % 4)
        for x, twice in zip(xs, (False, True, False), strict=True)
    ]  # fmt: skip
    report = reorganize(named, batches, "all", recipe)
    assert report.passes == 4, "no normalization to recalibrate"
    for name, value in module.state_dict().items():
        torch.testing.assert_close(named.state_dict()[name], value, rtol=1e-3, atol=1e-4)


BRANCHES = """<ir_version: 8, opset_import: ["": 17]>
example (float[SIZE, 6] x) => (float[SIZE, 2] y)
<float[6, 8] a = {@A}, float[8, 8] b = {@B}, float[8, 2] c = {@C}, bool yes = {1}, int64 one = {1}>
{
    h = MatMul(x, a)
    r = Relu(h)
    s = If (yes) <then_branch = then () => (t) { t = Identity(r) },
                  else_branch = other () => (e) { e = Neg(r) }>
    k = MatMul(s, b)
    LATER
    y = MatMul(q, c)
}"""


def file_of(size, later):
    text = BRANCHES.replace("SIZE", size).replace("LATER", later)
    rng = np.random.default_rng(0)
    for name, count in (("@A", 48), ("@B", 64), ("@C", 16)):
        text = text.replace(name, ", ".join(f"{value:.4f}" for value in rng.normal(size=count)))
    return load(ir.from_onnx_text(text))


@pytest.mark.parametrize("size", ["n", "8"])
def test_a_file_with_a_branch_and_one_that_takes_batches_of_a_size(size):
    x = np.random.default_rng(1).normal(size=(36, 6)).astype(np.float32)
    batches = [(x[i : i + 8], np.arange(36)[i : i + 8] % 2) for i in range(0, 36, 8)]  # 4 are left
    whole = file_of("n", "q = Relu(k)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxNetwork, "stepwise", run_for_each)
        expected, _ = shrink(whole, batches, ratio=0.5)
    found, report = shrink(file_of(size, "q = Relu(k)"), batches, ratio=0.5)
    assert report.passes == 4, "no normalization to recalibrate"
    for name, value in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], value, rtol=1e-4, atol=1e-5)


def test_a_file_with_a_sequence_runs_for_every_product():
    sequence = "p = Relu(k) l = SequenceConstruct(p, p) q = SequenceAt(l, one)"
    x = np.random.default_rng(1).normal(size=(36, 6)).astype(np.float32)
    network = OnnxNetwork(file_of("n", sequence))
    _, read, _ = tensors_of(network)
    for (activation, kept), tensor in zip(network.stepwise(x, read), read, strict=True):
        assert kept is None
        np.testing.assert_allclose(activation, looked_at(network, x, tensor))


def test_a_budget_that_is_spent_puts_biases_back_too():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    before = copy.deepcopy(module.state_dict())
    batches = [(torch.randn(200, 6), torch.arange(200) % 4)]
    report = reorganize(module, batches, "all", Recipe.preserving(ratio=0.5), max_change=1e-9)
    assert not report.groups
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
