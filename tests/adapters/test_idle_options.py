"""An option that would do nothing where it is given is refused, and nothing has changed."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from rejuvenet.adapters import onnx as files  # noqa: E402
from rejuvenet.adapters import torch as modules  # noqa: E402
from rejuvenet.adapters.torch import Reorganizer, trace  # noqa: E402
from rejuvenet.graph import Recipe  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from onnx_exports import export  # noqa: E402

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
BATCHES = [(X, torch.arange(8) % 2)]
ARRAYS = [(x.numpy(), y.numpy()) for x, y in BATCHES]
L2 = Recipe.comparison("l2")  # looks at weights alone


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 2)
    )


def of_epochs(**options):
    return lambda model: Reorganizer(model, None, BATCHES, **options)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda m: modules.arrange(trace(m, X), X, order="random"), "example_inputs.*TracedModel"),
        (lambda m: modules.reorganize(trace(m, X), BATCHES, example_inputs=X), "TracedModel"),
        (lambda m: modules.shrink(trace(m, X), BATCHES, example_inputs=X), "TracedModel"),
        (lambda m: modules.arrange(m, X, order="random", batches=BATCHES), "batches does nothing"),
        (lambda m: modules.reorganize(m, None, "all", L2, example_inputs=X, max_batches=2),
         "max_batches does nothing without batches"),
        (lambda m: modules.reorganize(m, None, "all", L2, example_inputs=X, classes=2),
         "classes does nothing without batches"),
        (lambda m: modules.shrink(m, None, "all", L2, X, max_change=0.1), "max_change does"),
        (lambda m: modules.reorganize(
            m, None, "all", Recipe(method="l2", refit="products"), example_inputs=X),
         "refit 'products' needs batches"),
        (of_epochs(recent=64), "recent does nothing without every_steps"),
        (of_epochs(maturity=100), "maturity does nothing without every_steps"),
        (lambda m: of_epochs(every=1)(m).step(0, BATCHES[0][1]), "labels does nothing without"),
    ],
)  # fmt: skip
def test_modules(act, said):
    model = network()
    with pytest.raises(ValueError, match=said):
        act(model)
    for name, tensor in network().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda m: files.shrink(m, ARRAYS, threads=2), "threads does nothing without target_lat"),
        (lambda m: files.arrange(m, order="random", batches=ARRAYS), "batches does nothing"),
        (lambda m: files.reorganize(m, None, "all", L2, max_batches=2), "max_batches does nothing"),
        (lambda m: files.reorganize(m, None, "all", L2, max_change=0.1), "max_change does nothing"),
        (lambda m: files.shrink(m, None, "all", L2, pseudo_classes=2), "pseudo_classes does"),
    ],
)
def test_files(act, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        act(export(network(), X, tmp_path / "m.onnx", "script, folded"))


def test_what_has_an_effect_is_taken():
    modules.arrange(network(), batches=BATCHES, order="random")  # traced with them
    modules.arrange(trace(network(), X), order="random")
    assert np.isfinite(modules.reorganize(trace(network(), X), BATCHES).output_change)
