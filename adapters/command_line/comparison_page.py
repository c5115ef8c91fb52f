"""Writes the page of ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write_text
from .change_page import both_panels, differ, picture_of
from .comparison import Comparison
from .invocation import Invocation

if TYPE_CHECKING:
    from ..images.image_data import Batches


def write_comparison_page(
    html: Path, call: Invocation, result: Comparison, batches: Batches
) -> None:
    """Write the page of two files."""
    from ..images.model_input import sample_shapes
    from ..onnx import load
    from ..report.comparison import comparison_page

    names = str(call.settings["first"]), str(call.settings["second"])
    first, second = (load(n, input_shapes=sample_shapes(n, batches)) for n in names)
    changed = [group.name for group in first.groups if differ(first, second, group)]
    page = comparison_page(
        call,
        result.to_dict(),
        both_panels(first, second, batches, names),
        picture_of(first, names[0], changed),
    )
    write_text(html, page)
