"""What imports what, and what the distribution declares."""

import ast
import re
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


def project_files(path):
    """Files of the project that a file imports, as they lie below ``ROOT``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            module = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in node.names:
                inside, itself = module / f"{name.name}.py", module.parent / f"{module.name}.py"
                found = inside if inside.exists() else itself if itself.exists() else module
                yield str(found.relative_to(ROOT)) + "/" * found.is_dir()


def test_imports_are_those_of_the_architecture():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = [line.split("|")[1:4] for line in text.splitlines() if line.startswith("| `")]
    named = [(re.findall("`(.*?)`", of), re.findall("`(.*?)`", may)) for of, _, may in rows]
    table = {place: may for places, may in named for place in places if set(place) & set("/.")}
    imports = 0
    for path in (ROOT / "files.py", *core_files(), *sorted((ROOT / "adapters").rglob("*.py"))):
        name = str(path.relative_to(ROOT))
        places = [place for place in table if name.startswith(place)]
        if name == "adapters/__init__.py":
            continue
        place = max(places, key=len)
        for other in project_files(path):
            imports += 1
            allowed = other.startswith(("./", place, *table[place]))  # ./ has the version
            assert allowed, f"{name} imports {other}: not in ARCHITECTURE.md"
    assert imports > 500


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


def test_every_script_says_what_it_does_where_help_is_asked_for():
    """And does nothing else: scripts of tutorials and benchmarks write tracked files."""
    scripts = [
        path
        for folder in ("tutorials", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if '\nif __name__ == "__main__":' in path.read_text()
    ]
    assert len(scripts) > 20
    for path in scripts:
        text = path.read_text()
        assert "ArgumentParser(description=" in text or ".py\", __doc__, sweep" in text, path
    page = ROOT / "tutorials" / "sofm_gallery.md"
    before = page.stat().st_mtime_ns
    gallery = [sys.executable, page.with_suffix(".py"), "--help"]
    assert "Writes" in subprocess.run(gallery, capture_output=True, text=True, check=True).stdout
    assert page.stat().st_mtime_ns == before
