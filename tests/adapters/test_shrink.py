"""Channels that are removed: the smaller network is the reorganized one whose free places are
silent, in both adapters, and what cannot lose channels stays with the reason."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import onnx
import onnx_ir
import pytest
import torch
from rejuvenet.adapters.onnx import load
from rejuvenet.adapters.onnx import reorganize as reorganize_file
from rejuvenet.adapters.onnx import shrink as shrink_file
from rejuvenet.adapters.onnx.runner import Runner
from rejuvenet.adapters.torch import reorganize, shrink
from rejuvenet.graph import Recipe
from rejuvenet.graph.find.nodes import Contraction
from rejuvenet.graph.measure.cost import cost
from rejuvenet.graph.measure.verdict import relative_change
from rejuvenet.graph.plan.recipe import shrinking
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from exactness import outputs, randomize
from group_networks import Net, built, conv, head, images
from onnx_exports import export
from small_networks import NETWORKS, small_network

IMAGE = torch.zeros(2, 1, 8, 8)
RANDOM = Recipe.shrinking(method="random", ratio=0.5)


def gate(m, x):
    """Squeeze and excitation within a residual block."""
    a = m.a(x)
    b = m.b(a)
    return m.h(a + b * torch.sigmoid(m.e(torch.relu(m.s(b.mean((2, 3), keepdim=True))))))


OWN = {
    "squeeze and excitation": lambda: Net(
        gate, a=conv(3, 8), b=conv(8, 8), s=nn.Conv2d(8, 4, 1), e=nn.Conv2d(4, 8, 1), h=head(8)
    ),
    "layer norm": lambda: nn.Sequential(
        conv(3, 8), nn.Flatten(2), nn.LayerNorm(64), nn.Linear(64, 16), nn.GELU(),
        nn.Linear(16, 6), nn.LayerNorm(6), nn.Linear(6, 3), nn.Flatten(), nn.Linear(24, 5),
    ),
    "padded shortcut": lambda: Net(
        lambda m, x: m.h(m.b(a := m.a(x)) + nn.functional.pad(a, (0, 0, 0, 0, 2, 6))),
        a=conv(3, 8), b=conv(8, 16), h=head(16),
    ),
}  # fmt: skip


def stepped(m, x):
    """A recurrent cell along the columns of a picture."""
    state = None
    for column in m.a(x).mean(2).unbind(2):
        state = m.r(column, state)
    return m.l(state[0] if isinstance(state, tuple) else state)


def recurrent(m, x):
    return m.l(m.r(m.a(x).mean(2).transpose(1, 2))[0][:, -1])


def read_by(forward, layer, width=10):
    return lambda: Net(forward, a=conv(3, 8), r=layer(), l=nn.Linear(width, 5))


RECURRENT = {
    **{kind.__name__: read_by(stepped, lambda kind=kind: kind(8, 10))
       for kind in (nn.RNNCell, nn.GRUCell, nn.LSTMCell)},
    "cell without bias": read_by(stepped, lambda: nn.GRUCell(8, 10, bias=False)),
    "LSTM that is projected": read_by(
        recurrent, lambda: nn.LSTM(8, 10, 2, proj_size=6, batch_first=True), 6
    ),
    "both directions projected": read_by(
        recurrent, lambda: nn.LSTM(8, 10, proj_size=6, bidirectional=True, batch_first=True), 12
    ),
}  # fmt: skip
MODULES = RECURRENT | {  # that exporters do not take, too
    "bilinear": lambda: Net(
        lambda m, x: m.l(m.m(m.a(x).mean((2, 3)), m.b(x).mean((2, 3))).relu()),
        a=conv(3, 8), b=conv(3, 6), m=nn.Bilinear(8, 6, 10), l=nn.Linear(10, 5),
    ),
}  # fmt: skip
NAMES = (
    *OWN, "ghost", "C2f", "depthwise multiplier", "flattened", "halves and shuffle",
    "expanded gates", "attention", "unet", "super_resolution", "lstm", "called_twice",
)  # fmt: skip
# Why groups lose no channels; all others lose half of them.
OUTPUT = "reaches an output"
STAY = {
    "layer norm": {"averaged over", "each pair"},
    "attention": {"no weight reads", "whole sets", "share an axis", "MultiheadAttention"},
    "padded shortcut": {"does not run without"},  # Python code says how much is padded
    "lstm": {"order is fixed"},
}


def network(name):
    torch.manual_seed(0)
    if name in NETWORKS:
        model, inputs = small_network(name)
        return randomize(model).double(), tuple(x.double() for x in inputs)
    own = OWN | MODULES
    model = randomize(own[name]()).double() if name in own else built(name)
    return model, (images(2),)


def check_groups(report, name, allowed):
    assert report.groups
    assert report.cost.parameters < report.cost_before.parameters
    for group in report.groups:
        assert group.removed >= group.channels // 2
    for reason in report.skipped.values():
        assert any(part in reason for part in {OUTPUT, *allowed}), reason


@pytest.mark.parametrize("name", [*NAMES, *MODULES])
def test_a_smaller_module_is_the_silent_one(name):
    model, inputs = network(name)
    silent = copy.deepcopy(model)
    report = shrink(model, recipe=RANDOM, example_inputs=inputs)
    check_groups(report, name, STAY.get(name, ()))
    names = [group.group for group in report.groups]
    reorganize(silent, layers=names, recipe=shrinking(RANDOM), example_inputs=inputs)
    change = relative_change(outputs(silent, inputs).numpy(), outputs(model, inputs).numpy())
    assert change < 1e-9
    assert report.cost.parameters == sum(
        t.numel() for t in (*model.parameters(), *model.buffers()) if t.dim()
    )


@pytest.mark.parametrize("name", RECURRENT)
def test_a_smaller_recurrent_layer_knows_its_lengths(name):
    model, inputs = network(name)
    shrink(model, recipe=RANDOM, example_inputs=inputs)
    assert (model.r.input_size, model.r.hidden_size) == (4, 5)
    assert getattr(model.r, "proj_size", 0) in (0, 3)


def test_a_smaller_bilinear_layer_knows_its_lengths():
    model, inputs = network("bilinear")
    shrink(model, recipe=RANDOM, example_inputs=inputs)
    assert (model.m.in1_features, model.m.in2_features, model.m.out_features) == (4, 3, 5)


@pytest.mark.parametrize("name", NAMES)
def test_a_smaller_file_is_the_silent_one(name, tmp_path):
    model, inputs = network(name)
    inputs = tuple(x.float() for x in inputs)
    path = export(model.float(), inputs, tmp_path / "model.onnx", "script, folded")
    smaller, report = shrink_file(path, recipe=RANDOM)
    check_groups(report, name, STAY.get(name, ()))
    names = [group.group for group in report.groups]
    silent, _ = reorganize_file(path, layers=names, recipe=shrinking(RANDOM))
    smaller.save(tmp_path / "smaller.onnx")
    onnx.checker.check_model(tmp_path / "smaller.onnx", full_check=True)
    found, feeds = load(tmp_path / "smaller.onnx"), silent.example_inputs
    for before, after in zip(*(answers(m, feeds) for m in (silent, found)), strict=True):
        assert relative_change(before, after) < 1e-5
    before, after = onnx.load(path), onnx.load(tmp_path / "smaller.onnx")
    assert [n.output for n in before.graph.node] == [n.output for n in after.graph.node]


@pytest.mark.parametrize("form", ["script", "dynamo"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_first_state_of_a_recurrent_layer_becomes_as_short(form, layers, tmp_path):
    """Zeros that are expanded to the batch, and cut out for every layer."""
    torch.manual_seed(0)
    path, x = tmp_path / "m.onnx", torch.randn(2, 9, 4)
    own = {"r": nn.LSTM(4, 8, layers, batch_first=True), "f": nn.Linear(8, 5)}
    model = Net(lambda m, x: m.f(m.r(x)[0].amax(1)), **own).eval()
    if form == "dynamo":
        dynamic = {"dynamic_shapes": ({0: torch.export.Dim("n", min=1, max=64)},)}
        torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, **dynamic)
    else:
        dynamic = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
        torch.onnx.export(model, (x,), path, dynamo=False, opset_version=17, **dynamic)
    smaller, report = shrink_file(path, recipe=RANDOM)
    assert [group.removed for group in report.groups] == [4] * layers
    names = [group.group for group in report.groups]
    silent, _ = reorganize_file(path, layers=names, recipe=shrinking(RANDOM))
    feeds = dict.fromkeys(load(path).example_inputs, torch.randn(3, 9, 4).numpy())
    (before,), (after,) = (answers(m, feeds) for m in (silent, smaller))
    assert relative_change(before, after) < 1e-5


def answers(model, feeds):
    runner = Runner(model)
    return runner.compared(runner(feeds))


def digits_network(n=8):
    """Two convolutions of which only a shared scale of ones is not drawn."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, n, 3, padding=1), nn.Conv2d(n, n, 3, padding=1)
    norms = nn.BatchNorm2d(n), nn.BatchNorm2d(n)
    return nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), head(n)).eval()


