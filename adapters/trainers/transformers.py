"""A callback for Hugging Face's Trainer.

Example
-------
::

    from rejuvenet.adapters.trainers.transformers import ReorganizerCallback

    trainer = Trainer(model, args, train_dataset=data)
    ReorganizerCallback(loader, every=20).attach(trainer)
    trainer.train()
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from accelerate.optimizer import AcceleratedOptimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from .deferred import DeferredReorganizer

__all__ = ["ReorganizerCallback"]


class ReorganizerCallback(DeferredReorganizer, TrainerCallback, ExportableState):
    """Reorganizes layers before the first batch of an epoch, where that is due.

    The state stands in ``trainer_state.json`` of every checkpoint, and a resumed training finds
    it there.  The figures of an event go to the trainer's log, and with it to everything that
    ``report_to`` names; for that the callback has to know its trainer (:meth:`attach`).

    Parameters
    ----------
    loader : iterable, optional
        Calibration data; the trainer's training data by default.
    ema : object, optional
        As in :class:`.Reorganizer`.
    module : str
        Path of the network inside the model, such as ``"backbone"``; the model by default.
    prefix : str
        Of the names of the figures.
    **options
        Further arguments of :class:`rejuvenet.adapters.torch.Reorganizer`; ``epochs`` is the
        trainer's number of epochs by default, and ``every="restarts"`` means wherever its
        learning rate restarts.

    Raises
    ------
    TypeError
        For an unknown option.
    """

    def __init__(
        self,
        loader: Iterable[Any] | None = None,
        ema: Any = None,
        *,
        module: str = "",
        prefix: str = "reorganizer",
        **options: Any,
    ) -> None:
        super().__init__(loader, ema, prefix, options)
        self._trainer: Trainer | None = None
        self.module = module

    def attach(self, trainer: Trainer) -> ReorganizerCallback:
        """Join a trainer, and log where it logs."""
        trainer.add_callback(self)
        self._trainer = trainer
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **made: Any
    ) -> None:
        """Make the Reorganizer: model, optimizer and the checkpoint's state are in place."""
        if state.global_step:
            states: Any = state.stateful_callbacks or {}  # by the name of the class
            try:
                saved = states.get(type(self).__name__, {}).get("attributes", {}).get("saved", {})
            except AttributeError:
                raise ValueError("expected the callbacks of trainer_state.json by name") from None
            self.load_state_dict(saved)
        optimizer, loader = made.get("optimizer"), made.get("train_dataloader")
        if isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        self._start(
            made["model"].get_submodule(self.module),
            optimizer,
            # Accelerate counts the epochs of a loader by how often it is read.
            getattr(loader, "base_dataloader", loader),
            round(state.num_train_epochs) or None,
            _epoch(state),
            None,
            [(made.get("lr_scheduler"), state.max_steps / max(1, state.num_train_epochs))],
        )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **made: Any
    ) -> None:
        """The event, if one is due."""
        figures = self._figures(_epoch(state))
        if not figures:
            return
        if self._trainer is not None:
            self._trainer.log(figures)
        else:
            state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **made: Any
    ) -> None:
        """Give back what was frozen."""
        self._end()

    def state(self) -> dict[str, Any]:
        """What the trainer writes into ``trainer_state.json``."""
        return {"args": {}, "attributes": {"saved": self.state_dict()}}

    @property
    def saved(self) -> dict[str, Any]:
        """State of the Reorganizer."""
        return self.state_dict()

    @saved.setter
    def saved(self, state: dict[str, Any]) -> None:
        # Only the trainer sets it, on a callback that it made without a loader and options.
        raise ValueError(
            "restore_callback_states_from_checkpoint makes callbacks anew from a JSON file, which "
            "holds no loader: leave it off; ReorganizerCallback finds its state without it"
        )


def _epoch(state: TrainerState) -> int:
    """The epoch that begins or goes on; ``state.epoch`` is a sum of steps / steps an epoch."""
    return int((state.epoch or 0) + 1e-6)
