"""Weights travel between an ONNX file and its module by name, BatchNorm kept or folded."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from rejuvenet.adapters.command_line.comparison import Runner, initializers  # noqa: E402
from rejuvenet.adapters.command_line.finetuning import (  # noqa: E402
    carry,
    check_agreement,
    finetune,
    finetune_file,
    make_module,
    shuffled,
    write_back,
)
from rejuvenet.adapters.images.image_data import ArrayFile, Batches  # noqa: E402
from torch import nn  # noqa: E402

SOURCE = """
import torch
from torch import nn

def network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )

number = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with ``net.py`` and its module exported with BatchNorm kept and folded."""
    folder = tmp_path_factory.mktemp("finetuning")
    (folder / "net.py").write_text(SOURCE)
    torch.manual_seed(0)
    module = make_module(f"{folder}/net.py:network").eval()
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if "running" in name or name.startswith("1."):
                value.copy_(torch.rand(value.shape) + 0.5)
    torch.save(module.state_dict(), folder / "state.pt")
    for name, optimize in (("kept", False), ("folded", True)):
        torch.onnx.export(
            module, (torch.zeros(2, 1, 6, 6),), folder / f"{name}.onnx", dynamo=True,
            optimize=optimize, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False,
            external_data=False,
        )  # fmt: skip
    return folder


def images(n=12):
    return np.random.default_rng(0).normal(size=(n, 1, 6, 6)).astype(np.float32)


@pytest.mark.parametrize("file", ["kept", "folded"])
def test_module_computes_what_the_file_does(place, file):
    assert ("1.running_mean" in dict(initializers(f"{place}/{file}.onnx"))) == (file == "kept")
    module, _ = carry(place / f"{file}.onnx", make_module(f"{place}/net.py:network"))
    outputs = Runner(f"{place}/{file}.onnx").scores(images())
    assert check_agreement(module, images(), outputs) < 1e-5


@pytest.mark.parametrize("file", ["kept", "folded"])
def test_round_trip_after_training(place, file, tmp_path):
    module, pairs = carry(place / f"{file}.onnx", make_module(f"{place}/net.py:network"))
    data = ArrayFile.of(images(), np.arange(12) % 3)
    finetune(module, shuffled(Batches(data, 4), 0), epochs=2, lr=0.05, device="cpu")
    output = tmp_path / "out.onnx"
    write_back(place / f"{file}.onnx", module, pairs, output)
    with torch.no_grad():
        expected = module(torch.from_numpy(images())).numpy()
    assert np.allclose(Runner(str(output)).scores(images()), expected, atol=1e-5)
    old, new = (dict(initializers(str(p))) for p in (place / f"{file}.onnx", output))
    assert old.keys() == new.keys()
    assert {n for n in old if not np.array_equal(old[n], new[n])} >= {"0.weight", "5.weight"}


def test_other_module_is_refused(place):
    with pytest.raises(ValueError, match=r"0\.weight has shape \(5, 1, 3, 3\) in the module"):
        carry(place / "kept.onnx", nn.Sequential(nn.Conv2d(1, 5, 3)))
    with pytest.raises(ValueError, match=r"1 of the module's weights are not in the file, 9\."):
        carry(place / "kept.onnx", nn.ModuleDict({"9": nn.Linear(2, 2, bias=False)}))


def test_module_that_computes_something_else_is_refused(place):
    layers = list(make_module(f"{place}/net.py:network"))
    layers[2] = nn.Tanh()
    module, _ = carry(place / "kept.onnx", nn.Sequential(*layers))
    outputs = Runner(f"{place}/kept.onnx").scores(images())
    with pytest.raises(ValueError, match="outputs differ from the file's by"):
        check_agreement(module, images(), outputs)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("net", "expected --module|Expected --module"),
        ("no_such_package:f", "Cannot import no_such_package: ModuleNotFoundError"),
        ("{}/net.py:netwrk", "There is no 'netwrk' .* did you mean network"),
        ("{}/net.py:number", "failed: TypeError"),
        ("torch:zeros", "failed: TypeError"),
        ("builtins:dict", "gave dict, expected a torch.nn.Module"),
    ],
)
def test_factories_that_do_not_work(place, where, said):
    with pytest.raises(ValueError, match=said):
        make_module(where.format(place))


def test_training_learns_and_is_the_same_for_a_seed(place):
    data = ArrayFile.of(images(60), (images(60).mean(axis=(1, 2, 3)) > 0).astype(int))
    states, losses = [], []
    for _ in range(2):
        torch.manual_seed(0)
        module = make_module(f"{place}/net.py:network")
        epochs = []
        finetune(
            module, shuffled(Batches(data, 16), 3), epochs=8, lr=0.03, device="cpu",
            on_epoch=lambda epoch, loss, kept=epochs: kept.append(loss),
        )  # fmt: skip
        states.append(torch.cat([v.flatten().double() for v in module.state_dict().values()]))
        losses.append(epochs)
    assert torch.equal(*states)
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.8 * losses[0][0]


def test_every_epoch_has_an_order_of_its_own():
    data = ArrayFile.of(np.arange(20.0).reshape(20, 1, 1, 1), np.arange(20))
    epochs = shuffled(Batches(data, 7), 0, labels=np.arange(20) + 100)
    orders = []
    for epoch in (0, 1, 0):
        x, y = (np.concatenate(part) for part in zip(*epochs(epoch), strict=True))
        assert np.array_equal(x.ravel() + 100, y)
        orders.append(y.tolist())
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(100, 120))


def test_bad_learning_rate_and_labels_are_one_sentence(place, tmp_path):
    module = make_module(f"{place}/net.py:network")
    data = ArrayFile.of(images(), np.arange(12) % 3)
    with pytest.raises(ValueError, match="loss is not finite"):
        finetune(module, shuffled(Batches(data, 4), 0), 30, lr=1e30, optimizer="sgd", device="cpu")
    named = ArrayFile.of(images(), np.array(["cat", "dog"] * 6))
    with pytest.raises(ValueError, match="2 classes of the images are not the model's 3 outputs"):
        finetune_file(
            place / "kept.onnx", tmp_path / "o.onnx", f"{place}/net.py:network", Batches(named)
        )
    assert not (tmp_path / "o.onnx").exists()
