"""The README's blocks run as printed, beside the files that the demo leaves behind."""

import json
import re
import shlex
from pathlib import Path

import pytest
import rejuvenet
from rejuvenet.adapters.command_line.app import app
from typer.testing import CliRunner

ROOT = Path(rejuvenet.__file__).parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [code for found, code in BLOCK.findall(README) if found == language]


def commands():
    """The lines that call the command line, continued lines joined."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("rejuvenet ")]


def test_opens_with_the_two_commands():
    targets = [line.split()[:2] for line in blocks("bash")[0].splitlines()]
    assert targets == [["make", "demo"], ["make", "test"]]


def test_shows_every_use():
    assert [line.split()[1] for line in commands()] == [
        "inspect",
        "shrink",
        "finetune",
        "compare",
        "reorganize",
        "rejuvenate",
    ]
    shown = "".join(blocks("python"))
    for name in ("rejuvenet.adapters import onnx", "rejuvenet.sofm", "rejuvenet.adapters.torch"):
        assert name in shown


def test_commands_run_as_printed(demo_run, monkeypatch):
    folder, _ = demo_run
    monkeypatch.chdir(folder)
    for line in commands():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        assert done.stdout.strip(), line
    pages = [word for line in commands() for word in line.split() if word.endswith(".html")]
    assert len(pages) == len(commands())
    for page in pages:
        assert "What to do next" in (folder / page).read_text()
    assert (folder / "finetuned.onnx").stat().st_size > 10_000


def test_python_runs_as_printed(demo_run, monkeypatch, capsys):
    folder, _ = demo_run
    monkeypatch.chdir(folder)
    names: dict = {}
    for number, code in enumerate(blocks("python")):
        exec(compile(code, f"README.md, block {number}", "exec"), names)
        assert capsys.readouterr().out.strip()
    assert names["report"] is None  # no reorganization after the last epoch
    assert len(names["reorganizer"].history) == len(names["stepwise"].history) == 1


@pytest.mark.parametrize("target", ["demo", "test"])
def test_makefile_has_the_target(target):
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_figures_are_those_of_the_run():
    """The table on top has the means and ranges of ``tutorials/results/digits_file.json``."""
    runs = json.loads((ROOT / "tutorials/results/digits_file.json").read_text())["runs"]
    for name, file in (("half", 0), ("half", 1), ("half_trained", 1)):
        shares = [100 * run[name]["accuracy"][file] for run in runs]
        low, high = min(shares), max(shares)
        said = f"{sum(shares) / len(shares):.1f} % ({low:.1f} to {high:.1f})"
        assert said in README.replace("**", "")
        costs = [run[name]["files"][file]["cost"] for run in runs]
        assert all(f"{value:,}" in README for cost in costs for value in cost.values())


def test_figures_of_others_are_those_of_the_benchmark():
    """The best importance of each tool at half of the channels, before any training."""
    rows = json.loads((ROOT / "tests/benchmarks/results/shrink.json").read_text())["rows"]
    best = {}
    for tool in ("Torch-Pruning", "onnxsim", "folding"):
        found = {}
        for row in (row for row in rows if "accuracy" in row):  # others are searches for a rate
            if (row["network"], row["ratio"]) == ("digits", 0.5) and row["method"].startswith(tool):
                found.setdefault(row["method"], []).append(row["accuracy"])
        best[tool] = max(sum(shares) / len(shares) for shares in found.values())
    said = "Torch-Pruning keeps {:.0%} before training, by onnxsim {:.0%} and by folding {:.0%}"
    assert said.format(*best.values()).replace("%", " %") in " ".join(README.split())


def test_intervals_are_those_of_their_pages():
    pages = "".join(path.read_text() for path in (ROOT / "tutorials").rglob("README.md"))
    found = re.findall(r"\d+\.\d ± \d+\.\d", README)
    assert found
    assert all(f"+{figure} " in pages or f"-{figure} " in pages for figure in found)


def rows(text, opening):
    """The first cell of each row of the table with that opening, and the others without marks."""
    table = text[text.index(opening) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table]
    return {first: others for first, *others in cells}


def test_streams_are_those_of_their_page():
    page = rows((ROOT / "tutorials/streams/README.md").read_text(), "| stream | plain, % | made")
    shown = rows(README, "| stream |")
    assert len(shown) == 5
    for name, (plain, other, best, ours, ahead) in shown.items():
        (found,) = [others for title, others in page.items() if title.startswith(f"{name}:")]
        assert found[2].startswith(other)
        assert [found[i] for i in (0, 3, 5, 8)] == [plain, best, ours, ahead]
