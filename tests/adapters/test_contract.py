"""What holds for every network: one of numpy arrays, the same as a module, the same as a file."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from rejuvenet.adapters import onnx as onnx_adapter  # noqa: E402
from rejuvenet.adapters import torch as torch_adapter  # noqa: E402
from rejuvenet.adapters.onnx.runner import Runner  # noqa: E402
from rejuvenet.graph import Recipe, reorganizing  # noqa: E402
from torch import nn  # noqa: E402

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "graph"):
    sys.path.insert(0, str(folder))

from numpy_network import EPSILON, Lists, NumpyNetwork  # noqa: E402
from onnx_exports import export  # noqa: E402

RNG = np.random.default_rng(1)
BATCHES = [(RNG.normal(size=(20, 3, 3, 3)).astype(np.float32), np.arange(20) % 3) for _ in range(4)]
X = BATCHES[0][0]
HALF = partial(Recipe.preserving, ratio=0.5)


class OfArrays:
    layers, output, precision = ("0.weight", "1.weight", "2.weight"), "3.weight", 1e-9

    def __init__(self, network, folder):
        self.network = network

    def weights(self):
        return {name: values.copy() for name, values in self.network.weights.items()}

    def write(self, values):
        self.network.write(values)

    def outputs(self):
        return self.network.run(X, {}, outputs=True)[0]

    def reorganize(self, batches, *arguments, **options):
        data = None if batches is None else Lists(batches)
        return reorganizing.reorganize(self.network, data, *arguments, **options).report


class OfModule:
    layers, output, precision = ("0.weight", "3.weight", "6.weight"), "9.weight", 1e-5

    def __init__(self, network, folder):
        self.module = as_module(network)

    def weights(self):
        return {n: v.numpy().copy() for n, v in self.module.state_dict().items() if v.ndim}

    def write(self, values):
        state = {name: torch.from_numpy(v) for name, v in values.items()}
        self.module.load_state_dict(state, strict=False)

    def outputs(self):
        with torch.no_grad():
            return self.module(torch.from_numpy(X)).numpy()

    def reorganize(self, batches, *arguments, **options):
        if batches is None:
            options["example_inputs"] = torch.from_numpy(X[:2])
        else:
            batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches]
        return torch_adapter.reorganize(self.module, batches, *arguments, **options)


class OfFile:
    layers, output, precision = OfModule.layers, OfModule.output, OfModule.precision

    def __init__(self, network, folder):
        axes = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
        path = export(
            as_module(network), torch.from_numpy(X[:2]), folder / "m.onnx", "script, kept",
            input_names=["x"], output_names=["y"], **axes,
        )  # fmt: skip
        self.model = onnx_adapter.load(path)

    def weights(self):
        return dict(self.model.weights)

    def write(self, values):
        self.model = self.model.with_weights(values)

    def outputs(self):
        return Runner(self.model)(X)["y"]

    def reorganize(self, batches, *arguments, **options):
        self.model, report = onnx_adapter.reorganize(self.model, batches, *arguments, **options)
        return report


def as_module(network):
    """A module with the weights of a network of arrays."""
    layers = []
    for i, _, _, out, roles in network.layers:
        weight = network.weights[f"{i}.weight"]
        layers.append(nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False))
        parts = [(layers[-1].weight, weight)]
        if out is not None:
            norm = nn.BatchNorm2d(len(weight), eps=EPSILON)
            own = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            parts += [(t, network.weights[f"{i}.{r}"]) for t, r in zip(own, roles, strict=True)]
            layers += [norm, nn.ReLU()]
        with torch.no_grad():
            for tensor, values in parts:
                tensor.copy_(torch.from_numpy(values))
    return nn.Sequential(*layers).eval()


@pytest.fixture(params=[OfArrays, OfModule, OfFile])
def made(request, tmp_path):
    """A function that makes the network; its first layer may hold each channel twice."""

    def make(copies=False):
        network = NumpyNetwork((3, 8, 12, 8, 4))
        if copies:
            for name, values in network.weights.items():
                if name.startswith("0."):
                    values[4:] = values[:4]
        return request.param(network, tmp_path)

    return make


@pytest.mark.parametrize(
    "recipe",
    [HALF(), HALF(outgoing="sum"), HALF(method="kmeans", merge="medoid", placement="in_place")],
    ids=["map", "sums", "k-means"],
)
def test_copies_merge_exactly(made, recipe):
    network = made(copies=True)
    before = network.outputs()
    report = network.reorganize(BATCHES, [network.layers[0]], recipe)
    (group,) = report.groups
    assert (group.survivors, group.merged, group.new) == (4, 8, 4)
    shares = report.plan.groups[0].shares
    np.testing.assert_array_equal(shares[:, :4], shares[:, 4:])
    assert np.abs(network.outputs() - before).max() < network.precision * np.abs(before).max()
    assert report.output_change < network.precision


def test_new_channels_change_no_output(made):
    network = made()
    layer = network.layers[1]
    report = network.reorganize(BATCHES, [layer], HALF())
    new = report.plan.groups[0].new
    weight = network.weights()[layer]
    assert len(new) == 6
    assert weight[new].any()
    weight[new] = 7.0
    before = network.outputs()
    network.write({layer: weight})
    np.testing.assert_array_equal(network.outputs(), before)


def test_layers_change_in_the_order_in_which_data_pass(made):
    network = made()
    first, _, last = network.layers
    report = network.reorganize(BATCHES, [last, first], HALF())
    assert [group.group for group in report.groups] == [first, last]


def test_what_no_plan_touches_keeps_its_bits(made):
    network = made()
    before = network.weights()
    report = network.reorganize(BATCHES, [network.layers[2]], HALF())
    after = network.weights()
    changed = {name for name, values in before.items() if (values != after[name]).any()}
    assert changed == set(report.plan.weights)
    assert len(changed) == 6


def test_one_seed_gives_one_result(made):
    found = []
    for seed in (0, 0, 1):
        network = made()
        network.reorganize(BATCHES, "all", HALF(seed=seed))
        found.append(np.concatenate([v.ravel() for v in network.weights().values()]))
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


@pytest.mark.parametrize(
    ("batches", "layers", "said"),
    [
        ([*BATCHES[:2], (np.full_like(X, np.nan), BATCHES[0][1])], "all", "finite|NaN"),
        (BATCHES, ["0.weigth"], "did you mean"),
        (BATCHES, [], "at least one layer"),
        (BATCHES, ["nothing"], "no channel group"),
        (None, "all", "needs batches"),
    ],
    ids=["not a number", "another name", "no layer", "unknown", "no data"],
)
def test_a_failure_leaves_all_as_it_was(made, batches, layers, said):
    refused(made(), said, batches, layers, HALF())


def refused(network, said, *arguments, error=ValueError, **options):
    """One sentence, and nothing has changed."""
    before = network.weights()
    with pytest.raises(error, match=said) as raised:
        network.reorganize(*arguments, **options)
    assert "\n" not in str(raised.value)
    after = network.weights()
    assert all((values == after[name]).all() for name, values in before.items())


def test_a_ratio_of_no_layer_is_refused(made):
    refused(made(), "no channel group .*zz", BATCHES, "all", HALF(ratio={"zz*": 0.2, "*": 1.0}))


def test_classes_beside_pseudo_classes_are_refused(made):
    said = "expected one of classes, pseudo_classes, got classes and pseudo_classes"
    refused(made(), said, BATCHES, classes=3, pseudo_classes=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recipe": "kmeans"}, "expected a recipe such as Recipe.preserving.*, got 'kmeans'"),
        ({"recipe": {"ratio": 0.5}}, "expected a recipe such as .*, got {'ratio': 0.5}"),
        ({"layers": 3}, "expected layers as names, .*, got 3"),
        ({"layers": ["0", 3]}, "expected layers as names, .*, got 3"),
        ({"max_change": "a"}, "expected max_change to be a number, got 'a'"),
        ({"max_bytes": "1 GB"}, "expected max_bytes to be a number, got '1 GB'"),
        ({"pseudo_classes": 2.5}, "expected pseudo_classes to be a whole number, got 2.5"),
    ],
    ids=str,
)
def test_options_of_another_kind_are_refused(made, options, said):
    refused(made(), said, BATCHES, error=TypeError, **options)


@pytest.mark.parametrize("form", [OfModule, OfFile])
def test_one_pair_is_no_batches(form, tmp_path):
    network = form(NumpyNetwork((3, 8, 12, 8, 4)), tmp_path)
    pair = tuple(map(torch.from_numpy, BATCHES[0])) if form is OfModule else BATCHES[0]
    adapter = torch_adapter if form is OfModule else onnx_adapter
    model = network.module if form is OfModule else network.model
    for given in (pair, [*pair], ({"x": pair[0]}, pair[1])):
        with pytest.raises(ValueError, match=r"got one such pair: give \[\(inputs, labels\)\]"):
            adapter.reorganize(model, given)
    with pytest.raises(TypeError, match=r"max_batches to be a whole number, got 2.5"):
        adapter.reorganize(model, [pair], max_batches=2.5)
    with pytest.raises(TypeError, match=r"expected target_params to be a number, got '50%'"):
        adapter.shrink(model, [pair], target_params="50%")


@pytest.mark.parametrize("adapter", [torch_adapter, onnx_adapter])
def test_what_is_no_model_is_refused(adapter):
    for change in (adapter.arrange, adapter.reorganize, adapter.shrink):
        with pytest.raises(TypeError, match=r"Module, got int|onnx_ir.Model, got int"):
            change(3, BATCHES)


def test_what_makes_an_output_stays(made):
    network = made()
    with pytest.raises(ValueError, match=r"cannot be reorganized: .*output"):
        network.reorganize(BATCHES, [network.output], HALF())


def test_methods_that_look_at_weights_need_no_data(made):
    network = made()
    report = network.reorganize(None, [network.layers[1]], Recipe.comparison("l2"))
    assert report.output_change is None
    assert report.groups[0].new == 6


@pytest.mark.parametrize("layers", ["last", "all"])
@pytest.mark.parametrize(("refit", "passes"), [("auto", 5), ("groups", 3)])
def test_passes_do_not_grow_with_the_number_of_groups(made, layers, refit, passes):
    report = made().reorganize(BATCHES, layers, HALF(refit=refit))
    assert report.passes == passes


class Attention(nn.Module):
    """Queries and keys meet each other alone: no weight reads their channels."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(3, n) for n in (6, 6, 8))
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        attention = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.out((attention @ self.v(x)).mean(1))


