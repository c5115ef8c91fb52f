"""``arrange`` says whether the outputs stayed within the network's noise, or changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from rejuvenet.graph.change.surgery import transform

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
from rejuvenet.__main__ import main  # noqa: E402
from rejuvenet.adapters import onnx as onnx_adapter  # noqa: E402
from rejuvenet.adapters.onnx.operators.table import OPERATORS, unary  # noqa: E402
from rejuvenet.adapters.torch import arrange  # noqa: E402
from torch import nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

from test_onnx_operators import between, node, values, write  # noqa: E402


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).to(dtype).eval()


def test_an_output_that_is_a_rounding_apart_is_within_the_noise(tmp_path):
    """A sigmoid near 5e-7 has steps of 6e-8: relative to it, the change is large."""
    rng = np.random.default_rng(0)  # not one that other tests draw from before
    arrays = {
        name: rng.normal(size=size).astype("f")
        for name, size in {"a": (16, 64), "b": (64, 64), "c": (64, 8)}.items()
    }
    arrays["d"] = np.full(8, -14.4, "f")
    nodes = [
        node("MatMul", ["x", "a"], ["h"]), node("Relu", ["h"], ["i"]),
        node("MatMul", ["i", "b"], ["j"]), node("Relu", ["j"], ["k"]),
        node("MatMul", ["k", "c"], ["l"]), node("Mul", ["l", "tiny"], ["m"]),
        node("Add", ["m", "d"], ["n"]), node("Sigmoid", ["n"], ["y"]),
    ]  # fmt: skip
    arrays["tiny"] = np.float32(1e-2)
    path = write(tmp_path / "m.onnx", nodes, arrays, 13, {"x": [1, 16]})
    changes = []
    for seed in range(5):
        _, report = onnx_adapter.arrange(path, order="random", seed=seed)
        assert report.verdict.within
        assert "within the network's own noise" in str(report)
        assert report.to_dict()["verdict"]["noise"] == report.verdict.noise
        changes.append(report.verdict.change)
    assert max(changes) > 1e-3  # which looked like an error


def test_a_wrong_permutation_of_a_file_is_an_error_and_nothing_is_written(
    tmp_path, monkeypatch, capsys
):
    path = between(tmp_path / "m.onnx", [node("LRN", ["h"], ["z"], size=3, alpha=1.0)])
    monkeypatch.setitem(OPERATORS, "LRN", unary)  # it reads the neighbours of a channel
    with pytest.raises(ValueError, match=r"beyond the network's own noise.*nothing was changed"):
        onnx_adapter.arrange(path, order="random")
    out = tmp_path / "out.onnx"
    monkeypatch.setattr(
        sys, "argv",
        ["rejuvenet", "reorganize", str(path), "--arrange", "--order", "random", "-o", str(out)],
    )  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "own noise" in " ".join(capsys.readouterr().err.split())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_module_is_permuted_within_its_noise(dtype):
    report = arrange(network(dtype), torch.randn(4, 6).to(dtype), order="random")
    assert report.verdict.within
    assert report.verdict.change <= max(1e-12, 100 * report.verdict.noise)
    assert report.verdict.noise > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wrong_permutation_of_a_module_is_undone(dtype, monkeypatch):
    model = network(dtype)
    before = {name: x.clone() for name, x in model.state_dict().items()}

    def left_behind(plan, weights):
        return {n: v for n, v in transform(plan, weights).items() if n != "2.weight"}

    where = sys.modules["rejuvenet.graph.arranging"]
    monkeypatch.setattr(where, "transform", left_behind)
    with pytest.raises(ValueError, match=r"beyond the network's own noise.*nothing was changed"):
        arrange(model, torch.randn(4, 6, dtype=dtype), order="random")
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_single_precision_inside_double_is_no_error():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x.float()).double()

    model = Inside()
    model.register_buffer("unused", torch.zeros(1, dtype=torch.float64))
    report = arrange(model, torch.randn(4, 6, dtype=torch.float64), order="random")
    assert report.verdict.within


def test_a_small_output_is_not_hidden_behind_a_large_one(tmp_path, monkeypatch):
    """Each output is held against its own size."""
    nodes = [
        node("Conv", ["x", "first"], ["h"]),
        node("LRN", ["h"], ["z"], size=3, alpha=1.0),
        node("Conv", ["z", "second"], ["large"]),
        node("Mul", ["large", "tiny"], ["y"]),
        node("Relu", ["x"], ["other"]),
        node("Mul", ["other", "huge"], ["boxes"]),
    ]
    arrays = {
        "first": values(8, 3, 1, 1), "second": values(4, 8, 1, 1), "tiny": np.float32(1e-6),
        "huge": np.float32(1e6),
    }  # fmt: skip
    path = write(tmp_path / "m.onnx", nodes, arrays, 13)
    message = onnx.load(path)
    message.graph.output.append(onnx.helper.make_tensor_value_info("boxes", 1, None))
    onnx.save(message, path)
    monkeypatch.setitem(OPERATORS, "LRN", unary)
    with pytest.raises(ValueError, match="beyond the network's own noise"):
        onnx_adapter.arrange(path, order="random")


def test_what_cannot_run_says_that_it_was_not_compared(tmp_path):
    nodes = [node("Unknown", ["h"], ["i"], domain="elsewhere"), node("Conv", ["h", "b"], ["g"]),
             node("Relu", ["g"], ["z"])]  # fmt: skip
    path = between(tmp_path / "m.onnx", nodes, {"b": values(8, 8, 1, 1)})
    _, report = onnx_adapter.arrange(path, order="random")
    assert report.verdict is None
    assert "outputs were not compared: onnxruntime cannot run the model" in str(report)


def test_inputs_that_are_made_whole_numbers_have_no_noise_and_the_weights_have(tmp_path):
    """Keras casts the indices of an embedding from floats: shaken inputs change nothing."""
    arrays = {"table": values(30, 64), "a": values(64, 64), "b": values(64, 64)}
    nodes = [node("Cast", ["x"], ["i"], to=7), node("Gather", ["table", "i"], ["h0"])]
    for i in range(8):
        name = f"w{i}"
        arrays[name] = values(64, 64) * np.float32(3)
        nodes += [node("MatMul", [f"h{i}", name], [f"m{i}"]), node("Sin", [f"m{i}"], [f"h{i + 1}"])]
    nodes[-1].output[0] = "y"
    path = write(tmp_path / "m.onnx", nodes, arrays, 13, {"x": ["n", 7]})
    _, report = onnx_adapter.arrange(path, order="random")
    assert report.verdict.within
    assert report.verdict.change > 1e-4  # which looked like an error


def test_a_module_that_rounds_its_inputs():
    torch.manual_seed(0)
    layers = [Rounded()]
    for _ in range(24):
        layers += [nn.Linear(64, 64), nn.Tanh()]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    report = arrange(model, 5 * torch.randn(2, 64), order="random")
    assert report.verdict.within
    assert report.verdict.change > 1e-5  # more than is always allowed
    sums = {name: x.double().sum() for name, x in before.items()}
    for name, x in model.state_dict().items():  # shaken weights were put back
        torch.testing.assert_close(x.double().sum(), sums[name], rtol=1e-12, atol=1e-9)


class Rounded(nn.Module):
    def forward(self, x):
        return torch.round(x)


def scored(tmp_path, tail, arrays=(), outputs=("y",)):
    """A convolution that is multiplied by how many channels it has, then scores and a tail."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.normal(size=(8, 3, 3, 3)), "b": rng.normal(size=(8, 8, 1, 1)),
        "c": rng.normal(size=(5, 8)), **dict(arrays),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "b"], ["q"]), node("Relu", ["q"], ["s"]),
        node("GlobalAveragePool", ["s"], ["p"]), node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "c"], ["y0"], transB=1), *tail,
    ]  # fmt: skip
    graph = onnx.helper.make_graph(
        nodes, "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        [
            onnx.numpy_helper.from_array(
                np.asarray(v, np.int64 if np.asarray(v).dtype.kind == "i" else np.float32), name
            )
            for name, v in weights.items()
        ],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    path.write_bytes(onnx.shape_inference.infer_shapes(model).SerializeToString())
    x = rng.normal(size=(60, 3, 8, 8)).astype("f")
    return onnx_adapter.load(path), [(x, np.arange(60) % 5)]


