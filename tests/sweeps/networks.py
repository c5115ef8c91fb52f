"""The networks of the sweep: lists of torchvision and timm, and those that are built by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "adapters"))

LIBRARIES = Path(__file__).parent / "architectures.json"
BEYOND = Path(__file__).parent / "beyond.json"
Network = dict[str, Any]  # {"name", "source", "input"}, and "dtype" where it is none of the usual


def networks(path: Path) -> list[Network]:
    """Those of a JSON list, one of each family first."""
    listed = json.loads(path.read_text())
    seen: dict[str, int] = {}
    rank = []
    for network in listed:
        family = network["name"].split("_")[0].rstrip("0123456789stmb")
        rank.append(seen.get(family, 0))
        seen[family] = rank[-1] + 1
    return [listed[i] for i in sorted(range(len(listed)), key=rank.__getitem__)]


def key(network: Network) -> str:
    """Name of a network in the results."""
    dtype = f", {network['dtype']}" if "dtype" in network else ""
    return f"{network['source']}/{network['name']}{dtype}"


def build(network: Network) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    """The network with random weights, in evaluation mode, and its inputs."""
    torch.manual_seed(0)
    name, source = network["name"], network["source"]
    generator = torch.Generator().manual_seed(1)
    inputs: tuple[torch.Tensor, ...] = (torch.randn(network["input"], generator=generator),)
    if source == "timm":
        import timm

        model = timm.create_model(name, pretrained=False)
    elif source == "torchvision":
        import torchvision

        inception = name in ("googlenet", "inception_v3")
        options = {"aux_logits": False, "init_weights": False} if inception else {}
        if hasattr(torchvision.models.segmentation, name):
            options = {"weights_backbone": None}
        model = torchvision.models.get_model(name, weights=None, **options)
    elif source == "torchvision backbone":
        import torchvision

        detector = torchvision.models.get_model(name, weights=None, weights_backbone=None)
        model = Detection(detector)
    elif source == "small":
        from small_networks import small_network

        model, inputs = small_network(name)
    else:
        raise ValueError(
            f"expected timm, torchvision, 'torchvision backbone' or small, got {source!r}"
        )
    return model.eval(), inputs


class Detection(torch.nn.Module):
    """What of a detector convolves: the feature pyramid and the heads that all levels share."""

    def __init__(self, detector: torch.nn.Module):
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head if hasattr(detector, "head") else detector.rpn.head

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Class scores and boxes of all levels."""
        found = self.head(list(self.backbone(x).values()))
        return (
            list(found.values()) if isinstance(found, dict) else [t for part in found for t in part]
        )
