"""``tutorials/paper/experiments.py``: its arms on noise, killed and resumed, and its page."""

from __future__ import annotations

import doctest
import importlib
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from torch import nn  # noqa: E402

FOLDER = Path(__file__).parents[2] / "tutorials" / "paper"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def experiments(study_of):
    """The runner."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    with study_of(FOLDER, "experiments") as (experiments,):
        yield experiments
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("name", ["networks", "protocols", "arms", "rigl", "experiments", "report"])
def test_examples(experiments, name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


class Tiny(nn.Module):
    """Two blocks, one of them with a shortcut, as small as can be."""

    def __init__(self, n_classes):
        super().__init__()
        self.stem = self.unit(3, 8, 2)
        self.conv4, self.conv5 = self.unit(8, 12, 2), self.unit(12, 12, 1)
        self.fc = nn.Linear(12, n_classes)

    @staticmethod
    def unit(n_in, n_out, stride):
        return nn.Sequential(
            nn.Conv2d(n_in, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, n_out, 3, 1, 1, bias=False), nn.BatchNorm2d(n_out),
        )  # fmt: skip

    def forward(self, x):
        x = torch.relu(self.conv4(torch.relu(self.stem(x))))
        return self.fc(torch.relu(x + self.conv5(x)).mean((2, 3)))


@pytest.fixture
def study(experiments, tmp_path, monkeypatch):
    """Runs of the tiny network, which the tables do not have."""
    from networks import Network

    blocks = {"conv3": "stem.3", "conv4": "conv4.0", "conv5": "conv5.0"}
    tiny = Network("Tiny", lambda n, _: Tiny(n), blocks)
    monkeypatch.setitem(experiments.NETWORKS, "tiny", tiny)
    monkeypatch.setitem(experiments.TABLES, "1", {"tiny": ["plain", "paper-conv5", "l1-conv5"]})
    return experiments.Study(CPU, None, tmp_path)


def figures(result):
    """Without what a clock says."""
    epochs = [{k: v for k, v in e.items() if "seconds" not in k} for e in result["epochs"]]
    events = [{k: v for k, v in e.items() if k != "seconds"} for e in result["events"]]
    return epochs, events


ARMS = {  # epochs after which something happens, of three that count
    "plain": [], "paper-conv4+5": [1, 2], "l1-conv5": [1, 2], "nr": [1], "rigl": [],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*samples give")
@pytest.mark.parametrize("arm", ARMS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(experiments, study, monkeypatch, arm):
    import training

    cell = experiments.Cell("tiny", arm, 3)
    whole = study.run(cell)
    assert [event["epoch"] for event in whole["events"]] == ARMS[arm]
    assert len(whole["epochs"]) == 3 + (arm == "nr")
    assert not list(study.output.rglob("*.pt"))

    monkeypatch.setattr(training, "SAVED_EVERY", -1)
    epoch = training.Training.epoch

    def killed(self, done, steps):
        if done == 2:
            raise KeyboardInterrupt
        return epoch(self, done, steps)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            study.run(cell)
    assert (study.output / "checkpoints" / f"{cell.name}.pt").exists()
    assert figures(study.run(cell)) == figures(whole)


def test_events_change_what_they_say(experiments, study):
    training = study.training(experiments.Cell("tiny", "paper-conv4+5", 0))
    training.run()
    first, second = ([g["group"] for g in event["groups"]] for event in training.events)
    assert (first, second) == (["conv4.0.weight"], ["conv5.0.weight"])
    assert all(group["new"] >= 8 for event in training.events for group in event["groups"])
    frozen = {name for name, p in training.model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"stem", "conv4"}

    plain, l1 = (study.training(experiments.Cell("tiny", arm, 0)) for arm in ("plain", "l1-conv5"))
    l1.arm.sparsity = 1.0
    for own in (plain, l1):
        own.begin()
        own.epoch(0, 2)
    # Two steps at rate 0.1 with momentum 0.9 take 0.1 and 0.19.
    for block, taken in (("conv5", 0.29), ("conv4", 0.0)):
        scale, usual = (getattr(own.model, block)[1].weight.detach() for own in (l1, plain))
        torch.testing.assert_close(usual - scale, torch.full((16,), taken), rtol=0, atol=0.05)


def test_sparse_networks_keep_their_connections(experiments, study):
    training = study.training(experiments.Cell("tiny", "rigl", 0))
    training.begin()
    arm = training.arm
    before = {name: mask.clone() for name, mask in arm.masks.items()}
    training.run()
    kept = sum(int(mask.sum()) for mask in arm.masks.values())
    assert kept == pytest.approx(0.2 * sum(mask.numel() for mask in arm.masks.values()), abs=3)
    for name, mask in arm.masks.items():
        assert not arm.weights[name].detach()[~mask].any()
        assert mask.sum() == before[name].sum()
    assert any(not torch.equal(mask, before[name]) for name, mask in arm.masks.items())


def test_neural_rejuvenation_keeps_survivors_and_parameters(experiments, study):
    from neural_rejuvenation import Channels

    torch.manual_seed(0)
    model = Tiny(10).eval()
    with torch.no_grad():
        for norm in (model.stem[1], model.conv4[1], model.conv5[1]):
            norm.weight.uniform_(0.2, 2)
            norm.bias.uniform_(-1, 1)
            norm.weight[::2], norm.bias[::2] = 0, 0
    x = torch.randn(4, 3, 32, 32)
    channels = Channels(model, 32)
    live = channels.live(0.01)
    assert [int(own.sum()) for own in live.values()] == [8, 8, 8, 12, 8]
    utilization = channels.utilization(live)
    assert utilization == pytest.approx(0.5)  # one end of every convolution

    expected = model(x)
    channels.rescale(0.5)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert all((scale[1::2].abs() >= 0.5).all() for scale in channels.scales())

    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    count = sum(m.weight.numel() for m in convolutions)
    channels.widen(live, 2**0.5)
    wide = sum(m.weight.numel() for m in convolutions)
    assert wide == pytest.approx(count, rel=0.1)
    with torch.no_grad():  # without the connections across, survivors see what they saw
        for m in convolutions:
            if hasattr(m, "new_in"):
                m.weight[m.old_out[:, None], m.new_in] = 0
    model.train()
    views = {m: m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    for m in views:
        m.eval()
    torch.testing.assert_close(model(x)[..., 0], expected, rtol=1e-4, atol=1e-5)
    assert model.eval()(x).shape == (4, 10)


def test_selective_units_close_what_is_not_needed_and_read_again_what_is(experiments):
    from selective_allocation import SelectiveUnit

    torch.manual_seed(0)
    unit = SelectiveUnit(8, 6, 1).eval()
    with torch.no_grad():
        unit.conv.weight[:, :3] *= 1e-5
        unit.norm.bias.uniform_(-0.5, 0.5)
    x = torch.randn(2, 8, 5, 5)
    before = unit(x)
    assert unit.dealloc() == 3
    torch.testing.assert_close(unit(x), before, rtol=0, atol=1e-3)
    assert not unit.open[:3].any()
    closed = unit(x)
    assert unit.realloc(torch.Generator().manual_seed(0)) == 3
    torch.testing.assert_close(unit(x), closed)  # their weights start at zero
    assert (unit.source[:3] >= 3).all()
    with torch.no_grad():
        unit.shift[:3] = torch.tensor([1.0, 0.0])  # one pixel along the width
    shifted = unit._shifted(x)
    torch.testing.assert_close(shifted[..., :-1], x[:, unit.source[:3], :, 1:])
    unit.train()(x).sum().backward()
    assert unit.shift.grad is not None


def test_the_command_and_its_page(experiments, study, monkeypatch, capsys, tmp_path):
    import report

    command = ["experiments.py", "1", "--trial", "--networks", "tiny", "--seeds", "3:4"]
    monkeypatch.setattr(sys, "argv", [*command, "--device", "cpu"])
    experiments.main()
    said = capsys.readouterr().out
    assert "3 runs, 0 of them done" in said
    assert "hours expected on cpu" in said
    assert said.count("top 5") == 3

    for seed in (0, 1):
        for arm in ("plain", "paper-conv5"):
            study.run(experiments.Cell("tiny", arm, seed))
    fine_tuned = json.loads((tmp_path / "tiny-plain-0.json").read_text())
    fine_tuned["network"] = "imagenet-resnet50"
    fine_tuned["settings"]["published"] = True
    fine_tuned["first"] = {"top1": 0.7613, "top5": 0.9286}
    (tmp_path / "imagenet-resnet50-plain-0.json").write_text(json.dumps(fine_tuned))
    page = tmp_path / "README.md"
    report.write(tmp_path, page)
    assert "| Tiny | the paper's recipe, conv5 | 2 |" in page.read_text()
    assert "| published weights | - | 76.13 | 92.86 |" in page.read_text()
    assert "76.15 / 92.87 |" in page.read_text()
    assert (tmp_path / "accuracy-tiny.svg").exists()


def test_the_page_is_that_of_the_committed_runs(experiments, tmp_path):
    import report

    page = tmp_path / "README.md"
    page.write_text((FOLDER / "README.md").read_text())
    report.write(report.RUNS, page)
    written = (FOLDER / "README.md").read_text()
    assert page.read_text() == written, "run tutorials/paper/report.py"


def test_folders_of_images_come_in_the_same_order_and_crops(experiments, tmp_path):
    from images import ImageFolders
    from PIL import Image

    noise = torch.randint(256, (12, 30, 40, 3), generator=torch.Generator().manual_seed(0))
    for number, pixels in enumerate(noise.to(torch.uint8).numpy()):
        place = tmp_path / ("train" if number < 8 else "val") / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    folders = ImageFolders(tmp_path, CPU, workers=1)
    assert (folders.steps(3), folders.tests) == (3, 4)
    first, again, other = (list(folders.train(3, 0, epoch)) for epoch in (0, 0, 1))
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip
    assert not torch.equal(first[0][0], other[0][0])
    assert sorted(torch.cat([y for _, y in folders.judged()]).tolist()) == [0] * 4 + [1] * 4
    ((x, y),) = folders.test()
    assert (x.shape, sorted(y.tolist())) == ((4, 3, 224, 224), [0, 0, 1, 1])


@pytest.mark.filterwarnings("ignore:.*samples give")
def test_figure_2_of_mobilenet(experiments, monkeypatch, tmp_path):
    import figure2

    page = tmp_path / "page.html"
    command = ["figure2.py", "mobilenet", "conv3", "--epochs", "1", "-o", str(page)]
    monkeypatch.setattr(sys, "argv", [*command, "--device", "cpu"])
    figure2.main()
    assert "blocks.3.33.weight" in page.read_text()
    assert page.read_text().count('class="panel"') == 3


def test_arms_of_the_first_study(experiments, tmp_path):
    study = experiments.Study(CPU, None, tmp_path)
    for arm in ("narrow", "early-conv3", "merged-conv3"):
        training = study.training(experiments.Cell("small-step", arm, 0))
        training.run()
        happened = [event["epoch"] for event in training.events]
        assert happened == ([1, 2] if arm == "merged-conv3" else [])
        assert training.model[6].out_channels == (96 if arm == "narrow" else 192)
    assert study.training(experiments.Cell("resnet20", "paper-conv4", 0)).run()["events"]


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.*samples give")
def test_every_network_and_method_of_the_tables(experiments, tmp_path):
    study = experiments.Study(CPU, None, tmp_path)
    done = set()
    for cell in experiments.cells(experiments.TABLES, [0], [], []):
        how = cell.arm.partition("-")[0]
        if (cell.network, how) in done or how in ("random", "refit"):
            continue
        done.add((cell.network, how))
        assert len(study.run(cell)["epochs"]) >= 3
