"""The training loop: warm-up and cosine, the best epoch kept, early stop, resumed after a kill.

Everything random of a step is drawn from ``(seed, epoch, step)``, so that a run that was killed
and continued from its checkpoint is the run that was not killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from ..images.batch_inputs import Inputs, arrays_of, count, mapped
from ..images.image_data import Batches
from .augmentation import augmented
from .checkpoint import Checkpoint
from .objective import Objective, one_hot

LEARNING_RATE = {"adamw": 1e-3, "sgd": 1e-2}
SECONDS = 60.0  # between two checkpoints within an epoch
Teacher = Callable[[Inputs], "list[np.ndarray]"]


class Trainable(Protocol):
    """A module that stands for an ONNX file.

    Attributes
    ----------
    outputs : list of str
        Names of what it returns.
    names : dict of str to str
        Entries of its state that training changes, each with its name in the file.
    """

    outputs: list[str]
    names: dict[str, str]

    def arrays(self) -> dict[str, np.ndarray]:
        """Present values by their names in the file."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs : int
        Passes over the data.
    lr : float or None
        Highest learning rate; 1e-3 for AdamW and 1e-2 for SGD by default.
    optimizer : {"adamw", "sgd"}
        ``"sgd"`` has Nesterov momentum 0.9.
    weight_decay : float
        Of arrays with more than one axis: biases and normalizations are not drawn to zero.
    warm_up : float
        Share of the steps in which the learning rate rises to its highest; it then falls along a
        cosine to zero.
    augment : {"shift+flip", "shift", "flip", "none"}
        What is done to pictures at random.
    smoothing : float
        Share of every target that is spread over all classes.
    mixup : float
        Parameter of the Beta distribution that pairs of images are mixed by (Zhang et al. 2018,
        arXiv 1710.09412); 0 mixes none.
    patience : int
        Epochs without a better one on held-out images after which training stops.
    seed : int
    device : str or None
        ``"cuda"`` where there is one, else ``"cpu"``.
    """

    epochs: int = 10
    lr: float | None = None
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    warm_up: float = 0.05
    augment: str = "shift+flip"
    smoothing: float = 0.1
    mixup: float = 0.0
    patience: int = 10
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"Expected 1 epoch or more, got {self.epochs}.")
        if self.optimizer not in LEARNING_RATE:
            raise ValueError(f"Expected optimizer 'adamw' or 'sgd', got {self.optimizer!r}.")
        for name, least, most in (("smoothing", 0, 1), ("mixup", 0, math.inf), ("lr", 0, math.inf)):
            value = getattr(self, name)
            if value is not None and not least <= value < most:
                raise ValueError(f"Expected {name} from {least} to {most}, got {value}.")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return LEARNING_RATE[self.optimizer] if self.lr is None else self.lr


@dataclass
class Epoch:
    """What one epoch came to; ``number`` 0 is the model as it was given.

    Attributes
    ----------
    number : int
    loss : float or None
        Mean loss of its steps.
    held_out_loss, held_out_accuracy : float or None
        On images that training does not see, without smoothing or mixing.
    """

    number: int
    loss: float | None = None
    held_out_loss: float | None = None
    held_out_accuracy: float | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Greater is better: by accuracy, then by loss; without held-out images the latest."""
        if self.held_out_loss is None:
            return float(self.number), 0.0
        right = self.held_out_accuracy
        return (0.0 if right is None else right), -self.held_out_loss

    def __str__(self) -> str:
        parts = [] if self.loss is None else [f"loss {self.loss:.4f}"]
        if self.held_out_loss is not None:
            parts.append(f"held-out loss {self.held_out_loss:.4f}")
        if self.held_out_accuracy is not None:
            parts.append(f"accuracy {100 * self.held_out_accuracy:.2f} %")
        return ", ".join(parts) or "not measured"


@dataclass
class Trained:
    """What training came to.

    Attributes
    ----------
    epochs : list of Epoch
        All that were run, beginning with the model as it was given.
    best : int
        The epoch whose weights were kept.
    """

    epochs: list[Epoch]
    best: int


