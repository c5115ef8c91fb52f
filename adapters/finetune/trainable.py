"""An ONNX graph as a PyTorch module whose parameters are the initializers of the file.

The operators are those of onnx2fx.  Around it:

- every initializer, and every ``Constant`` of floats, is one tensor however many nodes read it, so
  that what is shared stays shared; weights are parameters, in float32 where the file has halves;
  what is not trained stays where it is, in memory once or in the file;
- ``BatchNormalization`` normalizes by the batch while the module trains and updates the running
  statistics, which are buffers;
- what parameters and statistics have become goes back under the names of the file;
- on demand, normalization stands behind convolutions while the module trains
  (:mod:`.renormalization`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import fx, nn
from torch.nn import functional

from ..images.batch_inputs import Inputs, arrays_of
from ..onnx.model import OnnxModel
from ..onnx.operator_names import operator
from ..onnx.session import light, swapped
from .renormalization import insert
from .weights import Weights, weights_of

MOMENTUM = 0.1  # of the newest batch, as in PyTorch; files may say 0.01, too slow for a few epochs
HALVES = (torch.float16, torch.bfloat16)


class TrainableGraph(nn.Module):
    """An ONNX model that can be trained.

    Parameters
    ----------
    model : OnnxModel
    freeze : sequence of str
        Names of weights, or patterns of names, that stay as they are.

    Attributes
    ----------
    names : dict of str to str
        Entries of the state that training changes, each with its name in the file.
    outputs : list of str
        Names of what :meth:`forward` returns.
    samples : int or None
        How many samples the graph takes at a time, where it takes no other number.  Batch
        normalization then keeps its statistics: so few samples say nothing about the data.

    Raises
    ------
    ValueError
        An operator is not known to onnx2fx, the file holds no weights that can be trained, or a
        pattern fits none of them.
    """

    def __init__(self, model: OnnxModel, freeze: Sequence[str] = ()) -> None:
        super().__init__()
        self.outputs = [str(value.name) for value in model.ir.graph.outputs]
        self.samples: int | None = None
        given = [value for value in model.ir.graph.inputs if not value.is_initializer()]
        self._reads = [getattr(torch, str(value.dtype.numpy())) for value in given if value.dtype]
        with swapped(model.analysed, model.changed) as present:
            graph = present.clone()
        weights, numbers = _prepared(graph, model, freeze)
        self.graph = _converted(graph)
        self.types: dict[str, torch.dtype] = {}
        self.names: dict[str, str] = {}
        # Uses of an array that are analysed apart, by the name that each has there.
        self._uses = {name: copy.original for name, copy in model.copies.items()}
        for name in weights.trained:
            own = numbers[name]
            held: torch.Tensor = getattr(self.graph, own)
            delattr(self.graph, own)
            wide = held.float() if held.dtype in HALVES else held.clone()
            self.graph.register_parameter(own, nn.Parameter(wide))
            self._keep(own, name, held.dtype)
        statistics = {numbers[name]: name for name in weights.statistics}
        for own in _adapt(self.graph, set(statistics)):
            held = getattr(self.graph, own)
            self._keep(own, statistics[own], held.dtype)
            setattr(self.graph, own, held.float() if held.dtype in HALVES else held.clone())
        for name, constant in list(self.graph.named_buffers(recurse=False)):
            if f"graph.{name}" not in self.names:  # no part of a state that is kept
                self.graph.register_buffer(name, constant, persistent=False)
        _narrow(self.graph, {k.partition(".")[2]: v for k, v in self.types.items()})
        self._normalized: dict[str, tuple[str, str]] = {}

    def renormalize(self, inputs: Iterable[Inputs]) -> int:
        """Normalize behind convolutions while it trains; :meth:`arrays` has it folded away.

        Parameters
        ----------
        inputs : iterable
            Of the data, to measure what the convolutions make.

        Returns
        -------
        int
            Behind how many.

        Raises
        ------
        ValueError
            Behind none, or the file takes so few samples at a time that their statistics say
            nothing.
        """
        if self.samples is not None:
            raise ValueError(
                f"the model takes {self.samples} samples at a time, too few to normalize by; leave "
                "out --renormalize"
            )
        given = (tuple(map(torch.from_numpy, arrays_of(x))) for x in inputs)
        self._normalized = insert(self.graph, MOMENTUM, map(self._read, given))
        if not self._normalized:
            raise ValueError(
                "no convolution of the model holds a folded normalization: one with a bias of its "
                "own, both trained, in float32, and read by further layers; leave out --renormalize"
            )
        return len(self._normalized)

    def _read(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Inputs in the types that the graph reads."""
        return tuple(x.to(kind) for x, kind in zip(inputs, self._reads, strict=True))

    def _keep(self, own: str, name: str, kind: torch.dtype) -> None:
        self.names[f"graph.{own}"], self.types[f"graph.{own}"] = name, kind

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs of the model in its order; floats are read in its own type."""
        inputs = self._read(inputs)
        if self.samples is None:
            return _outputs(self.graph(*inputs))
        n = len(inputs[0])
        short = -n % self.samples  # the last samples are filled up
        full = [torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) for x in inputs]
        groups = zip(*(x.split(self.samples) for x in full), strict=True)
        parts = [_outputs(self.graph(*group)) for group in groups]
        joined = [torch.cat(values) for values in zip(*parts, strict=True)]
        return tuple(values[:n] for values in joined) if short else tuple(joined)

    def train(self, mode: bool = True) -> TrainableGraph:
        """Normalize by the batch, unless a batch is too small for that."""
        super().train(mode)
        if self.samples is not None:
            self.graph.eval()
        return self

    def arrays(self) -> dict[str, np.ndarray]:
        """Present values by their names in the file, in the number types that it has."""
        state = self.state_dict()
        for name, attributes in self._normalized.items():
            weight, bias = (f"graph.{own}" for own in attributes)
            normalization: Any = self.graph.get_submodule(name)
            with torch.no_grad():
                folded = normalization.folded(state[weight], state[bias])
            state[weight], state[bias] = folded
        found = {
            name: state[own].detach().to("cpu", self.types[own]).numpy()
            for own, name in self.names.items()
        }
        uses = {use: found[name] for use, name in self._uses.items() if name in found}
        return found | uses


def _outputs(made: Any) -> tuple[torch.Tensor, ...]:
    return tuple(made) if isinstance(made, (tuple, list)) else (made,)


def _prepared(
    graph: ir.Model, model: OnnxModel, freeze: Sequence[str]
) -> tuple[Weights, dict[str, str]]:
    """Make a graph ready in place; what is to be trained, and the new names of its arrays.

    Names get numbers: onnx2fx spells ``a.b`` and ``a_b`` alike.
    """
    held = graph.graph.initializers
    for node in list(graph.graph):
        if operator(node) == "Constant":
            _lift(node, graph.graph)
    for name, copy in model.copies.items():  # the file has one array for all of these uses
        ir.convenience.replace_all_uses_with(held[name], held[copy.original])
        del held[name]
    fixed = model.structure.shared
    found = weights_of(graph.graph, fixed)
    if not found.trained:
        raise ValueError(
            "the model holds no weights in floating point that could be trained; if it was "
            "quantized, give the file from before that"
        )
    for pattern in freeze:
        if not any(fnmatchcase(name, pattern) for name in found.trained):
            raise ValueError(f"no weight is named {pattern!r}; those of the model are, among "
                             f"others, {', '.join(found.trained[:5])}")  # fmt: skip
    frozen = {n for n in found.trained if any(fnmatchcase(n, pattern) for pattern in freeze)}
    if frozen:
        found = weights_of(graph.graph, fixed | frozen)
    if not found.trained:
        raise ValueError("every weight of the model is frozen; freeze fewer")
    numbers = {}
    for number, (name, value) in enumerate(list(held.items())):
        array = value.const_value
        assert array is not None
        numbers[name] = value.name = f"rejuvenet_{number}"
        value.const_value = ir.Tensor(array.numpy(), array.dtype, name=value.name)
    return found, numbers


def _lift(node: ir.Node, graph: ir.Graph) -> None:
    """Make the array of floats that a ``Constant`` holds an initializer of the same name."""
    attribute = node.attributes.get("value", node.attributes.get("value_floats"))
    if attribute is None:
        return
    held = attribute.value
    tensor = held if isinstance(held, ir.TensorProtocol) else ir.tensor(np.float32(held))
    old = node.outputs[0]
    if not tensor.dtype.is_floating_point() or old.is_graph_output():
        return
    new = ir.Value(
        name=old.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )  # fmt: skip
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove(node, safe=True)
    graph.initializers[str(new.name)] = new


def _converted(model: ir.Model) -> fx.GraphModule:
    """The graph in PyTorch's operators; large arrays are those of the model, not copies."""
    from onnx2fx.graph_builder import GraphBuilder

    with light(model) as arrays:
        message = ir.to_proto(model)

    class Builder(GraphBuilder):  # as ``onnx2fx.convert`` does it, which copies them
        def load_tensor(self, tensor: onnx.TensorProto) -> torch.Tensor:
            if tensor.name not in arrays:
                return super().load_tensor(tensor)
            with warnings.catch_warnings():  # nobody writes to them
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                return torch.from_numpy(arrays[tensor.name])

    try:
        return Builder(message).build()
    except Exception as error:  # its kinds are not all its own
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the model cannot be trained: {reason}") from error


