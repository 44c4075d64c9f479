"""The real kubectl understands every call of ours: it gets as far as a server that is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import InfraError, UserError
from cluster.kubectl import Kubectl

CALLS: dict[str, Callable[[Kubectl], Any]] = {
    "apply": lambda kubectl: kubectl.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"),
    "get": lambda kubectl: kubectl.get("rayjobs.ray.io", "x"),
    "all": lambda kubectl: kubectl.all("pods", "ray.io/cluster=x"),
    "all without a selector": lambda kubectl: kubectl.all("events"),
    "keys": lambda kubectl: kubectl.keys("secret", "x"),
    "raw": lambda kubectl: kubectl.raw("/apis/ray.io/v1"),
    "delete": lambda kubectl: kubectl.delete("configmaps", "x"),
    "logs": lambda kubectl: kubectl.logs("job-name=x", container="c", lines=5),
}


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "nowhere", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "away", "context": {"cluster": "nowhere", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {"token": "none"}}],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Kubectl("raymill", context="away")


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_fails_at_the_server_and_not_before(kubectl: Kubectl, call: Callable[[Kubectl], Any]) -> None:
    with pytest.raises(InfraError, match="refused"):
        call(kubectl)


def test_following_ends_where_the_connection_does(kubectl: Kubectl) -> None:
    assert list(kubectl.follow("job-name=x", container="c")) == []
    assert list(kubectl.follow("job-name=x", container="c", since="2026-11-21T21:00:00.5Z")) == []


def test_a_context_that_is_not_there_is_the_users_mistake(kubectl: Kubectl) -> None:
    with pytest.raises(UserError, match="profile's context"):
        Kubectl("raymill", context="prod").get("pods", "x")
