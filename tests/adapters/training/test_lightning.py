"""The callback in real trainings with Lightning."""

import csv
import warnings

import pytest

torch = pytest.importorskip("torch")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from rejuvenet.adapters.trainers.lightning import ReorganizerCallback  # noqa: E402
from torch.nn import functional as F  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::Warning:lightning.*")


@pytest.fixture
def module(task):
    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = task.model()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, number):
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, number):
            self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = task.optimizer(self)
            restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2)
            return [optimizer], [restarts]

    return Module


def fit(task, module, callbacks, folder, resume=None, logger=False, validate=True):
    trainer = Trainer(
        max_epochs=task.epochs, callbacks=callbacks, accelerator="cpu", logger=logger,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        num_sanity_val_steps=0,
    )  # fmt: skip
    validation = task.loader() if validate else None
    trainer.fit(module, task.loader(), validation, ckpt_path=resume, weights_only=True)
    return trainer


def reorganizing(task, **options):
    options = {
        "layers": [f"net.{task.layer}"], "every": task.every, "stop": 1.0, "ratio": 0.5, **options
    }  # fmt: skip
    return ReorganizerCallback(**options)


@pytest.mark.parametrize(
    "when",
    [
        {},  # after the validation, before the end of the epoch
        {"save_on_train_epoch_end": True},
    ],
)
def test_resumed_from_any_checkpoint_the_weights_are_the_same(
    task, module, tmp_path, when, assert_same
):
    straight, callback = module(), reorganizing(task)
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, every_n_epochs=1, **when)
    fit(task, straight, [callback, saving], tmp_path)
    assert [event["epoch"] for event in callback.reorganizer.history] == [1, 3]
    for epoch in (0, 1, 3):
        resumed, again = module(), reorganizing(task)
        fit(task, resumed, [again], tmp_path, tmp_path / f"epoch={epoch}.ckpt")
        assert_same(straight, resumed)
        assert [event["epoch"] for event in again.state_dict()["history"]] == [1, 3]


def test_resumed_in_the_middle_of_an_epoch_no_event_is_lost_or_repeated(task, module, tmp_path):
    # Lightning reads a plain loader from its beginning again, so the weights differ anyway.
    saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=3)
    fit(task, module(), [reorganizing(task), saving], tmp_path)
    for step in (6, 9):
        again = reorganizing(task)
        fit(task, module(), [again], tmp_path, tmp_path / f"step={step}.ckpt")
        assert [event["epoch"] for event in again.reorganizer.history] == [1, 3]


def test_loggers_get_figures_and_pictures(task, module, tmp_path):
    loggers = [CSVLogger(tmp_path, "csv"), TensorBoardLogger(tmp_path, "tensorboard")]
    trainer = fit(task, module(), [reorganizing(task)], tmp_path, logger=loggers)
    name = f"reorganizer/net.{task.layer}/survivors"
    with open(next(tmp_path.glob("csv/**/metrics.csv"))) as file:
        logged = {int(row["step"]): row[name] for row in csv.DictReader(file) if row.get(name)}
    assert list(logged) == [8, 16]  # two and four epochs of four steps
    assert trainer.callback_metrics[name] == float(logged[16])

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(next(tmp_path.glob("tensorboard/**/events*")).parent))
    events.Reload()
    assert [event.step for event in events.Scalars(name)] == [8, 16]
    assert events.Tags()["images"]


def test_lightnings_own_average_is_changed_along(task, module, tmp_path):
    average = EMAWeightAveraging(decay=0.9)
    seen = {}

    class Look(reorganizing(task).__class__):
        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            if trainer.current_epoch == 2:
                seen["online"] = pl_module.net[-1].weight.clone()
                seen["average"] = average._average_model.module.net[-1].weight.clone()

    callback = Look(layers=[f"net.{task.layer}"], every=task.every, ratio=0.5)
    fit(task, module(), [average, callback], tmp_path)
    new = (seen["online"] == 0).all(0)  # outgoing weights of new channels
    assert 0 < new.sum() < 16
    assert torch.equal((seen["average"] == 0).all(0), new)


def test_a_network_inside_and_restarts_of_the_schedule(task, module, tmp_path, assert_same):
    inside = reorganizing(task, module="net", layers=[task.layer], every="restarts")
    one, other = module(), module()
    fit(task, one, [inside], tmp_path, validate=False)
    assert [event["epoch"] for event in inside.reorganizer.history] == [1, 3]
    given = reorganizing(task, loader=task.loader(), module="net", layers=[task.layer])
    fit(task, other, [given], tmp_path, validate=False)
    assert_same(one, other)


def test_wrong_settings(task, module, tmp_path):
    with pytest.raises(TypeError, match="evry"):
        ReorganizerCallback(evry=2)
    callback = reorganizing(task, every="restarts")
    plain = module()
    plain.configure_optimizers = lambda: task.optimizer(plain)
    with pytest.raises(ValueError, match="has no schedule: give every=r"):
        fit(task, plain, [callback], tmp_path)
