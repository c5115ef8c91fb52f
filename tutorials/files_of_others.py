"""Files that others made and nobody has the source of, through the commands.

    pip install --no-deps rapidocr-onnxruntime==1.4.4 nudenet==3.4.2 openwakeword==0.4.0
    python tutorials/files_of_others.py --photos /data/photos  # writes results/files_of_others.json
    python tutorials/files_of_others.py --table                # files_of_others.md, from the JSON

Three files as these packages bring them: one that reads lines of text (Paddle OCR), a detector
(YOLOv8 nano), and one that makes embeddings of spectrograms.  None comes with its training data, so
nothing is labelled: what is measured is whether a changed file says what the original says, on
samples that no command has seen.  Lines of text are rendered here, sounds are made up, photos are
any photos.  Outputs that exist in ``--work`` are not made again, so it goes on after a kill.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "results" / "files_of_others.json", HERE / "files_of_others.md"
WORDS = ("Total", "Date", "Invoice", "Street", "Order", "Paid", "Amount", "Name", "Tax", "Page")
SIZES = {"text": (100, 60), "boxes": (48, 40), "sounds": (300, 100)}  # given, and set apart
SIDE = 192  # of photos for the detector
SHOWN = re.compile(r"^\w.*\S$")  # lines that belong to no table


@dataclass
class Example:
    """One file.

    Attributes
    ----------
    title : str
    package, path : str
        Where the file comes from.
    said : str
        What the page says before the commands.
    figure : str
        What ``measure`` counts, for the head of its column.
    read : str
        Options that say how samples enter.
    commands : tuple of (str, str)
        The file that each makes, and the command.
    data : callable
        Writes ``given`` and ``apart`` into a folder; how many of each.
    inputs : callable
        What is set apart, as a file takes it.
    measure : callable
        How far two files agree, from the outputs of both.
    """

    title: str
    package: str
    path: str
    said: str
    figure: str
    read: str
    commands: tuple[tuple[str, str], ...]
    data: Callable[[Path, int, int, Path | None], None]
    inputs: Callable[[Path], np.ndarray]
    measure: Callable[[np.ndarray, np.ndarray, Path], float]


def packaged(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; see the top of this file")
    return Path(spec.submodule_search_locations[0]) / path


def lines(folder: Path, given: int, apart: int, _: Path | None) -> None:
    """Pictures of 48 x 160 with two words or numbers each, dark on light or the other way round."""
    rng = random.Random(0)
    for number in range(given + apart):
        text = f"{rng.choice(WORDS)} {rng.choice([rng.choice(WORDS), rng.randint(1, 99999)])}"
        paper, ink = rng.choice(((235, 60), (40, 200)))
        picture = Image.new("RGB", (160, 48), (paper,) * 3)
        font = ImageFont.load_default(rng.randint(17, 22))
        corner = rng.randint(2, 8), rng.randint(8, 14)
        ImageDraw.Draw(picture).text(corner, text, (ink,) * 3, font)
        place = folder / ("given" if number < given else "apart")
        place.mkdir(exist_ok=True)
        picture.save(place / f"{number:04}.png")


def photos(folder: Path, given: int, apart: int, source: Path | None) -> None:
    """Photos, cut to squares."""
    found = sorted(source.glob("*.jpg")) if source else []
    if len(found) < given + apart:
        raise SystemExit(f"expected --photos, a folder of {given + apart} .jpg files or more")
    for number, path in enumerate(random.Random(0).sample(found, given + apart)):
        place = folder / ("given" if number < given else "apart")
        place.mkdir(exist_ok=True)
        with Image.open(path) as picture:
            square = ImageOps.fit(picture.convert("RGB"), (SIDE, SIDE))
        square.save(place / f"{number:04}.png")


def sounds(folder: Path, given: int, apart: int, _: Path | None) -> None:
    """Spectrograms of 76 x 32, as the package's own file makes them of 12,560 numbers at 16 kHz.

    Two tones that rise or fall, and noise; a label says nothing, so there is none.
    """
    maker = packaged("openwakeword", "resources/models/melspectrogram.onnx")
    session = onnxruntime.InferenceSession(maker, providers=["CPUExecutionProvider"])
    rng, time = np.random.default_rng(0), np.arange(12560) / 16000
    made = []
    for _number in range(given + apart):
        pitch = rng.uniform(80, 3000, (2, 1)) * (1 + rng.uniform(-0.5, 0.5, (2, 1)) * time)
        wave = (rng.uniform(0, 6000, (2, 1)) * np.sin(2 * np.pi * pitch * time)).sum(0)
        wave += rng.normal(scale=rng.uniform(10, 2000), size=time.shape)
        (levels,) = session.run(None, {"input": wave[None].astype("f4")})
        made.append(levels.reshape(76, 32, 1) / 10 + 2)
    x = np.stack(made).astype("f4")
    np.savez(folder / "given.npz", x=x[:given])
    np.savez(folder / "apart.npz", x=x[given:])


def pictured(folder: Path, mean: float, std: float) -> np.ndarray:
    """Pictures set apart, as the commands give them to a file."""
    paths = sorted((folder / "apart").glob("*.png"))
    x = np.stack([np.asarray(Image.open(path)) for path in paths])
    return ((x.transpose(0, 3, 1, 2) / 255 - mean) / std).astype("f4")


def texts(scores: np.ndarray, model: Path) -> list[str]:
    """What a reader of lines says: the likeliest sign at each place, repetitions and blanks out."""
    held = {p.key: p.value for p in onnx.load(model).metadata_props}
    signs = ["", *held["character"].split("\n"), " "]
    found = []
    for places in scores.argmax(-1):
        changed = np.flatnonzero(np.diff(places, prepend=0))
        found.append("".join(signs[places[i]] for i in changed))
    return found


def same_text(before: np.ndarray, after: np.ndarray, model: Path) -> float:
    pairs = zip(texts(before, model), texts(after, model), strict=True)
    return float(np.mean([a == b for a, b in pairs]))


def same_box(before: np.ndarray, after: np.ndarray, _: Path) -> float:
    """Whether the strongest detection has the same class and half of its area in common."""

    def strongest(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best = found[:, 4:].max(1).argmax(1)
        picked = found[np.arange(len(found)), :, best]
        return picked[:, 4:].argmax(1), picked[:, :4]

    (one, a), (other, b) = strongest(before), strongest(after)
    ends = [(box[:, :2] - box[:, 2:4] / 2, box[:, :2] + box[:, 2:4] / 2) for box in (a, b)]
    sides = np.minimum(ends[0][1], ends[1][1]) - np.maximum(ends[0][0], ends[1][0])
    inner = sides.clip(0).prod(1)
    either = a[:, 2:].prod(1) + b[:, 2:].prod(1) - inner
    return float(np.mean((one == other) & (inner > 0.5 * either)))


def alike(before: np.ndarray, after: np.ndarray, _: Path) -> float:
    """Mean cosine of the angle between the embeddings."""
    a, b = (x.reshape(len(x), -1) for x in (before, after))
    return float(np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


EXAMPLES = {
    "sounds": Example(
        "A network that hears", "openwakeword", "resources/models/embedding_model.onnx",
        "It reads spectrograms of 76 x 32 numbers, which no folder of pictures holds: `--data` is "
        "an `.npz` file with an array `x`. Nothing is shifted or mirrored, as pictures would be.",
        "mean cosine of its embeddings and the original's", "",
        (("smaller", "shrink model.onnx --data given.npz --ratio 0.75 -o smaller.onnx"),
         ("taught", "finetune smaller.onnx --data given.npz --teacher model.onnx "
          "--lr 1e-4 --epochs 20 -o taught.onnx")),
        sounds, lambda folder: np.load(folder / "apart.npz")["x"], alike,
    ),
    "text": Example(
        "Paddle OCR", "rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx",
        "It reads a line of text. The lines have no labels: the original teaches the smaller "
        "file.",
        "lines that it reads as the original does", "--size 48x160 --mean 0.5 --std 0.5",
        (("smaller", "shrink model.onnx --data given --ratio 0.9 -o smaller.onnx"),
         ("taught", "finetune smaller.onnx --data given --teacher model.onnx --augment shift "
          "--lr 1e-4 --epochs 4 -o taught.onnx")),
        lines, lambda folder: pictured(folder, 0.5, 0.5), same_text,
    ),
    "boxes": Example(
        "A YOLO", "nudenet", "320n.onnx",
        "A detector has no output with one score for each class of a picture; `shrink` needs none.",
        "photos with the same strongest detection", f"--size {SIDE}x{SIDE} --batch-size 16",
        (("smaller", "shrink model.onnx --data given --ratio 0.9 -o smaller.onnx"),),
        photos, lambda folder: pictured(folder, 0.0, 1.0), same_box,
    ),
}  # fmt: skip
REFUSED = ("openwakeword", "resources/models/silero_vad.onnx")


def typed(command: str, work: Path) -> str:
    """Run ``rejuvenet`` as a user would, in the folder; what it printed."""
    words = [sys.executable, "-m", "rejuvenet", *shlex.split(command)]
    done = subprocess.run(words, cwd=work, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


def outputs(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name, parts = session.get_inputs()[0].name, np.array_split(x, -(-len(x) // 20))
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def study(example: Example, sizes: tuple[int, int], work: Path, source: Path | None) -> dict:
    """Every command of an example, and what came of it."""
    work.mkdir(parents=True, exist_ok=True)
    model = work / "model.onnx"
    if not model.exists():
        example.data(work, *sizes, source)
        model.write_bytes(packaged(example.package, example.path).read_bytes())
    x = example.inputs(work)
    before = outputs(model, x)
    found: dict[str, Any] = {"given": sizes[0], "apart": sizes[1], "files": {}}
    for name, command in example.commands:
        output, log = work / f"{name}.onnx", work / f"{name}.log"
        whole = f"{command} {example.read}".strip()
        if not output.exists():
            log.write_text(typed(whole, work))
        onnx.checker.check_model(str(output), full_check=True)
        data = "apart.npz" if (work / "apart.npz").exists() else "apart"
        compared = json.loads(
            typed(f"compare model.onnx {output.name} --data {data} {example.read} --json", work)
        )
        files = dict(zip(("model", name), compared["files"], strict=True))
        found["files"] |= {key: found["files"].get(key, {}) | file for key, file in files.items()}
        found["files"][name] |= {
            "agreement": example.measure(before, outputs(output, x), model),
            "command": f"rejuvenet {whole}",
            "printed": [line for line in log.read_text().splitlines() if SHOWN.match(line)],
        }
    return found


def refused(work: Path) -> dict[str, Any]:
    """A file that cannot be shrunk, and what is said of it."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "vad.onnx").write_bytes(packaged(*REFUSED).read_bytes())
    states = {name: np.zeros((2, 2, 64), "f4") for name in "hc"}
    np.savez(work / "vad.npz", input=np.zeros((2, 512), "f4"), sr=16000, **states)
    words = ["shrink", "vad.onnx", "--data", "vad.npz", "-o", "smaller.onnx"]
    done = subprocess.run(
        [sys.executable, "-m", "rejuvenet", *words], cwd=work, capture_output=True, text=True
    )
    return {"command": shlex.join(["rejuvenet", *words]), "status": done.returncode,
            "printed": (done.stdout + done.stderr).splitlines()}  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """The page, from the raw numbers."""
    found = [
        "# Files of others",
        "",
        f"Written by `python tutorials/files_of_others.py --table` from "
        f"`{RESULT.relative_to(HERE)}`; the script says what was done. Tables that the commands "
        "print are left out.",
    ]
    for name, result in results["examples"].items():
        example = EXAMPLES[name]
        file = Path(example.path).name
        found += ["", f"## {example.title}", "",
                  f"`{file}` of the package {example.package}. {example.said}", "",
                  "```", *_said(result["files"]), "```", "",
                  f"On {result['apart']} samples that no command has seen:", "",
                  f"| file | {example.figure} | parameters | multiply-adds | kB | ms |",
                  "| --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
        for file, figures in result["files"].items():
            cost = figures["cost"]
            share = figures.get("agreement")
            found.append(
                f"| {file}.onnx | {'' if share is None else f'{share:.3f}'} | "
                f"{cost['parameters']:,} | {cost['multiply_adds']:,} | "
                f"{figures['bytes'] / 1000:,.0f} | {figures['latency']['milliseconds']:.2f} |"
            )
    refusal = results["refused"]
    found += ["", "## One that is refused", ""]
    found += ["`silero_vad.onnx` of the package openwakeword.", "", "```",
              f"$ {refusal['command']}", *refusal["printed"], "```"]  # fmt: skip
    return "\n".join(found) + "\n"


def _said(files: dict[str, Any]) -> Iterator[str]:
    for figures in files.values():
        if "command" in figures:
            yield f"$ {figures['command']}"
            yield from figures["printed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="folder of .jpg files")
    parser.add_argument("--work", type=Path, default=Path("build/files_of_others"))
    parser.add_argument("--only", choices=EXAMPLES, action="append", help="of the examples")
    parser.add_argument("--table", action="store_true", help="only write the page")
    given = parser.parse_args()
    if not given.table:
        os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        results = json.loads(RESULT.read_text()) if RESULT.exists() else {"examples": {}}
        results["refused"] = refused(given.work / "refused")
        for name in given.only or EXAMPLES:
            results["examples"][name] = study(
                EXAMPLES[name], SIZES[name], given.work / name, given.photos
            )
            RESULT.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main()
