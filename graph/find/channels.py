"""Channel groups: the weight axes whose channels must change together.

A group has ``o`` channels.  Each of its members is one axis of one weight (or a joint axis, for a
grouped convolution), on which channel ``j`` owns the rows ``positions[j]``: one row as a rule,
``h * w`` rows of a linear layer behind a flatten.  To do anything to the group is to do it to the
rows of all its members.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["producer", "per_channel", "consumer"]

# Why merging is approximate, and far from it: what reads the channels is itself made from the data.
SUMMED = "summed in a product of two tensors, neither of which is a weight"


class Unfit(ValueError):
    """A group cannot be changed in the way that was asked for; others of the model may be."""


@dataclass(frozen=True)
class Member:
    """One axis of one weight that belongs to a channel group.

    Attributes
    ----------
    weight : str
        Name of the parameter, buffer or initializer.
    kind : {"producer", "per_channel", "consumer"}
        Whether the axis makes the channels, scales them, or reads them.
    role : str
        What the weight is to its operator: ``"weight"``, ``"bias"``, ``"scale"``, ``"shift"``,
        ``"running_mean"``, ``"running_var"``, ``"slope"`` or ``"parameter"``.
    view : tuple of int
        Shape that the weight is reshaped to: its own, or ``(groups, o, i, ...)`` for the input
        axis of a grouped convolution.
    axes : tuple of int
        Axes of the view that are flattened, row-major, into rows.
    positions : ndarray of int, shape (channels, m)
        Rows that each channel owns; ``m`` rows of one channel correspond in this order.
    origin : str
        Name of the producer whose channels this axis meets (before any sum with others).
    trained : bool
        False for buffers, which are never re-initialized (running statistics excepted).
    fan_in : int
        Of a consumer: how many inputs each output of its product has, wherever the axes of its
        outputs stand; 0 where not known.
    """

    weight: str
    kind: Kind
    role: str
    view: tuple[int, ...]
    axes: tuple[int, ...]
    positions: np.ndarray
    origin: str = ""
    trained: bool = True
    fan_in: int = 0

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Shape of what one channel owns: ``(m, ...)``."""
        rest = (n for axis, n in enumerate(self.view) if axis not in self.axes)
        return (self.positions.shape[1], *rest)

    def channels(self, values: np.ndarray) -> np.ndarray:
        """What every channel owns of a weight: a copy of shape ``(channels, m, ...)``."""
        return self.rows(values)[self.positions]

    def replaced(
        self,
        values: np.ndarray,
        content: np.ndarray | float,
        channels: np.ndarray | slice = slice(None),
    ) -> np.ndarray:
        """A copy of a weight in which ``channels`` (all of them by default) own ``content``."""
        rows = np.array(self.rows(values))
        rows[self.positions[channels]] = content
        return self.restore(rows, values.shape)

    def rows(self, values: np.ndarray) -> np.ndarray:
        """``values`` with the member's axes first and flattened: shape ``(rows, ...)``.

        A copy or a view, as numpy decides; :meth:`restore` is its inverse.
        """
        viewed = np.moveaxis(values.reshape(self.view), self.axes, range(len(self.axes)))
        return viewed.reshape(-1, *viewed.shape[len(self.axes) :])

    def restore(self, rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The weight of ``shape`` whose :meth:`rows` are ``rows``."""
        lead = tuple(self.view[axis] for axis in self.axes)
        viewed = rows.reshape(*lead, *rows.shape[1:])
        return np.ascontiguousarray(
            np.moveaxis(viewed, range(len(self.axes)), self.axes).reshape(shape)
        )


@dataclass(frozen=True, eq=False)
class Tap:
    """The tensor whose activations describe a group: what its (last) consumer reads.

    Attributes
    ----------
    tensor : str
        Name of the tensor in the graph; the input of a pooling before a linear layer counts as
        what the layer reads, so that the slices keep their spatial extent.
    axis : int
        Its channel axis.
    index : ndarray of int, shape (channels,) or (channels, m)
        Place of each channel of the group along that axis, or the ``m`` places that it has
        (``concat(x, x)``, a depthwise convolution that makes several of one).
    samples : int
        The axis of samples, each of which may have several rows (windows of an attention).
    earlier : tuple of Tap
        The same channels in other tensors that consumers read, in the order of execution: all
        count where channels are judged.
    """

    tensor: str
    axis: int
    index: np.ndarray
    samples: int = 0
    earlier: tuple[Tap, ...] = ()

    @property
    def each(self) -> tuple[Tap, ...]:
        """All tensors that describe the group, in the order of execution."""
        return *self.earlier, self


@dataclass(frozen=True)
class ChannelGroup:
    """Weight axes whose channels must change together.

    Attributes
    ----------
    name : str
        Name of the first producer.
    channels : int
        Number of channels ``o``.
    members : tuple of Member
        Every weight axis of the group, in the order of execution.
    tap : Tap or None
        None where no tensor holds the channels along an axis of their own, beside samples.
    exchangeable : tuple of ndarray of int
        Disjoint sets of channel indices; channels of one set may be exchanged.  A plain group
        has one set of all channels; behind a grouped convolution, one set a group.
    frozen : str or None
        Why nothing may move, or None.
    exact_merge : str or None
        None where merging channels that respond alike keeps the function; else why merging is
        approximate (a product with another tensor, a normalization over channels, ...).
    unit : {"channel", "set"}
        What a "channel" of the group is: one channel, or a whole set (an attention head, a group
        of a GroupNorm) that changes places with others, all its channels in their order.
    """

    name: str
    channels: int
    members: tuple[Member, ...]
    tap: Tap | None
    exchangeable: tuple[np.ndarray, ...]
    frozen: str | None = None
    exact_merge: str | None = None
    unit: Literal["channel", "set"] = "channel"

    @property
    def producers(self) -> tuple[Member, ...]:
        """Members whose axis makes the channels, biases included."""
        return tuple(m for m in self.members if m.kind == "producer")

    @property
    def per_channel(self) -> tuple[Member, ...]:
        """Members with one value (or filter) for each channel."""
        return tuple(m for m in self.members if m.kind == "per_channel")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """Members whose axis reads the channels."""
        return tuple(m for m in self.members if m.kind == "consumer")
