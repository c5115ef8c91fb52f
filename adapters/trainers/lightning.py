"""A callback for Lightning 2.x (``lightning`` or ``pytorch_lightning``).

Example
-------
::

    from rejuvenet.adapters.trainers.lightning import ReorganizerCallback

    trainer = Trainer(max_epochs=100, callbacks=[ReorganizerCallback(loader, every=20)])
    trainer.fit(module, train_loader)
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from .deferred import DeferredReorganizer

__all__ = ["ReorganizerCallback"]

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch import callbacks as callbacks_of_lightning
else:  # one library under two names: the one in use, else the one that is installed
    names = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
    used = [name for name in names if name in sys.modules]
    found = [name for name in names if importlib.util.find_spec(name) is not None]
    library = importlib.import_module(names[(used or found or ["lightning"])[0]])
    Callback, callbacks_of_lightning = library.Callback, library.callbacks


class ReorganizerCallback(DeferredReorganizer, Callback):
    """Reorganizes layers before the first batch of an epoch, where that is due.

    The state goes into Lightning's checkpoints, the figures of an event to all loggers of the
    trainer and to ``trainer.callback_metrics``, its pictures to a TensorBoard logger.

    Parameters
    ----------
    loader : iterable, optional
        Calibration data; the trainer's training data by default.
    ema : object, optional
        As in :class:`.Reorganizer`; the average of Lightning's ``WeightAveraging`` callback by
        default.
    module : str
        Path of the network inside the LightningModule, such as ``"backbone"``; the
        LightningModule itself, called by its ``forward``, by default.
    prefix : str
        Of the names of the figures.
    **options
        Further arguments of :class:`rejuvenet.adapters.torch.Reorganizer`; ``epochs`` is the
        trainer's ``max_epochs`` by default, and ``every="restarts"`` means wherever its
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
        self.module = module

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the Reorganizer: model, optimizers and the checkpoint's state are in place."""
        optimizers = trainer.optimizers
        limited = trainer.max_epochs is not None and trainer.max_epochs > 0
        self._start(
            pl_module.get_submodule(self.module),
            optimizers if len(optimizers) > 1 else next(iter(optimizers), None),
            trainer.train_dataloader,
            trainer.max_epochs if limited else None,
            trainer.current_epoch,
            self._average(trainer),
            [
                (config.scheduler, _steps(trainer, config))
                for config in trainer.lr_scheduler_configs
            ],
            _writer(trainer),
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The event, if one is due."""
        figures = self._figures(trainer.current_epoch)
        if not figures:
            return
        trainer.callback_metrics.update(
            {name: torch.tensor(value) for name, value in figures.items()}
        )
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give back what was frozen."""
        self._end()

    def _average(self, trainer: Trainer) -> Any:
        """The averaged copy of the network that a callback of the trainer keeps."""
        # Since Lightning 2.6.
        kind = getattr(callbacks_of_lightning, "WeightAveraging", ())
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            average = getattr(callback, "_average_model", None)
            if isinstance(callback, kind) and average is not None:
                return average.module.get_submodule(self.module)
        return None


def _steps(trainer: Trainer, config: Any) -> float:
    """How often Lightning steps a schedule in an epoch."""
    if config.interval == "epoch":
        return 1 / config.frequency
    return trainer.num_training_batches / trainer.accumulate_grad_batches / config.frequency


def _writer(trainer: Trainer) -> Any:
    """Of the trainer's TensorBoard logger, if it has one."""
    for logger in trainer.loggers:
        writer = getattr(logger, "experiment", None)
        if hasattr(writer, "add_image"):
            return writer
    return None
