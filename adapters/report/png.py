"""Numbers as a picture inside the page: a palette PNG in the colours of Viridis."""

from __future__ import annotations

import base64
import io

import numpy as np

# Viridis at nine even steps (matplotlib's table); the colours between are interpolated.
_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ]
)
_GAP = 255  # palette entry between tiles: transparent


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Palette entries 0..254 for values between ``low`` and ``high``; NaN is the gap."""
    spread = (np.nan_to_num(values) - low) / max(high - low, 1e-30)
    entries = np.clip(np.rint(254 * spread), 0, 254).astype(np.uint8)
    return np.where(np.isnan(values), np.uint8(_GAP), entries)


def png(entries: np.ndarray) -> str:
    """A data address with a palette PNG of :func:`levels`."""
    from PIL import Image

    steps = np.linspace(0, len(_VIRIDIS) - 1, 255)
    colors = [np.interp(steps, np.arange(len(_VIRIDIS)), channel) for channel in _VIRIDIS.T]
    palette = np.vstack([np.rint(np.stack(colors, axis=1)), [(128, 128, 128)]]).astype(np.uint8)
    picture, file = Image.fromarray(entries.astype(np.uint8)), io.BytesIO()
    picture.putpalette(palette.tobytes())
    picture.save(file, "PNG", transparency=_GAP, compress_level=9)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def scale() -> str:
    """All colours from low to high."""
    return png(np.arange(255, dtype=np.uint8)[None])
