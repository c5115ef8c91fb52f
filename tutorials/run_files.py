"""The JSON file of a run: what decided its figures, and how it comes to lie there."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import rejuvenet
import torch


def versions() -> dict[str, str]:
    """Of everything that decides the figures."""
    git = ["git", "-C", str(Path(rejuvenet.__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return {
        "commit": done.stdout.strip() or "not in a repository",
        "rejuvenet": rejuvenet.__version__, "torch": torch.__version__,
        "numpy": np.__version__, "python": platform.python_version(),
        "machine": platform.machine(), "threads": str(torch.get_num_threads()),
    }  # fmt: skip


def save(result: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(result) + "\n")
    os.replace(beside, path)
