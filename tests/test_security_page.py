"""docs/security.md says what is so: its tests exist, and open ports are those that are known."""

from __future__ import annotations

import re
from pathlib import Path

from cluster.checkup import OPEN_BY_DESIGN

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_every_control_names_a_test_that_exists() -> None:
    section = PAGE.partition("## Controls")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split("|")[3])
        assert named, row
        for path, test in named:
            text = (ROOT / path).read_text(encoding="utf-8")
            assert re.search(rf"^(?:async )?def {test}\(", text, re.MULTILINE), test


def test_the_ports_that_answer_without_a_token_are_the_known_ones() -> None:
    section = PAGE.partition("## What Ray itself opens")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| \*\*(\w+)\*\*", section, re.MULTILINE)) == OPEN_BY_DESIGN.keys()
