"""``tutorials/streams``: every arm on tiny streams of noise, and the rules of the arms."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "tutorials" / "streams"


@pytest.fixture(scope="module")
def study(study_of):
    """The runner; its page's module is there before a test changes what both read."""
    with study_of(FOLDER, "study", "table") as (study, _):
        yield study


def tiny(study, name):
    """Three tasks of four steps, and four images of noise for each of 100 classes."""
    generator = torch.Generator().manual_seed(0)
    shape = (400, 784) if name == "permuted" else (400, 3, 16, 16)
    x, y = torch.randn(shape, generator=generator), torch.arange(400) % 100
    stream = dataclasses.replace(study.tasks.STREAMS[name], n_tasks=3, steps=4)
    if name == "permuted":
        y = y % 10
    return stream, study.tasks.Data((x, y), (x, y))



EVENTS = {
    # After which of three tasks (hard, easy, hard) an event takes place; never after the last.
    "redo": [1], "reset": [0, 1], "ours-0.5": [0], "ours-0.8": [0], "ours-redundant": [0],
    "ours-kmeans": [0], "ours-random": [0], "ours-0.5-round": [1], "optimizer-reset": [0],
    "ours-0.5-reset": [0], "later-layers": [0], "random-redundant": [0],
    "ours-redundant-norm": [0],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*samples give")  # 20 images refit what 500 should
def test_every_arm_runs_on_tasks_that_alternate(study):
    stream, data = tiny(study, "5+1")
    first = set()
    for arm in study.arms.ARMS:
        if arm.startswith("ours") and arm.endswith("reset") and arm not in EVENTS:
            continue  # two changes, each of which another arm shows
        result = study.run("5+1", stream, arm, 0, data)
        assert [event["task"] for event in result["events"]] == EVENTS.get(arm, []), arm
        assert len(result["online"]) == len(result["test"]) == 3
        assert result["easy"] == [False, True, False]
        assert result["final"] == pytest.approx((result["online"][0] + result["online"][2]) / 2)
        json.dumps(result)
        normalized = arm.endswith("-norm")  # another network
        if result["settings"]["rate"] == 1e-3 and arm in ("plain", *EVENTS) and not normalized:
            first.add(result["online"][0])
    assert len(first) == 1, "until their first event arms see the same weights and batches"


@pytest.mark.parametrize("name", ["permuted", "random-labels", "incremental"])
def test_streams_whose_tasks_do_not_alternate(study, name):
    stream, data = tiny(study, name)
    result = study.run(name, stream, "redo", 1, data)
    # Without easy tasks every task ends a round.
    assert [event["task"] for event in result["events"]] == [0, 1]
    assert (None in result["test"]) == (name == "random-labels")
    again = study.run(name, stream, "redo", 1, data)
    for figure in ("online", "test", "final"):
        assert again[figure] == result[figure]


@pytest.mark.filterwarnings("ignore:.*samples give")
def test_units_at_random_are_as_many_as_ours(study):
    stream, data = tiny(study, "incremental")
    stream = dataclasses.replace(stream, n_tasks=4, steps=30)
    ours, control = (
        study.run("incremental", stream, arm, 0, data)
        for arm in ("ours-redundant", "random-redundant")
    )
    freed = [event["freed"] for event in ours["events"]]
    assert sum(freed[1:]) > 0
    assert [event["freed"] for event in control["events"]] == freed
    assert control["online"] != ours["online"]


def test_tasks_are_what_their_streams_say(study):
    streams = study.tasks
    _, data = tiny(study, "5+1")
    tasks = list(zip(range(30), streams.five_and_one(data, 3), strict=False))
    seen = [set(task.train[1].tolist()) for _, task in tasks]
    assert [len(classes) for classes in seen] == [5, 1] * 15
    assert len(set.union(*seen)) == 90
    assert all(set(task.test[1].tolist()) == seen[i] for i, task in tasks)
    grown = [set(task.train[1].tolist()) for task in streams.incremental(data, 3)]
    assert [len(classes) for classes in grown] == list(range(5, 101, 5))
    assert all(a < b for a, b in itertools.pairwise(grown))
    _, data = tiny(study, "permuted")
    one, two = (task.train for _, task in zip(range(2), streams.permuted(data, 3), strict=False))
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], two[0])
    assert torch.equal(one[0].sort(1).values, two[0].sort(1).values)


def started(study, name, **changes):
    """An arm that took one step of a small convolutional network."""
    torch.manual_seed(0)
    arm = dataclasses.replace(study.arms.make(name, "5+1 CIFAR"), **changes)
    model = study.tasks.convolutional(16, 3)(arm.layer_norm)
    arm.start(model, torch.optim.Adam(model.parameters(), arm.rate), 0)
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8)
    torch.nn.functional.cross_entropy(model(x), y).backward()
    return arm, model, x


