"""Code of the user that an option names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any


def named_in(where: str, option: str) -> Any:
    """What ``package.module:name`` or ``file.py:name`` stands for; its module is run.

    Parameters
    ----------
    where : str
    option : str
        That names it, for messages.

    Raises
    ------
    ValueError
        It cannot be imported, or has no such name.

    Examples
    --------
    >>> named_in("math:sqrt", "--preprocess")(4)
    2.0
    """
    source, colon, name = where.rpartition(":")
    if not colon or not source or not name:
        raise ValueError(f"Expected {option} package.module:name or file.py:name, got {where!r}.")
    try:
        if source.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(source).stem, source)
            assert spec is not None
            assert spec.loader is not None
            imported = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(spec.name, imported)
            spec.loader.exec_module(imported)
        else:
            if "" not in sys.path:
                sys.path.insert(0, "")  # as `python -m` does: modules of the current folder
            imported = importlib.import_module(source)
    except Exception as error:  # a user's file may fail in any way
        raise ValueError(f"Cannot import {source}: {type(error).__name__}: {error}.") from error
    found = getattr(imported, name, None)
    if found is None:
        near = get_close_matches(name, dir(imported), n=3)
        said = f"; did you mean {' or '.join(near)}" if near else ""
        raise ValueError(f"There is no {name!r} in {source}{said}.")
    return found
