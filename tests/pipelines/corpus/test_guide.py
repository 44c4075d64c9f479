"""The function that docs/curation.md shows is one that the recipe beside it can read."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_document

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "curation.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_function_shown(tmp_path: Path, read_source: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [block for block in blocks("python") if "def articles" in block]
    (tmp_path / "my_pages.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (recipe,) = [block for block in blocks("yaml") if "my_pages" in block]
    (source,) = parse_document(recipe, "curation.md").data["corpus"]["sources"]
    found = read_source(**source)
    assert found.problems == []
    assert len(found.documents) == 1000
    assert len({document.metadata["record_id"] for document in found.documents}) == 1000
    assert found.texts[0].startswith("story 0")


def test_every_reason_is_explained() -> None:
    """Reasons in the readers' code against the guide's table."""
    package = Path(__file__).resolve().parents[3] / "pipelines" / "corpus"
    code = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    known = set(re.findall(r"BadInput\(\s*\"(\w+)\"", code)) | set(re.findall(r"Problem\([^()]*?, \"(\w+)\"", code))
    table = GUIDE.read_text(encoding="utf-8").partition("| reason | means |")[2].partition("\n\n")[0]
    assert len(known) > 15
    assert known - set(re.findall(r"`(\w+)`", table)) == set()
