"""The page on adding an operator runs as printed, its own tests included."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "tutorials" / "operators.md"


def test_page(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from rejuvenet.adapters.onnx.operators import registration
    from rejuvenet.adapters.torch.operators import REGISTERED

    monkeypatch.chdir(tmp_path)
    names: dict = {}
    try:
        for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S):
            exec(compile(code, str(PAGE), "exec"), names)
        assert set(REGISTERED) == {"mylib::gated"}
        assert set(registration.REGISTERED) == {("my.domain", "Gated")}
    finally:
        REGISTERED.clear()
        registration.REGISTERED.clear()
    assert {"test_gated_in_a_module", "test_gated_in_a_file"} <= set(names)
