"""The records of the sweep, one line of JSON for a network in a form, and what they add up to."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "architectures.jsonl"

Records = dict[tuple[str, str], dict]  # by network and form


def read(path: Path) -> Records:
    """All records; of several for one network and form, the last."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["network"], row["form"]): row for row in rows}


def append(path: Path, row: dict) -> None:
    """Add one record."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def wanted(known: dict | None, again: str | None, version: str) -> bool:
    """Whether a check has to run (again)."""
    if known is None or again == "all":
        return True
    if again == "older":
        return known["version"] != version
    return again == "failed" and known["outcome"] != "right"
