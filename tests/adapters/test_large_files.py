"""Files above 2 GB through the commands, each a process of its own whose memory is watched."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2fx")
from onnx import TensorProto, helper  # noqa: E402

WIDTH, KERNEL, CLASSES = 512, 7, 10
LAYERS = 43  # 2.2 GB
PROCESS = 2**30  # with every library; a layer is 50 MB
FROZEN = "w? w1? w2? w3? w40 w41 w42 w43"  # all but the last layer

# Each with how many times the weights it may hold: onnxruntime copies those that were changed.
COMMANDS = {
    "inspect m.onnx": 0,
    "reorganize m.onnx --arrange --order random -o arranged.onnx": 1,
    "reorganize m.onnx --data images.npz -o new.onnx --changes new.safetensors": 0,
    "apply m.onnx new.safetensors -o applied.onnx": 0,
    "shrink m.onnx --data images.npz --ratio 0.9 -l w4? -o small.onnx": 1,
    f"finetune m.onnx --data images.npz {FROZEN.replace('w', '--freeze w')} --epochs 1 "
    "-o tuned.onnx": 0,
}  # fmt: skip


def large(folder: Path, layers: int = LAYERS) -> int:
    """A chain of convolutions whose weights lie in a file of their own; how large that is."""
    rng = np.random.default_rng(0)
    nodes, initializers, offset, x = [], [], 0, "x"
    inner = (WIDTH, WIDTH, KERNEL, KERNEL)
    shapes = [(WIDTH, 3, 1, 1), *[inner] * layers, (CLASSES, WIDTH, 1, 1)]
    with open(folder / "weights.bin", "wb") as file:
        for i, shape in enumerate(shapes):
            weight = rng.standard_normal(shape, np.float32)
            weight *= np.float32(np.sqrt(2 / (4 * shape[1] if shape == inner else shape[1])))
            file.write(weight.tobytes())
            tensor = TensorProto(name=f"w{i}", data_type=TensorProto.FLOAT, dims=shape,
                                 data_location=TensorProto.EXTERNAL)  # fmt: skip
            entries = {"location": "weights.bin", "offset": offset, "length": weight.nbytes}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            initializers.append(tensor)
            offset += weight.nbytes
            pad = (shape[2] - 1) // 2
            nodes.append(helper.make_node("Conv", [x, f"w{i}"], [f"h{i}"], pads=[pad] * 4))
            nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
            x = f"r{i}"
    nodes[-1] = helper.make_node("GlobalAveragePool", [f"h{len(shapes) - 1}"], ["p"])
    nodes.append(helper.make_node("Flatten", ["p"], ["y"]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, ["n", 3, 2, 2])],
        [value("y", TensorProto.FLOAT, ["n", CLASSES])], initializers,
    )  # fmt: skip
    message = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "m.onnx").write_bytes(message.SerializeToString())
    images = rng.standard_normal((24, 3, 2, 2), np.float32)
    np.savez(folder / "images.npz", x=images, y=np.arange(24) % CLASSES)
    return offset


def watched(folder: Path, words: str) -> int:
    """Run a command; the most memory that was its own."""
    command = [sys.executable, "-m", "rejuvenet", *words.split()]
    with open(folder / "said", "wb") as said:
        child = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.STDOUT)
        peak = 0
        while child.poll() is None:
            lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
            own = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
            peak = max(peak, *own, 0)
            time.sleep(0.01)
    assert child.returncode == 0, (folder / "said").read_text()
    (folder / "said").unlink()
    return peak


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_two_gigabytes_and_more(tmp_path):
    size = large(tmp_path)
    assert size > 2**31
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for words, times in COMMANDS.items():
        peak = watched(tmp_path, words)
        print(f"{peak / 2**20:.0f} MiB: {words}")
        assert peak < times * size + PROCESS, words
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    for name in ("arranged", "new", "applied", "small", "tuned"):
        onnx.checker.check_model(str(tmp_path / f"{name}.onnx"))
    assert (tmp_path / "applied.onnx.data").stat().st_size == size
    assert (tmp_path / "small.onnx.data").stat().st_size < size
