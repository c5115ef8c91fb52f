"""The records of the sweep, one line of JSON for a network in a form, and what they add up to."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "architectures.jsonl"
FORMS = ("torch", "script, kept", "script, folded", "dynamo, kept", "dynamo, folded")
HEADINGS = ("PyTorch", "script", "script, folded", "dynamo", "dynamo, folded")
OUTCOMES = ("right", "wrong", "unverifiable", "failed", "timeout", "export failed",
            "export timeout")  # fmt: skip
BEGIN, END = "<!-- written by the sweep: begin -->\n", "<!-- written by the sweep: end -->\n"

# Reasons for which no other order is possible, or it means nothing; see the README.
CANNOT = (
    "reaches an output of the model",
    "its axis is read position by position",
    "meets a tensor whose order is fixed",
    "it makes a single channel",
    "all its kernels are equal, so that their order means nothing",
    "the forward pass does not use it",
)

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


def compact(path: Path) -> None:
    """Drop the records that later ones replace."""
    rows = sorted(read(path).values(), key=lambda r: (FORMS.index(r["form"]), r["network"]))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def wanted(known: dict | None, again: str | None, version: str) -> bool:
    """Whether a check has to run (again)."""
    if known is None or again == "all":
        return True
    if again == "older":
        return known["version"] != version
    return again == "failed" and known["outcome"] != "right"


def summary(records: Records, names: list[str]) -> str:
    """Totals of every form."""
    lines = [
        "| form | " + " | ".join(OUTCOMES) + " | not run | convolutions moved | checked at |",
        "| --- " * (len(OUTCOMES) + 4) + "|",
    ]
    for form, heading in zip(FORMS, HEADINGS, strict=True):
        rows = [records[name, form] for name in names if (name, form) in records]
        counts = Counter(row["outcome"] for row in rows)
        moved = sum(row.get("moved", 0) for row in rows)
        total = sum(row.get("convolutions", 0) for row in rows)
        fixed = sum(why in CANNOT for row in rows for why in row.get("unmoved", {}).values())
        of_can = 100 * moved / max(total - fixed, 1)
        share = f"{moved:,} of {total:,} ({of_can:.2f} % of those that can)"
        checked = Counter(row["version"] for row in rows).most_common()
        versions = ", ".join(f"{version} ({number})" for version, number in checked)
        cells = [str(counts[outcome]) for outcome in OUTCOMES]
        cells += [str(len(names) - len(rows)), share, versions]
        lines.append(f"| {heading} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def agreements(records: Records, names: list[str]) -> str:
    """How many exported networks have the groups that the module has, and which have not."""
    lines = []
    for form, heading in zip(FORMS, HEADINGS, strict=True):
        rows = [records.get((name, form), {}) for name in names]
        rows = [row for row in rows if "agreement" in row]
        if not rows:
            continue
        differ = {row["network"]: row["agreement"]["difference"] for row in rows}
        differ = {name: why for name, why in differ.items() if why}
        compared = sum(row["agreement"]["compared"] for row in rows)
        weights = sum(row["agreement"]["weights"] for row in rows)
        lines.append(
            f"- {heading}: {len(rows) - len(differ)} of {len(rows)} networks have the same groups, "
            f"compared on {compared:,} of {weights:,} weights."
        )
        lines += [f"  - {name}: {why}" for name, why in differ.items()]
    return "\n".join(lines)


def unmoved(records: Records, names: list[str], form: str = "torch") -> str:
    """Reasons for which convolutions stay, with the networks where they do."""
    reasons: dict[str, Counter[str]] = {}
    for name in names:
        for why in records.get((name, form), {}).get("unmoved", {}).values():
            reasons.setdefault(why, Counter())[name.split("/", 1)[1]] += 1
    lines = ["| reason | convolutions | where |", "| --- | --- | --- |"]
    for why, where in sorted(reasons.items(), key=lambda item: -item[1].total()):
        shown = [f"{name} {count}" for name, count in where.most_common(8)]
        rest = f", and {len(where) - 8} more networks" if len(where) > 8 else ""
        lines.append(f"| {why} | {where.total()} | {', '.join(shown)}{rest} |")
    return "\n".join(lines)


def table(records: Records, names: list[str]) -> str:
    """Outcome and convolutions moved, by network and form."""
    lines = [
        "| network | " + " | ".join(HEADINGS) + " |",
        "| --- " * (len(FORMS) + 1) + "|",
    ]
    for name in names:
        cells = []
        for form in FORMS:
            row = records.get((name, form))
            if row is None:
                cells.append("")
            elif "moved" in row:
                cells.append(f"{row['outcome']}, {row['moved']} of {row['convolutions']}")
            else:
                cells.append(row["outcome"])
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(records: Records, names: list[str]) -> str:
    """What is not right, with the reason."""
    lines = ["| network | form | outcome | reason |", "| --- | --- | --- | --- |"]
    for name in names:
        for form, heading in zip(FORMS, HEADINGS, strict=True):
            row = records.get((name, form))
            if row is not None and row["outcome"] != "right":
                why = row.get("reason") or f"error {row['error']:.1e}, control {row['control']:.1e}"
                why = why.replace("|", "/")
                lines.append(f"| {name} | {heading} | {row['outcome']} | {why} |")
    return "\n".join(lines)


def write_readme(path: Path, readme: Path, lists: dict[str, list[str]]) -> None:
    """The part of the README that is made from the records; ``lists`` are names by heading."""
    records = read(path)
    text = readme.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    parts = []
    for title, names in lists.items():
        parts += [
            f"## {title}",
            summary(records, names),
            "Channel groups of the module and of its files:",
            agreements(records, names),
            "Convolutions that stay, in PyTorch:",
            unmoved(records, names),
        ]
    every = [name for names in lists.values() for name in names]
    parts += ["## What is not right", failures(records, every)]
    parts += ["## Every network", table(records, every)]
    body = "\n\n".join(part for part in parts if part)
    readme.write_text(f"{head}{BEGIN}\n{body}\n\n{END}{tail}")
