"""After which epochs layers are reorganized (``if n % r`` of Algorithm 1), as the user gives it.

A learning rate that has decayed teaches new channels little.  With cosine restarts (Loshchilov and
Hutter 2017) channels are therefore best born where the rate starts anew: after epoch ``n - 1``
where ``n = T_0, T_0 + T_0 T_mult, T_0 + T_0 T_mult + T_0 T_mult^2, ...``
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any

from torch.optim.lr_scheduler import SequentialLR

from ....graph.arguments import check_kind
from ....graph.cautions import warn
from ....graph.plan.recipe import Recipe, given

Every = int | Collection[int] | Callable[[int], bool] | Any


class Schedule:
    """After which epochs something is due, until a share of a training is over.

    Parameters
    ----------
    every, stop, epochs
        As in :class:`.Reorganizer`.
    recipe : Recipe
        Has the defaults.
    """

    def __init__(
        self, every: Every | None, stop: float | None, epochs: int | None, recipe: Recipe
    ) -> None:
        self.every = recipe.every if every is None else every
        is_after(self.every, 0)  # raises for what is no schedule
        if stop is not None and epochs is None:
            raise ValueError("stop is a share of the training: give epochs, its length, as well")
        if stop is None:
            stop = recipe.stop if isinstance(self.every, int) else 1.0
        self.stop = replace(recipe, stop=stop).stop  # Recipe checks the value
        check_kind(Integral, epochs=epochs)
        if epochs is not None and epochs < 1:
            raise ValueError(f"expected epochs to be at least 1, got {epochs!r}")
        self.epochs = epochs
        self._warn_of_none()

    def _warn_of_none(self) -> None:
        """Say that nothing will be done; a function of the epoch is called at its epochs only."""
        if self.epochs is None or callable(self.every) or any(map(self.due, range(self.epochs))):
            return
        own = isinstance(self.every, (int, Collection))
        every = repr(self.every) if own else type(self.every).__name__
        warn(
            f"nothing will be reorganized: every={every} and stop={self.stop:g} let no event fall "
            f"within {self.epochs} epochs; set every, the number of epochs between two events, or "
            "stop, the share of the training in which they fall"
        )

    def due(self, epoch: int) -> bool:
        """Whether something is due after ``epoch``; nothing is after the last one."""
        if self.is_over(epoch) or not is_after(self.every, epoch):
            return False
        return self.epochs is None or epoch + 1 <= self.stop * self.epochs

    def is_over(self, epoch: int) -> bool:
        """Whether ``epoch`` was the last one."""
        return self.epochs is not None and epoch + 1 >= self.epochs


def recipe_at(epoch: int, recipe: Recipe | Callable[[int], Recipe], ratio: Any) -> Recipe:
    """The recipe of one event; its ratio, or some of a mapping, may be functions of the epoch.

    A refit that it leaves open is that of groups.
    """

    def at(value: Any) -> Any:
        return value(epoch) if callable(value) else value

    found = given(at(recipe), Recipe.preserving).fitting("groups")
    if isinstance(ratio, Mapping):
        return replace(found, ratio={name: at(value) for name, value in ratio.items()})
    return found if ratio is None else replace(found, ratio=at(ratio))


def is_after(every: Every, epoch: int) -> bool:
    """Whether something is due after ``epoch`` (the first one is 0).

    Parameters
    ----------
    every : int, collection of int, callable, or scheduler
        Every so many epochs; after these epochs; where a function of the epoch says so; or where
        a schedule of the learning rate restarts: PyTorch's ``CosineAnnealingWarmRestarts``, also
        as a part of ``SequentialLR``, or timm's ``CosineLRScheduler``, counted in epochs.

    Raises
    ------
    ValueError
        For anything else, and for a schedule without restarts.

    Examples
    --------
    >>> [n for n in range(10) if is_after(3, n)]
    [2, 5, 8]
    >>> is_after({4, 7}, 7)
    True
    """
    if isinstance(every, int) and not isinstance(every, bool):
        if every < 1:
            raise ValueError(f"expected every to be at least 1, got {every!r}")
        return (epoch + 1) % every == 0
    begins = restarts(every)
    if getattr(every, "t_in_epochs", True) is False:  # of timm
        raise ValueError(
            f"expected a schedule that counts epochs, got {type(every).__name__} with "
            "t_in_epochs=False; give every as a number, a set or a function of the epoch"
        )
    if begins is not None:
        return epoch + 1 in itertools.takewhile(lambda n: n <= epoch + 1, begins)
    if isinstance(every, Collection) and not isinstance(every, (str, bytes)):
        return epoch in every
    if callable(every):
        return bool(every(epoch))
    raise ValueError(
        "expected every to be a number of epochs, a set of epochs, a function of the epoch, or a "
        f"scheduler that restarts, got {every!r}"
    )


def restarts(scheduler: Any) -> Iterator[int] | None:
    """Epochs at whose beginning a schedule restarts; None for what is no such schedule."""
    if isinstance(scheduler, SequentialLR):
        return _of_parts(scheduler)
    if hasattr(scheduler, "T_0"):  # torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
        return _cycles(0, scheduler.T_0, scheduler.T_mult, None)
    if hasattr(scheduler, "t_initial") and hasattr(scheduler, "cycle_limit"):  # timm
        if scheduler.cycle_limit == 1:
            raise ValueError(
                f"expected a schedule that restarts, got {type(scheduler).__name__} with one "
                "cycle; give cycle_limit, or every as a number of epochs"
            )
        start = scheduler.warmup_t if scheduler.warmup_prefix else 0
        limit = scheduler.cycle_limit or None
        return _cycles(start, scheduler.t_initial, scheduler.cycle_mul, limit)
    if hasattr(scheduler, "base_lrs"):
        raise ValueError(
            f"expected a scheduler that restarts (CosineAnnealingWarmRestarts), got "
            f"{type(scheduler).__name__}; give every as a number, a set or a function of the epoch"
        )
    return None


def _of_parts(sequence: SequentialLR) -> Iterator[int]:
    """Restarts of those parts that do; the change from one part to the next is none."""
    edges = [0, *sequence._milestones, math.inf]
    found = []
    stretches = itertools.pairwise(edges)
    for part, (start, end) in zip(sequence._schedulers, stretches, strict=True):
        with contextlib.suppress(ValueError):  # a part without restarts
            found.append(_between(restarts(part) or iter(()), int(start), end))
    if not found:
        names = ", ".join(type(part).__name__ for part in sequence._schedulers)
        raise ValueError(
            f"expected a scheduler that restarts, got SequentialLR of {names}; give every as a "
            "number, a set or a function of the epoch"
        )
    return itertools.chain.from_iterable(found)


def _between(begins: Iterator[int], start: int, end: float) -> Iterator[int]:
    """Restarts of a part that is stepped from one epoch until another."""
    return itertools.takewhile(lambda n: n < end, (start + n for n in begins))


def _cycles(start: float, length: float, factor: float, limit: int | None) -> Iterator[int]:
    for number in itertools.count(1):
        start, length = start + length, length * factor
        if limit is not None and number >= limit:
            return
        yield -int(-start // 1)  # the first whole epoch of the cycle
