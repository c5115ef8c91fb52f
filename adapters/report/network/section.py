"""The picture of a network as a section of a page, in columns that flow like a newspaper's."""

from __future__ import annotations

from ..page import Page
from .marks import text
from .picture import STYLE, Picture

NARROW = 1000.0  # a picture that needs no more than the page has
SECTION_STYLE = """
.columns { --scale: 1.12; display: flex; flex-wrap: wrap; gap: 26px 20px; align-items: flex-start;
  padding-top: 6px; overflow-x: auto; }
.columns svg { display: block; max-width: 100%; height: auto; flex: none; }
.stages { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 13px; color: var(--soft);
  margin-bottom: 12px; }
.stages i { display: inline-block; width: 14px; height: 14px; border-radius: 3px; margin-right: 6px;
  vertical-align: -2px; }
.stages a { display: none; }
:root:has(.pin:target) .stages a { display: inline; }
.net a { cursor: pointer; }
@media (min-width: 1420px) { .columns { --scale: 1.2; } }
@media (max-width: 640px) { .columns svg { margin: 0 auto; } }
@media print { * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def add_network(page: Page, picture: Picture, linked: bool = False, note: str = "") -> None:
    """Add the picture.

    ``linked`` says that the page has a table of the groups, with a row ``group-1`` and so on: to
    point at a group, there or in the picture, is to see it in both; its number leads from one to
    the other, and keeps it lit.
    """
    stages = "".join(
        f'<span><i style="background:{color}"></i>{text(name)}</span>'
        for color, name in picture.stages
    )
    again = '<a href="#network">show all groups again</a>' if linked else ""
    page.add(
        "The network",
        f"{note} {picture.legend()}".strip(),
        f'<div class="stages" id="network">{stages}{again}</div>'
        f'<div class="columns" tabindex="0">{picture.columns(linked)}</div>',
        STYLE + picture.highlights() + SECTION_STYLE,
        "full" if picture.layout.width > NARROW else "",
    )
    if picture.network.unused:
        body = f"<p>{text(', '.join(picture.network.unused))}</p>"
        page.add("Weights that no input meets", "", body)
