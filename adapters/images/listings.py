"""Where the pictures of a data set lie, and what their labels are.

========================  ====================================================================
a folder of folders       one sub-folder a class, as torchvision's ``ImageFolder``
a folder of pictures      no labels
a table                   ``.csv`` or ``.parquet`` with a column of paths (or of the pictures
                          themselves, as Hugging Face writes them) and, if there are, of labels
a folder with a table     ``metadata.csv``, as Hugging Face's ``ImageFolder``; or ``.parquet`` files
shards                    a ``.tar`` file, or a folder of them, as WebDataset writes them:
                          ``key.jpg`` with ``key.cls``
========================  ====================================================================

Nothing is unpacked and no picture is read here.
"""

from __future__ import annotations

import csv
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .decoding import SUFFIXES
from .pictures import Held, Part, Pictures, Source, counted, first

JUNK = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"})  # of systems, as .DS_Store is
PATHS = ("path", "file_name", "filename", "file", "image")  # names of columns
LABELS = ("label", "class", "target", "y")
TABLES = (".csv", ".parquet")


def pictures_in(path: Path) -> Pictures:
    """List the pictures of a folder, a table or a shard.

    Raises
    ------
    ValueError
        It is none of these, or holds no picture.
    """
    if path.suffix.lower() in TABLES:
        return _of_tables([path])
    if path.suffix.lower() == ".tar":
        return _of_shards([path])
    passed_over: list[str] = []
    found = _entries(path, path, passed_over)
    folders = [entry for entry in found if entry.is_dir()]
    suffixes: dict[str, list[Path]] = {}
    for entry in found:
        if not entry.is_dir():
            suffixes.setdefault(entry.suffix.lower(), []).append(entry)
    described = [entry for entry in found if entry.name.lower() == "metadata.csv"]
    flat = [entry for suffix in sorted(SUFFIXES) for entry in suffixes.get(suffix, [])]
    if described or (".parquet" in suffixes and not folders):
        made = _of_tables(described or suffixes[".parquet"])
    elif ".tar" in suffixes and not folders:
        made = _of_shards(suffixes[".tar"])
    elif folders:
        made = _of_folders(path, folders, passed_over)
    elif flat:
        made = _pictures(sorted(flat), None)
    else:
        raise ValueError(
            f"Expected one sub-folder per class in {path}, or pictures, .tar shards or a table; "
            "found none of these."
        )
    if passed_over:
        what = counted(len(passed_over), "hidden or system file")
        warnings.warn(f"Passed over {what}: {first(passed_over)}", stacklevel=3)
    return made


def _entries(folder: Path, root: Path, passed_over: list[str]) -> list[Path]:
    """What lies in a folder; what systems leave there goes to ``passed_over``."""
    found = sorted(folder.iterdir())
    junk = [entry for entry in found if entry.name.startswith(".") or entry.name in JUNK]
    passed_over.extend(str(entry.relative_to(root)) for entry in junk)
    return [entry for entry in found if entry not in junk]


def _of_folders(path: Path, folders: list[Path], passed_over: list[str]) -> Pictures:
    def pictures(folder: Path) -> Iterator[Path]:
        for entry in _entries(folder, path, passed_over):
            if entry.is_dir() and not entry.is_symlink():
                yield from pictures(entry)
            elif entry.suffix.lower() in SUFFIXES:
                yield entry

    files: list[Path] = []
    names: list[str] = []
    place = {name: label for label, name in enumerate(_ordered(folder.name for folder in folders))}
    for folder in sorted(folders, key=lambda folder: place[folder.name]):
        found = list(pictures(folder))
        if not found:
            raise ValueError(
                f"Class {folder.name!r} has no picture in {folder}; add some, or remove the folder."
            )
        files += found
        names += [folder.name] * len(found)
    return _pictures(files, names)


