from __future__ import annotations

import pytest
import ray
from ray.core.generated.common_pb2 import NodeDeathInfo

from cluster.errors import InfraError, UserError
from cluster.resources import require_resources


def node(name: str, alive: bool, reason: str = "UNSPECIFIED") -> dict[str, object]:
    """A node as ``ray.nodes()`` gives it, as far as it is read."""
    return {"NodeName": name, "Alive": alive, "DeathReason": NodeDeathInfo.Reason.Value(reason)}


@pytest.fixture(autouse=True)
def small_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    monkeypatch.setattr(ray, "nodes", lambda: [node("head", True)])


def test_what_fits_exactly_is_let_through() -> None:
    require_resources(8, "pretrain")
    require_resources(16, "evals", cpus=0.5)
    require_resources(1, "pretrain", gpus=1)


def test_too_many_workers_are_refused_with_what_there_is() -> None:
    with pytest.raises(UserError, match=r"evals\.workers: 17 workers need 8\.5 CPUs, the cluster has 8") as raised:
        require_resources(17, "evals", cpus=0.5)
    assert raised.value.next_step == "lower evals.workers, or add nodes"
    with pytest.raises(UserError, match=r"2 workers need 2 GPUs, the cluster has 1") as raised:
        require_resources(2, "pretrain", gpus=1, gpu_advice="or set pretrain.gpus_per_worker: 0")
    assert raised.value.next_step == "lower pretrain.workers, or set pretrain.gpus_per_worker: 0"


def test_a_cluster_that_is_not_there_yet_is_asked_for_what_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ray, "cluster_resources")
    require_resources(4, "pretrain", gpus=1, has={"CPU": 4})
    with pytest.raises(UserError, match="5 workers need 5 CPUs, the cluster has 4"):
        require_resources(5, "pretrain", gpus=1, has={"CPU": 4})


def test_a_cluster_without_gpus_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    with pytest.raises(UserError, match="the cluster has 0"):
        require_resources(1, "finetune", gpus=1)


def test_what_is_missing_since_nodes_were_lost_is_no_mistake_of_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        node("head", True),
        node("worker-1", False, "UNEXPECTED_TERMINATION"),
        node("worker-2", False, "UNEXPECTED_TERMINATION"),
        node("worker-2", True),
        node("worker-3", False, "EXPECTED_TERMINATION"),
        node("worker-4", False, "AUTOSCALER_DRAIN_IDLE"),
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    require_resources(8, "pretrain")
    with pytest.raises(InfraError, match="9 workers need 9 CPUs, the cluster has 8 since it lost worker-1\n"):
        require_resources(9, "pretrain")
    del nodes[1]  # the others were asked to end, or are there again
    with pytest.raises(UserError, match="9 workers need 9 CPUs, the cluster has 8"):
        require_resources(9, "pretrain")
