"""Everything permuted at once in fifteen torchvision networks, exported in four ways.

Run by hand, with the table: ``pytest -m sweep -s tests/adapters/test_onnx_sweep.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

sys.path.insert(0, str(Path(__file__).parent))

from onnx_exports import VARIANTS, export, randomize, verify  # noqa: E402

# Small inputs; two networks pool adaptively, which is exported for multiples only.
EXTENT = {"alexnet": 224, "vgg11_bn": 224}
NAMES = """
alexnet vgg11_bn resnet18 resnet50 resnext50_32x4d mobilenet_v2 mobilenet_v3_small densenet121
googlenet squeezenet1_1 shufflenet_v2_x0_5 efficientnet_b0 mnasnet0_5 regnet_y_400mf convnext_tiny
"""


def network(name):
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return randomize(models.get_model(name, weights=None, **options))


@pytest.fixture(autouse=True)
def _asked_for(request):
    if "sweep" not in request.config.getoption("-m"):
        pytest.skip("a sweep of a quarter of an hour: pytest -m sweep")


@pytest.mark.sweep
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES.split())
def test_everything_moves(name, variant, tmp_path):
    extent = EXTENT.get(name, 64)
    x = torch.randn(1, 3, extent, extent, generator=torch.Generator().manual_seed(1))
    verdict = verify(export(network(name), x, tmp_path / "m.onnx", variant), x.numpy())
    print(
        f"\n{name:20s} {variant:15s} {verdict.moved:3d} of {verdict.convolutions:3d} convolutions "
        f"moved, error {verdict.error:.1e}, noise {verdict.noise:.1e}, "
        f"control {verdict.control:.1e}: {verdict.outcome}"
    )
    assert verdict.outcome == "right"
    assert verdict.moved >= 0.95 * verdict.convolutions
