"""One self-contained HTML page: on top what was gained and what to do next, then all the rest.

No script, no font, no address: pictures are inside the page, so that it can be mailed or kept.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import metadata
from typing import Literal

from ..visible import visible
from .style import STYLE
from .words import WORDS

Tone = Literal["better", "same", "worse", ""]
UNBROKEN = 32  # letters of an option and its value that stay on one line of a telephone
Step = tuple[str, str]  # what it is for, and the command


class Page:
    """Sections of a page in the order in which they were added; ``str()`` gives the HTML.

    Words of :mod:`.words` that head a column or a figure lead to what they mean, at the foot.

    Examples
    --------
    >>> page = Page("Reorganized", "digits.onnx")
    >>> page.table("Groups", ["group", "channels"], [["conv4.weight", 64]])
    >>> "<td>conv4.weight</td>" in str(page)
    True
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.sections: list[str] = []
        self.styles = [STYLE]
        self._words: dict[str, None] = {}

    def lead(self, verdict: str, tone: Tone = "", cards: Iterable[Sequence[object]] = (),
             steps: Iterable[Step] = ()) -> None:  # fmt: skip
        """Add what a reader wants to know first.

        Parameters
        ----------
        verdict : str
            What was gained, or that nothing was, in a sentence or two.
        tone : {"better", "same", "worse", ""}
        cards : iterable of (name, value, remark)
            The few figures that matter most.
        steps : iterable of (str, str)
            What to do next, and the command for it, which may be empty.
        """
        shown = "".join(
            f'<div class="card"><span class="name">{self.word(str(name))}</span>'
            f'<span class="value">{text(_shown(value))}</span>'
            f'<span class="remark">{text(remark)}</span></div>'
            for name, value, remark in cards
        )
        following = "".join(
            f"<li><p>{text(said)}</p>{_command(command) if command else ''}</li>"
            for said, command in steps
        )
        said = re.sub(r"(?<=\()-(?=\d)", "\N{MINUS SIGN}", verdict)
        parts = [f'<section class="lead {tone}"><p class="verdict">{text(said)}</p>']
        parts += [f'<div class="cards">{shown}</div>'] if shown else []
        parts += [f"<h2>What to do next</h2><ul>{following}</ul>"] if following else []
        self.sections.append("".join([*parts, "</section>"]))

    def add(self, title: str, note: str, body: str, style: str = "", kind: str = "") -> None:
        """Add a section of HTML as it is, with the style that it needs.

        A section of the kind ``"full"`` is as wide as the window.
        """
        if style and style not in self.styles:
            self.styles.append(style)
        said = f"<p>{text(note.strip())}</p>" if note else ""
        opened = f'<section class="{kind}">' if kind else "<section>"
        self.sections.append(f"{opened}<h2>{text(title)}</h2>{said}{body}</section>")

    def table(
        self, title: str, header: Sequence[str], rows: Iterable[Sequence[object]], note: str = ""
    ) -> None:
        """Add a table; columns of numbers are set to the right."""
        self.add(title, note, self.rows(header, rows))

    def rows(self, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
        """A table as HTML."""
        rows = [list(row) for row in rows]
        right = [any(_is_number(row[i]) for row in rows) for i in range(len(header))]
        head = "".join(
            f'<th scope="col"{" class=number" if number else ""}>{self.word(name)}</th>'
            for name, number in zip(header, right, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row, right))}</tr>" for row in rows)
        return (
            f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def made_by(self, commands: Iterable[Step], settings: Mapping[str, object]) -> None:
        """Add the commands that make this page again, and every setting that was in force."""
        listed = "".join(f"<p>{text(said)}</p>{_command(command)}" for said, command in commands)
        rows = [(name, str(value)) for name, value in settings.items()]
        folded = (
            f"<details><summary>Every setting</summary>{self.rows(['setting', 'value'], rows)}"
            "</details>"
        )
        self.add("How to make it again", _versions(), listed + (folded if rows else ""))

    def word(self, name: str) -> str:
        """A word, with a link to its meaning where it has one."""
        if name not in WORDS:
            return text(name)
        self._words[name] = None
        return f'<a class="word" href="#{_anchor(name)}">{text(name)}</a>'

    def _meanings(self) -> list[str]:
        if not self._words:
            return []
        found = "".join(
            f'<dt id="{_anchor(word)}">{text(word)}</dt><dd>{text(meaning)}</dd>'
            for word, meaning in WORDS.items()
            if word in self._words
        )
        return [f"<section><h2>What the words mean</h2><dl>{found}</dl></section>"]

    def __str__(self) -> str:
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "style-src 'unsafe-inline'; img-src data:\">\n"
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{text(self.title)}</title>\n<style>{''.join(self.styles)}</style>\n"
            f"</head>\n<body>\n<header><h1>{text(self.title)}</h1><p>{text(self.subtitle)}</p>"
            "</header>\n<main>\n"
            + "\n".join([*self.sections, *self._meanings()])
            + "\n</main>\n</body>\n</html>\n"
        )


def text(value: object) -> str:
    """A value as HTML, on one line; characters that nobody sees are written out."""
    return escape(visible(value))


def percent(share: float | None, digits: int = 2) -> str:
    """A share as text; empty where there is none.

    >>> percent(0.98333)
    '98.33 %'
    """
    return "" if share is None else f"{100 * share:.{digits}f} %"


def _versions() -> str:
    """What this ran on, in a sentence."""
    from ... import __version__

    found = []
    for package in ("onnxruntime", "onnxruntime-gpu", "torch", "numpy"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"rejuvenet {__version__} with {', '.join(found)}, Python {platform.python_version()}."


def _command(command: str) -> str:
    """A command that may be copied; lines end between options, where these are not too long."""
    units: list[str] = []
    for word in command.split(" "):
        last = units[-1] if units else "-"
        if last.startswith("-") and " " not in last and units and not word.startswith("-"):
            units[-1] += f" {word}"
        else:
            units.append(word)
    shown = (f"<span>{text(u)}</span>" if len(u) <= UNBROKEN else text(u) for u in units)
    return f"<pre><code>{' '.join(shown)}</code></pre>"


def _anchor(word: str) -> str:
    return "word-" + word.replace(" ", "-")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) or str(value).lstrip("+-\N{MINUS SIGN}")[:1].isdigit()


def _cell(value: object, right: bool) -> str:
    kind = ' class="number"' if right else ""
    return f"<td{kind}>{text(_shown(value))}</td>"


def _shown(value: object) -> object:
    """Numbers as people write them."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else value
