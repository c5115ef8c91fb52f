"""What the command line makes of a network that is known only as an ONNX file.

    python tutorials/from_a_file.py --data /data/cifar100    # writes results/from_a_file.json
    python tutorials/from_a_file.py --table                  # from_a_file.md, from the JSON

A small residual network learns ten classes of CIFAR-100 from a fifth of their training images and
is exported, with BatchNorm kept.  From there on there are only the file, a folder of pictures for
training and one for testing, and the commands that a user would type: fine-tune the file; shrink it
to half of its channels and fine-tune it; rejuvenate it, for as many epochs; make a file of folded
BatchNorm learn; and teach a file without labels.  Accuracy is that on the official test images, by
onnxruntime.  Outputs that exist in ``--work`` are not made again, so it goes on after a kill.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cifar100
import numpy as np
import onnx
import torch
from PIL import Image

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "results" / "from_a_file.json", HERE / "from_a_file.md"
CLASSES, IMAGES, WIDTH = 10, 100, 8  # of the first training: classes, images of each, channels
READ = [
    *("--mean", ",".join(map(str, cifar100.MEAN)), "--std", ",".join(map(str, cifar100.STD))),
    *("--batch-size", "128"),
]
# name: what it says in the table, and the commands that make the file from "model" or "folded"
WAYS = {
    "fine-tuned": ("fine-tuned", ["finetune model.onnx --data train -o fine-tuned.onnx"]),
    "half": ("half of the channels, not trained", [
        "shrink model.onnx --data train --ratio 0.5 -o half.onnx",
    ]),
    "half, fine-tuned": ("half of the channels, fine-tuned", [
        "finetune half.onnx --data train -o 'half, fine-tuned.onnx'",
    ]),
    "rejuvenated": ("rejuvenated, of equal length", [
        "rejuvenate model.onnx --data train --no-control -o rejuvenated.onnx",
    ]),
    "folded, fine-tuned": ("BatchNorm folded, fine-tuned", [
        "finetune folded.onnx --data train -o 'folded, fine-tuned.onnx'",
    ]),
    "taught": ("taught by the fine-tuned file, no labels", [
        "finetune model.onnx --data unlabelled --teacher fine-tuned.onnx -o taught.onnx",
    ]),
}  # fmt: skip


def pictures(root: str, work: Path) -> None:
    """Folders of PNG files: ``train`` and ``test`` with one folder a class, and ``unlabelled``."""
    for split in ("train", "test"):
        x, y = cifar100.load(root, split, CLASSES)
        levels = (x.numpy().transpose(0, 2, 3, 1) * cifar100.STD + cifar100.MEAN) * 255
        for i, (image, label) in enumerate(zip(np.rint(levels).astype("u1"), y, strict=True)):
            picture = Image.fromarray(image)
            places = [work / split / f"{int(label)}"]
            if split == "train":
                places.append(work / "unlabelled")
            for place in places:
                place.mkdir(parents=True, exist_ok=True)
                picture.save(place / f"{i}.png")


def exported(root: str, work: Path, epochs: int, seed: int) -> None:
    """The network that nobody has the source of, as files with BatchNorm kept and folded."""
    x, y = cifar100.load(root, "train", CLASSES)
    few = torch.cat([torch.where(y == c)[0][:IMAGES] for c in range(CLASSES)])
    torch.manual_seed(seed)
    network = cifar100.ResNet20(CLASSES, WIDTH)
    cifar100.train(network, x[few], y[few], epochs, batch=32, seed=seed)
    for name, mode in ("model", "PRESERVE"), ("folded", "EVAL"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network.eval(), (x[:2],), work / f"{name}.onnx", dynamo=False,
                input_names=["images"], dynamic_axes={"images": {0: "n"}},
                do_constant_folding=mode == "EVAL",
                training=getattr(torch.onnx.TrainingMode, mode),
            )  # fmt: skip


def typed(command: str, work: Path, *more: str) -> Any:
    """Run ``rejuvenet`` as a user would, in the folder; its JSON."""
    words = [sys.executable, "-m", "rejuvenet", *shlex.split(command), *READ, *more, "--json"]
    done = subprocess.run(words, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def skeleton(path: Path) -> tuple:
    """Nodes, names and metadata of a file."""
    message = onnx.load(path)
    nodes = [node.SerializeToString() for node in message.graph.node]
    arrays = [(t.name, t.data_type, tuple(t.dims)) for t in message.graph.initializer]
    return nodes, arrays, message.opset_import, message.metadata_props, message.producer_name


def study(root: str, work: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Every way, for one network."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "folded.onnx").exists():
        pictures(root, work)
        exported(root, work, epochs, seed)
    found: dict[str, Any] = {}
    for name, (_, commands) in WAYS.items():
        output = work / f"{name}.onnx"
        if not output.exists():
            for command in commands:
                lasting = () if command.startswith("shrink") else ("--epochs", str(epochs))
                typed(command, work, *lasting, "--seed", str(seed))
        onnx.checker.check_model(str(output), full_check=True)
        given = work / ("folded.onnx" if name.startswith("folded") else "model.onnx")
        compared = typed(f"compare {given.name} '{output.name}' --data test", work)
        before, after = compared["accuracy"]
        found[name] = {
            "before": before, "after": after, "bytes": output.stat().st_size,
            "same nodes and names": skeleton(given) == skeleton(output),
        }  # fmt: skip
        print(seed, name, found[name], flush=True)
    return found


def page(results: dict[str, Any]) -> str:
    """The table, from the raw numbers."""
    seeds = results["seeds"].values()
    lines = [
        "# A network that is known only as a file",
        "",
        f"Written by `python tutorials/from_a_file.py --table` from `{RESULT.relative_to(HERE)}`; "
        f"the script says what was done. {len(seeds)} networks of {CLASSES} classes, "
        f"{results['epochs']} epochs of every training; means, and the least and the greatest.",
        "",
        "| file | test accuracy, % | beside plain fine-tuning, points | file, kB |",
        "| --- | ---: | ---: | ---: |",
    ]
    tuned = np.array([found["fine-tuned"]["after"] for found in seeds])
    first = np.array([found["fine-tuned"]["before"] for found in seeds])
    rows = {"as it was given": first}
    rows |= {
        title: np.array([f[name]["after"] for f in seeds]) for name, (title, _) in WAYS.items()
    }
    sizes = {title: next(iter(seeds))[name]["bytes"] for name, (title, _) in WAYS.items()}
    for title, values in rows.items():
        apart = "" if title in ("as it was given", "fine-tuned") else _span(values - tuned, "+")
        size = f"{sizes[title] / 1000:.0f}" if title in sizes else ""
        lines.append(f"| {title} | {_span(values)} | {apart} | {size} |")
    lines += ["", "The commands, each with `" + shlex.join(READ) + "`:", "", "```"]
    lines += [f"rejuvenet {command}" for _, commands in WAYS.values() for command in commands]
    return "\n".join([*lines, "```"]) + "\n"


def _span(shares: np.ndarray, sign: str = "") -> str:
    low, mean, high = (f"{100 * v:{sign}.1f}" for v in (shares.min(), shares.mean(), shares.max()))
    return f"{mean} ({low} to {high})" if len(shares) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of train_CC.webp, test_CC.webp")
    parser.add_argument("--work", type=Path, default=Path("build/from_a_file"))
    parser.add_argument("--epochs", type=int, default=10, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="only write the page")
    given = parser.parse_args()
    if not given.table:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        results: dict[str, Any] = {"epochs": given.epochs, "seeds": {}}
        for seed in range(given.seeds):
            results["seeds"][seed] = study(given.data, given.work / str(seed), given.epochs, seed)
            RESULT.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
