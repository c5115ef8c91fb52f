"""Reorganizer in a plain loop and in those of others: the code of ``training.md``.

Each function trains the same network; ``training_page.py`` compares the weights that come out.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rejuvenet.adapters.torch import Reorganizer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


@dataclass
class Task:
    """A network to train: every call of ``model`` gives the same weights."""

    model: Callable[[], nn.Module]
    x: torch.Tensor
    y: torch.Tensor
    layer: str
    epochs: int = 8
    every: int = 2
    ratio: float = 0.5  # channels kept; by default only what is redundant is freed

    def loader(self) -> DataLoader:
        """In one order, so that all loops see the same batches."""
        return DataLoader(TensorDataset(self.x, self.y), batch_size=64)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum, whose state is reorganized along with the weights."""
        return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def digits(n: int = 600) -> Task:
    """Scikit-learn's digits and a network with more channels than it needs."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    x = torch.tensor(loaded.images[:n], dtype=torch.float32)[:, None] / 16

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip

    return Task(model, x, torch.tensor(loaded.target[:n]), "4.weight")


def cifar(data: str, classes: int = 5, images: int = 500, epochs: int = 4) -> Task:
    """Some classes of CIFAR-100 and a ResNet-20 of half the usual width."""
    import cifar100

    x, y = cifar100.load(data, "train", classes)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:images]

    def model() -> nn.Module:
        torch.manual_seed(0)
        return cifar100.ResNet20(classes, width=8)

    return Task(model, x[order], y[order], "layer3.2.conv1.weight", epochs, 1)


def plain(task: Task) -> nn.Module:
    model = task.model()
    optimizer = task.optimizer(model)
    loader = task.loader()
    reorganizer = Reorganizer(
        model, optimizer, loader, layers=[task.layer], every=task.every, epochs=task.epochs,
        ratio=task.ratio,
    )  # fmt: skip
    for epoch in range(task.epochs):
        model.train()
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reorganizer.step(epoch)  # does nothing when nothing is due
    return model


def resumed(task: Task, stop_after: int = 3) -> nn.Module:
    file = io.BytesIO()
    for start, end in ((0, stop_after), (stop_after, task.epochs)):
        model = task.model()
        optimizer = task.optimizer(model)
        loader = task.loader()
        reorganizer = Reorganizer(
            model, optimizer, loader, layers=[task.layer], every=task.every, epochs=task.epochs,
            ratio=task.ratio,
        )  # fmt: skip
        if start:
            saved = torch.load(file, weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            reorganizer.load_state_dict(saved["reorganizer"])
        for epoch in range(start, end):
            model.train()
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            reorganizer.step(epoch)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "reorganizer": reorganizer.state_dict(),
        }
        torch.save(state, file)
        file.seek(0)
    return model


def averaged(task: Task) -> list[dict[str, float]]:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    model = task.model()
    optimizer = task.optimizer(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    loader = task.loader()
    reorganizer = Reorganizer(
        model, optimizer, loader, layers=[task.layer], every=task.every, epochs=task.epochs,
        ratio=task.ratio, ema=average,
    )  # fmt: skip
    events = []
    for epoch in range(task.epochs):
        model.train()
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update_parameters(model)
        before = accuracy(average, task)
        if reorganizer.step(epoch) is not None:
            events.append({"before": before, "after": accuracy(average, task)})
    return events


@torch.no_grad()
def accuracy(model: nn.Module, task: Task) -> float:
    """On the training images."""
    model.eval()
    return (model(task.x).argmax(1) == task.y).double().mean().item()


def cyclic(task: Task) -> list[dict[str, Any]]:
    from rejuvenet.adapters.torch import WarmUp
    from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

    model = task.model()
    optimizer = task.optimizer(model)
    schedule = CosineAnnealingWarmRestarts(optimizer, T_0=task.every)
    loader = task.loader()
    reorganizer = Reorganizer(
        model, optimizer, loader, layers=[task.layer], epochs=task.epochs, stop=0.75,
        every=schedule,  # where the rate restarts
        ratio=lambda epoch: 0.5 if epoch < 4 else 0.75,  # channels kept; or "redundant"
        warmup=WarmUp(steps=10),  # updates of new channels grow over ten steps
    )  # fmt: skip
    for epoch in range(task.epochs):
        model.train()
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        reorganizer.step(epoch)
        schedule.step()
    return reorganizer.history


def lightning(task: Task) -> nn.Module:
    from lightning.pytorch import LightningModule, Trainer
    from rejuvenet.adapters.trainers.lightning import ReorganizerCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            x, y = batch
            return F.cross_entropy(self(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return task.optimizer(self)

    callback = ReorganizerCallback(
        module="net", layers=[task.layer], every=task.every, ratio=task.ratio
    )
    module = Module()
    trainer = Trainer(
        max_epochs=task.epochs, callbacks=[callback], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, task.loader())
    return module.net


def transformers(task: Task) -> nn.Module:
    from rejuvenet.adapters.trainers.transformers import ReorganizerCallback
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import Trainer, TrainingArguments

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = task.model()

        def forward(self, pixel_values: torch.Tensor, labels: Any = None) -> dict[str, Any]:
            logits = self.net(pixel_values)
            loss = None if labels is None else F.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    model = Classifier()
    optimizer = task.optimizer(model)
    examples = [{"pixel_values": x, "labels": y} for x, y in zip(task.x, task.y, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, num_train_epochs=task.epochs, per_device_train_batch_size=64,
            train_sampling_strategy="sequential", max_grad_norm=0, use_cpu=True,
            save_strategy="no", report_to=[], disable_tqdm=True, log_level="error",
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=examples,
            optimizers=(optimizer, LambdaLR(optimizer, lambda step: 1.0)),
        )  # fmt: skip
        callback = ReorganizerCallback(
            module="net", layers=[task.layer], every=task.every, ratio=task.ratio
        )
        callback.attach(trainer)  # its figures go where the trainer logs
        trainer.train()
    return model.net


def accelerate(task: Task) -> nn.Module:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = task.model()
    model, optimizer, loader = accelerator.prepare(model, task.optimizer(model), task.loader())
    reorganizer = Reorganizer(
        model, optimizer, task.loader(), layers=[task.layer], every=task.every, epochs=task.epochs,
        ratio=task.ratio,
    )  # fmt: skip
    accelerator.register_for_checkpointing(reorganizer)  # for save_state and load_state
    for epoch in range(task.epochs):
        model.train()
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        reorganizer.step(epoch)
    return accelerator.unwrap_model(model)


def ignite(task: Task) -> nn.Module:
    from ignite.engine import Engine
    from rejuvenet.adapters.trainers.ignite import ReorganizerHandler

    model = task.model()
    optimizer = task.optimizer(model)
    loader = task.loader()

    def update(engine: Engine, batch: Any) -> float:
        model.train()
        x, y = batch
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    trainer = Engine(update)
    handler = ReorganizerHandler(
        model, optimizer, loader, layers=[task.layer], every=task.every, ratio=task.ratio
    )
    handler.attach(trainer)
    trainer.run(loader, max_epochs=task.epochs)
    return model


def timm(task: Task) -> nn.Module:
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3

    model = task.model()
    optimizer = create_optimizer_v2(model, opt="momentum", lr=0.05, momentum=0.9)
    ema = ModelEmaV3(model, decay=0.99)
    loader = task.loader()
    reorganizer = Reorganizer(
        model, optimizer, loader, layers=[task.layer], every=task.every, epochs=task.epochs,
        ratio=task.ratio, ema=ema,
    )  # fmt: skip
    for epoch in range(task.epochs):
        model.train()
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            ema.update(model)
        reorganizer.step(epoch)
    return model


LOOPS = (resumed, lightning, transformers, accelerate, ignite, timm)