def _of_tables(tables: Sequence[Path]) -> Pictures:
    files: list[Source] = []
    labels: list[Any] = []
    for table in tables:
        rows = _csv(table) if table.suffix.lower() == ".csv" else _parquet(table)
        for number, row in enumerate(rows, 1):
            named = {str(key).strip().lower(): value for key, value in row.items()}
            where = next((named[key] for key in PATHS if key in named), None)
            if where is None:
                raise ValueError(
                    f"Expected a column {', '.join(PATHS[:-1])} or {PATHS[-1]} in {table}, "
                    f"found {', '.join(named)}."
                )
            files.append(_source(table, number, where))
            labels.append(next((named[key] for key in LABELS if key in named), None))
    if not files:
        where = first([str(table) for table in tables])
        raise ValueError(f"There is no picture in {where}; add a row for each.")
    return _pictures(files, _all_or_none(labels, files))


def _csv(table: Path) -> Iterable[Mapping[str, Any]]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(
            f"Cannot read {table} as a table of comma-separated values; write it in UTF-8."
        ) from error


def _parquet(table: Path) -> Iterable[Mapping[str, Any]]:
    try:
        import pandas

        return pandas.read_parquet(table).to_dict("records")
    except ImportError as error:
        raise ValueError(
            f"Reading {table} needs pandas and pyarrow: pip install pandas pyarrow."
        ) from error
    except Exception as error:  # pyarrow raises kinds of its own
        raise ValueError(
            f"Cannot read {table} as a parquet file; write it anew, or give a .csv table."
        ) from error


def _source(table: Path, number: int, where: Any) -> Source:
    """A path beside the table, or a picture that the table holds."""
    if isinstance(where, Mapping):
        content = where.get("bytes")
        if content is not None:
            return Held(f"{table}, row {number}", content)
        where = where.get("path")
    if isinstance(where, bytes):
        return Held(f"{table}, row {number}", where)
    if not isinstance(where, str) or not where:
        raise ValueError(f"Row {number} of {table} names no picture; add its path, or remove it.")
    return table.parent / where


def _of_shards(shards: Sequence[Path]) -> Pictures:
    files: list[Source] = []
    labels: list[str | None] = []
    for shard in shards:
        samples: dict[str, dict[str, Part]] = {}
        try:
            with tarfile.open(shard, "r:") as archive:  # uncompressed: read where it lies
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    key, _, kind = name.partition(".")
                    if member.isfile() and key and kind:
                        part = Part(shard, member.name, member.offset_data, member.size)
                        samples.setdefault(f"{folder}/{key}", {})[kind.lower()] = part
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(
                f"Cannot read {shard} as an uncompressed .tar file; unpack it if it is compressed, "
                "else copy it anew."
            ) from error
        for parts in samples.values():
            pictures = [part for kind, part in parts.items() if f".{kind}" in SUFFIXES]
            if not pictures:
                continue
            files.append(pictures[0])
            labels.append(_text(parts["cls"]) if "cls" in parts else None)
    if not files:
        where = first([str(shard) for shard in shards])
        raise ValueError(f"There is no picture in {where}; name the parts key.jpg and key.cls.")
    return _pictures(files, _all_or_none(labels, files))


def _text(part: Part) -> str:
    with open(part.file, "rb") as file:
        file.seek(part.start)
        return file.read(min(part.size, 1024)).decode(errors="replace").strip()


def _all_or_none(labels: Sequence[Any], files: Sequence[Source]) -> list[str] | None:
    """Labels as text; None where there are none; refused where some are missing."""
    known = [label is not None and str(label) != "" for label in labels]
    if not any(known):
        return None
    if not all(known):
        raise ValueError(
            f"{files[known.index(False)]} has no label, and others have; label all of them or none."
        )
    return [str(label) for label in labels]


def _pictures(files: Sequence[Source], names: Sequence[str] | None) -> Pictures:
    """Pictures with the names of their classes; without labels where there are none."""
    if names is None:
        return Pictures([], np.zeros(len(files), np.int64), files, labelled=False)
    classes = _ordered(names)
    place = {name: label for label, name in enumerate(classes)}
    return Pictures(classes, np.array([place[name] for name in names], np.int64), files)


def _ordered(names: Iterable[str]) -> list[str]:
    """Each name once; names that are all numbers in the order of numbers."""
    found = set(names)
    numbered = all(name.isdecimal() for name in found)
    return sorted(found, key=lambda name: (int(name) if numbered else 0, name))
