"""Linear algebra on one thread, so that a plan does not depend on how many there are.

With another number of threads a BLAS adds the terms of a product in another order; the last bits
differ (the coordinates of 512 channels in 0.0008 % of their float32 values), and what is decided by
them may.  Small products also lose time when threads outnumber idle cores: those coordinates took
0.2 s with one thread and 22 s with four, on two busy cores.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")


@functools.lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """The process's thread pools; looked for again (4 ms) where something was imported since."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def one_thread(user_api: str | None = None) -> AbstractContextManager[Any]:
    """A block in which libraries of a kind (``"blas"``, ``"openmp"``; by default all) have one.

    >>> with one_thread("blas"):
    ...     sum([1, 2])
    3
    """
    return _libraries(len(sys.modules)).limit(limits=1, user_api=user_api)


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: ``function`` runs with one thread of BLAS.

    >>> on_one_thread(sum)([1, 2])
    3
    """

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with one_thread("blas"):
            return function(*args, **kwargs)

    return limited
