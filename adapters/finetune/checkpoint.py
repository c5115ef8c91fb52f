"""The state of a training run, beside the file that it will write, for the case of a kill.

A checkpoint belongs to one run: the same model, data and settings.  It is written as a whole or
not at all, and goes once the model is written, or all of a run that trains several.  It is a
safetensors file whose header holds, as JSON, everything that is no tensor: nothing in it can be
run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from ...files import write_safetensors


class Checkpoint:
    """Where a run is kept.

    Parameters
    ----------
    output : path
        The model that the run will write.
    run : str
        What tells it from other runs, see :func:`fingerprint`.
    asked : str
        The same of what is known before the model to train is made, where that takes long.
    """

    def __init__(self, output: Path, run: str = "", asked: str = "") -> None:
        self.path = output.with_name(output.name + ".checkpoint")
        self.run, self.asked = run, asked

    def refuse_other(self) -> None:
        """Say at once that what is kept there is of a run that something else was asked of.

        Raises
        ------
        ValueError
            So it is, or it is no checkpoint.
        """
        if self.path.exists():
            self._check("asked", self._read(tensors=False)[0])

    def load(self) -> dict[str, Any] | None:
        """The state that was kept, or None where there is none.

        Raises
        ------
        ValueError
            It is of another run, or no checkpoint.
        """
        if not self.path.exists():
            return None
        held, state = self._read()
        self._check("run", held)
        return state

    def _read(self, tensors: bool = True) -> tuple[dict[str, str], dict[str, Any]]:
        """What tells it from others, and the state, perhaps without its tensors."""
        try:
            with safe_open(self.path, "pt") as file:
                held = file.metadata()
                names = file.keys() if tensors else ()
                found = {name: file.get_tensor(name) for name in names}
            told = {name: held[name] for name in ("run", "asked")}
            return told, _joined(json.loads(held["state"]), found) if tensors else {}
        except Exception as error:  # a damaged file can end in any error of its parts
            raise ValueError(
                f"{self.path} is no checkpoint that can be read; remove it, or give --restart"
            ) from error

    def _check(self, name: str, held: Mapping[str, str]) -> None:
        if held[name] != getattr(self, name):
            raise ValueError(
                f"{self.path} belongs to a run with another model, other data or other options: "
                "repeat these to continue it, or give --restart to begin anew"
            )

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state of tensors and plain values."""
        tensors: dict[str, torch.Tensor] = {}
        plain = json.dumps(_parted(state, tensors))
        described = {
            name: (str(x.dtype).removeprefix("torch."), x.shape, x.nbytes)
            for name, x in tensors.items()
        }
        # One at a time: together they are several times the model.
        contents = (x.cpu().contiguous().reshape(-1).view(torch.uint8) for x in tensors.values())
        metadata = {"run": self.run, "asked": self.asked, "state": plain}
        write_safetensors(self.path, described, (x.numpy() for x in contents), metadata)

    def remove(self) -> None:
        """It is not needed any more."""
        self.path.unlink(missing_ok=True)


def _parted(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """``value`` for JSON, its tensors put into ``tensors``; keys of dicts may be numbers."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"entries": [[key, _parted(held, tensors)] for key, held in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_parted(held, tensors) for held in value]
    return value


def _joined(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What :func:`_parted` took apart."""
    if isinstance(value, list):
        return [_joined(held, tensors) for held in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _joined(held, tensors) for key, held in value["entries"]}
    return value


def fingerprint(arrays: Mapping[str, np.ndarray], *described: Any) -> str:
    """A number for weights and whatever else makes a run what it is.

    >>> fingerprint({}, {"epochs": 3}) == fingerprint({}, {"epochs": 4})
    False
    """
    made = hashlib.sha256(json.dumps(described, default=str).encode())
    for name, array in sorted(arrays.items()):
        made.update(name.encode())
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()
