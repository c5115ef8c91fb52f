"""What several tests share: digits, the files of one short run of the demo, a clock that a busy
machine does not disturb, the marker ``gpu``."""

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


@pytest.fixture
def timed_by_products(monkeypatch):
    """Let multiply-adds stand for the time of a run; a model without some of ``slow`` fails."""
    from rejuvenet.adapters.onnx import latency_target
    from rejuvenet.adapters.onnx.batches import samples
    from rejuvenet.adapters.onnx.latency import Latency
    from rejuvenet.graph.measure.cost import cost

    def install(slow=None):
        def timed(models, inputs, threads, seconds):
            assert all(len(x) == 1 for given in inputs for x in given.values())
            models[0].session().run(None, inputs[0])  # as the model takes it
            products = [cost(m.graph, samples(m.example_inputs)).multiply_adds for m in models]
            if slow and models[0].weight(slow).shape != models[1].weight(slow).shape:
                raise ValueError("the model does not run")
            return [Latency(n / 1e6, 1, threads, "CPUExecutionProvider", 9) for n in products]

        monkeypatch.setattr(latency_target, "latencies", timed)

    return install