@pytest.mark.parametrize("name", ["l2", "l2-init"])
def test_penalties_have_the_gradient_of_their_formula(study, name):
    arm, model, _ = started(study, name, strength=0.1)
    anchors = [torch.zeros_like(p) if name == "l2" else p.detach() - 0.5 for p in arm.parameters]
    arm.initial = anchors
    before = [p.grad.clone() for p in arm.parameters]
    arm.before_step()
    penalty = 0.1 * sum(
        ((p - a) ** 2).sum() for p, a in zip(model.parameters(), anchors, strict=True)
    )
    for p, old, g in zip(
        arm.parameters, before, torch.autograd.grad(penalty, arm.parameters), strict=True
    ):
        torch.testing.assert_close(p.grad, old + g)


def test_a_silent_unit_is_drawn_again_and_changes_no_output(study):
    arm, model, x = started(study, "redo")
    arm.optimizer.step()
    with torch.no_grad():
        for layer, unit in ((model[0], 3), (model[3], 5), (model[7], 7)):
            layer.weight[unit], layer.bias[unit] = 0, -1
    before = model(x)
    moments = arm.optimizer.state[model[7].weight]["exp_avg_sq"]
    assert moments[:, 20:24].any()
    assert arm.event([(x, torch.zeros(8))]) >= 3
    torch.testing.assert_close(model(x), before)
    assert model[0].weight[3].abs().min() > 0
    kept = model[3].bias != 0  # units that are new as well may read it
    assert kept.any()
    assert not model[3].weight[kept, 3].any()
    # Unit 5 of the second convolution fills columns 20 to 23 of the linear layer: 2 x 2 places.
    kept = model[7].bias != 0
    assert not model[7].weight[kept, 20:24].any()
    assert model[7].weight.any(1).all()
    assert not moments[:, 20:24].any()


def test_continual_backprop_spares_young_units_and_takes_the_least_useful(study):
    arm, model, x = started(study, "cbp", replacement=0.01, maturity=3)
    arm.optimizer.step()
    with torch.no_grad():
        model[7].bias[:] = 3  # all are active
        model[7].weight[9], model[7].bias[9] = 0, 2  # always 2, and hardly used
        model[9].weight[:, 9] = 1e-3
    for _ in range(3):
        model(x)
        arm.after_step(x, None)
    assert model[7].bias[9] == 2  # all are young
    model(x)
    before = model(x)
    arm.after_step(x, None)  # 1 of 100 is due
    assert model[7].bias[9] == 0
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-5)


def test_no_setting_is_tried_twice(study):
    """What a stream's published settings say already, and occasions that are every task."""
    assert study.candidates("permuted", "cbp") == ["cbp", "cbp,replacement=0.01"]
    assert "redo,occasion=hard" in study.candidates("5+1", "redo")
    assert "redo,occasion=hard" not in study.candidates("incremental", "redo")


def test_self_normalized_resets_know_what_silence_is_usual(study):
    arm, model, x = started(study, "snr", rejection=0.1)
    arm.optimizer.step()
    layer = arm.layers[2]

    def step(always: float, seldom: float) -> None:
        model(x)
        layer.output = torch.ones(8, 100)
        layer.output[:, 0], layer.output[:, 1] = always, seldom
        arm.after_step(x, None)

    for number in range(61):
        step(1.0, float(number % 4 == 0))
    marked = model[7].weight[:2].detach().clone()
    step(0.0, 0.0)
    now = model[7].weight[:2]
    assert not torch.equal(now[0], marked[0])  # was never silent before
    assert torch.equal(now[1], marked[1])  # is silent most of the time


def test_the_runner_repeats_nothing_and_says_what_is_missing(study, tmp_path, monkeypatch, capsys):
    stream, data = tiny(study, "5+1")
    small = dataclasses.replace(stream, load=lambda root: data)
    monkeypatch.setattr(
        study.tasks, "STREAMS", {"5+1": small, "permuted": study.tasks.STREAMS["permuted"]}
    )
    monkeypatch.setattr(study.tasks, "DEBIAN", tmp_path / "nowhere")
    (tmp_path / "5+1-redo-0.part").write_text("half of a")
    command = ["study.py", "--data", str(tmp_path), "--output", str(tmp_path), "--seeds", "0:2"]
    monkeypatch.setattr(sys, "argv", [*command, "--arms", "plain", "redo"])
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        study.main()
        first = capsys.readouterr().out
        study.main()
        second = capsys.readouterr().out
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_flush_denormal(False)
    assert first.count("final") == 4
    assert "final" not in second
    assert "permuted is skipped: expected train-images-idx3-ubyte.gz" in second
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert not list(tmp_path.glob("*.part"))

    import table

    table.write(tmp_path, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| ReDo | 2 |" in page
    assert (tmp_path / "accuracy.svg").exists()


def test_the_page_is_that_of_the_committed_runs(study, tmp_path):
    import table

    if not list(study.RUNS.glob("*.json")):
        pytest.skip("no runs are committed")
    table.write(study.RUNS, tmp_path)
    written = (FOLDER / "README.md").read_text()
    assert (tmp_path / "README.md").read_text() == written, "run tutorials/streams/table.py"
