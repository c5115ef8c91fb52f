"""Equal initializers that an exporter shares tie nothing; a file gets a copy where it needs one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from agreement import agreement
from onnx_exports import export
from rejuvenet.adapters.finetune.source import SourceModule
from rejuvenet.adapters.onnx import arrange, load, reorganize
from rejuvenet.adapters.torch import trace
from rejuvenet.graph import Recipe
from torch import nn


def fresh(channels=8):
    """Four layers of as many channels, whose normalizations are new."""
    torch.manual_seed(0)
    layers = []
    for n_in in (3, channels, channels, channels):
        layers += [
            nn.Conv2d(n_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        ]  # fmt: skip
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)
    ).eval()


def scores(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def batches():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(12, 3, 8, 8)).astype(np.float32), np.arange(12) % 4)]


@pytest.mark.parametrize("form", ["direct", "as inputs", "external", "old"])
def test_fresh_normalizations_tie_nothing(tmp_path, form):
    net, path = fresh(), tmp_path / "model.onnx"
    x = torch.from_numpy(batches()[0][0])
    options = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}, "input_names": ["x"],
               "output_names": ["y"]}  # fmt: skip
    export(net, x, path, "script, kept", **options)
    message = onnx.load(path)
    if form in ("as inputs", "old"):
        message.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, t.dims)
            for t in message.graph.initializer
        )
        message.ir_version = 3 if form == "old" else message.ir_version
        onnx.save(message, path)
    elif form == "external":
        onnx.save(message, path, save_as_external_data=True, size_threshold=0,
                  location="weights.data")  # fmt: skip
    message = onnx.load(path)
    traced, model = trace(net, x), load(path)
    assert model.copies, "the exporter shares equal ones"
    assert len([g for g in model.groups if g.exchangeable]) == 4
    same = agreement(traced.groups, traced.weights, model.groups, model.weights)
    assert same.difference is None

    moved, report = arrange(model, order="random", seed=1)
    assert len(report.groups) == 4
    assert all(r.moved for r in report.groups)
    moved.save(tmp_path / "moved.onnx")
    np.testing.assert_allclose(
        scores(tmp_path / "moved.onnx", x.numpy()), scores(path, x.numpy()), rtol=0, atol=1e-5
    )
    names = {t.name for t in message.graph.initializer}
    after = onnx.load(tmp_path / "moved.onnx").graph.initializer
    assert {t.name for t in after} == names, "permuted ones are ones: no copy is needed"

    changed, report = reorganize(model, batches(), "3.weight", Recipe.preserving(ratio=0.5))
    saved = tmp_path / "changed.onnx"
    changed.save(saved)
    onnx.checker.check_model(str(saved))
    again = load(saved)
    grown = {t.name for t in onnx.load(saved).graph.initializer} - names
    assert grown
    assert len(grown) <= 6, "statistics and affine terms of the layer, statistics behind it"
    session = changed.session()
    expected = session.run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(scores(saved, x.numpy()), expected, rtol=0, atol=1e-6)
    assert np.abs(expected - scores(path, x.numpy())).max() < 1
    assert len([g for g in again.groups if g.exchangeable]) == 4
    # What the layers before it and far behind it read is as it was.
    for group in ("0.weight", "9.weight"):
        for member in model.group(group).per_channel:
            expected = model.weight(member.weight)
            np.testing.assert_array_equal(again.weight(member.weight), expected)


def test_fine_tuned_weights_are_written_one_for_each_layer(tmp_path):
    path, out = tmp_path / "model.onnx", tmp_path / "tuned.onnx"
    x = torch.from_numpy(batches()[0][0])
    net = fresh()
    with torch.no_grad():
        for module in net:  # as many networks are initialized
            if isinstance(module, nn.Conv2d):
                module.bias.zero_()
    export(net, x, path, "script, kept")
    model = load(path)
    module = SourceModule(model, fresh(), "y")
    assert len(set(module.names.values())) == len(module.names)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
        expected = module.eval()(x)[0].numpy()
    model.with_weights(module.arrays()).save(out)
    np.testing.assert_allclose(scores(out, x.numpy()), expected, rtol=0, atol=1e-5)


def convolutions(*uses, weights):
    """A chain of 1 x 1 convolutions, each by the name of its weight."""
    nodes = [
        helper.make_node("Conv", ["x" if i == 0 else f"t{i - 1}", name], [f"t{i}"])
        for i, name in enumerate(uses)
    ]
    image = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 5, 5])]
    out = [helper.make_tensor_value_info(f"t{len(uses) - 1}", TensorProto.FLOAT, ["n", 4, 5, 5])]
    held = [numpy_helper.from_array(value.astype(np.float32), n) for n, value in weights.items()]
    graph = helper.make_graph(nodes, "chain", image, out, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_layer_that_is_called_twice_stays_one(tmp_path):
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(4, 4, 1, 1)) for n in ("first", "twice", "last")}
    path = tmp_path / "model.onnx"
    onnx.save(convolutions("first", "twice", "twice", "last", weights=weights), path)
    model = load(path)
    assert not model.copies
    (group,) = [g for g in model.groups if g.exchangeable]
    assert {m.weight for m in group.members} == {"first", "twice", "last"}
    assert len(group.tap.each) == 3


def test_a_weight_that_is_equal_along_one_axis_gets_a_copy_where_it_moves_along_another(tmp_path):
    """Zeroed or averaging layers: all rows equal, shared by two layers."""
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(4, 4, 1, 1)) for n in ("first", "middle", "last")}
    weights["rows"] = np.broadcast_to(rng.normal(size=(1, 4, 1, 1)), (4, 4, 1, 1))
    path = tmp_path / "model.onnx"
    onnx.save(convolutions("first", "rows", "middle", "rows", "last", weights=weights), path)
    moved, report = arrange(load(path), order="random", seed=3)
    assert len(report.groups) == 4
    saved = tmp_path / "moved.onnx"
    moved.save(saved)
    onnx.checker.check_model(str(saved))
    x = rng.normal(size=(2, 4, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(scores(saved, x), scores(path, x), rtol=1e-4, atol=1e-5)
    names = {t.name for t in onnx.load(saved).graph.initializer}
    assert len(names) == len(weights) + 1


def test_shared_layers_are_judged_by_all_their_calls(tmp_path):
    """Channels 2 and 3 respond in what ``twice`` reads first, and are silent behind it."""
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(4, 4, 1, 1)) for n in ("first", "twice", "last")}
    weights["twice"][2:] = 0.0
    path = tmp_path / "model.onnx"
    onnx.save(convolutions("first", "twice", "twice", "last", weights=weights), path)
    x = rng.normal(size=(8, 4, 5, 5)).astype(np.float32)
    recipe = Recipe.preserving(ratio="redundant")
    with pytest.warns(UserWarning, match="redundant"):
        _, report = reorganize(path, [(x, np.arange(8) % 2)], "all", recipe)
    assert report.groups[0].new == 0
