"""Ctrl-C at any moment: what was begun ends with the call, not when its error is forgotten.

An interrupt may come between the end of a ``with`` block and the first line of what ends it.  A
context that is a generator then stays as it is, for as long as the error is alive: a notebook keeps
the last one, and the model would stay in evaluation mode, or a change be undone minutes later.
"""

from __future__ import annotations

import traceback
from types import TracebackType


class Interruptible:
    """Ends all contexts of the block that an interrupt left half-way.

    >>> import contextlib
    >>> @contextlib.contextmanager
    ... def context():
    ...     try:
    ...         yield
    ...     finally:
    ...         print("ended")
    >>> with contextlib.suppress(KeyboardInterrupt), Interruptible():
    ...     def interrupted():
    ...         held = context()
    ...         held.__enter__()
    ...         raise KeyboardInterrupt
    ...     interrupted()
    ended
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            traceback.clear_frames(trace)  # they hold the contexts
