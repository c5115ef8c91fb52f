"""Files that are complete or not there: write beside, flush to the disk, rename.

A reader never sees half a file, and a failure (disk full, folder not writable) leaves the old
file as it was.  Every failure is an ``OSError`` whose text is one sentence.

A process that is killed cannot tidy up.  Its partial files are named after the file that they
were to become and are locked for as long as it runs; whoever writes that file next removes those
that nobody holds any more.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: partial files are left there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` when the block succeeds.

    What earlier processes left there when they were killed is removed.

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
    with one_sentence(path):
        for left in abandoned(target):
            with suppress(OSError):  # somebody else's
                left.unlink()
    with one_sentence(path), partial(target) as beside:
        yield beside
        flush(beside)
        if target.exists():
            shutil.copymode(target, beside)
        os.replace(beside, target)
        flush_folder(target.parent)


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


TYPES = {  # of numpy and torch, as safetensors files spell them
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
BLOCK = 1 << 24  # bytes that are written at a time


def write_safetensors(
    path: str | os.PathLike[str],
    described: Mapping[str, tuple[str, Sequence[int], int]],
    contents: Iterable[Any],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file as :func:`written_beside` does, one array in memory at a time.

    The package's own writer first makes a file of a name of its own, which a kill would leave.

    Parameters
    ----------
    path : path-like
    described : mapping of name to (str, sequence of int, int)
        Type, such as ``"float32"``, shape, and number of bytes of every array.
    contents : iterable of ndarray
        The arrays in this order, contiguous.
    metadata : mapping of str to str
        For the header.

    Raises
    ------
    ValueError
        Safetensors files have no such type.
    OSError
        As :func:`written_beside`.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (kind, shape, n_bytes) in described.items():
        if kind not in TYPES:
            raise ValueError(
                f"the array {name!r} of {kind} cannot be written to {path}: safetensors has no "
                "such type; keep the whole file"
            )
        start, end = end, end + n_bytes
        header[name] = {"dtype": TYPES[kind], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with written_beside(path) as beside, open(beside, "rb+") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in contents:
            flat = memoryview(array.reshape(-1).view("u1"))
            for start in range(0, len(flat), BLOCK):
                file.write(flat[start : start + BLOCK])


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All arrays of an ``.npz`` file by name; nothing in it is run.

    Raises
    ------
    ValueError
        It is damaged or something else; the reason in one line.
    OSError
        There is no such file, or it cannot be opened.
    """
    import numpy as np

    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is not a regular file")
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no .npz file, or not all of one")
        try:
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except Exception as error:  # a flipped bit can end in any error of zipfile, zlib or numpy
            raise ValueError("an array in it is damaged or holds Python objects") from error


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


@contextmanager
def partial(target: Path) -> Iterator[Path]:
    """An empty file beside ``target``, held until the block ends and then removed."""
    while True:
        path = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")
        held = hold(path)
        if held is not None:
            break
    with held:
        try:
            yield path
        finally:
            with suppress(OSError):
                path.unlink()


def abandoned(target: Path) -> list[Path]:
    """Partial files of ``target`` whose process no longer runs."""
    start, end = re.escape(f".{target.stem}."), re.escape(target.suffix)
    named = re.compile(f"{start}[0-9a-f]{{8}}\\.partial{end}")
    found = [entry for entry in target.parent.iterdir() if named.fullmatch(entry.name)]
    return [path for path in found if not is_held(path)]


_AS_IT_IS = (  # no link is followed, no pipe is waited for
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)


def hold(path: Path) -> IO[bytes] | None:
    """Make an empty file, or take one that is empty, and lock it until it is closed.

    None where something else has that name, or another process holds it.
    """
    try:
        held = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | _AS_IT_IS, 0o666), "r+b", 0)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ESPIPE, errno.EINVAL):
            return None
        raise
    if fcntl is None:  # there, a file that is open could not be renamed
        held.close()
        return held if path.stat().st_size == 0 else None
    with suppress(OSError):
        if _locked(held) is not False and _is_empty(held) and _is_at(held, path):
            return held
    held.close()
    return None


def is_held(path: Path) -> bool:
    """Whether a running process may hold the file; so it is said where nobody can know."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | _AS_IT_IS), "rb", 0) as file:
            return _locked(file) is not True
    except OSError:  # gone, a link, or not ours to read
        return True


def _locked(file: IO[bytes]) -> bool | None:
    """Whether the lock was to be had; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _is_empty(file: IO[bytes]) -> bool:
    found = os.fstat(file.fileno())
    return stat.S_ISREG(found.st_mode) and found.st_size == 0 and found.st_nlink < 2


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether nobody has removed the file between its opening and its lock."""
    return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))


def flush(path: Path) -> None:
    """Bring a file's content to the disk."""
    with open(path, "rb+") as written:
        os.fsync(written.fileno())


def flush_folder(folder: Path) -> None:
    """Bring the names of a folder to the disk, where the system can."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def one_sentence(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the system while ``path`` is written, as the same kind with one sentence."""
    before = _stamp(path)
    try:
        yield
    except OSError as error:
        if error.errno is None or str(error).startswith("Cannot write "):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "no space left on the disk; make room or choose another place"
        else:
            reason = f"{(error.strerror or str(error)).lower()}; choose another place"
        written = "Nothing" if _stamp(path) == before else "The file itself, but not all beside it,"
        said = type(error)(f"Cannot write {path}: {reason}. {written} was written.")
        said.errno = error.errno
        raise said from error


def _stamp(path: str | os.PathLike[str]) -> tuple[int, ...] | None:
    """What tells a file from one that replaces it; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
