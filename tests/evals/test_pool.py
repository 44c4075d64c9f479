"""What the pool refuses before it starts an actor."""

from __future__ import annotations

import pytest
import ray

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.store import Store
from evals.pool import scorers
from evals.sources import ModelSource


def test_more_workers_than_the_cluster_has_are_refused_before_any_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(**_options: object) -> None:
        raise AssertionError("an actor was started")

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray, "remote", started)
    model = Artifact(kind="Model", name="x", fingerprint="0" * 64, identity={}, attempt="a", files=[])
    refused = pytest.raises(UserError, match=r"evals\.workers: 5 workers need 2\.5 CPUs, the cluster has 2")
    with refused, scorers(ModelSource(store, model), 5):
        pass
