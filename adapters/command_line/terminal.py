"""What the command line shows: tables, progress, JSON, and errors of one sentence."""

from __future__ import annotations

import functools
import glob
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from ..visible import visible

# Into a file or a pipe, tables are as wide as they need to be up to this.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)
err = Console(stderr=True)

EXTRAS = {
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "safetensors": "onnx",
    "onnx2fx": "finetune",
    "torch": "finetune",
    "PIL": "onnx",
    "onnxscript": "all",
}


INTERRUPTED = 130  # exit status, as of shells


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command so that every failure is one sentence and exit status 1.

    Wrong usage is left to typer, which exits with 2.  ``REJUVENET_TRACEBACK=1`` prints the
    traceback as well.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warn
                command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt as stop:
            say_aside(str(stop) or "Interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if os.environ.get("REJUVENET_TRACEBACK"):
                traceback.print_exc()
            say_aside(f"Error: {sentence(error)}")
            raise typer.Exit(1) from None

    return run


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    if issubclass(category, UserWarning):
        said = " ".join(str(message).split())
        say_aside(f"Warning: {said}{'' if said.endswith('.') else '.'}")


def sentence(error: Exception) -> str:
    """What went wrong, in words.

    >>> sentence(ModuleNotFoundError("No module named 'onnx_ir'", name="onnx_ir"))
    "This needs onnx_ir, which is not installed: pip install 'rejuvenet[onnx]'."
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        extra = EXTRAS.get(package)
        wanted = f"'rejuvenet[{extra}]'" if extra else package
        return f"This needs {package}, which is not installed: pip install {wanted}."
    said = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror.lower()}."
    if isinstance(error, (ValueError, OSError)) and said:
        return said if said.endswith((".", "!", "?")) else said + "."
    if isinstance(error, MemoryError):
        return "Not enough memory; give a smaller --batch-size."
    return (
        f"Unexpected {type(error).__name__}: {said or 'no reason given'} "
        "(REJUVENET_TRACEBACK=1 shows where)."
    )


def print_json(value: dict) -> None:
    """Print one JSON object on standard output; NaN and infinity become null."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    return None if isinstance(value, float) else value


def say_plainly(text: str) -> None:
    """Print one line on standard output as it is, broken by the terminal alone."""
    out.print(visible(text), markup=False, highlight=False, soft_wrap=True)


def written(*paths: Path | None) -> list[str]:
    """What is said of files that were written, with those that hold weights beside a model."""
    lines = []
    for path in filter(None, paths):
        beside = sorted(path.parent.glob(f"{glob.escape(path.name)}.*data"))
        lines.append(f"Wrote {' and '.join(map(str, (path, *beside)))}")
    return lines


def say_aside(text: str) -> None:
    """Print one line on standard error as it is, broken by the terminal alone."""
    err.print(visible(text), markup=False, highlight=False, soft_wrap=True)


def say(shown: str | Listing) -> None:
    """Print a line or a table on standard output."""
    say_plainly(shown) if isinstance(shown, str) else out.print(shown)


def shows_progress(quiet: bool) -> bool:
    """Whether bars are shown: to a person at a terminal who did not ask for JSON alone."""
    return not quiet and sys.stderr.isatty()


def progress(what: str, quiet: bool = False) -> Callable[[Iterable], Iterable]:
    """A wrapper for an iterable that shows a bar on standard error while it is read."""
    return lambda items: tqdm(items, what, leave=False, disable=not shows_progress(quiet))


class Listing:
    """A table; where the terminal is too narrow for it, one paragraph for each row.

    Columns of figures are set to the right and never broken.
    """

    WORDS = 16  # characters that a column of names must have to be read

    def __init__(
        self, title: str, header: Sequence[str], rows: Iterable[Sequence[object]]
    ) -> None:
        self.title = Text(visible(title), "bold")
        self.header = header
        self.rows = [[_shown(value) for value in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(title=self.title, title_justify="left")
        width = 1
        for name, *column in zip(self.header, *self.rows, strict=True):
            figures = bool(column) and all(map(_is_figure, column))
            table.add_column(
                name, justify="right" if figures else "left", overflow="fold", no_wrap=figures
            )
            longest = max(map(cell_len, [*name.split("\n"), *column]))
            width += 3 + (longest if figures else min(longest, self.WORDS))
        if width <= options.max_width:
            for row in self.rows:
                table.add_row(*map(Text, row))
            yield table
            return
        yield self.title
        for row in self.rows:
            yield Text(row[0], "bold", overflow="fold")
            cells = zip(self.header[1:], row[1:], strict=True)
            said = [f"{' '.join(n.split())}: {cell}" for n, cell in cells if cell not in ("", "-")]
            yield Padding(Text("; ".join(said), overflow="fold"), (0, 0, 0, 2))


def percent(share: float | None) -> str:
    """A share as the reader expects it.

    >>> percent(0.98333)
    '98.33 %'
    """
    return "-" if share is None else f"{100 * share:.2f} %"


def _is_figure(cell: str) -> bool:
    """Whether a cell holds numbers (``3``, ``3 of 8``, ``4 x 8 + 2``, ``98.33 %``) or nothing."""
    return all(
        word in ("-", "+", "x", "of", "%", "inf", "nan") or set(word) <= set("0123456789.e+-")
        for word in cell.split()
    )


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else visible(value)


def print_report(report: Any) -> None:
    """A :class:`.Report` as a table, and what it says of the rest in lines."""
    from ...graph.plan.plan import by_reason, shortened
    from ..report.reorganization import report_rows

    arranged = bool(report.groups) and report.groups[0].kind == "arrange"
    title = "Arranged" if arranged else "Reorganized" if report.cost is None else "Shrunk"
    out.print(Listing(title, *report_rows([line.to_dict() for line in report.groups])))
    for reason, names in by_reason(report.skipped).items():
        left = "Left as it was" if len(names) == 1 else "Left as they were"
        say_plainly(f"{left}: {shortened(names)}: {reason}")
    for name in report.unread:
        say_plainly(f"Not used by the pass that was traced, and not changed along: {name}")
    if saved := report.saved():
        say_plainly(saved)
    if outputs := report.outputs():
        say_plainly(outputs[0].upper() + outputs[1:])
