"""What several tests share: digits, the files of one short run of the demo, the marker ``gpu``."""

import json

import pytest


def pytest_runtest_setup(item):
    """Tests that carry the marker ``gpu`` are skipped where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """Folder above ``demo``, and what the demo printed with --json, for two epochs."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from rejuvenet.adapters.command_line.app import app
    from typer.testing import CliRunner

    folder = tmp_path_factory.mktemp("readme")
    command = ["demo", "--output", str(folder / "demo"), "--epochs", "2", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout)


@pytest.fixture(scope="session")
def digits():
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X.astype("float32"), y
