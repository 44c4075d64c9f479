"""What an end by hand does where there is little left to end."""

from __future__ import annotations

import contextlib

import pytest

import cluster.session
from cluster.store_local import LocalStore
from serving.control import ray_serve, takedown
from serving.control.endpoint import Endpoint


def test_a_cluster_where_serve_does_not_run_has_no_engine_left(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was started again at its address; only actors of the deployment could be there."""

    def nobody() -> None:
        raise ValueError("Failed to look up actor")

    ended: list[str] = []
    monkeypatch.setattr(cluster.session, "connect", lambda config: contextlib.nullcontext())
    monkeypatch.setattr(takedown, "remove_actors", ended.append)
    monkeypatch.setattr(ray_serve, "serve_controller", nobody)
    endpoint = Endpoint(
        name="docs", url="http://10.0.0.1:8000", admin_url="", ray_address="10.0.0.1:6379", started_at=1, started_by=""
    )
    takedown.remove(store, "docs", endpoint)
    assert ended == ["raymill-docs"]
