"""One run: a network, an arm and a seed, from the first weights to a file of figures.

On a GPU it computes in half precision where that is safe (``torch.autocast``), with channels last
and compiled.  After an epoch everything is written to a checkpoint, from which a run that was
killed goes on; the random numbers of an epoch come from generators seeded by it, so that it ends
as one that was not.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from arms import Arm, Run
from images import Images
from networks import Network
from protocols import Protocol
from rejuvenet.adapters.torch import collect, trace
from rejuvenet.graph import capacity
from rejuvenet.graph.plan.selection import select_groups
from run_files import versions

SAVED_EVERY = 60  # seconds at least between two checkpoints


class Training:
    """A model, its optimizer and its arm.

    Parameters
    ----------
    network : Network
    arm : Arm
    protocol : Protocol
    images : Images
    seed : int
    device : torch.device
    compiled : bool
    """

    def __init__(
        self, network: Network, arm: Arm, protocol: Protocol, images: Images, seed: int,
        device: torch.device, compiled: bool = False,
    ) -> None:  # fmt: skip
        self.network, self.arm, self.protocol, self.images = network, arm, protocol, images
        self.seed, self.device, self.compiled = seed, device, compiled and arm.compiles
        torch.manual_seed(seed)
        model = arm.network(network)(images.classes, protocol.published)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.epochs: list[dict[str, float]] = []
        self.events: list[dict[str, Any]] = []
        self.seconds = 0.0
        on_gpu = device.type == "cuda"
        narrow = on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False)
        self.half = partial(
            torch.autocast, device.type, torch.float16 if narrow else torch.bfloat16,
            enabled=on_gpu,
        )  # fmt: skip
        self.scaler = torch.amp.GradScaler(device.type, enabled=narrow)
        self.ready()

    def ready(self) -> None:
        """What depends on the parameters that there are."""
        protocol = self.protocol
        self.optimizer = torch.optim.SGD(
            self.parameters(), protocol.rate, momentum=0.9, weight_decay=protocol.decay,
            nesterov=protocol.nesterov,
        )  # fmt: skip
        self.forward: Callable[..., torch.Tensor] = (
            torch.compile(self.model, dynamic=False) if self.compiled else self.model
        )

    def begin(self) -> None:
        """The arm gets to know what there is."""
        run = Run(self.model, self.optimizer, self.images, self.protocol, self.seed)
        self.arm.start(run)

    def parameters(self) -> Any:
        """Parameters, or groups of them with settings of their own."""
        own = getattr(self.model, "parameter_groups", None)
        return own() if own else self.model.parameters()

    def run(self, checkpoint: Path | None = None) -> dict[str, Any]:
        """All epochs that are left, and the figures of the run."""
        protocol, steps = self.protocol, self.images.steps(self.protocol.batch)
        if checkpoint is not None and checkpoint.exists():
            self.load(checkpoint)
        self.begin()
        if not self.epochs:
            self.first = self.accuracy()
        saved = time.time()
        while len(self.epochs) - self.arm.waited < protocol.epochs:
            start, done = time.time(), len(self.epochs)
            # Dropout, and what an event draws, of this epoch.
            torch.manual_seed(1_000_003 * self.seed + done)
            self.happened(done)
            eventful = time.time() - start
            loss = self.epoch(done, steps)
            figures = {"loss": loss, **self.accuracy()}
            self.seconds += time.time() - start
            self.epochs.append({**figures, "seconds": round(time.time() - start, 2),
                                "event_seconds": round(eventful, 2)})  # fmt: skip
            if checkpoint is not None and time.time() - saved > SAVED_EVERY:
                self.save(checkpoint)
                saved = time.time()
        return self.figures()

    def happened(self, done: int) -> None:
        """The event that is due after so many epochs, with what it costs at once."""
        found = self.arm.event(done)
        if found is None:
            return
        if found.get("rebuilt"):
            self.ready()
            self.begin()
        self.events.append({"epoch": done, "after": self.accuracy(), **found})

    def epoch(self, done: int, steps: int) -> float:
        """One epoch; the mean loss."""
        arm, protocol = self.arm, self.protocol
        self.model.train()
        total, count = torch.zeros((), device=self.device), 0
        scheduled = done - arm.waited
        for number, (x, y) in enumerate(self.images.train(protocol.batch, self.seed, done)):
            rate = protocol.rate_at(scheduled, (number + 1) / steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            x = x.contiguous(memory_format=torch.channels_last)
            with self.half():
                loss = arm.loss(self.forward(x), y)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            if arm.before_step(scheduled * steps + number, protocol.epochs * steps):
                self.scaler.step(self.optimizer)
            self.scaler.update()
            total += loss.detach() * len(y)
            count += len(y)
        return float(total) / count

    @torch.no_grad()
    def accuracy(self) -> dict[str, float]:
        """Shares of the test images whose class is the first, or among the first five."""
        self.model.eval()
        right, count = torch.zeros(2, dtype=torch.long, device=self.device), 0
        for x, y in self.images.test():
            x = x.contiguous(memory_format=torch.channels_last)
            with self.half():
                hits = self.forward(x).topk(5).indices == y[:, None]
            right += torch.stack([hits[:, 0].sum(), hits.sum()])
            count += len(y)
        top1, top5 = (right.double() / count).tolist()
        return {"top1": round(top1, 5), "top5": round(top5, 5)}

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        state = {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "arm": self.arm.state_dict(),
            "waited": self.arm.waited, "first": self.first, "epochs": self.epochs,
            "events": self.events, "seconds": self.seconds,
        }  # fmt: skip
        beside = path.with_suffix(".part")
        torch.save(state, beside)
        os.replace(beside, path)

    def load(self, path: Path) -> None:
        """Go on from :meth:`save`."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.arm.load_state_dict(state["arm"], self.model)
        self.arm.waited = state["waited"]
        self.ready()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.first, self.epochs, self.events = state["first"], state["epochs"], state["events"]
        self.seconds = state["seconds"]

    def capacity(self) -> dict[str, Any] | None:
        """How much of its capacity the last block uses, where the arm kept the network."""
        if self.arm.own:
            return None
        batches = self.images.judged()
        traced = trace(self.model, next(iter(batches))[0][:2])
        chosen, _ = select_groups(traced.groups, self.network.layers(self.network.last))
        group = chosen[-1].group
        means = collect(traced, batches, [group], max_batches=len(batches))[group.name]
        return capacity(means.Q, activity=means.activity).to_dict()

    def figures(self) -> dict[str, Any]:
        """What the file of a run holds, beside its names."""
        last = self.epochs[-1]
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "title": self.arm.title, "seed": self.seed,
            "top1": last["top1"], "top5": last["top5"], "first": self.first,
            "capacity": self.capacity(),
            "epochs": self.epochs, "events": self.events,
            "settings": {**asdict(self.protocol), "parameters": parameters},
            "seconds": round(self.seconds, 1),
            "versions": versions() | {"device": device_name(self.device)},
        }  # fmt: skip


def device_name(device: torch.device) -> str:
    """Of the processor or the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def deterministic() -> None:
    """The same figures at every run, as far as the kernels of the device allow.

    On a GPU the backward passes of pooling by the maximum and of the shifts of ``sac`` add in no
    fixed order; PyTorch says so once.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def seconds_a_step(training: Training, steps: int = 5) -> float:
    """Measured on images of noise, without compiling."""
    batch, size = training.protocol.batch, training.images.size
    x = torch.randn(batch, 3, size, size, device=training.device)
    x = x.contiguous(memory_format=torch.channels_last)
    start = 0.0
    training.model.train()
    for number in range(steps + 2):
        if number == 2:  # what is prepared at first does not count
            _wait(training.device)
            start = time.time()
        with training.half():
            loss = training.model(x).float().square().mean()
        training.optimizer.zero_grad()
        loss.backward()
    _wait(training.device)
    return (time.time() - start) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
