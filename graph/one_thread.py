"""Linear algebra on one thread, so that a plan does not depend on how many there are.

With another number of threads a BLAS adds the terms of a product in another order; the last bits
differ (the coordinates of 512 channels in 0.0008 % of their float32 values), and what is decided by
them may.  Small products also lose time when threads outnumber idle cores: those coordinates took
0.2 s with one thread and 22 s with four, on two busy cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def on_one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: ``function`` runs with one thread of BLAS.

    >>> on_one_thread(sum)([1, 2])
    3
    """

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):
            return function(*args, **kwargs)

    return limited
