"""A :class:`Reorganizer` that is made when a framework has made the model's optimizer.

The settings are known when a callback is written down, the optimizer, the loader and the length
of the training only when it starts, and the state of a checkpoint may arrive before that.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from ..torch import Reorganizer
from ..torch.trace import unwrap
from ..torch.training.schedule import restarts
from .metrics import metrics

MADE_LATER = ("model", "optimizer", "loader", "ema")
BY_STEPS = ("every_steps", "recent", "maturity")  # callbacks are called once an epoch


class DeferredReorganizer:
    """What the callbacks share: settings, the Reorganizer once it is made, its state.

    Parameters
    ----------
    loader : iterable or None
        Calibration data; what :meth:`_start` gets by default.
    ema : object or None
        As in :class:`Reorganizer`; what :meth:`_start` gets by default.
    prefix : str
        Of the names of the figures.
    options : dict
        Further arguments of :class:`Reorganizer` by name.

    Raises
    ------
    TypeError
        For an option that :class:`Reorganizer` does not have.
    """

    def __init__(
        self, loader: Iterable[Any] | None, ema: Any, prefix: str, options: dict[str, Any]
    ) -> None:
        no_options = (*MADE_LATER, *BY_STEPS)
        known = [n for n in inspect.signature(Reorganizer).parameters if n not in no_options]
        for name in options:
            if name not in known:
                raise TypeError(f"expected an option among {', '.join(known)}; got {name!r}")
        self.loader, self.ema, self.prefix, self.options = loader, ema, prefix, options
        self._reorganizer: Reorganizer | None = None
        self._saved: dict[str, Any] | None = None

    @property
    def reorganizer(self) -> Reorganizer | None:
        """The Reorganizer of the training that runs or ran last."""
        return self._reorganizer

    def state_dict(self) -> dict[str, Any]:
        """State of the Reorganizer, or the one that was loaded for it."""
        return (self._saved or {}) if self._reorganizer is None else self._reorganizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state when the training starts; an empty one means none.

        Raises
        ------
        ValueError
            It is no dict.
        """
        if not isinstance(state_dict, Mapping):
            raise ValueError(
                f"expected the state of a Reorganizer as a dict, got a {type(state_dict).__name__}"
            )
        self._saved = dict(state_dict)

    def _start(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Iterable[Any] | None,
        epochs: int | None,
        epoch: int,
        ema: Any = None,
        schedules: Sequence[tuple[Any, float]] = (),
        writer: Any = None,
    ) -> None:
        """Make the Reorganizer; where a state was loaded, it continues from there.

        So does a second training of the same model that goes on counting its epochs; any other
        starts anew.

        Parameters
        ----------
        model, optimizer, loader, epochs, ema, writer
            As in :class:`Reorganizer`; what the user gave counts more.
        epoch : int
            The first epoch of this training.
        schedules : sequence of (scheduler, float)
            Where ``every="restarts"`` finds the one that restarts, and how often each is stepped
            in an epoch.

        Raises
        ------
        ValueError
            Without calibration data, without a schedule that restarts where one is asked for,
            and for what :class:`Reorganizer` refuses.
        """
        loader = self.loader if self.loader is not None else loader
        if loader is None:
            raise ValueError(
                "the trainer has no training data to calibrate with: give the callback loader=..., "
                "an iterable of (inputs, labels)"
            )
        before, saved = self._reorganizer, self._saved
        if saved is None and before is not None and before.model is unwrap(model):
            saved = before.state_dict() if before.last_epoch < epoch else None
        options = {"epochs": epochs, "writer": writer, **self.options}
        if options.get("every") == "restarts":
            options["every"] = restarting(schedules)
        average = self.ema if self.ema is not None else ema
        made = Reorganizer(model, optimizer, loader, ema=average, **options)
        if saved:
            made.load_state_dict(saved)
        self._reorganizer, self._saved = made, None

    def _figures(self, epoch: int) -> dict[str, float]:
        """Figures of what is due after the epoch before ``epoch`` (the first is 0), if it is."""
        if self._reorganizer is None or epoch < 1:
            return {}
        report = self._reorganizer.step(epoch - 1)
        return {} if report is None else metrics(report, self.prefix)

    def _end(self) -> None:
        """The training is over: what was frozen for an event is free again."""
        if self._reorganizer is not None:
            self._reorganizer.release()


def restarting(schedules: Sequence[tuple[Any, float]]) -> Callable[[int], bool]:
    """A function of the epoch: whether a schedule of the learning rate restarts at its end.

    Parameters
    ----------
    schedules : sequence of (scheduler, float)
        With the number of times that each is stepped in an epoch; a restart in the middle of an
        epoch counts as one at its end.

    Raises
    ------
    ValueError
        Where no schedule restarts.
    """
    for scheduler, steps in schedules:
        scheduler = getattr(scheduler, "scheduler", scheduler)  # out of Accelerate's wrapper
        with contextlib.suppress(ValueError):  # a schedule without restarts
            if restarts(scheduler) is not None:
                return partial(_restarts_in, scheduler, steps)
    found = ", ".join(type(scheduler).__name__ for scheduler, _ in schedules) or "no schedule"
    raise ValueError(
        "every='restarts' needs a schedule such as CosineAnnealingWarmRestarts, the trainer has "
        f"{found}: give every=r epochs"
    )


def _restarts_in(scheduler: Any, steps: float, epoch: int) -> bool:
    begins = restarts(scheduler)
    assert begins is not None
    first, last = epoch * steps, (epoch + 1) * steps
    return any(first < n for n in itertools.takewhile(lambda n: n <= last + 1e-6, begins))
