"""A file that nobody has the source of, fine-tuned on more images than it was made with.

    python tutorials/finetune_file.py --data /data/cifar100     # writes results/finetune_file.json

A small residual network learns some classes of CIFAR-100 from a part of the training images and is
exported to ONNX, with BatchNorm kept and folded.  From there on only the file is used, as
``rejuvenet finetune`` uses it: it is trained on all training images, then on them without their
labels, with the outputs of the fine-tuned file in their place.  The accuracy on the official test
images is onnxruntime's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path

import cifar100
import numpy as np
import onnx
import torch
from rejuvenet.adapters.finetune.finetuning import finetune_file
from rejuvenet.adapters.finetune.training import Settings
from rejuvenet.adapters.images.image_data import ArrayFile, Batches
from rejuvenet.adapters.images.image_model import score

RESULT = Path(__file__).parent / "results" / "finetune_file.json"


def skeleton(path: Path) -> tuple:
    """Nodes, names and metadata of a file."""
    message = onnx.load(path)
    nodes = [node.SerializeToString() for node in message.graph.node]
    arrays = [(t.name, t.data_type, tuple(t.dims)) for t in message.graph.initializer]
    return nodes, arrays, message.opset_import, message.metadata_props, message.producer_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of train_CC.webp, test_CC.webp")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=100, help="of a class, to begin with")
    parser.add_argument("--epochs", type=int, default=8, help="of each training")
    parser.add_argument("--width", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    x, y = cifar100.load(given.data, "train", given.classes)
    few = torch.cat([torch.where(y == c)[0][: given.images] for c in range(given.classes)])
    train = Batches(ArrayFile.of(x.numpy(), y.numpy()), 128)
    held = cifar100.load(given.data, "test", given.classes)
    test = Batches(ArrayFile.of(*(part.numpy() for part in held)), 500)
    torch.manual_seed(0)
    network = cifar100.ResNet20(given.classes, given.width)
    cifar100.train(network, x[few], y[few], given.epochs, batch=32)
    result: dict = {"classes": given.classes, "first images": len(few), "images": len(x),
                    "epochs": given.epochs, "width": given.width, "files": {}}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for form in ("kept", "folded"):
            paths = (Path(name) / f"{form}{end}.onnx" for end in ("", "_tuned", "_taught"))
            file, tuned, taught = paths
            kept = torch.onnx.TrainingMode.PRESERVE
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    network.eval(), (x[:2],), file, dynamo=False, input_names=["images"],
                    dynamic_axes={"images": {0: "n"}}, do_constant_folding=form == "folded",
                    training=kept if form == "kept" else torch.onnx.TrainingMode.EVAL,
                )  # fmt: skip
            normalizations = [n.op_type for n in onnx.load(file).graph.node]
            began = time.perf_counter()
            settings = Settings(given.epochs)
            done = finetune_file(file, tuned, train, test, settings=settings)
            seconds = time.perf_counter() - began
            train.data.labelled = False
            imitated = finetune_file(
                file, taught, train, test, settings=settings, teacher=tuned
            )
            train.data.labelled = True
            for path in (tuned, taught):
                onnx.checker.check_model(str(path), full_check=True)
            result["files"][form] = {
                "normalizations": normalizations.count("BatchNormalization"),
                "before": score(str(file), test),
                "fine-tuned": score(str(tuned), test),
                "taught without labels": score(str(taught), test),
                "seconds": round(seconds, 1),
                "same nodes and names": skeleton(file) == skeleton(tuned) == skeleton(taught),
                "epochs": [vars(epoch) for epoch in done.trained.epochs],
                "taught epochs": [vars(epoch) for epoch in imitated.trained.epochs],
            }
            print(form, {k: v for k, v in result["files"][form].items() if "epochs" not in k})
    RESULT.write_text(json.dumps(result, indent=1, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
