"""What the command line shows: tables, progress, JSON, and errors of one sentence."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

# Into a file or a pipe, tables are as wide as they need to be up to this.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)
err = Console(stderr=True)

EXTRAS = {
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "onnx",
    "torch": "torch",
    "PIL": "plot",
    "onnxscript": "all",
}


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command so that every failure is one sentence and exit status 1.

    Wrong usage is left to typer, which exits with 2.  ``REJUVENET_TRACEBACK=1`` prints the
    traceback as well.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:  # the reader of a pipe has gone: nobody to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            if os.environ.get("REJUVENET_TRACEBACK"):
                traceback.print_exc()
            said = f"Error: {sentence(error)}"
            err.print(said, markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None

    return run


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
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def say(shown: str | Table) -> None:
    """Print a line or a table on standard output."""
    say_plainly(shown) if isinstance(shown, str) else out.print(shown)


def progress(what: str, quiet: bool = False) -> Callable[[Iterable], Iterator]:
    """A wrapper for an iterable that shows a bar on standard error while it is read."""
    return lambda items: iter(
        track(items, what, console=err, transient=True, disable=quiet or not err.is_terminal)
    )


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose columns of figures are set to the right."""
    cells = [[_shown(value) for value in row] for row in rows]
    right = [
        all(row[i][:1].isdigit() or row[i] in ("", "-") for row in cells) and bool(cells)
        for i in range(len(header))
    ]
    made = Table(title=title, title_justify="left", title_style="bold")
    for name, figures in zip(header, right, strict=True):
        made.add_column(
            name, justify="right" if figures else "left", overflow="fold", no_wrap=figures
        )
    for row in cells:
        made.add_row(*row)
    return made


def percent(share: float | None) -> str:
    """A share as the reader expects it.

    >>> percent(0.98333)
    '98.33 %'
    """
    return "-" if share is None else f"{100 * share:.2f} %"


def _shown(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text.replace("[", r"\[")
