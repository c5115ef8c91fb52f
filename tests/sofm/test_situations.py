"""The table of situations names tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_verdict_is_a_test():
    rows = re.findall(r"^\|(?! situation| ---).*$", (HERE / "README.md").read_text(), re.M)
    defined = set()
    for file in HERE.parent.rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)\(", file.read_text(), re.M))
    assert len(rows) >= 50
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= defined, row
