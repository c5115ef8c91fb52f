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

from .deferred import DeferredReorganizer

__all__ = ["ReorganizerEvents", "ReorganizerHandler"]


class ReorganizerEvents(EventEnum):
    """What a trainer with a :class:`ReorganizerHandler` also fires."""

    REORGANIZED = "reorganized"


class ReorganizerHandler(DeferredReorganizer):
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
        super().__init__(loader, ema, prefix, options)
        self.model, self.optimizer = model, optimizer

    def attach(self, trainer: Engine) -> ReorganizerHandler:
        """Listen to a trainer."""
        # Loggers take the number of the epoch for the step of the event.
        attributes = {event: "epoch" for event in ReorganizerEvents}
        trainer.register_events(*ReorganizerEvents, event_to_attr=attributes)
        trainer.add_event_handler(Events.STARTED, self._begin)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._event)
        trainer.add_event_handler(Events.COMPLETED, self._end)
        return self

    def _begin(self, trainer: Engine) -> None:
        state = trainer.state
        self._start(self.model, self.optimizer, None, state.max_epochs, state.epoch)

    def _event(self, trainer: Engine) -> None:
        if figures := self._figures(trainer.state.epoch - 1):
            trainer.state.metrics.update(figures)
            trainer.fire_event(ReorganizerEvents.REORGANIZED)
