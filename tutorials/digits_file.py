"""A network known only as a file, made smaller with two commands: the README's first figures.

    python tutorials/digits_file.py

For each of five seeds, a CNN is trained on scikit-learn's digits as in the demo and exported to
ONNX.  From there on only its file and the training images are used, by the commands below; the
540 test images are read by ``compare`` alone.  Figures go to
``tutorials/results/digits_file.json``, means to the terminal as the README has them.  Two minutes
on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from pathlib import Path
from statistics import mean

import torch
from rejuvenet.adapters.command_line.app import app
from rejuvenet.adapters.command_line.demo import export, trained, write_images
from typer.testing import CliRunner

RESULTS = Path(__file__).resolve().parent / "results" / "digits_file.json"
SEEDS = 5
SHRINK = "shrink original.onnx --data digits_train.npz --ratio 0.5 -o half.onnx"
FINETUNE = (
    "finetune half.onnx --data digits_train.npz --teacher original.onnx --augment none "
    "-o half_trained.onnx"
)


def run(command: str) -> dict:
    """What a command says in JSON, in the working folder."""
    done = CliRunner().invoke(app, [*command.split(), "--json"])
    if done.exit_code:
        raise SystemExit(f"{command} failed: {done.stderr}")
    return json.loads(done.stdout)


def measured(seed: int) -> dict:
    """Figures of one seed: the shrunk file beside the original, before and after training."""
    train, _ = write_images(Path())
    export(trained(train, epochs=10, seed=seed), Path("original.onnx"))
    run(f"{SHRINK} --seed {seed}")
    run(f"{FINETUNE} --seed {seed}")
    found = {}
    for name in ("half", "half_trained"):
        both = run(f"compare original.onnx {name}.onnx --data digits_test.npz")
        found[name] = {key: both[key] for key in ("accuracy", "gain", "files", "top1")}
    return found


def main() -> None:
    torch.set_num_threads(1)
    runs = []
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            runs.append(measured(seed))
        print(f"seed {seed}: {runs[-1]['half_trained']['accuracy']}", flush=True)
    commands = [f"rejuvenet {command}" for command in (SHRINK, FINETUNE)]
    RESULTS.write_text(json.dumps({"commands": commands, "runs": runs}, indent=1) + "\n")
    for name, file in (("half", 0), ("half", 1), ("half_trained", 1)):
        shares = [run[name]["accuracy"][file] for run in runs]
        costs = [run[name]["files"][file]["cost"] for run in runs]
        print(
            f"{('original', name)[file]}: {100 * mean(shares):.1f} % "
            f"({100 * min(shares):.1f} to {100 * max(shares):.1f}), "
            f"{mean(c['parameters'] for c in costs):,.0f} parameters, "
            f"{mean(c['multiply_adds'] for c in costs):,.0f} multiply-adds"
        )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    main()
