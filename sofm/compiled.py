"""How kernels are compiled: without Python's lock, and kept on disk where that is possible.

``REJUVENET_CACHE`` says where compiled code is kept: a folder, or ``off``.  Unless it is set, Numba
chooses (``NUMBA_CACHE_DIR``, the package's ``__pycache__``, the user's cache folder).  Where none
can be written, as in a container without a home, every process compiles anew, and a warning says so
once.  Numba takes code for current as long as the kernel's own file is; here all files of the
package must be, as kernels call and inline those of others.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
from numba.extending import register_jitable

CACHE = os.environ.get("REJUVENET_CACHE", "")
OFF = {"off", "0", "no", "none"}


class _Disk:
    """Whether compiled code is kept; no longer once it could not be."""

    kept = CACHE.lower() not in OFF

    @classmethod
    def keep(cls, dispatcher) -> None:
        config: Any = numba.config
        before = config.CACHE_DIR
        try:
            if CACHE:
                config.CACHE_DIR = os.path.expanduser(CACHE)
                os.makedirs(config.CACHE_DIR, exist_ok=True)
            dispatcher.enable_caching()
            dispatcher._cache._cache_file._source_stamp = _stamp()
        except (RuntimeError, OSError) as error:
            cls.kept = False
            warnings.warn(
                f"rejuvenet: compiled code cannot be kept ({error}), every process compiles it "
                "anew: set REJUVENET_CACHE to a folder that can be written, or to "
                "'off' to silence this",
                RuntimeWarning,
                stacklevel=2,
            )
        finally:
            config.CACHE_DIR = before


@cache
def _stamp() -> tuple[float, int]:
    """When a file of the package was changed last, and how long all are."""
    files = [path.stat() for path in Path(__file__).parent.rglob("*.py")]
    return max((f.st_mtime for f in files), default=0.0), sum(f.st_size for f in files)


def compiled(function: Callable | None = None, *, fastmath=False, inner=False):
    """``numba.njit`` for this package's kernels.

    Parameters
    ----------
    function : callable
    fastmath : bool or set of str
        As Numba's; never a blanket ``True`` (:mod:`.rounding` depends on the order of operations).
    inner : bool
        Only kernels call it: there is no way in from Python, where it stays what it is.  An eighth
        of the first compilation went into these ways.
    """
    if function is None:
        return partial(compiled, fastmath=fastmath, inner=inner)
    if inner:
        return register_jitable(fastmath=fastmath)(function)
    dispatcher = numba.njit(nogil=True, fastmath=fastmath)(function)
    if _Disk.kept and hasattr(dispatcher, "enable_caching"):  # not without the JIT
        _Disk.keep(dispatcher)
    return dispatcher