class MadeKernels(nn.Module):
    """What is mixed for each sample reads the channels, and a weight that decides how."""

    def __init__(self):
        super().__init__()
        self.q, self.router, self.out = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(8, 2)
        self.w = nn.Parameter(torch.randn(4, 6 * 8))

    def forward(self, x):
        q = self.q(x).relu()
        kernels = (self.router(q.mean(1)).softmax(-1) @ self.w).unflatten(1, (6, 8))
        return self.out((q @ kernels).relu().mean(1))


@pytest.mark.parametrize("form", ["module", "file"])
@pytest.mark.parametrize("network", [Attention, MadeKernels])
@pytest.mark.filterwarnings("ignore:nothing was freed in 'router")
def test_a_group_that_no_weight_reads_is_changed_where_it_is_named(network, form, tmp_path):
    torch.manual_seed(0)
    module = network()
    batches = [(RNG.normal(size=(20, 5, 3)).astype(np.float32), np.arange(20) % 2)]
    if form == "module":
        inputs = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches]
        reorganize = partial(torch_adapter.reorganize, module, inputs)
        name = next(g.name for g in torch_adapter.trace(module, inputs[0][0]).groups)
    else:
        path = export(module, torch.zeros(20, 5, 3), tmp_path / "net.onnx", "script, kept")
        name = next(g.name for g in onnx_adapter.load(path).groups)

        def reorganize(**options):
            return onnx_adapter.reorganize(path, batches, **options)[1]

    everywhere = reorganize(layers="all", recipe=HALF(ratio=0.9))
    assert "nothing makes up" in everywhere.skipped[name]
    report = reorganize(layers=[name], recipe=HALF())
    assert [(g.group, g.new) for g in report.groups] == [(name, 3)]
    assert 0 < report.output_change < 1
