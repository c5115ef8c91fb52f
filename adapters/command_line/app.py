"""The commands of ``rejuvenet``.

Frameworks are imported inside the commands, so that ``rejuvenet --help`` needs none of them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .commands.apply import apply
from .commands.compare import compare
from .commands.demo import demo
from .commands.finetune import finetune
from .commands.inspect import inspect
from .commands.rejuvenate import rejuvenate
from .commands.reorganize import reorganize
from .commands.shrink import shrink

app = typer.Typer(
    help="Self-reorganizing and rejuvenating convolutional networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Self-reorganizing and rejuvenating convolutional networks."""
    if show:
        from ... import __version__

        typer.echo(f"rejuvenet {__version__}")
        raise typer.Exit


for command in (inspect, reorganize, shrink, finetune, rejuvenate, apply, compare, demo):
    app.command()(command)
