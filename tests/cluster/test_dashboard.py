"""Where a dashboard is, and the token for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import dashboard
from cluster.dashboard import normalise, token_for
from cluster.errors import UserError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYMILL_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.setattr(dashboard, "RAY_TOKEN_FILE", tmp_path / "none")


def test_an_address_that_is_none() -> None:
    with pytest.raises(UserError, match="is not the URL"):
        normalise("ftp://x")
    assert normalise("head:8265/") == "http://head:8265"


def test_the_token_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert token_for("http://127.0.0.1:1") is None
    (tmp_path / "file").write_text("from-file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    assert token_for("http://127.0.0.1:1") == "from-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "fil"))
    with pytest.raises(UserError, match="fil: no such file"):
        token_for("http://127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "direct")
    assert token_for("http://127.0.0.1:1") == "direct"