def _narrow(module: fx.GraphModule, types: dict[str, torch.dtype]) -> None:
    """Let nodes that read halves read the wider values in that type; modules take them as is."""
    for node in list(module.graph.nodes):
        if node.op == "get_attr" and types.get(node.target) in HALVES:
            with module.graph.inserting_after(node):
                narrow = module.graph.call_method("to", (node, types[node.target]))
            for user in list(node.users):
                if user is not narrow and user.op != "call_module":
                    user.replace_input_with(node, narrow)
    module.recompile()


def _adapt(module: fx.GraphModule, statistics: set[str]) -> list[str]:
    """Normalize by the batch in training; the names of the statistics that are then updated."""
    updated = []
    for number, node in enumerate(list(module.graph.nodes)):
        if node.op != "call_function" or node.meta.get("onnx_op_type") != "BatchNormalization":
            continue
        if len(node.args) < 7:  # a part of what one with several outputs makes
            continue
        _, scale, _, mean, variance, epsilon, training = node.args
        mine = [str(part.target) for part in (mean, variance) if part.op == "get_attr"]
        learned = isinstance(getattr(module, str(scale.target), None), nn.Parameter)
        if training or not learned or not all(name in statistics for name in mine) or len(mine) < 2:
            continue
        name = f"batch_normalization_{number}"
        module.add_submodule(name, _BatchNormalization(epsilon))
        with module.graph.inserting_before(node):
            normal = module.graph.call_module(name, tuple(node.args[:5]))
        node.replace_all_uses_with(normal)
        module.graph.erase_node(node)
        updated += mine
    module.recompile()
    return updated


class _BatchNormalization(nn.Module):
    """Batch normalization whose arrays are handed in."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(
        self,
        x: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
    ) -> torch.Tensor:
        return functional.batch_norm(
            x, mean, variance, scale, shift, self.training, MOMENTUM, self.epsilon
        )
