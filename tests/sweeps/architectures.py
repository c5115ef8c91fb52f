"""Permute every movable channel group of many networks at once and check the outputs.

    python tests/sweeps/architectures.py                      # 15 networks of torchvision
    python tests/sweeps/architectures.py --list FILE.json     # your own list (torchvision, timm)
    python tests/sweeps/architectures.py --only resnet18,densenet121 --form torch

Each network is checked as a PyTorch module in float64 and as the ONNX files that PyTorch's two
exporters write, with BatchNorm folded and kept.  How: see ``tests/adapters/exactness.py`` and
``tests/adapters/onnx_exports.py``.  The results are kept in ``tests/sweeps/results`` after every
network; a sweep that was stopped goes on where it was.  ``--table`` prints the table and stops.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "adapters"))

import exactness  # noqa: E402
import onnx_exports  # noqa: E402
from rejuvenet.files import write_text  # noqa: E402

FIFTEEN = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "resnext50_32x4d", "mobilenet_v2",
    "mobilenet_v3_small", "densenet121", "googlenet", "squeezenet1_1", "shufflenet_v2_x0_5",
    "efficientnet_b0", "mnasnet0_5", "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip
INTRODUCTION = """Written by `python tests/sweeps/architectures.py`; raw numbers in
`results/torchvision.json`. Each cell says whether the outputs agree to rounding with those before,
and how many convolutions had their output channels permuted. "right" also means that leaving one
weight behind changes the outputs."""
FORMS = ("torch", *onnx_exports.VARIANTS)


def networks(path: Path | None) -> list[dict]:
    """``{"name", "source", "input"}`` of every network of the sweep."""
    if path is not None:
        return json.loads(path.read_text())
    sizes = {"alexnet": 224, "vgg11_bn": 224, "googlenet": 80}
    return [
        {"name": n, "source": "torchvision", "input": [1, 3, *[sizes.get(n, 64)] * 2]}
        for n in FIFTEEN
    ]


def build(network: dict) -> torch.nn.Module:
    """The network with random weights."""
    torch.manual_seed(0)
    if network["source"] == "timm":
        import timm

        return timm.create_model(network["name"], pretrained=False)
    import torchvision

    inception = network["name"] in ("googlenet", "inception_v3")
    options = {"aux_logits": False, "init_weights": False} if inception else {}
    return torchvision.models.get_model(network["name"], weights=None, **options)


def check(network: dict, form: str) -> dict:
    """One network in one form."""
    model = build(network).eval()
    x = torch.randn(network["input"], generator=torch.Generator().manual_seed(1))
    start = time.perf_counter()
    if form == "torch":
        verdict = exactness.verify(model, x)
    else:
        with tempfile.TemporaryDirectory() as folder:
            module = onnx_exports.randomize(model)
            path = onnx_exports.export(module, x, Path(folder) / "model.onnx", form)
            verdict = onnx_exports.verify(path, x.numpy())
    row = {"outcome": verdict.outcome, **verdict._asdict()}
    row["seconds"] = round(time.perf_counter() - start, 2)
    return row


def table(results: dict) -> str:
    """Convolutions moved, by network and form."""
    lines = ["| network | " + " | ".join(FORMS) + " |", "| --- " * (len(FORMS) + 1) + "|"]
    for name, forms in results.items():
        cells = []
        for form in FORMS:
            row = forms.get(form)
            cells.append(
                "" if row is None
                else f"{row['outcome']}, {row['moved']} of {row['convolutions']}"
                if "moved" in row
                else row["outcome"]
            )  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    rows = [row for forms in results.values() for row in forms.values()]
    right = sum(row["outcome"] == "right" for row in rows)
    moved = sum(row.get("moved", 0) for row in rows)
    total = sum(row.get("convolutions", 0) for row in rows)
    lines.append(
        f"\n{right} of {len(rows)} right; {moved:,} of {total:,} convolutions moved "
        f"({100 * moved / max(total, 1):.2f} %)."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--list", type=Path, help="JSON list of {name, source, input}")
    parser.add_argument("--only", help="names, comma-separated")
    parser.add_argument("--form", help="forms, separated by semicolons")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "torchvision.json")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.output.read_text()) if options.output.exists() else {}
    chosen = options.only.split(",") if options.only else None
    forms = options.form.split(";") if options.form else FORMS
    for network in [] if options.table else networks(options.list):
        key = network["name"] if network["source"] == "torchvision" else f"timm/{network['name']}"
        if chosen and network["name"] not in chosen:
            continue
        for form in forms:
            known = results.get(key, {}).get(form, {"outcome": "failed"})
            if not known["outcome"].startswith("failed"):
                continue
            try:
                row = check(network, form)
            except Exception as error:  # a sweep reports and goes on
                row = {"outcome": f"failed: {type(error).__name__}: {error}"[:200]}
            results.setdefault(key, {})[form] = row
            write_text(options.output, json.dumps(results, indent=1) + "\n")
            print(key, form, row["outcome"], row.get("moved"), row.get("convolutions"), flush=True)
    shown = table(results)
    print(shown)
    if options.output.name == "torchvision.json":
        text = "# Permuting every channel group of a network at once\n\n" + INTRODUCTION + "\n"
        write_text(HERE / "README.md", f"{text}\n{shown}\n")


if __name__ == "__main__":
    main()