@pytest.fixture(scope="module")
def data(torch_digits):
    images, labels = torch_digits[:2]
    return [(images[i : i + 64], labels[i : i + 64]) for i in range(0, 256, 64)]


def test_from_images_module_and_file_become_the_same(data, tmp_path):
    model = digits_network()
    path = export(
        model, data[0][0][:2], tmp_path / "model.onnx", "script, kept",
        input_names=["x"], dynamic_axes={"x": {0: "n"}},
    )  # fmt: skip
    ratio = {"0": 0.75, "*": 0.5}
    report = shrink(model, data, ratio=ratio)
    arrays = [(x.numpy(), y.numpy()) for x, y in data]
    smaller, of_file = shrink_file(path, arrays, ratio=ratio)
    assert [group.removed for group in report.groups] == [2, 4]
    assert [group.removed for group in of_file.groups] == [2, 4]
    assert model[0].weight.shape == (6, 1, 3, 3)
    assert (model[3].in_channels, model[3].out_channels) == (6, 4)
    images = data[0][0][:8]
    with torch.no_grad():
        expected = model(images).numpy()
    found = answers(smaller, {smaller.ir.graph.inputs[0].name: images[:2].numpy()})[0]
    assert relative_change(expected[:2], found) < 1e-3  # sums in single precision
    assert report.output_change == pytest.approx(of_file.output_change, rel=0.1)


