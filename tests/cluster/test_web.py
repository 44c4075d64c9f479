"""The proxies of the environment."""

from __future__ import annotations

import pytest

from cluster.web import proxy_for


def test_the_environments_proxy_is_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "no", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    assert proxy_for("http://ray.example.org:8265") is None
    monkeypatch.setenv("http_proxy", "proxy.example.org:3128")
    monkeypatch.setenv("https_proxy", "http://secure.example.org:3129")
    monkeypatch.setenv("no_proxy", "inside.example.org")
    assert proxy_for("http://ray.example.org:8265") == "http://proxy.example.org:3128"
    assert proxy_for("https://ray.example.org") == "http://secure.example.org:3129"
    near = ["http://127.0.0.1:8265", "http://localhost:8265", "http://[::1]:8265", "http://inside.example.org:8265"]
    assert [proxy_for(address) for address in near] == [None] * 4
