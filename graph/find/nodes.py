"""The structural nodes: all that the channel graph knows of a network.

An adapter translates its framework's operators into these kinds; no operator name of any
framework reaches the core.  A kind says only how the axes of the output relate to the axes of
the inputs, which is all that a permutation of channels needs to know.

===============  ================================================================================
kind             output
===============  ================================================================================
Elementwise      ``f(x, y, ...)`` with numpy broadcasting; one input is the identity
PerChannel       ``f(x, p, q, ...)``, each parameter 1-D along one axis of ``x``
Contraction      ``einsum``; an axis in one operand only is read position by position (a kernel)
Positional       anything along ``axes`` (pooling, resizing, sorting); the rest is batch
Reduce           sum, mean, maximum, norm over ``axes``: no order, no position
Reshape          same elements, row-major
Transpose        axes permuted
Concat           along one axis
Gather           constant indices along one axis (slice, split, flip, roll, index_select)
Pad              constant values around an axis
Expand           broadcast to a shape
Unlabelled       positions of its own, whatever the values of other tensors are
Freeze           none: its inputs keep their places, for a reason
Opaque           unknown: both of these
===============  ================================================================================

Tensors are named by strings and described by their shape; a tensor that is neither produced by
a node, nor a weight, nor a graph input is a constant, whose positions are fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Elementwise:
    """``output = f(*inputs)`` elementwise with numpy broadcasting.

    ``op`` names what a weight among the inputs does: ``"mul"`` makes it a scale, ``"add"`` a
    shift, anything else a parameter.  ``homogeneous`` says that ``f(s x) = s f(x)`` for every
    ``s > 0`` and the data ``x``, whatever the weights (rectifiers; the identity).
    """

    inputs: tuple[str, ...]
    output: str
    op: str = "other"
    homogeneous: bool = False


@dataclass(frozen=True)
class PerChannel:
    """``output = f(inputs[0], *parameters)``; parameter ``inputs[1 + i]`` has role ``roles[i]``.

    Every parameter is one-dimensional along ``axis`` of the first input.
    """

    inputs: tuple[str, ...]
    output: str
    axis: int
    roles: tuple[str, ...]


class Window(NamedTuple):
    """Where along one axis a kernel reads: padding before and after, steps, gaps."""

    stride: int
    dilation: int
    before: int
    after: int


@dataclass(frozen=True)
class Contraction:
    """``output[out] = sum a[a_axes] * b[b_axes]``, axes named by strings as in ``einsum``.

    A name in both inputs and not in the output is summed; a name in all three is a batch axis;
    a name in one input only and not in the output is read position by position (the spatial axes
    of a convolution and of its kernel); a name in the output only is new and unlabelled.

    With ``groups``, as of a convolution: the summed axis of ``a``, the axis of the output that only
    ``b`` makes, and the first axis of ``b`` consist of so many parts, and only equal parts meet.

    ``windows`` say where the kernel of a convolution reads, axis by axis; None where not known.
    """

    inputs: tuple[str, str]
    output: str
    a_axes: tuple[str, ...]
    b_axes: tuple[str, ...]
    out_axes: tuple[str, ...]
    groups: int = 1
    windows: tuple[Window, ...] | None = None

    @property
    def summed(self) -> tuple[str, ...]:
        """The axes of both inputs that the output does not have."""
        return tuple(v for v in self.a_axes if v in self.b_axes and v not in self.out_axes)

    def apart(self, shapes: Mapping[str, Shape]) -> tuple[Contraction, list[Shape]]:
        """The same without groups, and the shapes that inputs and output have in it.

        The groups are a batch axis, in front of the axes that consist of them.
        """
        given = [shapes[name] for name in (*self.inputs, self.output)]
        if self.groups == 1:
            return self, given
        (read,) = self.summed
        (made,) = (v for v in self.out_axes if v in self.b_axes)
        axes: list[tuple[str, ...]] = []
        views: list[Shape] = []
        letters = self.a_axes, self.b_axes, self.out_axes
        divided = read, self.b_axes[0], made
        for names, name, shape in zip(letters, divided, given, strict=True):
            at = names.index(name)
            axes.append((*names[:at], "groups", *names[at:]))
            views.append((*shape[:at], self.groups, shape[at] // self.groups, *shape[at + 1 :]))
        a, b, out = axes
        return Contraction(self.inputs, self.output, a, b, out), views


@dataclass(frozen=True)
class Positional:
    """``output`` has the rank of ``input``; along ``axes`` every position has its own meaning.

    ``homogeneous`` as for :class:`Elementwise` (pooling, resizing).
    """

    input: str
    output: str
    axes: tuple[int, ...]
    homogeneous: bool = False


@dataclass(frozen=True)
class Reduce:
    """``output = input`` reduced over ``axes`` by a symmetric function.

    ``homogeneous`` as for :class:`Elementwise` (sum, mean, maximum).
    """

    input: str
    output: str
    axes: tuple[int, ...]
    keepdims: bool
    homogeneous: bool = False


@dataclass(frozen=True)
class Reshape:
    """``output`` holds the elements of ``input`` in the same row-major order."""

    input: str
    output: str


@dataclass(frozen=True)
class Transpose:
    """``output.shape[i] = input.shape[order[i]]``."""

    input: str
    output: str
    order: tuple[int, ...]


@dataclass(frozen=True)
class Concat:
    """``output`` is the inputs one after the other along ``axis``."""

    inputs: tuple[str, ...]
    output: str
    axis: int


@dataclass(frozen=True)
class Gather:
    """``output = numpy.take(input, indices, axis)`` with one-dimensional constant ``indices``."""

    input: str
    output: str
    axis: int
    indices: np.ndarray


@dataclass(frozen=True)
class Pad:
    """``before`` and ``after`` constant positions on every axis; negative ones crop."""

    input: str
    output: str
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Expand:
    """``output = numpy.broadcast_to(input, output.shape)``."""

    input: str
    output: str


@dataclass(frozen=True)
class Unlabelled:
    """``outputs`` have positions of their own, fixed; they do not depend on values."""

    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Freeze:
    """The positions of ``inputs`` mean something: they are frozen for ``reason``."""

    inputs: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Opaque:
    """Nothing is known about ``outputs``; what flows in is frozen for ``reason``."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str


