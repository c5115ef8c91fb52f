"""The handler in real trainings with PyTorch Ignite."""

import pytest

torch = pytest.importorskip("torch")

from ignite.engine import Engine, Events  # noqa: E402
from ignite.handlers import Checkpoint, DiskSaver  # noqa: E402
from ignite.handlers.tensorboard_logger import TensorboardLogger  # noqa: E402
from rejuvenet.adapters.trainers.ignite import (  # noqa: E402
    ReorganizerEvents,
    ReorganizerHandler,
)
from torch.nn import functional as F  # noqa: E402


def make(task, **options):
    """Trainer, and by name what a checkpoint holds."""
    model = task.model()
    optimizer = task.optimizer(model)

    def update(engine, batch):
        model.train()
        loss = F.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    trainer = Engine(update)
    options = {
        "layers": [task.layer], "every": task.every, "stop": 1.0, "ratio": 0.5, **options
    }  # fmt: skip
    handler = ReorganizerHandler(model, optimizer, task.loader(), **options).attach(trainer)
    parts = {"model": model, "optimizer": optimizer, "trainer": trainer, "reorganizer": handler}
    return trainer, parts


def test_resumed_from_any_checkpoint_the_weights_are_the_same(task, tmp_path, assert_same):
    trainer, straight = make(task)
    saving = Checkpoint(straight, DiskSaver(tmp_path, require_empty=False), n_saved=None)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, saving)
    trainer.run(task.loader(), max_epochs=task.epochs)
    handler = straight["reorganizer"]
    assert [event["epoch"] for event in handler.reorganizer.history] == [1, 3]
    for step in (4, 8, 12, 16):
        again, resumed = make(task)
        saved = torch.load(tmp_path / f"checkpoint_{step}.pt", weights_only=True)
        Checkpoint.load_objects(resumed, saved)
        again.run(task.loader(), max_epochs=task.epochs)
        assert_same(straight["model"], resumed["model"])
        history = resumed["reorganizer"].reorganizer.history
        assert [event["epoch"] for event in history] == [1, 3]


def test_figures_reach_ignites_loggers(task, tmp_path):
    trainer, parts = make(task)
    seen = []
    trainer.add_event_handler(
        ReorganizerEvents.REORGANIZED, lambda engine: seen.append(engine.state.epoch)
    )
    with TensorboardLogger(log_dir=tmp_path) as logger:
        logger.attach_output_handler(
            trainer, ReorganizerEvents.REORGANIZED, tag="event", metric_names="all"
        )
        trainer.run(task.loader(), max_epochs=task.epochs)
    assert seen == [3, 5]  # Ignite counts from 1: right before the third and the fifth
    name = f"reorganizer/{task.layer}/survivors"
    survivors = parts["reorganizer"].reorganizer.history[-1]["groups"][0]["survivors"]
    assert trainer.state.metrics[name] == survivors

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars(f"event/{name}")][-1] == survivors


def test_a_second_training_starts_anew(task):
    trainer, parts = make(task)
    trainer.run(task.loader(), max_epochs=task.epochs)
    first = parts["reorganizer"].reorganizer
    trainer.run(task.loader(), max_epochs=task.epochs)
    second = parts["reorganizer"].reorganizer
    assert second is not first
    assert [event["epoch"] for event in second.history] == [1, 3]


def test_a_training_that_goes_on_keeps_its_history(task):
    trainer, parts = make(task)
    trainer.run(task.loader(), max_epochs=3)
    trainer.run(task.loader(), max_epochs=5)
    assert [event["epoch"] for event in parts["reorganizer"].reorganizer.history] == [1, 3]


def test_unknown_options_are_refused(task):
    with pytest.raises(TypeError, match="'layer'"):
        make(task, layer=task.layer)
