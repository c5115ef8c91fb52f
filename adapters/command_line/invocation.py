"""A command as it was called: to repeat it, and to say the next one on the same images."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import READING

if TYPE_CHECKING:
    from ..images.image_data import LabelledImages

# What another command on the same images needs, as far as it has such an option.
IMAGES = ("data", "input_shape", *READING, "test")
ONCE = ("model", "output", "html", "changes", "as_json", "overwrite", "restart")  # of one run


class Invocation:
    """What was typed, as far as it was, and every setting that was in force.

    Parameters
    ----------
    context : typer.Context
        Of the command that runs.
    data : LabelledImages, optional
        What it read.

    Attributes
    ----------
    settings : dict
        By the names of the options.
    noun : str
        What the data are.
    labelled : bool
        Whether they have labels, which some commands need.
    """

    def __init__(self, context: typer.Context, data: LabelledImages | None = None) -> None:
        self._context = context
        self.noun = "images" if data is None else data.noun
        self.labelled = data is not None and data.labelled
        self._parameters = {str(p.name): p for p in context.command.params}
        self.settings: dict[str, Any] = {
            name.replace("_", "-"): value
            for name, value in context.params.items()
            if value is not None and name not in ("as_json", "overwrite")
        }

    def __str__(self) -> str:
        given = [name for name in self._parameters if self._given(name) and name != "as_json"]
        return shlex.join(["rejuvenet", str(self._context.info_name), *self.words(given)])

    def command(self, name: str, *words: str | Path) -> str:
        """Another command, on the images of this one.

        A training that is repeated has every other option of this one as well.
        """
        files, options = [], list(map(str, words))
        while options and not options[0].startswith("-"):
            files.append(options.pop(0))
        again = name == self._context.info_name == "finetune"
        own = [n for n in self._parameters if n not in ONCE and self._option(n) not in options]
        read = self.words(own if again else [n for n in IMAGES if n in self._taken_by(name)])
        return shlex.join(["rejuvenet", name, *files, *read, *options])

    def _taken_by(self, command: str) -> set[str]:
        """Names of the parameters of another command."""
        group: Any = self._context.find_root().command
        return {str(parameter.name) for parameter in group.commands[command].params}

    def _option(self, name: str) -> str:
        return "-o" if name == "output" else max(self._parameters[name].opts, key=len)

    def _given(self, name: str) -> bool:
        source = self._context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    def words(self, names: Sequence[str]) -> list[str]:
        """Parameters that were given, as they are written on the command line."""
        found: list[str] = []
        for name in names:
            value, parameter = self._context.params.get(name), self._parameters.get(name)
            if parameter is None or not self._given(name):
                continue
            if parameter.param_type_name == "argument":
                found.append(str(value))
                continue
            option = self._option(name)
            for one in value if isinstance(value, (list, tuple)) else [value]:
                if one is False:
                    found += parameter.secondary_opts
                else:
                    found += [option] if one is True else [option, str(one)]
        return found
