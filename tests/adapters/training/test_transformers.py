"""The callback in real trainings with Hugging Face's Trainer."""

import json

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.trainers.transformers import ReorganizerCallback  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from transformers import Trainer, TrainingArguments  # noqa: E402


def make(task, folder, callback, attach=True, restarts=None, **arguments):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = task.model()

        def forward(self, pixel_values, labels=None):
            logits = self.net(pixel_values)
            loss = None if labels is None else F.cross_entropy(logits, labels)
            return {"loss": loss, "logits": logits}

    model = Classifier()
    optimizer = task.optimizer(model)
    schedules = torch.optim.lr_scheduler
    arguments = {
        "num_train_epochs": task.epochs, "per_device_train_batch_size": 64, "use_cpu": True,
        "report_to": [], "disable_tqdm": True, "save_strategy": "no", "max_grad_norm": 0,
        **arguments,
    }  # fmt: skip
    schedule = (
        schedules.CosineAnnealingWarmRestarts(optimizer, restarts)
        if restarts
        else schedules.LambdaLR(optimizer, lambda step: 1.0)
    )
    trainer = Trainer(
        model,
        TrainingArguments(str(folder), **arguments),
        train_dataset=[
            {"pixel_values": x, "labels": y} for x, y in zip(task.x, task.y, strict=True)
        ],
        optimizers=(optimizer, schedule),
        callbacks=[] if attach else [callback],
    )
    if attach:
        callback.attach(trainer)
    return trainer


def reorganizing(task, **options):
    options = {
        "module": "net", "layers": [task.layer], "every": task.every, "ratio": 0.5, **options
    }  # fmt: skip
    return ReorganizerCallback(**{"stop": 1.0, **options})


def test_resumed_from_any_checkpoint_the_weights_are_the_same(task, tmp_path, assert_same):
    # Shuffled, and calibrated with the trainer's own loader.
    callback = reorganizing(task)
    straight = make(task, tmp_path, callback, save_strategy="steps", save_steps=2)
    straight.train()
    assert [event["epoch"] for event in callback.reorganizer.history] == [1, 3]
    for step in (6, 8):  # in the middle of an epoch, and at its end
        again = reorganizing(task)
        resumed = make(task, tmp_path / "again", again)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert_same(straight.model, resumed.model)
        assert [event["epoch"] for event in again.reorganizer.history] == [1, 3]


def test_figures_are_logged_where_the_trainer_logs(task, tmp_path):
    logs = tmp_path / "logs"
    callback = reorganizing(task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(logs))
        trainer = make(task, tmp_path, callback, report_to=["tensorboard"])
        trainer.train()
    name = f"reorganizer/{task.layer}/survivors"
    rows = [row for row in trainer.state.log_history if name in row]
    assert [(row["step"], row["epoch"]) for row in rows] == [(8, 2.0), (16, 4.0)]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs))
    events.Reload()
    assert [event.step for event in events.Scalars(f"train/{name}")] == [8, 16]


def test_given_as_one_of_the_callbacks(task, tmp_path):
    callback = reorganizing(task, every="restarts")
    trainer = make(task, tmp_path, callback, attach=False, restarts=8, save_strategy="epoch")
    trainer.train()
    name = f"reorganizer/{task.layer}/new"
    saved = json.loads((tmp_path / "checkpoint-20" / "trainer_state.json").read_text())
    # The rate restarts every eight steps, which is every two epochs.
    assert [event["epoch"] for event in callback.reorganizer.history] == [1, 3]
    assert sum(name in row for row in saved["log_history"]) == 2


def test_a_second_training_starts_anew(task, tmp_path):
    callback = reorganizing(task)
    trainer = make(task, tmp_path, callback)
    trainer.train()
    first = callback.reorganizer
    trainer.train()
    assert callback.reorganizer is not first
    assert [event["epoch"] for event in callback.reorganizer.history] == [1, 3]


def test_callbacks_made_from_json_are_refused(task, tmp_path):
    make(task, tmp_path, reorganizing(task), save_strategy="epoch").train()
    callback = reorganizing(task)
    trainer = make(task, tmp_path, callback, restore_callback_states_from_checkpoint=True)
    with pytest.raises(ValueError, match="leave it off"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
