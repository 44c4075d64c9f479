"""Why a job waits, from what Ray 2.60 answered (values as seen on a cluster of three nodes)."""

from __future__ import annotations

from typing import Any

from cluster.pending import ClusterView, NodeResources, explain, explain_demands, view_of

HEAD = NodeResources("head", {"CPU": 2.0, "memory": 8.0 * 2**30}, {"CPU": 0.0}, head=True)
BUSY = NodeResources("worker-1", {"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0, "GPU": 1.0})
VIEW = ClusterView([HEAD, BUSY])


def needs(**resources: float) -> dict[str, Any]:
    return {"required_resources": resources, "label_selector": {}}


def test_a_resource_that_no_node_has() -> None:
    found = explain(needs(CPU=1, TPU=1), VIEW, 5, [])
    assert found.reasons == ["it needs 1 TPU on one node, and no node has any TPU"]
    assert "add nodes" in found.advice


def test_more_than_the_largest_node() -> None:
    assert explain(needs(CPU=8), VIEW, 5, []).reasons == [
        "it needs 8 CPU on one node, and the most that one has is 4 CPU"
    ]
    assert "16.0 GiB memory" in explain(needs(memory=16 * 2**30), VIEW, 5, []).reasons[0]


def test_each_is_there_but_not_together() -> None:
    assert explain(needs(GPU=1, memory=2**30), VIEW, 5, []).reasons == [
        "no single node has all of 1 GPU and 1.0 GiB memory"
    ]


def test_everything_is_in_use() -> None:
    found = explain(needs(CPU=3), VIEW, 5, ["raymill-other-1"])
    assert found.reasons == [
        "it needs 3 CPU, and all is in use: worker-1 3/4 CPU",
        "these run: raymill-other-1",
    ]
    assert "scale" in found.advice


def test_there_is_room() -> None:
    assert "is being set up" in explain(needs(CPU=1), VIEW, 5, []).reasons[0]
    on_head = {"required_resources": {}, "label_selector": {"ray.io/node-id": "abc"}}
    assert "its files are being set up" in explain(on_head, VIEW, 5, []).reasons[0]


def test_no_node_and_not_taken_up() -> None:
    assert explain(needs(CPU=1), ClusterView([]), 5, []).reasons == ["no node of the cluster is alive"]
    assert "has not taken it up" in explain(None, VIEW, 75, []).reasons[0]


def test_nodes_on_their_way_are_told() -> None:
    view = ClusterView([HEAD], starting=["2 gpu-group"], failed=["ImagePullBackOff"])
    reasons = explain(needs(GPU=1), view, 5, []).reasons
    assert reasons[1:] == [
        "nodes are being started: 2 gpu-group",
        "nodes could not be started: ImagePullBackOff",
    ]


class Answers:
    """A client that answers with what a real cluster answered."""

    def get(self, path: str) -> Any:
        if path.startswith("/api/v0/nodes"):
            nodes = [
                ("a", "head", "ALIVE", {"CPU": 2.0, "object_store_memory": 1e8, "my_kind": 1.0}),
                ("b", "worker-1", "DEAD", {"CPU": 2.0}),
            ]
            return {
                "data": {
                    "result": {
                        "result": [
                            {"node_id": i, "node_name": n, "state": s, "resources_total": r, "is_head_node": i == "a"}
                            for i, n, s, r in nodes
                        ]
                    }
                }
            }
        usage = {"a": {"CPU": [1.5, 2.0], "objectStoreMemory": [5e7, 1e8], "myKind": [1.0, 1.0]}}
        load = {"usageByNode": usage, "resourceDemand": [[{"GPU": 1.0}, 4]]}
        report = {"pendingLaunches": {}, "pendingNodes": [], "failedNodes": []}
        return {"data": {"clusterStatus": {"loadMetricsReport": load, "autoscalerReport": report}}}


def test_the_clusters_own_words_are_understood() -> None:
    client: Any = Answers()
    (node,) = view_of(client).nodes
    assert (node.name, node.head, node.free("CPU"), node.free("my_kind"), node.free("object_store_memory")) == (
        "head",
        True,
        0.5,
        0.0,
        5e7,
    )
    assert explain_demands(client) == [
        "4 × 1 GPU wait for a place: it needs 1 GPU on one node, and no node has any GPU"
    ]
