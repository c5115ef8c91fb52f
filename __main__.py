"""The command line: ``rejuvenet``, or ``python -m rejuvenet``.

Exit status 0: done; 1: an operation failed; 2: wrong usage.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line; the framework of a command is imported when it runs."""
    from .adapters.command_line.app import app

    if hasattr(signal, "SIGPIPE"):  # end quietly, as other tools do, where `| head` has enough
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    app(prog_name="rejuvenet")


if __name__ == "__main__":
    main()
