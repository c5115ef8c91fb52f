"""The tutorial's loops give the same weights; Accelerate's checkpoints and timm's models."""

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer  # noqa: E402
from torch.nn import functional as F  # noqa: E402

CIFAR = Path(__file__).parents[4] / "shared" / "data" / "cifar100"
LOOPS = ("resumed", "lightning", "transformers", "accelerate", "ignite", "timm")


@pytest.fixture(scope="module")
def straight(tutorial, task):
    return tutorial.plain(task)


@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_gives_the_same_weights(tutorial, task, straight, loop, assert_same):
    assert_same(straight, getattr(tutorial, loop)(task))


@pytest.mark.skipif(not CIFAR.exists(), reason="../shared/data/cifar100 is absent")
def test_cifar100_in_three_loops(tutorial, assert_same, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(tutorial.__file__).parent))
    task = tutorial.cifar(str(CIFAR), images=128, epochs=3)
    weights = tutorial.plain(task)
    assert_same(weights, tutorial.lightning(task))
    assert_same(weights, tutorial.transformers(task))


def test_an_average_keeps_its_accuracy(tutorial, task):
    events = tutorial.averaged(task)
    assert len(events) == 1
    assert all(event["after"] > event["before"] - 0.2 for event in events)


def test_a_cyclic_rate(tutorial, task):
    events = tutorial.cyclic(task)
    assert [(event["epoch"], event["groups"][0]["nodes"]) for event in events] == [(1, 8)]


def test_the_page_shows_this_code_and_the_figures_of_its_script(tutorial, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(tutorial.__file__).parent))
    script = importlib.import_module("training_page")
    results = json.loads(script.RESULTS.read_text())
    assert script.PAGE.read_text() == script.page(results), "run tutorials/training_page.py --page"
    assert set(results["differences"]["digits"].values()) == {0.0}
    assert set(results["differences"]["CIFAR-100"].values()) == {0.0}


def test_accelerate_saves_and_restores_the_state(task, tmp_path, assert_same):
    from accelerate import Accelerator

    def train(first, resume=None):
        accelerator = Accelerator(cpu=True)
        model = task.model()
        model, optimizer, loader = accelerator.prepare(model, task.optimizer(model), task.loader())
        reorganizer = Reorganizer(
            model, optimizer, loader, layers=[task.layer], every=task.every, epochs=task.epochs,
            ratio=task.ratio,
        )  # fmt: skip
        accelerator.register_for_checkpointing(reorganizer)
        if resume is not None:
            accelerator.load_state(str(resume))
        for epoch in range(first, task.epochs):
            model.train()
            for x, y in loader:
                optimizer.zero_grad()
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
            reorganizer.step(epoch)
            accelerator.save_state(str(tmp_path / str(epoch)))
        return model, reorganizer

    straight, reorganizer = train(0)
    epochs = [event["epoch"] for event in reorganizer.history]
    assert epochs == [1]  # the recipe stops after three quarters of five epochs
    for epoch in (0, 1, 2):
        resumed, again = train(epoch + 1, tmp_path / str(epoch))
        assert_same(straight, resumed)
        assert [event["epoch"] for event in again.history] == epochs


def test_an_event_leaves_the_order_of_accelerates_data_alone(task):
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    accelerator = Accelerator(
        cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True)
    )
    dataset = torch.utils.data.TensorDataset(task.x, task.y)
    loader = accelerator.prepare(torch.utils.data.DataLoader(dataset, 64, shuffle=True))
    reorganizer = Reorganizer(task.model(), None, loader, layers=[task.layer], every=1, ratio=0.5)

    def labels():
        return torch.cat([y for _, y in loader])

    def order(event):
        loader.set_epoch(0)
        loader.iteration = 0
        first = labels()
        if event:
            assert reorganizer.step(0) is not None
        return first, labels()

    plain, disturbed = order(False), order(True)
    assert not torch.equal(*plain)
    assert all(torch.equal(a, b) for a, b in zip(plain, disturbed, strict=True))


def test_a_model_of_timm_with_its_optimizer_and_average():
    import timm
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3, NativeScaler

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=4, in_chans=1)
    optimizer = create_optimizer_v2(model, opt="lamb", lr=1e-3, weight_decay=0.01)
    schedule = CosineLRScheduler(optimizer, t_initial=2, cycle_limit=2)
    ema, scaler = ModelEmaV3(model, decay=0.9), NativeScaler(device="cpu")
    x, y = torch.randn(32, 1, 32, 32), torch.arange(32) % 4
    reorganizer = Reorganizer(
        model, optimizer, [(x, y)], every=schedule, epochs=4, ema=ema, ratio=0.5
    )
    for epoch in range(4):
        schedule.step(epoch)
        model.train()
        optimizer.zero_grad()
        scaler(F.cross_entropy(model(x), y), optimizer, parameters=model.parameters())
        ema.update(model)
        report = reorganizer.step(epoch)
        if report is not None:
            new = torch.tensor(report.plan.groups[0].new)
            consumer = next(m for m in report.plan.groups[0].members if m.kind == "consumer")
            for network in (model, ema.module):
                weight = network.get_parameter(consumer.weight)
                assert not weight.index_select(1, new).any()
    assert [event["epoch"] for event in reorganizer.history] == [1]


def test_a_framework_is_imported_with_its_own_module_only():
    code = (
        "import sys, rejuvenet.adapters.trainers, rejuvenet.adapters.torch\n"
        "from rejuvenet.adapters.trainers import deferred, metrics\n"
        "frameworks = {'lightning', 'pytorch_lightning', 'transformers', 'accelerate', 'ignite',"
        " 'timm', 'tensorboard'}\n"
        "assert not frameworks & set(sys.modules), frameworks & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.parametrize("used", ["lightning", "pytorch_lightning"])
def test_lightning_is_the_one_in_use(used, monkeypatch):
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    names = [used, "lightning.pytorch"] if used == "lightning" else [used]
    for name in names:
        stand_in = importlib.util.module_from_spec(ModuleSpec(name, None))
        monkeypatch.setitem(sys.modules, name, stand_in)
    stand_in.Callback, stand_in.callbacks = type("Callback", (), {}), None
    spec = importlib.util.find_spec("rejuvenet.adapters.trainers.lightning")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert issubclass(module.ReorganizerCallback, stand_in.Callback)
