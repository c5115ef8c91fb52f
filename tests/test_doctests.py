"""The examples in the docstrings of every module run as printed."""

import doctest
import importlib
import os
import pkgutil

import pytest
import rejuvenet

os.environ.setdefault("MPLBACKEND", "agg")  # no window opens
MODULES = ["rejuvenet"] + [
    found.name
    for found in pkgutil.walk_packages(rejuvenet.__path__, "rejuvenet.", onerror=lambda name: None)
    if found.name.split(".")[1] in ("sofm", "graph", "adapters")
]
OPTIONAL = {
    "torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "PIL", "matplotlib", "safetensors",
    "dask", "distributed", "lightning", "pytorch_lightning", "transformers", "accelerate",
    "ignite",
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"{error.name} is not installed")
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0


def test_every_package_is_walked():
    packages = {name.split(".")[1] for name in MODULES if "." in name}
    assert packages == {"sofm", "graph", "adapters"}
    assert len(MODULES) > 20
