"""ONNX files: read, changed by the name of an initializer, written back as they were.

Nothing is exported again: nodes, names, opset, metadata and every initializer that no plan touches
stay byte for byte what they were.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph.find.channels import ChannelGroup
from ...graph.find.nodes import Graph
from ...graph.find.solve import find_groups
from ...graph.plan.selection import find_group, select_groups
from .budget import check_inputs, check_sizes, max_bytes_of
from .example_inputs import Shapes, example_inputs
from .executable import executable
from .external import Refused
from .layer_names import Request, layers_of, resolve
from .operator_names import operator
from .pieces import Piece
from .saving import write
from .session import session, swapped
from .shared import Copy, with_copies
from .storage import Stored, is_outside, read
from .structure import Structure

LAYERS = frozenset(["Conv", "ConvTranspose", "Gemm", "MatMul"])


class OnnxModel:
    """An ONNX model, its structural graph and its channel groups.

    Parameters
    ----------
    model : onnx_ir.Model
    stored : Stored, optional
        The file that the model was read from; without it, what onnx-ir writes.
    batch : int
        Length of a free batch axis in the run that measures the shapes.
    input_shapes : mapping of input name to sequence of int, optional
        Shapes for that run.
    max_bytes : int, optional
        As in :func:`load`.

    Attributes
    ----------
    ir : onnx_ir.Model
        The model as it was read.
    analysed : onnx_ir.Model
        The same with its functions inlined, or with copies of what it shares by value alone, and
        with the branches that always run inlined; this is what runs.
    copies : dict of str to Copy
        The uses that have a copy of their own, by its name.
    changed : dict of str to ndarray
        New values of weights, by name.
    """

    def __init__(
        self,
        model: ir.Model,
        stored: Stored | None = None,
        batch: int = 1,
        input_shapes: Shapes | None = None,
        max_bytes: int | None = None,
    ):
        self.max_bytes = max_bytes_of(max_bytes)
        self.ir = model
        self.analysed, self.copies, self._brought = executable(model, self.max_bytes)
        self.changed: dict[str, np.ndarray] = {}
        self._stored = stored
        self._batch, self._input_shapes = batch, input_shapes
        if input_shapes:  # refused before any work
            next(example_inputs(self.analysed, batch, input_shapes))

    @cached_property
    def structure(self) -> Structure:
        """The model as structural nodes; needs one run of the model.

        Raises
        ------
        ValueError
            An input declares no shape, and none was given; or the model does not run on it.
        """
        own = _constants(self.ir)
        shared = _constants(self.analysed) - own if self.ir.functions else frozenset()
        shared |= self._brought
        return Structure(
            self.analysed, self._candidates(), shared, bool(self._input_shapes), self.max_bytes
        )

    def _candidates(self) -> Iterator[dict[str, np.ndarray]]:
        """Inputs to measure the model with, on which it stays within its budget."""
        check_inputs(self.analysed, self.max_bytes)
        given = example_inputs(self.analysed, self._batch, self._input_shapes)
        for number, feeds in enumerate(given):
            try:
                check_sizes(self.analysed, feeds, self.max_bytes)
            except Refused:
                if number:  # a size that is only a guess
                    continue
                raise
            yield feeds

    @property
    def example_inputs(self) -> dict[str, np.ndarray]:
        """Inputs that the model runs on, by name."""
        return self.structure.feeds

    @property
    def graph(self) -> Graph:
        """Structural nodes, named after the values of the model."""
        return self.structure.graph

    @cached_property
    def groups(self) -> list[ChannelGroup]:
        """Channel groups in the order of execution."""
        return find_groups(self.graph)

    @property
    def without_groups(self) -> str:
        """Why there is no channel group; empty where there is one."""
        if self.groups:
            return ""
        sources = []
        for node in self.analysed.graph.all_nodes():
            if operator(node) in LAYERS and len(node.inputs) > 1 and node.inputs[1] is not None:
                maker = node.inputs[1].producer()
                sources.append(operator(maker) if maker is not None else "an input")
        if not sources:
            return "the model has no channel groups: it holds no convolution and no product"
        return (
            f"the model has no channel groups: the weights of its {len(sources)} convolutions and "
            f"products come from {', '.join(sorted(set(sources)))}, and hold no values of their own"
        )

    @property
    def inferred(self) -> str:
        """Why the shapes are not measured; empty where they are."""
        why = self.structure.not_run
        return f"shapes are inferred as far as they can be, since {why}" if why else ""

    def group(self, name: str) -> ChannelGroup:
        """The channel group that a layer makes.

        Parameters
        ----------
        name : str
            Of the group, of a weight, of the layer (module or node), a pattern, or ``"last"``
            for the deepest group that can move.

        Raises
        ------
        ValueError
            No such group; near matches are named.
        """
        if name == "last":
            return select_groups(self.groups, name)[0][-1][0]
        return find_group(self.groups, str(self.requests(name)[0]))

    def requests(self, layers: Request | Sequence[Request]) -> list[Request]:
        """``layers`` with the names of modules and nodes replaced by those of their weights.

        Raises
        ------
        ValueError
            The model has no channel groups, with the reason; or no such layer.
        """
        if not self.groups:
            raise ValueError(self.without_groups)
        return resolve(layers, self.groups, layers_of(self.analysed))

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Name to array for every weight of the graph."""
        return {name: self.weight(name) for name in dict.fromkeys(self.graph.weights.values())}

    def weight(self, name: str) -> np.ndarray:
        """The present values of one weight."""
        found = self.changed.get(name)
        return self.structure.known[name] if found is None else found

    @property
    def stored(self) -> Stored:
        """The file that the model was read from, or what onnx-ir writes."""
        return self._stored or Stored.of(self.ir)

    def like(self, model: ir.Model, stored: Stored) -> OnnxModel:
        """Another model, to be looked at in the same way as this one."""
        return OnnxModel(model, stored, self._batch, self._input_shapes, self.max_bytes)

    @property
    def outside(self) -> frozenset[str]:
        """Weights that the file keeps in another file."""
        return self._stored.outside if self._stored else frozenset()

    def with_weights(self, weights: Mapping[str, np.ndarray]) -> OnnxModel:
        """The same model with other values of some weights; this one stays as it is.

        Raises
        ------
        ValueError
            For a name that is no weight of the model, or an array of another shape.
        """
        for name, array in weights.items():
            value = self.analysed.graph.initializers.get(name)
            stored = None if value is None else value.const_value
            if stored is None and name not in self.structure.known:
                raise ValueError(f"the model has no weight {name!r}")
            shape = self.weight(name).shape if stored is None else stored.shape.numpy()
            if tuple(array.shape) != tuple(shape):
                raise ValueError(
                    f"expected an array of shape {tuple(shape)} for the weight {name!r}, "
                    f"got {tuple(array.shape)}"
                )
        other = copy.copy(self)  # with what is known of it by now
        other.changed = {**self.changed, **weights}
        return other

    @property
    def weight_bytes(self) -> int:
        """Bytes of all initializers."""
        held = (value.const_value for value in self.analysed.graph.initializers.values())
        return sum(tensor.nbytes for tensor in held if tensor is not None)

    @property
    def fixed_batch(self) -> int | None:
        """How many samples the first input that has axes takes at a time, where it says so."""
        graph = self.ir.graph
        inputs = (v.shape for v in graph.inputs if v.name not in graph.initializers)
        size = next((shape[0] for shape in inputs if shape), None)
        return size if isinstance(size, int) and size > 0 else None

    def session(
        self,
        outputs: tuple[str, ...] = (),
        adapting: Mapping[str, Sequence[int]] | None = None,
        piece: Piece | None = None,
        threads: int | None = None,
    ) -> Any:
        """An onnxruntime session.

        Parameters
        ----------
        outputs : tuple of str
            Intermediate tensors to return as well.
        adapting : mapping of tensor name to its shape, optional
            What normalizations read that take the statistics of the batch instead of their own;
            the types of the inputs that they adapt by are the session's ``adapting``.
        piece : Piece, optional
            The part of the model to run.
        threads : int, optional
            That an operator may use, for a session that is timed.
        """
        if "structure" not in self.__dict__:
            try:
                next(self._candidates(), None)
            except Refused:
                raise
            except ValueError:  # an input declares no shape, so that nothing is known
                pass
        with swapped(self.analysed, self.changed) as model:
            return session(model, outputs, adapting, piece, threads=threads)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model; a failure leaves what was at ``path`` as it was.

        Weights that the file kept in another file are written into ``<name>.data`` beside it, at
        the same places.

        Raises
        ------
        OSError
            One sentence that says what is in the way.
        """
        stored = self.stored
        initializers = self.ir.graph.initializers.items()
        known = {name: v.const_value for name, v in initializers if v.const_value is not None}
        values = {name: known[name].numpy() for name in stored.taken}
        for name, array in self.changed.items():
            old = known.get(name)
            elsewhere = name in self.outside or name in values
            if elsewhere or old is None or old.tobytes() != array.tobytes():
                values[name] = array  # equal ones stay in their field
        message = with_copies(stored.message, self.own_copies(self.changed))
        write(path, replace(stored, message=message), values)

    def own_copies(
        self, arrays: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, Copy, np.ndarray]]:
        """Copies that with these arrays are no longer equal to what they are a copy of."""
        held = self.analysed.graph.initializers
        for name, own in self.copies.items():
            if name in arrays or own.original in arrays:
                before = held[name].const_value
                assert before is not None  # it is a copy of a value
                array, original = (arrays.get(n, before.numpy()) for n in (name, own.original))
                if array.shape != original.shape or array.tobytes() != original.tobytes():
                    yield name, own, array


def _constants(model: ir.Model) -> frozenset[str]:
    return frozenset(str(n.outputs[0].name) for n in model.graph if operator(n) == "Constant")


def load(
    source: str | os.PathLike[str] | ir.Model,
    *,
    batch: int = 1,
    input_shapes: Shapes | None = None,
    max_bytes: int | None = None,
) -> OnnxModel:
    """Read an ONNX file.

    Parameters
    ----------
    source : path or onnx_ir.Model
    batch : int
        Length of a free batch axis in the run that measures the shapes.
    input_shapes : mapping of input name to sequence of int, optional
        Whole shapes for that run, where other axes are free; an empty name stands for the only
        input.  Without them, usual sizes are tried.
    max_bytes : int, optional
        What the model may make out of constants and shapes; a file that asks for more is refused
        when it is first looked at.  By default the environment variable ``REJUVENET_MAX_BYTES``,
        else 512 MiB.

    Returns
    -------
    OnnxModel

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no ONNX model, it is truncated, a file that holds its weights is missing or does
        not lie beneath the model's folder, or ``input_shapes`` gives a shape that an input does
        not take.

    Examples
    --------
    >>> import numpy as np
    >>> from onnx import TensorProto, helper, numpy_helper
    >>> from rejuvenet.adapters.onnx import arrange, load
    >>> def weight(name, *shape):
    ...     return numpy_helper.from_array(np.random.rand(*shape).astype("float32"), name)
    >>> graph = helper.make_graph(
    ...     [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
    ...      helper.make_node("MatMul", ["r", "b"], ["y"])], "example",
    ...     [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
    ...     [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    ...     [weight("a", 4, 8), weight("b", 8, 2)])
    >>> opsets = [helper.make_opsetid("", 17)]
    >>> model = load(ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8)))
    >>> for group in model.groups:
    ...     print(group.name, group.channels, group.frozen)
    a 8 None
    b 2 reaches an output of the model
    >>> changed, report = arrange(model, order="random")
    >>> bool((changed.weights["a"] == model.weights["a"]).all()), report.verdict.within
    (False, True)
    """
    how: dict[str, Any] = {"batch": batch, "input_shapes": input_shapes, "max_bytes": max_bytes}
    if isinstance(source, ir.Model):
        stored = Stored.of(source) if is_outside(source) else None
        return OnnxModel(source, stored=stored, **how)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            f"expected a path, an OnnxModel or an onnx_ir.Model, got {type(source).__name__}"
        )
    model, stored = read(source)
    return OnnxModel(model, stored=stored, **how)
