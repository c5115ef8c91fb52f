"""Weights travel between an ONNX file and its module by name, BatchNorm kept or folded."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from rejuvenet.adapters.command_line.comparison import initializers  # noqa: E402
from rejuvenet.adapters.finetune.agreement import check_agreement  # noqa: E402
from rejuvenet.adapters.finetune.finetuning import finetune_file  # noqa: E402
from rejuvenet.adapters.finetune.source import SourceModule, make_module  # noqa: E402
from rejuvenet.adapters.finetune.training import Settings  # noqa: E402
from rejuvenet.adapters.images.image_data import ArrayFile, Batches  # noqa: E402
from rejuvenet.adapters.onnx import load  # noqa: E402
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


def carried(path, module):
    return SourceModule(load(path), module, "output")


@pytest.mark.parametrize("file", ["kept", "folded"])
def test_file_and_its_source_are_trained_alike(place, file, tmp_path):
    given = place / f"{file}.onnx"
    old = dict(initializers(str(given)))
    assert ("1.running_mean" in old) == (file == "kept")
    data = Batches(ArrayFile.of(images(), np.arange(12) % 3), 4)
    settings = Settings(2, lr=0.02, seed=3)
    made = {}
    for source in (None, f"{place}/net.py:network"):
        output = tmp_path / "out.onnx"
        finetune_file(given, output, data, source=source, settings=settings, held_out=0)
        made[source] = dict(initializers(str(output)))
    bare, other = made.values()
    assert old.keys() == bare.keys() == other.keys()
    trained = {name for name in old if not np.array_equal(old[name], bare[name])}
    assert trained >= {"0.weight", "5.weight", "5.bias"}
    assert trained == {name for name in old if not np.array_equal(old[name], other[name])}
    for name in trained:
        np.testing.assert_allclose(bare[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_other_module_is_refused(place):
    with pytest.raises(ValueError, match=r"0\.weight has shape \(5, 1, 3, 3\) in the module"):
        carried(place / "kept.onnx", nn.Sequential(nn.Conv2d(1, 5, 3)))
    with pytest.raises(ValueError, match=r"1 of the module's weights are not in the file, 9\."):
        carried(place / "kept.onnx", nn.ModuleDict({"9": nn.Linear(2, 2, bias=False)}))


def test_module_that_computes_something_else_is_refused(place):
    layers = list(make_module(f"{place}/net.py:network"))
    layers[2] = nn.Tanh()
    file = load(place / "kept.onnx")
    module = SourceModule(file, nn.Sequential(*layers), str(file.ir.graph.outputs[0].name))
    with pytest.raises(ValueError, match="outputs differ from the file's by"):
        check_agreement(module, file, place / "kept.onnx", images())


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


@pytest.mark.parametrize("device", ["tpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(place, device, tmp_path):
    data = Batches(ArrayFile.of(images(), np.arange(12) % 3), 4)
    settings = Settings(1, device=device)
    with pytest.raises(ValueError, match=f"Expected a device that PyTorch has here.*'{device}'"):
        finetune_file(place / "kept.onnx", tmp_path / "out.onnx", data, settings=settings)
    assert not list(tmp_path.iterdir())
