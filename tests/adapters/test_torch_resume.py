"""A training killed at any moment and resumed ends with the weights of one never stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from rejuvenet.adapters.torch import Reorganizer, WarmUp  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402
from torch import nn  # noqa: E402

EPOCHS = 8


def parts(x, y):
    """A training with everything in it that an event touches."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    # A generator of its own, as loaders that shuffle have.
    data = torch.utils.data.TensorDataset(x, y)
    loader = torch.utils.data.DataLoader(
        data, 32, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    reorganizer = Reorganizer(
        network, optimizer, loader, ["0", "4"], schedule, 1.0, Recipe.preserving(method="kmeans"),
        average, freeze_below=True, seed=3, epochs=EPOCHS, classes=10,
        warmup=WarmUp(steps=10, factor="initial", hold=3, back=5),
    )  # fmt: skip
    return network, optimizer, schedule, average, loader, reorganizer


def train(x, y, folder, slow=0.0, files=None):
    """Train, from the last checkpoint in ``folder`` if there is one, a checkpoint an epoch.

    ``files`` receives the content of every checkpoint.
    """
    stateful = parts(x, y)
    network, optimizer, schedule, average, loader, reorganizer = stateful
    saved, start = folder / "checkpoint.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        start = state["epoch"]
        for part, values in zip(
            (network, optimizer, schedule, average, reorganizer), state["parts"], strict=True
        ):
            part.load_state_dict(values)
        loader.generator.set_state(state["order"])
        torch.set_rng_state(state["random"])
    for epoch in range(start, EPOCHS):
        network.train()
        for images, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
            average.update_parameters(network)
            time.sleep(slow)
        schedule.step()
        reorganizer.step(epoch)
        stated = (network, optimizer, schedule, average, reorganizer)
        state = {
            "epoch": epoch + 1,
            "parts": [part.state_dict() for part in stated],
            "order": loader.generator.get_state(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, folder / "writing.pt")
        os.replace(folder / "writing.pt", saved)
        if files is not None:
            files.append(saved.read_bytes())
    return state


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the processes that are killed: sums of other numbers of threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(torch_digits):
    return torch_digits[0][:320], torch_digits[1][:320]


@pytest.fixture(scope="module")
def straight(digits, tmp_path_factory):
    """The last state of a training that was never stopped, and the file of every epoch."""
    files = []
    state = train(*digits, tmp_path_factory.mktemp("straight"), files=files)
    assert len(files) == EPOCHS
    return state, files


def leaves(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{name}.{number}")
    else:
        yield name, value


def assert_same(found, expected):
    found, expected = dict(leaves(found)), dict(leaves(expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if "seconds" in name:
            continue
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


@pytest.mark.nightly
def test_killed_at_any_moment(digits, straight, tmp_path):
    assert [event["epoch"] for event in straight[0]["parts"][-1]["history"]] == [1, 3, 5]
    torch.save(digits, tmp_path / "digits.pt")
    again = f"import runpy; runpy.run_path({__file__!r}, run_name='child')"
    moments = random.Random(0)
    saved, kills = tmp_path / "checkpoint.pt", 0
    for _ in range(6):
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        child = subprocess.Popen(
            [sys.executable, "-c", again],
            env={**os.environ, "FOLDER": str(tmp_path)},
        )
        # One epoch at least, and then any moment: within a step, an event, or while saving.
        while child.poll() is None and not (saved.exists() and saved.stat().st_mtime_ns > before):
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.5))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += child.wait() == -signal.SIGKILL
    assert kills > 0, "the training ended before it could be killed"
    assert_same(train(*digits, tmp_path), straight[0])


@pytest.mark.parametrize("stopped", [1, 4])  # before the first event, and amid the warm-up
def test_resumed_from_an_epoch(digits, straight, tmp_path, stopped):
    state, files = straight
    (tmp_path / "checkpoint.pt").write_bytes(files[stopped - 1])
    assert_same(train(*digits, tmp_path), state)


def test_an_event_leaves_the_order_of_the_data_alone(digits):
    *_, loader, reorganizer = parts(*digits)
    state = loader.generator.get_state()
    assert reorganizer.step(1) is not None
    assert torch.equal(loader.generator.get_state(), state)


def test_checkpoints_need_nothing_of_this_library(straight, tmp_path):
    state, files = straight
    (tmp_path / "checkpoint.pt").write_bytes(files[-1])
    assert torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "checkpoint.pt") == []
    history = state["parts"][-1]
    assert json.loads(json.dumps(history)) == history
    assert history["last_epoch"] == 5


if __name__ == "child":
    torch.set_num_threads(1)
    place = Path(os.environ["FOLDER"])
    train(*torch.load(place / "digits.pt"), place, slow=0.02)
