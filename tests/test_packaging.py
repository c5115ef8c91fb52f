"""What imports what, and what the distribution declares."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import rejuvenet

ROOT = Path(rejuvenet.__file__).parent
FRAMEWORKS = ("torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "lightning", "transformers")


def test_what_needs_no_framework_loads_none(tmp_path):
    later = (*FRAMEWORKS, "matplotlib", "dask", "tqdm")
    code = f"""
import importlib, sys
for name, heavy in (
    ("rejuvenet", {later!r}),
    ("rejuvenet.sofm", {later!r}),
    ("rejuvenet.graph", {later!r}),
    ("rejuvenet.adapters.command_line", {FRAMEWORKS!r}),
):
    importlib.import_module(name)
    loaded = set(heavy) & set(sys.modules)
    assert not loaded, (name, loaded)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def imported_modules(path):
    """Every module that a file imports, at any depth; relative imports start with dots."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            if not node.module:
                yield from (module + alias.name for alias in node.names)


def core_files():
    return [path for part in ("sofm", "graph") for path in sorted((ROOT / part).rglob("*.py"))]


def test_core_files_are_found():
    assert len(core_files()) > 15


@pytest.mark.parametrize("path", core_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    above = {"graph": ["..adapters"], "sofm": ["..adapters", "..graph"]}[package]
    for module in imported_modules(path):
        framework = module.partition(".")[0]
        assert framework not in FRAMEWORKS, f"{path.name} imports {module}"
        assert not module.startswith("rejuvenet"), f"{path.name} imports {module} absolutely"
        assert not any(module.startswith(place) for place in above), f"imports {module}"


@pytest.mark.parametrize("adapter", ["torch", "onnx"])
def test_adapters_do_not_import_each_other(adapter):
    paths = sorted((ROOT / "adapters" / adapter).rglob("*.py"))
    assert len(paths) > 10
    other = {"torch": "onnx", "onnx": "torch"}[adapter]
    for path in paths:
        for module in imported_modules(path):
            forbidden = module.startswith((other, f"..{other}", "...adapters", "rejuvenet"))
            assert not forbidden, f"{path.name} imports {module}"


def test_scan_sees_imports_at_any_depth(tmp_path):
    path = tmp_path / "late.py"
    path.write_text(
        "def f():\n    import torch.nn\n    from . import x\n    from ..graph import y\n"
    )
    assert sorted(imported_modules(path)) == [".", "..graph", ".x", "torch.nn"]


def test_every_package_is_listed():
    tomllib = pytest.importorskip("tomllib", reason="in the standard library from Python 3.11")
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    listed = set(project["tool"]["setuptools"]["packages"])
    there = {"rejuvenet"} | {
        ".".join(("rejuvenet", *init.parent.relative_to(ROOT).parts))
        for part in ("sofm", "graph", "adapters")
        for init in (ROOT / part).rglob("__init__.py")
    }
    assert listed == there
    assert project["project"]["version"] == rejuvenet.__version__
