"""How images have to be scaled for a model: from options, a file, or what the model says itself.

A file is JSON or YAML with any of ``size``, ``mean``, ``std`` and ``channels`` (``rgb``, ``bgr``),
or a ``preprocessor_config.json`` of Hugging Face.  A model says it by the metadata that ONNX
defines for images, ``Image.BitmapPixelFormat`` and ``Image.NominalPixelRange`` (MetadataProps.md of
the ONNX specification).

Images are in [0, 1] before; a file whose numbers are of levels (``do_rescale`` false) is read so::

    (255 x - mean) / std = (x - mean / 255) / (std / 255)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

KEYS = ("size", "mean", "std", "channels")
RANGES = {  # what white and black become, as (mean, std) of [0, 1]
    "NominalRange_0_255": (0.0, 1 / 255),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (0.5, 0.5),
}


@dataclass(frozen=True)
class Preprocessing:
    """What is known of it; None is not known.

    Attributes
    ----------
    size : (int, int) or None
        Height and width.
    mean, std : tuple of float or None
        Of [0, 1], one number or one for each channel.
    bgr : bool or None
        Whether blue is the first channel.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool | None = None

    def __str__(self) -> str:
        order = None if self.bgr is None else "bgr" if self.bgr else "rgb"
        values = zip(KEYS, (self.size, self.mean, self.std, order), strict=True)
        return ", ".join(f"{name} {value}" for name, value in values if value is not None)

    def over(self, other: Preprocessing) -> Preprocessing:
        """This, and what it does not know from the other.

        >>> Preprocessing(size=(8, 8)).over(Preprocessing(size=(4, 4), bgr=True))
        Preprocessing(size=(8, 8), mean=None, std=None, bgr=True)
        """
        if self.mean is not None or self.std is not None:  # both come from one place
            other = Preprocessing(other.size, bgr=other.bgr)
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return Preprocessing(
            **{name: getattr(other, name) if v is None else v for name, v in known.items()}
        )

    @classmethod
    def from_file(cls, path: Path) -> Preprocessing:
        """Read a JSON or YAML file.

        Raises
        ------
        ValueError
            There is none, it is neither, or says something that is not understood.
        """
        if not path.is_file():
            raise ValueError(f"There is no file {path}; give a JSON or YAML file.")
        try:
            text = path.read_text(encoding="utf-8")
            held = _yaml(text) if path.suffix.lower() in (".yaml", ".yml") else json.loads(text)
        except ImportError as error:
            raise ValueError(f"Reading {path} needs PyYAML: pip install pyyaml.") from error
        except Exception as error:  # YAML has kinds of its own
            said = " ".join(str(error).split())
            raise ValueError(
                f"Cannot read {path} as JSON or YAML ({said}); mend it, or give --size, --mean and "
                "--std."
            ) from error
        if not isinstance(held, Mapping):
            raise ValueError(f"Expected {', '.join(KEYS)} in {path}, got a {type(held).__name__}.")
        try:
            if "image_mean" in held or "image_processor_type" in held:
                return _of_transformers(held)
            unknown = [str(key) for key in held if key not in KEYS]
            if unknown:
                raise ValueError(f"expected {', '.join(KEYS)}, got {', '.join(unknown)}")
            order = str(held.get("channels", "rgb")).lower()
            if order not in ("rgb", "bgr"):
                raise ValueError(f"expected channels rgb or bgr, got {order}")
            return cls(
                _size(held.get("size")), _numbers(held.get("mean")), _numbers(held.get("std")),
                order == "bgr" if "channels" in held else None,
            )  # fmt: skip
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path}: {error}.") from error

    @classmethod
    def of_model(cls, path: Path) -> Preprocessing:
        """What the metadata of an ONNX file say; nothing where they say nothing."""
        import onnx

        try:
            model = onnx.load_model(path, load_external_data=False)
        except Exception:  # what reads the model says so
            return cls()
        held = {entry.key: entry.value for entry in model.metadata_props}
        mean, std = RANGES.get(held.get("Image.NominalPixelRange", ""), (None, None))
        order = held.get("Image.BitmapPixelFormat", "")
        return cls(
            None, None if mean is None else (mean,), None if std is None else (std,),
            order.startswith("Bgr") if order else None,
        )  # fmt: skip


def _of_transformers(held: Mapping[str, Any]) -> Preprocessing:
    """A ``preprocessor_config.json``."""
    mean, std = _numbers(held.get("image_mean")), _numbers(held.get("image_std"))
    if held.get("do_normalize") is False:
        mean, std = None, None
    if held.get("do_rescale") is False:
        mean = tuple(x / 255 for x in mean or (0.0,))
        std = tuple(x / 255 for x in std or (1.0,))
    size = held.get("crop_size") if held.get("do_center_crop") else None
    return Preprocessing(_size(size or held.get("size")), mean, std)


def _size(given: Any) -> tuple[int, int] | None:
    """Height and width of a number, a pair, ``"224x192"``, or a mapping."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        edge = given.get("shortest_edge")
        given = (edge, edge) if edge else (given["height"], given["width"])
    if isinstance(given, str):
        given = [int(part) for part in given.lower().split("x")]
    if isinstance(given, int):
        given = (given, given)
    height, width = int(given[0]), int(given[-1])
    if min(height, width) < 1 or len(given) > 2:
        raise ValueError(f"expected a height and a width, got {given}")
    return height, width


def _numbers(given: Any) -> tuple[float, ...] | None:
    if given is None:
        return None
    return tuple(map(float, given)) if isinstance(given, Sequence) else (float(given),)


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)