def test_what_reads_a_neighbour_takes_the_place_of_a_channel_that_is_moved_by_one(data, tmp_path):
    """The second channel is the first one, moved: no weight of the first alone tells it."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        first.bias.zero_()
        first.weight.zero_()
        first.weight[0, 0, 1, 1] = first.weight[1, 0, 1, 0] = 1.0
        second.weight[:, 1, :, ::2] = 0.0
        second.weight[:, 0] *= 2.0
    model = nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(192, 5)).eval()
    images = [(torch.nn.functional.pad(x[..., 1:-1], (1, 1)), y) for x, y in data]
    path = export(model, images[0][0][:2], tmp_path / "model.onnx", "script, kept")
    report = shrink(model, images, layers=["0"], ratio=0.5)
    arrays = [(x.numpy(), y.numpy()) for x, y in images]
    _, of_file = shrink_file(path, arrays, layers=["0"], ratio=0.5)
    assert [group.removed for group in report.groups] == [1]
    assert model[2].in_channels == 1
    assert max(report.output_change, of_file.output_change) < 0.02


def test_padding_that_the_sizes_say():
    from onnx import TensorProto, helper

    found = []
    for rule in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        node = helper.make_node("Conv", ["x", "w"], ["y"], auto_pad=rule, strides=[2, 1])
        graph = helper.make_graph(
            [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 1, 8, 8))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [helper.make_tensor("w", TensorProto.FLOAT, (2, 1, 3, 2), [1.0] * 12)],
        )  # fmt: skip
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model = load(onnx_ir.from_proto(proto))
        (made,) = (n for n in model.graph.nodes if isinstance(n, Contraction))
        found.append([(w.before, w.after) for w in made.windows])
    assert found == [[(0, 1), (0, 1)], [(1, 0), (1, 0)], [(0, 0), (0, 0)]]


@pytest.mark.parametrize("target", ["params", "flops"])
def test_a_target_is_kept(data, target):
    """Copies go first, and a budget that is too small is refused."""
    model = digits_network()
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[2:] = tensor[:2].repeat(3, *[1] * (tensor.dim() - 1))
    report = shrink(model, data, **{f"target_{target}": 0.6})
    quantity = {"params": "parameters", "flops": "multiply_adds"}[target]
    share = getattr(report.cost, quantity) / getattr(report.cost_before, quantity)
    assert 0.4 < share <= 0.6
    assert model[0].out_channels < model[3].out_channels
    with pytest.raises(ValueError, match="cannot be shrunk to 1%"):
        shrink(digits_network(), data, **{f"target_{target}": 0.01})


def test_one_option_says_what_is_left(data, tmp_path):
    path = export(digits_network(), data[0][0][:1], tmp_path / "model.onnx", "script, kept")
    for call, both in (
        (shrink, {"ratio": 0.25, "target_params": 0.9}),
        (shrink, {"target_params": 0.9, "target_flops": 0.9}),
        (shrink_file, {"ratio": {"0": 0.25}, "target_flops": 0.9}),
        (shrink_file, {"ratio": 0.25, "target_latency": 0.9}),
    ):
        model = path if call is shrink_file else digits_network()
        with pytest.raises(ValueError, match=f"expected one of .*, got {' and '.join(both)}$"):
            call(model, data, **both)


@pytest.mark.parametrize("target", [0.6, "ms"])
def test_a_target_of_time_is_kept(data, tmp_path, timed_by_products, target):
    path = export(digits_network(32), data[0][0][:1], tmp_path / "model.onnx", "script, kept")
    arrays = [(x.double().numpy(), y.numpy()) for x, y in data]  # cast, as for every run
    timed_by_products()
    whole = load(path)
    today = cost(whole.graph, 1).multiply_adds / 1e6
    asked = f"{0.6 * today}ms" if target == "ms" else target
    smaller, report = shrink_file(whole, arrays, target_latency=asked)
    assert [len(smaller.weight(f"{i}.weight")) % 8 for i in (0, 3)] == [0, 0]
    assert report.latency_before == pytest.approx(today)
    assert 0.3 < report.latency / today <= 0.6
    assert "ms (" in str(report)
    for met in (f"{1.1 * today}ms", 1.0):
        with pytest.warns(UserWarning, match="keeps within the target as it is"):
            _, kept = shrink_file(path, arrays, target_latency=met)
        assert not any(group.removed for group in kept.groups)
    with pytest.raises(ValueError, match="cannot be shrunk to 1% of its latency"):
        shrink_file(path, arrays, target_latency=0.01)
    with pytest.raises(ValueError, match="share of today's in"):
        shrink_file(path, arrays, target_latency="5s")


def test_layers_that_a_trial_fails_without_keep_their_channels(
    data, tmp_path, timed_by_products
):
    path = export(digits_network(32), data[0][0][:1], tmp_path / "model.onnx", "script, kept")
    timed_by_products(slow="0.weight")
    arrays = [(x.numpy(), y.numpy()) for x, y in data]
    smaller, report = shrink_file(path, arrays, target_latency=0.8)
    assert smaller.weight("0.weight").shape == (32, 1, 3, 3)
    assert report.latency / report.latency_before <= 0.8


def test_weights_in_another_file_become_smaller_there(data, tmp_path):
    path = export(digits_network(), data[0][0][:2], tmp_path / "model.onnx", "script, kept")
    proto = onnx.load(path)
    onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    smaller, _ = shrink_file(path, recipe=RANDOM)
    smaller.save(tmp_path / "smaller.onnx")
    again = load(tmp_path / "smaller.onnx")
    feeds = again.example_inputs
    assert relative_change(answers(smaller, feeds)[0], answers(again, feeds)[0]) == 0
    assert (tmp_path / "smaller.onnx.data").stat().st_size > 0


def test_what_fails_leaves_the_module_as_it_was():
    """A module whose code counts channels: nothing of it is changed, and the reason is said."""
    model = Net(lambda m, x: m.h(m.a(x).view(len(x), 8, 8, 8)), a=conv(3, 8), h=head(8)).double()
    before = {name: (t, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    with pytest.raises(ValueError, match="does not run without its channels"):
        shrink(model, recipe=RANDOM, example_inputs=images(2))
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])
    assert model.a[0].out_channels == 8


@pytest.mark.parametrize("extent", [1, 3])
def test_memory_is_laid_out_as_it_was(data, extent):
    """Channels last in a convolution, as in a linear layer that was transposed."""
    model = digits_network().to(memory_format=torch.channels_last)
    model[3] = nn.Conv2d(8, 8, extent, padding=extent // 2).to(memory_format=torch.channels_last)
    linear = model[-1][-1]
    linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)
    shrink(model, data, ratio=0.5)
    assert model[3].weight.shape == (4, 4, extent, extent)
    assert model[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert linear.weight.shape[1] == 4
    assert linear.weight.T.is_contiguous()


def test_single_layers_of_a_stage_lose_nothing():
    with pytest.raises(ValueError, match="expected scope 'group'"):
        shrink(digits_network(), recipe=Recipe.shrinking(scope="layer"), example_inputs=IMAGE)


def test_shrink_needs_no_sample_of_every_class():
    """Which channels stay is decided without class means, so labels may leave classes out."""
    torch.manual_seed(0)
    model = nn.Sequential(conv(1, 12), nn.ReLU(), conv(12, 8), nn.ReLU(), head(8)).eval()
    x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    other = copy.deepcopy(model)
    shrink(model, [(x, y)], ratio=0.5)
    shrink(other, [(x, 10 * y + 900)], ratio=0.5)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="got none of 0, 1"):
        shrink(other, [(x, 10 * y + 900)], ratio=0.5, recipe=Recipe.shrinking(method="kmeans"))
