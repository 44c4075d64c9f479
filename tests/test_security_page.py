"""docs/security.md says what is so: its tests exist, and open ports, Ray's and torch's, are those that are known."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cluster.checkup import OPEN_BY_DESIGN
from tests.cluster.socket_probe import asks_for_token, beyond_loopback, is_torchs_store

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


def test_torchs_store_listens_everywhere_and_answers_anybody_as_the_page_says() -> None:
    """Where processes of a training, or of an engine, meet. Told an address of loopback, it listens on all the same."""
    from torch.distributed import TCPStore

    before = beyond_loopback([os.getpid()])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    (opened,) = beyond_loopback([os.getpid()]).keys() - before.keys()
    assert opened[1] == store.port
    assert is_torchs_store(opened)
    assert not asks_for_token(opened, patience_s=0.3)
    assert "| `TCPStore` of each training's first worker (on all interfaces" in PAGE
