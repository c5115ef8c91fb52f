"""Lengths of channels that an ONNX file says in attributes and constants, where some are removed.

Each rule looks at one node whose tensors become smaller and tells which attribute or constant input
has to become another.  Constants are told by the use (a node and the place among its inputs), for
exporters share equal ones.  A number that fits already stays; a length that the model computes from
the shapes of its tensors follows by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from ...graph.change.removal import Removal
from ...graph.find.channels import Unfit
from ...graph.find.nodes import Shape
from .operator_names import operator
from .operators.recurrent import GATES
from .structure import Structure

Use = tuple[str, int]  # the first output of a node and the place among its inputs
FILLED = {"ConstantOfShape": 0, "Expand": 1}  # and the input that says the shape
PASSED_ON = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")


class Lengths:
    """What has to be said anew in a model.

    Parameters
    ----------
    structure : Structure
    removal : Removal

    Attributes
    ----------
    uses : dict of (str, int) to (str, ndarray)
        By use: the constant that is read there, and what it has to hold.
    attributes : dict of str to dict of str to value
        By the first output of a node, the attributes that change.
    """

    def __init__(self, structure: Structure, removal: Removal) -> None:
        self.structure, self.removal = structure, removal
        self.uses: dict[Use, tuple[str, np.ndarray]] = {}
        self.attributes: dict[str, dict[str, Any]] = {}
        for node in structure.ir.graph:
            names = [str(v.name) for v in (*node.inputs, *node.outputs) if v is not None]
            if any(self._name(name) in removal.kept for name in names):
                RULES.get(operator(node), _nothing)(self, node)
                self._constants(node)

    # --- what rules ask -----------------------------------------------------------------------

    def before(self, value: ir.Value) -> Shape:
        return tuple(self.structure.shapes[str(value.name)])

    def after(self, value: ir.Value) -> Shape:
        name = self._name(str(value.name))
        graph = self.removal.graph
        return self.removal.shape(name) if name in graph.shapes else self.before(value)

    def kept(self, value: ir.Value, axis: int) -> np.ndarray:
        """The positions of an axis that stay."""
        own = self.removal.kept.get(self._name(str(value.name)), {})
        return own.get(axis, np.arange(self.before(value)[axis]))

    def value(self, node: ir.Node, place: int) -> np.ndarray | None:
        """A constant input; None where there is none."""
        found = node.inputs[place] if place < len(node.inputs) else None
        return None if found is None else self.structure.known.get(str(found.name))

    def integers(self, node: ir.Node, name: str, place: int) -> np.ndarray | None:
        """An attribute of older opsets that became a constant input."""
        given = node.attributes.get(name)
        if given is not None:
            return np.atleast_1d(np.asarray(given.value, np.int64))
        return self.value(node, place)

    # --- what rules tell ----------------------------------------------------------------------

    def set(self, node: ir.Node, name: str, place: int, values: np.ndarray) -> None:
        """Other integers in an attribute, or in the constant that is its successor."""
        if name in node.attributes:
            if not np.array_equal(np.atleast_1d(node.attributes[name].value), values):
                given = node.attributes[name].value
                single = isinstance(given, int)
                found = int(values[0]) if single else [int(v) for v in values]
                self.attributes.setdefault(_key(node), {})[name] = found
        else:
            self.need(node, place, values)

    def need(self, node: ir.Node, place: int, array: np.ndarray) -> None:
        """An input has to hold ``array``, or where it comes from."""
        value = node.inputs[place]
        assert value is not None
        present = self.structure.known.get(str(value.name))
        if present is not None and np.array_equal(present, array):
            return
        maker = value.producer()
        if maker is None or operator(maker) == "Constant":
            if present is None:
                return
            use = _key(node), place
            array = np.asarray(array, present.dtype)
            if use in self.uses and not np.array_equal(self.uses[use][1], array):
                raise Unfit("a constant of the file would need two values")
            self.uses[use] = str(value.name), array
        elif operator(maker) == "Concat" and array.ndim == 1:
            start = 0
            for i, part in enumerate(maker.inputs):
                assert part is not None
                length = self.before(part)[0]
                self.need(maker, i, array[start : start + length])
                start += length
        elif operator(maker) in PASSED_ON and maker.inputs[0] is not None:
            inner = self.before(maker.inputs[0])
            if array.size == np.prod(inner):
                self.need(maker, 0, array.reshape(inner))
        elif operator(maker) in FILLED and np.all(array == array.flat[0]):
            self.need(maker, FILLED[operator(maker)], np.array(array.shape))
            if operator(maker) == "Expand" and maker.inputs[0] is not None:
                inner = self.before(maker.inputs[0])
                ends = array.shape[len(array.shape) - len(inner) :]
                found = [1 if n == 1 else m for n, m in zip(inner, ends, strict=True)]
                self.need(maker, 0, np.full(found, array.flat[0]))
        elif operator(maker) == "Slice" and np.all(array == array.flat[0]):
            assert maker.inputs[0] is not None
            cut = zip(self.before(maker.inputs[0]), self.before(value), array.shape, strict=True)
            found = [m if n == old else n for n, old, m in cut]
            self.need(maker, 0, np.full(found, array.flat[0]))
        # Else it is computed, from shapes as a rule: whether it comes out right is seen by a run.

    def _constants(self, node: ir.Node) -> None:
        """Constants that become shorter with what they meet."""
        for place, value in enumerate(node.inputs):
            name = "" if value is None else str(value.name)
            own = self.removal.kept.get(name)
            if own and name in self.structure.known and name not in self.removal.graph.weights:
                self.need(node, place, self.removal.taken(self.structure.known[name], own))

    def _name(self, name: str) -> str:
        return self.structure.alias.get(name, name)


def _key(node: ir.Node) -> str:
    return str(node.outputs[0].name)


def _nothing(lengths: Lengths, node: ir.Node) -> None:
    """The operator says no length."""


def _convolution(lengths: Lengths, node: ir.Node) -> None:
    place = 3 if operator(node) == "QLinearConv" else 1
    x, weight, y = node.inputs[0], node.inputs[place], node.outputs[0]
    assert x is not None
    assert weight is not None
    transposed = operator(node).startswith("ConvTranspose")
    outer = lengths.after(y if transposed else x)[1]
    groups = node.attributes.get("group")
    if groups is not None and groups.value > 1:
        lengths.set(node, "group", -1, np.array([outer // lengths.after(weight)[1]]))


def _reshape(lengths: Lengths, node: ir.Node) -> None:
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    shape = lengths.integers(node, "shape", 1)
    if shape is None:
        return
    zero_is_zero = "allowzero" in node.attributes and node.attributes["allowzero"].value
    before, after, given = lengths.before(y), lengths.after(y), lengths.after(x)
    new = []
    for i, n in enumerate(shape.tolist()):
        copied = n == 0 and not zero_is_zero and i < len(given) and given[i] == after[i]
        new.append(n if n == -1 or copied or before[i] == after[i] else after[i])
    lengths.set(node, "shape", 1, np.array(new))


def _expand(lengths: Lengths, node: ir.Node) -> None:
    shape = lengths.value(node, 1)
    if shape is None:
        return
    before, after = lengths.before(node.outputs[0]), lengths.after(node.outputs[0])
    shift = len(after) - len(shape)
    new = [
        n if n == 1 or before[i + shift] == after[i + shift] else after[i + shift]
        for i, n in enumerate(shape.tolist())
    ]
    lengths.set(node, "", 1, np.array(new))


def _filled(lengths: Lengths, node: ir.Node) -> None:
    lengths.set(node, "", 0, np.array(lengths.after(node.outputs[0])))


def _split(lengths: Lengths, node: ir.Node) -> None:
    x = node.inputs[0]
    assert x is not None
    axis = _axis(node, len(lengths.before(x)))
    parts = np.array([lengths.after(y)[axis] for y in node.outputs])
    if lengths.integers(node, "split", 1) is not None:
        lengths.set(node, "split", 1, parts)
        return
    total, n = int(parts.sum()), len(parts)
    most = -(-total // n)
    equal = [min(most, max(total - i * most, 0)) for i in range(n)]
    if parts.tolist() != equal:
        raise Unfit("a split into equal parts would have unequal ones")


def _slice(lengths: Lengths, node: ir.Node) -> None:
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    starts, ends = (lengths.integers(node, name, i) for i, name in enumerate(("starts", "ends"), 1))
    if starts is None or ends is None:
        return
    axes, steps = lengths.integers(node, "axes", 3), lengths.integers(node, "steps", 4)
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    starts, ends = starts.copy(), ends.copy()
    rank = len(lengths.before(x))
    for i, (axis, step) in enumerate(zip((axes % rank).tolist(), steps.tolist(), strict=True)):
        stays, n = lengths.kept(x, axis), lengths.before(x)[axis]
        if len(stays) == n:
            continue
        chosen = np.arange(n)[_reach(starts[i], ends[i], step, n)]
        wanted = np.searchsorted(stays, chosen[np.isin(chosen, stays)])
        count, fits = len(stays), np.arange(len(stays))
        if np.array_equal(fits[_reach(starts[i], ends[i], step, count)], wanted):
            continue
        if len(wanted) != lengths.after(y)[axis] or not len(wanted):
            raise Unfit("a slice would leave nothing")
        starts[i] = wanted[0]
        ends[i] = wanted[-1] + np.sign(step)
        if ends[i] < 0:
            ends[i] = -1 - count
        if not np.array_equal(fits[_reach(starts[i], ends[i], step, count)], wanted):
            raise Unfit("a slice takes every other of its channels, which would leave gaps")
    lengths.set(node, "starts", 1, starts)
    lengths.set(node, "ends", 2, ends)


def _reach(start: int, end: int, step: int, n: int) -> slice:
    return slice(int(start), None if step < 0 and end < -n else int(end), int(step))


def _gather(lengths: Lengths, node: ir.Node) -> None:
    x = node.inputs[0]
    indices = lengths.value(node, 1)
    assert x is not None
    if indices is None:
        return
    axis = _axis(node, len(lengths.before(x)))
    stays, n = lengths.kept(x, axis), lengths.before(x)[axis]
    if len(stays) == n:
        return
    here = np.isin(indices % n, stays)
    if indices.ndim != 1 and not here.all():
        raise Unfit("it is picked by indices along several axes")
    chosen = indices % n if indices.ndim != 1 else (indices % n)[here]
    lengths.set(node, "", 1, np.searchsorted(stays, chosen))


def _pad(lengths: Lengths, node: ir.Node) -> None:
    y = node.outputs[0]
    pads = lengths.integers(node, "pads", 1)
    if pads is None:
        return
    pads, rank = pads.copy(), len(lengths.before(y))
    given = lengths.value(node, 3)
    half = len(pads) // 2
    for i, axis in enumerate(range(rank) if given is None else (given % rank).tolist()):
        stays, n = lengths.kept(y, axis), lengths.before(y)[axis]
        before, after = int(pads[i]), int(pads[half + i])
        pads[i] = np.count_nonzero(stays < before) if before > 0 else before
        pads[half + i] = np.count_nonzero(stays >= n - after) if after > 0 else after
    lengths.set(node, "pads", 1, pads)


def _resize(lengths: Lengths, node: ir.Node) -> None:
    sizes = lengths.value(node, 3)
    if sizes is not None and sizes.size == len(lengths.after(node.outputs[0])):
        lengths.set(node, "", 3, np.array(lengths.after(node.outputs[0])))


def _quantized(lengths: Lengths, node: ir.Node) -> None:
    """Scales and zero points of channels; those that several nodes share are no weights."""
    x = node.inputs[0]
    assert x is not None
    found = node.attributes.get("axis")
    axis = (1 if found is None else int(found.value)) % max(1, len(lengths.before(x)))
    for place in (1, 2):
        value = lengths.value(node, place)
        name = "" if value is None else str(node.inputs[place].name)  # type: ignore[union-attr]
        if value is not None and value.size > 1 and name not in lengths.removal.graph.weights:
            lengths.need(node, place, value[lengths.kept(x, axis)])


def _recurrent(lengths: Lengths, node: ir.Node) -> None:
    weight = node.inputs[2]
    assert weight is not None
    hidden = lengths.after(weight)[2]
    lengths.set(node, "hidden_size", -1, np.array([hidden]))
    for place in (5, 6):  # a first state that is the same for all units
        state = lengths.value(node, place)
        if state is not None:
            lengths.need(node, place, state[..., :hidden])


def _axis(node: ir.Node, rank: int) -> int:
    found = node.attributes.get("axis")
    return 0 if found is None else int(found.value) % rank


RULES: dict[str, Callable[[Lengths, ir.Node], None]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "QLinearConv", "ConvInteger"), _convolution),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantized),
    **dict.fromkeys(GATES, _recurrent),
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
}