MASKED = [node("Add", ["y0", "mask"], ["y"])]


@pytest.mark.filterwarnings("error", "ignore:nothing was changed")
@pytest.mark.parametrize("mask", [0.0, -1e9, np.finfo(np.float32).min, -np.inf])
def test_a_mask_in_the_outputs_hides_no_change(mask, tmp_path):
    """Shares of a masked constant: a change of the scores by half was 1e-8 of it."""
    model, data = scored(tmp_path, MASKED, {"mask": [0, 0, 0, 0, mask]})
    _, report = onnx_adapter.shrink(model, data, ratio=0.3)
    assert 0.01 < report.output_change < 1
    assert 0 < report.largest_change < 100
    _, report = onnx_adapter.shrink(model, data, ratio=0.3, max_change=1e-4)
    assert not report.groups
    counted = [
        node("Shape", ["r"], ["shape"]), node("Gather", ["shape", "one"], ["count"]),
        node("Cast", ["count"], ["factor"], to=1), node("Mul", ["y0", "factor"], ["y1"]),
        node("Add", ["y1", "mask"], ["y"]),
    ]  # fmt: skip
    arrays = {"mask": [0, 0, 0, 0, mask], "one": 1}
    model, data = scored(tmp_path, counted, arrays)
    with pytest.raises(ValueError, match="outputs change where its channels are removed"):
        onnx_adapter.shrink(model, data, "a", ratio=0.5)


@pytest.mark.filterwarnings("ignore:nothing was changed")
def test_as_many_rows_as_are_found_are_not_compared(tmp_path):
    """Boxes of a detector: another number of them was no change at all."""
    tail = [
        node("Identity", ["y0"], ["y"]), node("Greater", ["y0", "level"], ["over"]),
        node("NonZero", ["over"], ["found"]), node("Transpose", ["found"], ["places"]),
        node("Cast", ["places"], ["rows"], to=1),
    ]  # fmt: skip
    model, data = scored(tmp_path, tail, {"level": 0.5}, outputs=("y", "rows"))
    _, report = onnx_adapter.shrink(model, data, ratio=0.3)
    assert report.output_change is None
    assert "not compared: some have another shape now" in str(report)
    _, report = onnx_adapter.shrink(model, data, ratio=0.3, max_change=0.01)
    assert not report.groups
    assert "beyond the budget" in str(report)
