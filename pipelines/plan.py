"""What a run would do: which artifacts are there, and for each that is not, which part of its identity changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.artifact import Identity, list_artifacts, load_artifact
from cluster.store import Store
from pipelines.graph import Node


@dataclass(frozen=True)
class PlannedStage:
    """One stage's state.

    Attributes:
        state: ``cached`` (published), ``stale`` (another version of it is published) or ``new``.
        changes: for a stale stage, ``field: old -> new`` against the newest published version.
    """

    name: str
    kind: str
    id: str
    state: str
    changes: tuple[str, ...]


def plan_stages(store: Store, nodes: list[Node], found: Mapping[str, Identity]) -> list[PlannedStage]:
    """The state of every stage, in order."""
    return [_plan_stage(store, node, found) for node in nodes]


def _plan_stage(store: Store, node: Node, found: Mapping[str, Identity]) -> PlannedStage:
    identity = found[node.name]
    if load_artifact(store, identity.id) is not None:
        return PlannedStage(node.name, identity.kind, identity.id, "cached", ())
    earlier = list_artifacts(store, identity.kind, node.name)
    if not earlier:
        return PlannedStage(node.name, identity.kind, identity.id, "new", ())
    changes = tuple(compare_identities(earlier[-1].identity, identity.fields()))
    return PlannedStage(node.name, identity.kind, identity.id, "stale", changes)


def compare_identities(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every field that differs, as ``dotted.name: old -> new``; a changed input is named by its role."""
    left, right = _flatten(old), _flatten(new)
    lines = []
    for path in sorted(left.keys() | right.keys()):
        before, after = left.get(path, "absent"), right.get(path, "absent")
        if before != after:
            name = path.removeprefix("config.")
            if path.startswith("inputs."):
                before, after = str(before)[:12], str(after)[:12]
            lines.append(f"{name}: {_short(before)} -> {_short(after)}")
    return lines


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {
            inner: leaf
            for key, item in value.items()
            for inner, leaf in _flatten(item, f"{path}.{key}" if path else str(key)).items()
        }
    if isinstance(value, (list, tuple)) and value:
        return {
            inner: leaf for index, item in enumerate(value) for inner, leaf in _flatten(item, f"{path}.{index}").items()
        }
    return {path: value}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
