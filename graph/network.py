"""What a network must be able to do to be arranged and reorganized.

The procedures (:mod:`.collecting`, :mod:`.reorganizing`) know a network by :class:`Network` alone.
Each adapter has one class that is such a network; a numpy network in the tests is the third.
Values of weights pass as numpy arrays by name, activations as the network's own arrays, which only
its :class:`Arrays` look into.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from .arrays import Arrays
from .change.normalizations import Correction
from .change.removal import Removal
from .find.channels import ChannelGroup
from .find.nodes import Graph
from .plan.plan import GroupPlan

T = TypeVar("T")
Watch = Mapping[str, Sequence[Callable[[Any], None]]]


class NotMade(RuntimeError):
    """A pass does not make a tensor that the graph has."""


class BatchNormalization(NamedTuple):
    """How a normalization uses the statistics of the batch that it reads, in one run.

    With ``m, v`` mean and variance of every channel of the batch, it takes ``m + offset`` and
    ``v * factor + constant`` in place of its running statistics.

    Attributes
    ----------
    tensor : str
        What it reads.
    mean : str
        Name of its running mean.
    offset, factor, constant : ndarray of float64, shape (channels,)
    """

    tensor: str
    mean: str
    offset: np.ndarray
    factor: np.ndarray
    constant: np.ndarray


class Transaction(Protocol):
    """Changes of the weights of a network, undone where the block fails."""

    def original(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Values from before the transaction, apart from the network's memory."""
        ...

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Present values, apart from the network's memory."""
        ...

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """New values by name, of the shapes that the weights have."""
        ...

    def undone(self) -> contextlib.AbstractContextManager[None]:
        """The network as it was before the transaction, for as long as the block lasts."""
        ...


class Network(Protocol):
    """A network that runs, shows tensors of its graph and changes its weights."""

    @property
    def graph(self) -> Graph:
        """The network as structural nodes."""
        ...

    @property
    def groups(self) -> list[ChannelGroup]:
        """The channel groups of the graph."""
        ...

    @property
    def arrays(self) -> Arrays:
        """What looks into the activations that :meth:`run` shows."""
        ...

    @property
    def example_samples(self) -> int:
        """How many samples the inputs had that the graph was made with."""
        ...

    def samples(self, inputs: Any) -> int:
        """How many samples a batch has."""
        ...

    def run(
        self,
        inputs: Any,
        watch: Watch,
        outputs: bool = False,
        statistics: Sequence[BatchNormalization] = (),
    ) -> list[np.ndarray]:
        """One forward pass in evaluation mode.

        Parameters
        ----------
        inputs : object
            One batch, as the data give it.
        watch : mapping of tensor name to callables
            Called with the tensor's array when it is made.
        outputs : bool
            Whether the floating-point outputs are wanted; a run without may end early.
        statistics : sequence of BatchNormalization
            Normalizations that take the batch's own statistics, in the order of execution.

        Returns
        -------
        list of ndarray
            The floating-point outputs, or an empty list.

        Raises
        ------
        NotMade
            A tensor of ``watch`` is none of this pass.
        """
        ...

    def stepwise(
        self, inputs: Any, tensors: Sequence[str], statistics: Sequence[BatchNormalization] = ()
    ) -> Iterator[tuple[Any, int | None]]:
        """One forward pass in evaluation mode that stands at some tensors.

        Weights that are written while it stands count from there on.

        Parameters
        ----------
        inputs : object
            One batch, as the data give it.
        tensors : sequence of str
            Where it stands, one after the other; two may be the same.
        statistics : sequence of BatchNormalization
            As in :meth:`run`.

        Yields
        ------
        activation : object or None
            The tensor's array, which may be overwritten when the pass goes on; None where the
            pass over this batch does not make it.
        kept : int or None
            Bytes that the pass keeps to go on; None where it begins anew instead.
        """
        ...

    @property
    def number_types(self) -> Iterable[str]:
        """Names of the number types of weights and example inputs, such as ``"float32"``."""
        ...

    def example_outputs(self, shake: float = 0.0, weights: bool = False) -> list[np.ndarray]:
        """Outputs, in float64, for the inputs that the graph was made with.

        Parameters
        ----------
        shake : float
            Size of a random relative change of the inputs.
        weights : bool
            Whether the weights are changed as well.

        Raises
        ------
        ValueError
            The network cannot run.
        """
        ...

    def transaction(self) -> contextlib.AbstractContextManager[Transaction]:
        """Where weights are changed: for good, or not at all where the block fails."""
        ...

    def without(self, removal: Removal) -> contextlib.AbstractContextManager[None]:
        """The network without some channels for as long as the block lasts, to run as an example.

        Raises
        ------
        Unfit
            Something says their number that cannot be changed.
        """
        ...

    def remove(self, removal: Removal) -> None:
        """Remove channels for good; the graph and the groups are then those of before."""
        ...

    def check(self, group: ChannelGroup) -> None:
        """Raise Unfit where channels of a group cannot be merged, for a reason of the network's."""
        ...

    def gradients(self, data: Data, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Gradient of the mean cross-entropy by weight, in one pass over labelled data.

        Raises
        ------
        ValueError
            The network has no gradients, or the data no labels.
        """
        ...


class Data(Protocol):
    """Batches that can be read several times, the same at every time."""

    def read(self, purpose: str) -> Iterator[tuple[Any, np.ndarray | None]]:
        """``(inputs, labels)``: class indices (n,), class weights (n, C), or None."""
        ...

    def labelled(self, labels: Sequence[np.ndarray]) -> Data:
        """The same batches with other labels, those of one batch after those of the other."""
        ...


class Team(Protocol):
    """The processes that change one network together; see :data:`ALONE`."""

    @property
    def world(self) -> int:
        """How many there are."""
        ...

    @property
    def first(self) -> bool:
        """Whether this process decides."""
        ...

    def together(self) -> contextlib.AbstractContextManager[None]:
        """A step without communication; where it fails in one process, all raise."""
        ...

    def sum_arrays(self, *values: np.ndarray | float) -> list[np.ndarray]:
        """Sums over all processes, in float64."""
        ...

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in their order."""
        ...

    def from_first(self, value: T) -> T:
        """The value of the first process, in all."""
        ...


class _Alone:
    """One process."""

    world = 1
    first = True

    def together(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def sum_arrays(self, *values: np.ndarray | float) -> list[np.ndarray]:
        return [np.asarray(value, dtype=np.float64) for value in values]

    def gather(self, value: T) -> list[T]:
        return [value]

    def from_first(self, value: T) -> T:
        return value


ALONE: Team = _Alone()

# Changes what goes along with a network (optimizers, averaged copies): gets the transaction, the
# plans, what recalibration did to running statistics by the name of the mean, and the weights
# before the plans (None for those before the transaction).
Follow = Callable[
    [
        Any,
        Sequence[GroupPlan],
        Mapping[str, Correction],
        Mapping[str, np.ndarray] | None,
    ],
    None,
]
