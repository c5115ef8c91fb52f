"""A module and the file that was exported from it: the same method, the same figures."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from rejuvenet.adapters import onnx as onnx_adapter  # noqa: E402
from rejuvenet.adapters import torch as torch_adapter  # noqa: E402
from rejuvenet.adapters.torch.arrays import TorchArrays  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from rejuvenet.graph.arrays import MOST_POSITIONS, NumpyArrays  # noqa: E402
from rejuvenet.graph.find.channels import Tap  # noqa: E402
from rejuvenet.graph.find.nodes import Window  # noqa: E402
from torch import nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from onnx_exports import export  # noqa: E402


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A module with statistics of its own, its file, and batches for both."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(12, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    x = torch.randn(60, 3, 10, 10)
    for _ in range(20):
        module(x)
    module.eval()
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}  # the same batches for both
    path = tmp_path_factory.mktemp("pair") / "m.onnx"
    path = export(module, x[:2], path, "script, kept", **options)
    y = torch.arange(60) % 4
    return module, path, [(x[i : i + 20], y[i : i + 20]) for i in range(0, 60, 20)]


def arrays(batches):
    return [(x.numpy(), y.numpy()) for x, y in batches]


def test_class_means_are_the_same_numbers(pair):
    module, path, batches = pair
    traced = torch_adapter.trace(module, batches[0][0][:2])
    for size in (None, 3):
        found = torch_adapter.collect(traced, batches, size=size)
        other = onnx_adapter.collect(onnx_adapter.load(path), arrays(batches), size=size)
        assert set(found) == set(other)
        for name, means in found.items():
            np.testing.assert_allclose(means.Q, other[name].Q, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(means.activity, other[name].activity, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ["3"]},
        {"layers": "all"},
        {"layers": "all", "recipe": Recipe.paper()},
        {"layers": "all", "recipe": Recipe.preserving(merge="medoid", placement="in_place")},
        {"layers": "all", "pseudo_classes": 3},
        {"layers": "all", "max_change": 0.3},
        {"layers": "last", "recipe": Recipe.comparison("redo"), "classes": 4},
    ],
    ids=lambda options: " ".join(map(str, options)),
)
def test_module_and_file_end_with_the_same_weights(pair, options):
    module, path, batches = pair
    changed = copy.deepcopy(module)
    options = {"recipe": Recipe.preserving(ratio=0.6), **options}
    report = torch_adapter.reorganize(changed, batches, **options)
    model, other = onnx_adapter.reorganize(path, arrays(batches), **options)
    for a, b in zip(report.plan.groups, other.plan.groups, strict=True):
        assert a.group == b.group
        np.testing.assert_array_equal(a.new, b.new)
        np.testing.assert_allclose(a.A, b.A, atol=1e-6)
        np.testing.assert_allclose(a.B, b.B, atol=2e-2)
    for name, value in model.weights.items():
        own = changed.state_dict()[name].numpy()
        np.testing.assert_allclose(value, own, rtol=1e-2, atol=1e-2, err_msg=name)
    assert report.passes == other.passes
    for figure in ("output_change", "largest_change", "agreement"):
        assert getattr(report, figure) == pytest.approx(getattr(other, figure), rel=0.02)


@pytest.mark.parametrize(
    "options",
    [
        {"merge": "medoid"},
        {"placement": "in_place"},
        {"method": "kmeans", "merge": "medoid", "placement": "in_place"},
        {"method": "subset"},
    ],
    ids=lambda options: " ".join(options.values()),
)
@pytest.mark.parametrize("twins", [False, True])
def test_rounding_decides_no_plan(pair, options, twins):
    """Both members of a node are as far from their mean as each other, twins say the same."""
    module = copy.deepcopy(pair[0])
    if twins:
        for name, tensor in module.state_dict().items():
            if tensor.ndim and not name.startswith("11."):  # that makes the scores
                tensor[len(tensor) // 2 :] = tensor[: len(tensor) // 2]
    plans = []
    for seed in range(4):
        torch.manual_seed(seed)
        noisy = [(x * (1 + 1e-6 * torch.randn_like(x)), y) for x, y in pair[2]]
        recipe = Recipe.preserving(ratio=0.6, **options)
        changed = copy.deepcopy(module)
        with torch.no_grad():
            for tensor in changed.parameters():
                tensor.mul_(1 + 1e-7 * torch.randn_like(tensor))
        plans.append(torch_adapter.reorganize(changed, noisy, layers="all", recipe=recipe).plan)
    for plan in plans[1:]:
        for one, first in zip(plan.groups, plans[0].groups, strict=True):
            np.testing.assert_array_equal(one.new, first.new)
            np.testing.assert_allclose(one.A, first.A, atol=1e-6)


def test_a_refit_of_products_is_the_same(pair):
    module, path, batches = pair
    left = {}
    for refit in ("groups", "products"):
        recipe = Recipe.preserving(ratio=0.6, refit=refit)
        changed = copy.deepcopy(module)
        report = torch_adapter.reorganize(changed, batches, layers="all", recipe=recipe)
        model, other = onnx_adapter.reorganize(path, arrays(batches), layers="all", recipe=recipe)
        for name, value in model.weights.items():
            own = changed.state_dict()[name].numpy()
            np.testing.assert_allclose(value, own, rtol=1e-3, atol=1e-4, err_msg=name)
        left[refit] = report.output_change
    assert left["products"] < left["groups"]
    assert report.passes == other.passes == 3 + 2


class Tokens(nn.Sequential):
    """Linear layers over tokens, which a file holds as products and sums."""

    def __init__(self):
        layers = nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)
        super().__init__(*layers)

    def forward(self, x):
        return super().forward(x).mean(1)


def test_a_product_and_a_sum_in_a_file_are_a_linear_layer(tmp_path):
    torch.manual_seed(0)
    module = Tokens()
    batches = [(torch.randn(200, 3, 10) + 2, torch.arange(200) % 4)]
    file = onnx_adapter.load(export(module, batches[0][0], tmp_path / "m.onnx", "script, kept"))
    report = torch_adapter.shrink(module, batches, ratio=0.5)
    smaller, other = onnx_adapter.shrink(file, arrays(batches), ratio=0.5)
    roles = {m.role for m in file.group("0").members if m.kind != "consumer"}
    assert roles == {"weight", "bias"}
    assert report.output_change == pytest.approx(other.output_change, rel=1e-3)
    made = np.abs(smaller.weights["4.bias"] - module.state_dict()["4.bias"].numpy())
    assert made.max() < 1e-4


@pytest.mark.parametrize("batch", [1, 2])
def test_layers_behind_an_attention_are_those_of_the_module(tmp_path, batch):
    """The file flattens time and samples around it, which one sample alone does not tell apart."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True)
    module = nn.Sequential(layer, nn.Linear(8, 3)).eval()
    batches = [(torch.randn(batch, 5, 8), torch.arange(i, i + batch) % 2) for i in range(20)]
    file = onnx_adapter.load(export(module, batches[0][0], tmp_path / "m.onnx", "script, kept"))
    recipe = Recipe.preserving(ratio=0.5)
    report = torch_adapter.reorganize(module, batches, ["0.linear1"], recipe)
    _, other = onnx_adapter.reorganize(file, arrays(batches), ["0.linear1"], recipe)
    assert report.groups[0].new == other.groups[0].new == 6
    assert report.output_change == pytest.approx(other.output_change, rel=1e-3)


