"""Files that are complete or not there: write beside, flush to the disk, rename.

A reader never sees half a file, and a failure (disk full, folder not writable) leaves the old
file as it was.  Every failure is an ``OSError`` whose text is one sentence.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    Parameters
    ----------
    path : path-like
        The file to write.  A symbolic link is followed, so that the link stays a link.

    Yields
    ------
    Path
        Write here, by any means.  It has the suffix of ``path``.

    Raises
    ------
    OSError
        One sentence: the folder is missing or not writable, ``path`` is not a regular file, or
        the disk is full.  The temporary file is removed and ``path`` is as it was.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written_beside(Path(folder) / "plan.txt") as beside:
    ...         _ = beside.write_text("order: 2 0 1")
    ...     sorted(entry.name for entry in Path(folder).iterdir())
    ['plan.txt']
    """
    target = check_writable(path)
    beside = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        yield beside
        with open(beside, "rb+") as written:
            os.fsync(written.fileno())
        if target.exists():
            shutil.copymode(target, beside)
        os.replace(beside, target)
    except OSError as error:
        raise _sentence(error, path) from error
    finally:
        with suppress(OSError):
            beside.unlink()


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``path`` as :func:`written_beside` does.

    Raises
    ------
    OSError
        As :func:`written_beside`.
    """
    with written_beside(path) as beside:
        beside.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write ``content`` to ``path`` in UTF-8 as :func:`written_beside` does.

    Raises
    ------
    OSError
        As :func:`written_beside`.
    """
    write_bytes(path, content.encode())


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Resolve ``path`` and say before any work is done whether it can be written.

    Returns
    -------
    Path
        ``path`` with symbolic links resolved.

    Raises
    ------
    OSError
        One sentence that says what is in the way.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"Cannot write {path}: it is a folder; give the name of a file.")
    if target.exists() and not target.is_file():
        raise OSError(f"Cannot write {path}: it is not a regular file; give the name of a file.")
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"Cannot write {path}: there is no folder {target.parent}; make it first."
        )
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"Cannot write {path}: no permission to write in {target.parent}; choose another place."
        )
    return target


def _sentence(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """The same kind of error with one sentence as its text."""
    if error.errno is None:
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "no space left on the disk; make room or choose another place"
    else:
        reason = (error.strerror or str(error)).lower()
    said = type(error)(f"Cannot write {path}: {reason}. Nothing was written.")
    said.errno = error.errno
    return said