class Training:
    """One run; :meth:`run` leaves the module with the weights of the best epoch.

    Parameters
    ----------
    module : nn.Module
        Takes images and gives its outputs, or its only one.
    objective : Objective
    train : Batches
        Its ``order`` are the images to train on, its ``labels`` indices of the model's classes.
    held_out : Batches, optional
        Images that choose the epoch.
    settings : Settings
    labelled : bool
        Whether the labels are trained on.
    teacher : callable, optional
        Outputs for a batch of images, to imitate.
    checkpoint : Checkpoint, optional
        Continued where there is one.
    seconds : float
        Least time between two checkpoints within an epoch.
    """

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        train: Batches,
        held_out: Batches | None = None,
        settings: Settings | None = None,
        labelled: bool = True,
        teacher: Teacher | None = None,
        checkpoint: Checkpoint | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self.module, self.objective = module, objective
        self.train, self.held_out = train, held_out
        self.settings = settings or Settings()
        self.labelled, self.teacher = labelled, teacher
        self.checkpoint, self.seconds = checkpoint, seconds
        self.device = _device(self.settings.device)
        self.done = Trained([Epoch(0)], 0)
        wide = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        self.narrow = torch.autocast(self.device.type, torch.bfloat16, enabled=wide)

    def run(
        self,
        on_epoch: Callable[[Epoch], Any] = lambda epoch: None,
        progress: Callable[[Iterable], Iterable] = iter,
    ) -> Trained:
        """Train.

        Parameters
        ----------
        on_epoch : callable
            Told every epoch as it ends; after a kill, those that are still to come.
        progress : callable
            Wraps the batches of an epoch.

        Raises
        ------
        ValueError
            The loss becomes NaN or infinite, or the checkpoint is of another run.
        KeyboardInterrupt
            With what to do, where there is a checkpoint to go on from.
        """
        try:
            return self._run(on_epoch, progress)
        except KeyboardInterrupt:
            if self.checkpoint is None or not self.checkpoint.path.exists():
                raise
            raise KeyboardInterrupt(
                f"Interrupted after epoch {len(self.done.epochs) - 1}; repeat the command to go "
                f"on; its state is in {self.checkpoint.path}."
            ) from None

    def _run(
        self, on_epoch: Callable[[Epoch], Any], progress: Callable[[Iterable], Iterable]
    ) -> Trained:
        home = next(self.module.parameters()).device
        self.module.to(self.device)
        self.optimizer = self._optimizer()
        state = self.checkpoint.load() if self.checkpoint else None
        if state is None:
            first = self._measured(Epoch(0))
            on_epoch(first)
            self.done = Trained([first], 0)
            self.best = self._weights()
            step, losses = 0, [0.0, 0.0]
        else:
            self.done = Trained([Epoch(**entry) for entry in state["epochs"]], state["best"])
            self.best = state["best_weights"]
            self._restore(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            step, losses = state["step"], list(state["losses"])
        while not self._finished():
            number = len(self.done.epochs)
            losses = self._epoch(number, step, losses, progress)
            epoch = self._measured(Epoch(number, losses[0] / max(losses[1], 1)))
            self.done.epochs.append(epoch)
            if epoch.rank > self.done.epochs[self.done.best].rank:
                self.done.best, self.best = number, self._weights()
            step, losses = 0, [0.0, 0.0]
            self._keep(step, losses)
            on_epoch(epoch)
        self._restore(self.best)
        self.optimizer.zero_grad()
        self.module.to(home).eval()
        return self.done

    def _finished(self) -> bool:
        number, best = len(self.done.epochs) - 1, self.done.best
        return number >= self.settings.epochs or number - best >= self.settings.patience

    def _optimizer(self) -> torch.optim.Optimizer:
        given = self.settings
        trained = [p for p in self.module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": given.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        if given.optimizer == "adamw":
            return torch.optim.AdamW(groups, given.rate)
        return torch.optim.SGD(groups, given.rate, momentum=0.9, nesterov=True)

    def _epoch(
        self,
        number: int,
        begin: int,
        losses: list[float],
        progress: Callable[[Iterable], Iterable],
    ) -> list[float]:
        """Train for one epoch from the step ``begin`` on; sum and count of the losses."""
        given, rows = self.settings, self.train.rows
        order = np.random.default_rng((given.seed, number)).permutation(rows)
        rest = replace(self.train, order=order[begin * self.train.batch_size :])
        steps = len(self.train)
        last = time.monotonic()
        self.module.train()
        for step, (images, labels) in enumerate(progress(rest), begin):
            if count(images) == 1 and self.train.batch_size > 1 and len(rows) > 1:
                continue  # what is left over: BatchNorm cannot train on a single image
            now = (number - 1) * steps + step
            for group in self.optimizer.param_groups:
                group["lr"] = given.rate * _schedule(now, given.epochs * steps, given.warm_up)
            loss = self._step(images, labels, (given.seed, number, step))
            if not math.isfinite(loss):
                raise ValueError(
                    f"The loss is not finite in epoch {number}; give a lower --lr than "
                    f"{given.rate:g}."
                )
            losses = [losses[0] + loss, losses[1] + 1]
            if time.monotonic() - last >= self.seconds and step + 1 < steps:
                self._keep(step + 1, losses)
                last = time.monotonic()
        return losses

    def _step(self, images: Inputs, labels: np.ndarray | None, seed: tuple[int, int, int]) -> float:
        given = self.settings
        rng = np.random.default_rng(seed)
        torch.manual_seed(int(rng.integers(2**62)))  # dropout of a module
        if isinstance(images, np.ndarray):
            images = augmented(images, given.augment, rng, self.train.channels_last)
        share, other = 1.0, np.arange(count(images))
        if given.mixup:
            share, other = float(rng.beta(given.mixup, given.mixup)), rng.permutation(count(images))
            images = mapped(images, lambda x: _mixed(x, share, other))
        taught = None
        if self.teacher is not None:
            taught = [torch.from_numpy(x).to(self.device) for x in self.teacher(images)]
        with self.narrow:
            outputs = self._outputs(images)
        targets = None
        if self.labelled and labels is not None:
            targets = self._targets(outputs, labels, given.smoothing)
            targets = share * targets + (1 - share) * targets[torch.from_numpy(other)]
        loss = self.objective(outputs, targets, taught)
        if not loss.requires_grad:
            raise ValueError("The model cannot be trained: no weight of it changes the outputs.")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _outputs(self, images: Inputs) -> tuple[torch.Tensor, ...]:
        made = self.module(*(torch.from_numpy(x).to(self.device) for x in arrays_of(images)))
        return (made,) if isinstance(made, torch.Tensor) else tuple(made)

    def _targets(
        self, outputs: tuple[torch.Tensor, ...], labels: np.ndarray, smoothing: float
    ) -> torch.Tensor:
        assert self.objective.classes is not None
        classes = outputs[self.objective.classes.output][0].numel()
        return one_hot(torch.from_numpy(labels).to(self.device), classes, smoothing)

    @torch.no_grad()
    def _measured(self, epoch: Epoch) -> Epoch:
        """The epoch with the figures of held-out images."""
        if self.held_out is None:
            return epoch
        self.module.eval()
        total, right, seen = 0.0, 0, 0
        for images, labels in self.held_out:
            taught = None
            if self.teacher is not None:
                taught = [torch.from_numpy(x).to(self.device) for x in self.teacher(images)]
            outputs = self._outputs(images)
            named = labels if self.labelled else None
            targets = None if named is None else self._targets(outputs, named, 0.0)
            total += count(images) * self.objective(outputs, targets, taught).item()
            if named is not None and self.objective.classes is not None:
                scores = outputs[self.objective.classes.output].flatten(1)
                right += int((scores.argmax(1).cpu().numpy() == named).sum())
            seen += count(images)
        if epoch.number == 0 and not math.isfinite(total):
            raise ValueError(
                "Before any training the loss is not finite on the images that are held out, so "
                "that nothing can be learned: the model's outputs hold NaN or infinity."
            )
        share = right / seen if self.labelled else None
        return replace(epoch, held_out_loss=total / seen, held_out_accuracy=share)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {k: v.detach().to("cpu", copy=True) for k, v in self.module.state_dict().items()}

    def _restore(self, weights: dict[str, torch.Tensor]) -> None:
        self.module.load_state_dict(weights)

    def _keep(self, step: int, losses: list[float]) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save({
                "epochs": [asdict(epoch) for epoch in self.done.epochs],
                "best": self.done.best,
                "best_weights": self.best,
                "weights": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": step,
                "losses": losses,
            })  # fmt: skip


def _mixed(images: np.ndarray, share: float, other: np.ndarray) -> np.ndarray:
    """Every sample with another one; what has no axis of samples stays."""
    if images.dtype.kind != "f":
        raise ValueError(f"Inputs of {images.dtype} cannot be mixed; leave out mixup.")
    if not images.ndim:
        return images
    return (share * images + (1 - share) * images[other]).astype(images.dtype)


def _schedule(step: int, steps: int, warm_up: float) -> float:
    """Share of the highest learning rate.

    >>> [round(_schedule(step, 10, 0.2), 2) for step in range(0, 10, 3)]
    [0.5, 0.79, 0.35, 0.02]
    """
    rise = min(1.0, (step + 1) / max(1.0, warm_up * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def _device(name: str | None) -> torch.device:
    """The device of this name, or the fastest that there is.

    Raises
    ------
    ValueError
        It is not to be had here.
    """
    found = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=found).device
    except (RuntimeError, AssertionError) as error:  # the latter without CUDA's code
        why = str(error).split("\n")[0].split(". ")[0]
        raise ValueError(
            f"Expected a device that PyTorch has here, such as cpu, got {found!r}: {why}."
        ) from error