def test_without_gradients_a_file_says_so(pair):
    _, path, batches = pair
    recipe = Recipe.comparison("rigl")
    with pytest.raises(ValueError, match="an ONNX file does not give"):
        onnx_adapter.reorganize(path, arrays(batches), recipe=recipe)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7), (6, 5, 9, 4), (12, 5, 3), (6, 3, 70, 70)])
def test_sums_of_tensors_are_those_of_arrays(shape):
    """Windows, vectors, pictures of more positions than enter a matrix."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape).astype(np.float32)
    tap = Tap("t", 1, rng.permutation(shape[1])[: shape[1] - 1])
    labels = np.array([0, 2, 2, 1, 0, 2])
    found = []
    for own, x in ((NumpyArrays(), values), (TorchArrays(), torch.from_numpy(values))):
        y = own.channels_first(x, tap, 6)
        rows = own.positions(y)
        assert rows.shape[2] == min(MOST_POSITIONS, np.prod(y.shape[2:]))
        sums = None
        for part in (slice(0, 3), slice(3, 6)):
            sums = own.sums_by_class(sums, y[part], labels[part], 3)
        found.append(
            [
                own.to_numpy(own.pooled(y, (1, 2))) if y.shape[3] > 1 else np.zeros(1),
                own.magnitudes(y), own.to_numpy(sums), *own.moments(x, 1),
                own.gram(rows, rows, np.array([0, 3, 5])),
                own.to_numpy(own.sums_by_class(None, y, np.eye(3)[labels], 3)),
            ]
        )  # fmt: skip
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_a_kernel_reads_makes_what_the_convolution_makes():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, 7, 9)).astype(np.float32)
    weight = random.normal(size=(4, 3, 2, 3)).astype(np.float32)
    windows = Window(2, 3, 1, 0), Window(1, 2, 0, 2)  # stride, dilation, padding
    padded = nn.functional.pad(torch.from_numpy(x), (0, 2, 1, 0))
    y = nn.functional.conv2d(padded, torch.from_numpy(weight), None, (2, 1), 0, (3, 2)).numpy()
    places = np.array([3, 8, 19])
    at = np.stack(np.unravel_index(places, y.shape[2:]))
    for own, given in ((NumpyArrays(), x), (TorchArrays(), torch.from_numpy(x))):
        read = own.to_numpy(own.patches(given, windows, (2, 3), at))
        made = np.einsum("or,nrp->nop", weight.reshape(4, -1), read[:, :-1])
        np.testing.assert_allclose(made, y.reshape(2, 4, -1)[:, :, places], atol=1e-5)
        assert (read[:, -1] == 1).all()
