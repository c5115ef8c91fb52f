"""Studies of the tutorials as modules."""

import importlib
import sys
from contextlib import contextmanager

import pytest


@contextmanager
def modules_of(folder, *names):
    """Modules of a study; their names are plain, so they come and go, whoever else has the same."""
    path, before = list(sys.path), dict(sys.modules)
    ours = {file.stem for place in (folder, folder.parent) for file in place.glob("*.py")}
    for name in ours:
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        yield [importlib.import_module(name) for name in names]
    finally:
        sys.path[:] = path
        for name in ours:
            sys.modules.pop(name, None)
        sys.modules.update({name: before[name] for name in ours & before.keys()})


@pytest.fixture(scope="session")
def study_of():
    return modules_of