Node = (
    Elementwise
    | PerChannel
    | Contraction
    | Positional
    | Reduce
    | Reshape
    | Transpose
    | Concat
    | Gather
    | Pad
    | Expand
    | Unlabelled
    | Freeze
    | Opaque
)


@dataclass
class Graph:
    """A network as structural nodes in the order of execution.

    Attributes
    ----------
    nodes : list of Node
        In topological order.
    shapes : dict of str to tuple of int
        Shape of every tensor that a node names.
    inputs, outputs : list of str
        Tensors at the boundary; channels that reach them keep their places.
    weights : dict of str to str
        Tensor to the name of the weight (parameter, buffer or initializer) that it is.  Two
        tensors may be the same weight (tied), and they are then one set of places.
    uniform : dict of str to frozenset of int
        For constants, and weights of one axis: the axes along which all slices are equal, so that
        order does not matter.
    buffers : set of str
        Names of the weights that are not trained (running statistics, fixed kernels): they are
        permuted and merged like the others, and never re-initialized.
    """

    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    uniform: dict[str, frozenset[int]] = field(default_factory=dict)
    buffers: set[str] = field(default_factory=set)

    def add_tensor(self, name: str, shape: Shape | list[int]) -> str:
        """Register the shape of a tensor and return its name."""
        self.shapes[name] = tuple(int(n) for n in shape)
        return name

    def temporary(self, shape: Shape | list[int]) -> str:
        """A tensor that exists in the structural description only."""
        return self.add_tensor(f"%{len(self.shapes)}", shape)

    def add_convolution(
        self,
        x: str,
        weight: str,
        output: str,
        groups: int = 1,
        transposed: bool = False,
        windows: tuple[Window, ...] | None = None,
    ) -> None:
        """Add ``output = conv(x, weight)``, ``x`` of shape ``(n, i, *spatial)``.

        ``weight`` has shape ``(o, i / groups, *kernel)``, or ``(i, o / groups, *kernel)`` where
        ``transposed``.
        """
        rank = range(len(self.shapes[x]) - 2)
        channels = ("i", "o") if transposed else ("o", "i")
        self.nodes.append(
            Contraction(
                (x, weight),
                output,
                ("n", "i", *(f"x{k}" for k in rank)),
                (*channels, *(f"k{k}" for k in rank)),
                ("n", "o", *(f"y{k}" for k in rank)),
                groups,
                windows,
            )
        )


def output_names(node: Node) -> tuple[str, ...]:
    """Names of the tensors that a node produces."""
    if isinstance(node, Freeze):
        return ()
    return node.outputs if isinstance(node, (Unlabelled, Opaque)) else (node.output,)


def input_names(node: Node) -> tuple[str, ...]:
    """Names of the tensors that a node reads."""
    if isinstance(node, Unlabelled):
        return ()
    if isinstance(node, (Elementwise, PerChannel, Contraction, Concat, Freeze, Opaque)):
        return tuple(node.inputs)
    return (node.input,)


def uniform_axes(values: np.ndarray) -> frozenset[int]:
    """Axes of a constant along which all slices are equal.

    >>> sorted(uniform_axes(np.array([[1.0, 2.0], [1.0, 2.0]])))
    [0]
    """
    if values.size == 0:
        return frozenset(range(values.ndim))
    return frozenset(
        axis
        for axis in range(values.ndim)
        if bool(np.all(values == np.take(values, [0], axis=axis)))
    )
