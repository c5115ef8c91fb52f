"""``tutorials/stationary``: every arm on a few images of noise, and the page of its runs."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "tutorials" / "stationary"


@pytest.fixture(scope="module")
def study(study_of):
    """The runner; its page's module is there before a test changes what both read."""
    with study_of(FOLDER, "study", "table") as (study, _):
        yield study


@pytest.fixture(scope="module")
def data():
    """Fifty images of noise for each of the classes."""
    x = torch.randn(1000, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return {"train": (x, torch.arange(1000) % 20), "test": (x[:100], torch.arange(100) % 20)}


FREED = {
    # Of 16, 32, 64 and 128 channels; ours frees more where fewer respond differently.
    "random-0.8": 48, "ours-0.8": 48, "random-graded": 165, "ours-graded": 165, "repr": 72,
}  # fmt: skip


def tiny(study, n):
    """Noise for a few steps."""
    stages = functools.partial(study.cases.same, per_class=50, n=n)
    return dataclasses.replace(study.cases.CASES["noise"], stages=stages, steps=4, tuned=1.0)


@pytest.mark.filterwarnings("ignore:.*samples give")
def test_every_arm_runs_and_frees_its_share(study, data, tmp_path):
    case = tiny(study, 2)
    first, freed = set(), {}
    for arm in study.arms.COMPARED:
        if arm.endswith("0.5") or arm in study.arms.SEARCHED:
            continue  # as with 0.8; see below
        result = study.run("noise", case, arm, 0, data)
        assert len(result["test"]) == len(result["train"]) == 2
        (event,) = result["events"]
        freed[arm] = event["freed"]
        if arm != "tuned-decay":
            first.add((result["test"][0], result["train"][0]))
        study.save(result, tmp_path / f"noise-{arm}-0.json")
    assert len(first) == 1, "until their first event arms see the same weights and batches"
    assert freed.pop("random-redundant") == freed["ours-redundant"] >= freed.pop("redo") > 0
    for arm, n in freed.items():
        share = FREED.get(arm, 0)
        assert n >= share if arm.startswith("ours") else n == share, arm

    import table

    table.write(tmp_path, tmp_path)
    assert "| RePr, 0.7, absent for half a stage | 1 |" in (tmp_path / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:.*samples give")
def test_what_is_searched(study, data, tmp_path, monkeypatch):
    """Halving: all settings, then the best, and the best of these; after a kill it goes on."""
    import search

    case, path = tiny(study, 2), tmp_path / "noise-ours.json"
    monkeypatch.setattr(search, "RUNGS", ((100,), (101, 102)))
    monkeypatch.setattr(search, "KEPT", (None, 2))
    tried = [{"setting": setting, "accuracy": {}} for setting in search.ours(case)[:3]]
    tried[0]["accuracy"]["100"] = 0.9  # before the kill
    search.search(case, data, path, tried)
    found = json.loads(path.read_text())
    assert [sorted(one["accuracy"]) for one in found["tried"]].count(["100", "101", "102"]) == 2
    assert set(found["tried"][0]["accuracy"]) == {"100", "101", "102"}
    assert found["best"] in [s["setting"] for s in found["tried"] if len(s["accuracy"]) == 3]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    made = study.arms.make("searched-ours", "noise", tmp_path)
    assert made.recipe.ratio == found["best"]["recipe"]["ratio"]
    assert made.head == found["best"]["head"]
    control = study.arms.make("searched-random", "noise", tmp_path)
    assert control.recipe.method == "random"
    assert control.recipe.ratio == made.recipe.ratio
    assert not study.arms.known("searched-later-layers", "noise", tmp_path)


def test_spaces_of_the_search(study):
    import search

    for name, layers in (("noise", "2479"), ("narrow-8", ("2", "4", "6", "9", "11"))):
        case = study.cases.CASES[name]
        sizes = {space: len(tried(case)) for space, tried in search.SPACES.items()}
        last = 4 * (len(layers) - 1)
        assert sizes == {
            "plain": 12, "later-layers": last, "shrink-perturb": 24, "ours": 100, "redundant": 16,
        }  # fmt: skip
        for tried in search.SPACES.values():
            made = [study.arms.built(setting) for setting in tried(case)]
            assert len({str(vars(arm)) for arm in made}) == len(made)
        forgets_all_but_the_first = study.arms.built(search.later_layers(case)[-1])
        assert forgets_all_but_the_first.layers == tuple(f"{layer}." for layer in layers)
        weights = {key.split(".")[0] for key in case.network().state_dict()}
        assert {f"{layer}." for layer in weights} == {"0.", *forgets_all_but_the_first.layers}


def test_stages_of_the_cases(study, data):
    cases = study.cases.CASES
    (x, noisy), *others = cases["noise"].stages(data["train"], 0)
    assert all(torch.equal(y, noisy) for _, y in others)
    clean = cases["memorizing"].stages(data["train"], 0)[0]
    assert torch.equal(clean[0], x)  # the same images, of which 40 % * 19 / 20 are labelled wrong
    assert (clean[1] != noisy).float().mean() == pytest.approx(0.38, abs=0.04)
    told = cases["noise-told"].stages(data["train"], 0)[4]
    assert torch.equal(told[0], x[clean[1] == noisy])
    assert torch.equal(told[1], clean[1][clean[1] == noisy])
    grown = cases["growing"].stages(data["train"], 0)
    assert [len(y) for _, y in grown] == [200, 400, 600, 800, 1000]
    assert torch.equal(grown[0][0], grown[4][0][:200])
    assert grown[0][1].bincount().tolist() == [10] * 20


def test_what_is_drawn_anew(study, data):
    """A share of a new network is added, in the last layers only where these are forgotten."""
    case = study.cases.CASES["noise"]
    torch.manual_seed(1)
    drawn = study.cases.plain().state_dict()
    for arm, keep, draw in (("reset", 0, 1), ("shrink-perturb", 0.6, 0.1), ("later-layers", 0, 1)):
        model = study.cases.plain()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        study.arms.make(arm).event(case, model, None, data["train"], 1)
        for name, value in model.state_dict().items():
            early = arm == "later-layers" and name[0] in "02"
            expected = before[name] if early else keep * before[name] + draw * drawn[name]
            torch.testing.assert_close(value, expected)


def test_freed_channels_stay_absent_for_half_a_stage(study, data):
    """RePr: outgoing weights of new channels are zero, and no step moves them until then."""
    case = dataclasses.replace(study.cases.CASES["memorizing"], steps=4)
    torch.manual_seed(0)
    model = study.cases.plain()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    study.arms.make("repr").event(case, model, optimizer, data["train"], 0)
    zero = [(layer.weight == 0).flatten(2).all(2) if layer.weight.ndim == 4 else layer.weight == 0
            for layer in (model[2], model[4])]  # fmt: skip
    absent = [places.all(0).sum() for places in zero]
    assert absent == [5, 10]  # 30 % of 16 and of 32 channels
    for step, still in enumerate((True, True, False)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(data["train"][0]), data["train"][1]).backward()
        optimizer.step()
        silent = [bool((model[i].weight.transpose(0, 1)[places.all(0)] == 0).all())
                  for i, places in zip((2, 4), zero, strict=True)]  # fmt: skip
        assert silent == [still, still], step


def test_the_page_is_that_of_the_committed_runs(study, tmp_path):
    import table

    table.write(study.RUNS, tmp_path)
    written = (FOLDER / "README.md").read_text()
    assert (tmp_path / "README.md").read_text() == written, "run tutorials/stationary/table.py"


def test_what_counts_as_reached(study):
    """Every control by two points, on ten seeds, with an interval that excludes zero."""
    import table

    def ended(gain, spread=0.0, seeds=10, control="plain"):
        found = {
            ("noise", control): {s: {"accuracy": 0.3 + spread * (-1) ** s} for s in range(seeds)},
            ("noise", "ours-redundant"): {s: {"accuracy": 0.3 + gain} for s in range(seeds)},
        }
        return table.defaultdict(dict, found)

    assert table.reached(ended(0.021), "noise")
    assert not table.reached(ended(0.019), "noise")
    assert not table.reached(ended(0.021, spread=0.03), "noise")
    assert not table.reached(ended(0.03, seeds=9), "noise")
    for control in table.CONTROLS:
        assert not table.reached(ended(0.03) | ended(0.01, control=control), "noise")
    assert "Reached in no case" in table.aimed(ended(0.019), ["noise"])
    assert "on the seeds from 10 on alone" in table.aimed(ended(0.03, seeds=20), ["noise"])
    assert "from 10 on" not in table.aimed(ended(0.03, seeds=19), ["noise"])


def test_runs_that_exist_are_not_repeated(study, data, tmp_path, monkeypatch, capsys):
    tiny = {"noise": dataclasses.replace(study.cases.CASES["noise"], steps=2)}
    monkeypatch.setattr(study.cases, "CASES", tiny)
    monkeypatch.setattr(study.cases, "images", lambda _, split: data[split])
    command = ["study.py", "--output", str(tmp_path), "--seeds", "0:1", "--arms"]
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        for arms in (["plain"], ["plain", "reset"], ["plain", "reset"]):
            monkeypatch.setattr(sys, "argv", [*command, *arms])
            study.main()
    finally:
        torch.use_deterministic_algorithms(deterministic)
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["noise-plain-0", "noise-reset-0"]
    assert json.loads((tmp_path / "noise-reset-0.json").read_text())["settings"]["keep"] == 0
