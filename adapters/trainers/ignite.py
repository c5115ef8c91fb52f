"""A handler for PyTorch Ignite.

Example
-------
::

    from rejuvenet.adapters.trainers.ignite import ReorganizerHandler

    handler = ReorganizerHandler(model, optimizer, loader, every=20).attach(trainer)
    trainer.run(train_loader, max_epochs=100)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ignite.engine import Engine, EventEnum, Events
from torch import nn

from ..torch import Reorganizer
from .deferred import DeferredReorganizer
from .metrics import metrics


class ReorganizerEvents(EventEnum):
    """What a trainer with a :class:`ReorganizerHandler` also fires."""

    REORGANIZED = "reorganized"


class ReorganizerHandler:
    """Reorganizes layers before the first batch of an epoch, where that is due.

    After an event its figures stand in ``trainer.state.metrics`` and
    ``ReorganizerEvents.REORGANIZED`` is fired, for any logger of Ignite to attach to.  With
    ``state_dict`` and ``load_state_dict`` it belongs into ``to_save`` of Ignite's ``Checkpoint``.

    Parameters
    ----------
    model, optimizer, loader, ema
        As in :class:`rejuvenet.adapters.torch.Reorganizer`.
    prefix : str
        Of the names of the figures.
    **options
        Further arguments of :class:`rejuvenet.adapters.torch.Reorganizer`; ``epochs`` is the
        trainer's ``max_epochs`` by default.

    Raises
    ------
    TypeError
        For an unknown option.

    Notes
    -----
    Without ``recipe`` and ``ratio`` only what is redundant is freed; a fixed share costs accuracy
    where all channels are in use (measured in ``tutorials/paper``).
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Iterable[Any],
        ema: Any = None,
        *,
        prefix: str = "reorganizer",
        **options: Any,
    ) -> None:
        self._deferred = DeferredReorganizer(loader, ema, options)
        self.model, self.optimizer, self.prefix = model, optimizer, prefix

    @property
    def reorganizer(self) -> Reorganizer | None:
        """The Reorganizer of the training that runs or ran last."""
        return self._deferred.reorganizer

    def attach(self, trainer: Engine) -> ReorganizerHandler:
        """Listen to a trainer."""
        # Loggers take the number of the epoch for the step of the event.
        attributes = {event: "epoch" for event in ReorganizerEvents}
        trainer.register_events(*ReorganizerEvents, event_to_attr=attributes)
        trainer.add_event_handler(Events.STARTED, self._start)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._event)
        trainer.add_event_handler(Events.COMPLETED, self._end)
        return self

    def state_dict(self) -> dict[str, Any]:
        """State of the Reorganizer."""
        return self._deferred.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` when the trainer starts."""
        self._deferred.load_state_dict(state)

    def _start(self, trainer: Engine) -> None:
        state = trainer.state
        self._deferred.start(self.model, self.optimizer, None, state.max_epochs, state.epoch)

    def _event(self, trainer: Engine) -> None:
        report = self._deferred.before_epoch(trainer.state.epoch - 1)
        if report is not None:
            trainer.state.metrics.update(metrics(report, self.prefix))
            trainer.fire_event(ReorganizerEvents.REORGANIZED)

    def _end(self, trainer: Engine) -> None:
        self._deferred.end()
