"""What a run would do: which artifacts are there, and for each that is not, which part of its identity changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.artifact import Identity, list_artifacts, load_artifact
from cluster.store import Store
from pipelines.graph import Node

ABSENT = "absent"
SHOWN_CHANGES = 5


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
    """Every field that differs, as ``dotted.name: old -> new``; a changed input is named by its role.

    Lists of plain values are compared as sets (``packages: + a, - b``), and of an alternative that became another
    kind only the kind is named.
    """
    return sorted(_differences(old, new, ""))


def _differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = ["kind"] if path and old.get("kind") != new.get("kind") else sorted(old.keys() | new.keys())
        for key in keys:
            yield from _differences(old.get(key, ABSENT), new.get(key, ABSENT), f"{path}.{key}" if path else str(key))
    elif _is_plain_list(old) and _is_plain_list(new) and set(old) != set(new):
        changes = [f"+ {item}" for item in new if item not in set(old)]
        changes += [f"- {item}" for item in old if item not in set(new)]
        more = f" and {len(changes) - SHOWN_CHANGES} more" if len(changes) > SHOWN_CHANGES else ""
        yield f"{_name(path)}: {', '.join(changes[:SHOWN_CHANGES])}{more}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and not _is_plain_list(old):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{path}.{index}")
    elif path.startswith("inputs."):
        yield f"{path}: {str(old)[:12]} -> {str(new)[:12]}"
    else:
        yield f"{_name(path)}: {_short(old)} -> {_short(new)}"


def _is_plain_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value)


def _name(path: str) -> str:
    return path.removeprefix("config.")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
