"""Operators of one's own: a rule that is registered lets channels through, in modules and files."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
import rejuvenet.adapters.onnx as onnx_adapter  # noqa: E402
import rejuvenet.adapters.torch as torch_adapter  # noqa: E402
from onnx import helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402
from rejuvenet.adapters.onnx.operators.registration import REGISTERED as IN_FILES  # noqa: E402
from rejuvenet.adapters.torch.operators import REGISTERED as IN_MODULES  # noqa: E402
from rejuvenet.graph import Elementwise, Positional, Reshape  # noqa: E402
from torch import nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

import exactness  # noqa: E402
import onnx_exports  # noqa: E402
from test_onnx_operators import X, between, node, values  # noqa: E402

IMAGE = torch.tensor(X)


LIBRARY = torch.library.Library("own", "DEF")
LIBRARY.define("gated(Tensor x, Tensor gate, int power=1) -> Tensor")
LIBRARY.impl("gated", lambda x, gate, power=1: x * gate.sigmoid() ** power, "CPU")
LIBRARY.define("smoothed(Tensor x) -> Tensor")  # each channel reads its neighbour
LIBRARY.impl("smoothed", lambda x: x + x.roll(1, 1), "CPU")
LIBRARY.define("parted(Tensor x) -> (Tensor, Tensor)")
LIBRARY.impl("parted", lambda x: (x.relu(), x.neg().relu()), "CPU")
gated, smoothed, parted = torch.ops.own.gated, torch.ops.own.smoothed, torch.ops.own.parted


class Between(nn.Module):
    """Two convolutions, an operator of what they make, and a third one."""

    def __init__(self, operator):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.c = nn.Conv2d(8, 4, 1)
        self.operator = lambda a, b: operator(a, b)  # copied along, as an operator is not

    def forward(self, x):
        return self.c(self.operator(self.a(x), self.b(x)))


def elementwise(graph, out, x, gate, power=1):
    graph.nodes.append(Elementwise((x.name, gate.name), out.name))


def one_to_one(graph, out, x):
    graph.nodes.append(Elementwise((x.name,), out.name))


def frozen(operator):
    return torch_adapter.trace(Between(operator), IMAGE).group("a").frozen


def test_channels_of_a_module_move_through_an_operator_of_ones_own():
    assert "own::gated is not understood" in frozen(gated)
    with torch_adapter.register_operator("own::gated", elementwise):
        verdict = exactness.verify(Between(gated), IMAGE)
        assert (verdict.outcome, verdict.moved) == ("right", 2), verdict
    assert "own::gated is not understood" in frozen(gated)


def test_a_rule_that_claims_too_much_is_found_out_by_arrange():
    model = Between(lambda a, b: smoothed(a) + b)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    with (
        torch_adapter.register_operator("own::smoothed", one_to_one),
        pytest.raises(ValueError, match="beyond the network's own noise"),
    ):
        torch_adapter.arrange(model, IMAGE, order="random")
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_what_a_rule_of_a_module_leaves_out_freezes():
    """An input that is not read, an output that is not made, a call that it refuses."""

    def passes_over(graph, out, x, gate, power=1):
        one_to_one(graph, out, x)

    def refuses(graph, out, x, gate, power=1):
        return False

    for rule in (passes_over, refuses):
        with torch_adapter.register_operator("own::gated", rule):
            assert "own::gated is not understood" in frozen(gated)
    with torch_adapter.register_operator("own::parted", one_to_one):
        assert "has a further output" in frozen(lambda a, b: parted(a)[1] + b)
        assert frozen(lambda a, b: parted(a)[0] + b) is None


def fill(call):
    call.emit(Elementwise(call.every_input(), call.output()))


def ml(path, name, *inputs, **attributes):
    """A file with one operator of ``ai.onnx.ml`` between two products."""
    flat = [node("GlobalAveragePool", ["h"], ["p"]), node("Flatten", ["p"], ["f"])]
    own = helper.make_node(name, ["f", *inputs], ["g"], domain="ai.onnx.ml", **attributes)
    between(path, [*flat, own, node("Unsqueeze", ["g", "axes"], ["z"])],
            {"axes": np.array([2, 3])})  # fmt: skip
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    onnx.save(model, path)
    return path


def test_channels_of_a_file_move_through_an_operator_of_another_domain(tmp_path):
    path = ml(tmp_path / "m.onnx", "Binarizer", threshold=0.1)
    assert "ai.onnx.ml.Binarizer is not understood" in onnx_adapter.load(path).group("first").frozen
    with onnx_adapter.register_operator("ai.onnx.ml", "Binarizer", fill):
        verdict = onnx_exports.verify(path, X)
        assert (verdict.outcome, verdict.moved) == ("right", 1), verdict
    assert onnx_adapter.load(path).group("first").frozen


def own_domain(path, domain, declared=True):
    """Two convolutions whose outputs ``Gated`` combines; the file says what shape that has."""
    own = helper.make_node("Gated", ["h", "i"], ["z"], domain=domain)
    between(path, [node("Conv", ["x", "gate"], ["i"], pads=[1, 1, 1, 1]), own],
            {"gate": values(8, 3, 3, 3)})  # fmt: skip
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid(domain, 1))
    if declared:
        shape = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n", 8, 8, 8])
        model.graph.value_info.append(shape)
    onnx.save(model, path)
    return path


def test_an_operator_without_a_kernel_is_described_by_what_the_file_declares(tmp_path):
    class Gated(OpRun):
        op_domain = "my.domain"

        def _run(self, x, gate):
            return (x * np.tanh(gate),)

    path = own_domain(tmp_path / "m.onnx", "my.domain")
    with onnx_adapter.register_operator("my.domain", "Gated", fill):
        changed, report = onnx_adapter.arrange(path, order="random")
        unknown = onnx_adapter.load(own_domain(tmp_path / "u.onnx", "my.domain", declared=False))
        assert "shape of 'z' is not known" in unknown.group("first").frozen
    assert "first" in {group.group for group in report.groups}
    assert report.unverified
    changed.save(tmp_path / "changed.onnx")
    before, after = (
        ReferenceEvaluator(str(p), new_ops=[Gated]).run(None, {"x": X})[0]
        for p in (path, tmp_path / "changed.onnx")
    )
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_the_kernel_of_an_operator_comes_from_a_library(tmp_path):
    extensions = pytest.importorskip("onnxruntime_extensions")
    kind = extensions.PyCustomOpDef.dt_float

    @extensions.onnx_op(op_type="Gated", inputs=[kind, kind], outputs=[kind])
    def kernel(x, gate):
        return x * np.tanh(gate)

    path = own_domain(tmp_path / "m.onnx", "ai.onnx.contrib", declared=False)
    library = extensions.get_library_path()
    with onnx_adapter.register_operator("ai.onnx.contrib", "Gated", fill, library=library):
        verdict = onnx_exports.verify(path, X)
    assert (verdict.outcome, verdict.moved) == ("right", 2), verdict
    with pytest.raises(ValueError, match=r"onnxruntime cannot load '.*m\.onnx'"):
        onnx_adapter.register_operator("ai.onnx.contrib", "Gated", fill, library=path)
    assert not IN_FILES


def test_what_a_rule_of_a_file_leaves_out_freezes(tmp_path):
    def passes_over(call):
        call.emit(Elementwise((call.data(0),), call.output()))

    def refuses(call):
        raise call.unsupported("has a form of its own")

    path = own_domain(tmp_path / "m.onnx", "my.domain")
    for rule, reason in ((passes_over, "an input 'i' that its rule"), (refuses, "a form of its")):
        with onnx_adapter.register_operator("my.domain", "Gated", rule):
            assert reason in onnx_adapter.load(path).group("first").frozen


def test_a_rule_that_fails_or_does_not_fit_the_shapes_is_an_error(tmp_path):
    def broken(graph, out, x, gate, power=1):
        return {}["nothing"]

    def unfit(graph, out, x, gate, power=1):
        graph.nodes += [Positional(x.name, graph.temporary(gate.shape), (1,)),
                        Reshape(gate.name, graph.temporary((2, 2)))]  # fmt: skip

    for rule, error in ((broken, KeyError), (unfit, ValueError)):
        with (
            torch_adapter.register_operator("own::gated", rule),
            pytest.raises(error, match=r"nothing|rule of 'own::gated' does not agree .*Reshape"),
        ):
            frozen(gated)
    path = own_domain(tmp_path / "m.onnx", "my.domain")

    def unfit_call(call):
        fill(call)
        call.emit(Reshape(call.data(0), call.temporary((2, 2))))

    for rule in (lambda call: {}["nothing"], unfit_call):
        with (
            onnx_adapter.register_operator("my.domain", "Gated", rule),
            pytest.raises((KeyError, ValueError), match=r"nothing|'my.domain.Gated' does not"),
        ):
            assert onnx_adapter.load(path).groups


def test_a_decorator_registers_what_it_returns():
    decorated = torch_adapter.register_operator("own::gated")(elementwise)
    assert decorated is IN_MODULES.pop("own::gated") is elementwise
    decorated = onnx_adapter.register_operator("my.domain", "Gated")(fill)
    assert decorated is IN_FILES.pop(("my.domain", "Gated")) is fill


TORCH, ONNX = torch_adapter.register_operator, onnx_adapter.register_operator
REFUSED = {
    "no namespace": (partial(TORCH, "glu", one_to_one), "with its namespace"),
    "no such operator": (partial(TORCH, "own::none", one_to_one), "is defined by now.*own::none"),
    "an overload": (partial(TORCH, "own::gated.default", elementwise), "without an overload"),
    "no name": (partial(TORCH, elementwise), "expected the name of an operator"),
    "known": (partial(TORCH, "aten::glu", one_to_one), "'aten::glu' has a rule"),
    "composed": (partial(TORCH, "aten::conv2d", one_to_one), "composed of others"),
    "lacks an argument": (partial(TORCH, "own::gated", one_to_one), r"Tensor x.*\(graph, out, x\)"),
    "no function": (partial(TORCH, "own::gated", "rule"), "expected a function"),
    "known in ONNX": (partial(ONNX, "ai.onnx", "Relu", fill), "'Relu' has a rule"),
    "no operator of ONNX": (partial(ONNX, "", "Rely", fill), "operator of the domain ''.*'Rely'"),
    "two arguments": (partial(ONNX, "my.domain", "Gated", one_to_one), "one argument"),
    "no operator": (partial(ONNX, "my.domain", fill), "expected a domain and an operator"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_registered_is_refused(case):
    register, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message):
        register()
    assert not IN_MODULES
    assert not IN_FILES


def test_an_operator_has_one_rule():
    with TORCH("own::gated", elementwise), ONNX("my.domain", "Gated", fill):
        with pytest.raises(ValueError, match="'own::gated' has a rule"):
            TORCH("own::gated", elementwise)
        with pytest.raises(ValueError, match=r"'my\.domain\.Gated' has a rule"):
            ONNX("my.domain", "Gated")
