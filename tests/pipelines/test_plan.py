"""`plan` says what is cached and which field made the rest stale."""

from __future__ import annotations

from cluster.artifact import Artifact, Identity, InputEntry
from cluster.store_local import LocalStore
from pipelines.graph import build_graph, identities
from pipelines.plan import compare_identities, plan_stages
from pipelines.recipe import load_recipe


def publish(store: LocalStore, identity: Identity, inputs: dict[str, Identity]) -> None:
    """A record alone: planning reads nothing else."""
    record = Artifact(
        kind=identity.kind,
        name=identity.name,
        fingerprint=identity.fingerprint,
        identity=identity.fields(),
        inputs={role: InputEntry(id=each.id, fingerprint=each.fingerprint) for role, each in inputs.items()},
        attempt="a",
        files=[],
    )
    assert store.put_if_absent(f"{identity.id}/artifact.json", record.sealed().encode())


def test_cached_stale_and_new(store: LocalStore) -> None:
    nodes = build_graph(load_recipe("demo.yaml"))
    found = identities(nodes)
    for node in nodes[:5]:
        publish(store, found[node.name], {})
    states = {stage.name: stage.state for stage in plan_stages(store, nodes, found)}
    assert list(states.values()) == ["cached"] * 5 + ["new"] * 3

    changed = build_graph(load_recipe("demo.yaml", ["curate.validation_fraction=0.1"]))
    plan = {stage.name: stage for stage in plan_stages(store, changed, identities(changed))}
    assert plan["corpus"].state == "cached"
    assert plan["curate"].changes == ("validation_fraction: 0.05 -> 0.1",)
    assert plan["tokenizer"].changes[0].startswith("inputs.corpus: ")
    assert plan["finetune"].state == "new"


def test_differences_are_named_by_field() -> None:
    old = {"kind": "Model", "version": 1, "config": {"a": {"b": 1, "c": [1, 2]}, "gone": 0}, "inputs": {"t": "f" * 64}}
    new = {
        "kind": "Model",
        "version": 2,
        "config": {"a": {"b": 2, "c": [1, 3]}, "came": None},
        "inputs": {"t": "e" * 64},
    }
    assert compare_identities(old, new) == [
        "a.b: 1 -> 2",
        "a.c: + 3, - 2",
        "came: absent -> None",
        "gone: 0 -> absent",
        "inputs.t: ffffffffffff -> eeeeeeeeeeee",
        "version: 1 -> 2",
    ]
    assert compare_identities(old, old) == []


def test_a_new_package_is_one_line_and_another_kind_of_source_is_one_line() -> None:
    packages = [f"p{number}==1" for number in range(300)]
    old = {"config": {"sources": [{"kind": "python-docs", "packages": packages}]}}
    new = {"config": {"sources": [{"kind": "python-docs", "packages": ["aaa==1", *packages]}]}}
    assert compare_identities(old, new) == ["sources.0.packages: + aaa==1"]
    other = {"config": {"sources": [{"kind": "text", "path": "x"}]}}
    assert compare_identities(old, other) == ["sources.0.kind: python-docs -> text"]
    gone = compare_identities(old, {"config": {"sources": [{"kind": "python-docs", "packages": packages[9:]}]}})
    assert gone == ["sources.0.packages: - p0==1, - p1==1, - p2==1, - p3==1, - p4==1 and 4 more"]
