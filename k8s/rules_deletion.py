"""KubeRay's rules for what is deleted after a RayJob (``deletionStrategy``); see :mod:`k8s.rules`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
"""What goes first; later ones must not have a shorter time."""
WHERE = "spec.deletionStrategy"


def deletion_problems(spec: dict[str, Any], gates: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Every problem of a RayJob's ``deletionStrategy``, as (field, why)."""
    strategy = spec.get("deletionStrategy")
    if strategy is None:
        return
    legacy = [name for name in ("onSuccess", "onFailure") if name in strategy]
    rules = strategy.get("deletionRules")
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield f"{WHERE}.deletionRules", "is not used together with shutdownAfterJobFinishes"
    if legacy and rules is not None:
        yield WHERE, "holds either onSuccess and onFailure, or deletionRules"
    elif not rules and len(legacy) < 2:
        yield WHERE, "needs both onSuccess and onFailure, or deletionRules"
    elif legacy:
        yield from _legacy(spec, strategy)
    else:
        yield from _rules(spec, rules)


def _legacy(spec: dict[str, Any], strategy: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("onSuccess", "onFailure"):
        policy = strategy[name].get("policy")
        if policy is None:
            yield f"{WHERE}.{name}", "names no policy"
        elif policy == "DeleteNone" and spec.get("shutdownAfterJobFinishes"):
            yield f"{WHERE}.{name}", "DeleteNone contradicts shutdownAfterJobFinishes: true"
        else:
            yield from _policy(spec, policy, f"{WHERE}.{name}")


def _policy(spec: dict[str, Any], policy: str, where: str) -> Iterator[tuple[str, str]]:
    if spec.get("clusterSelector") and policy in ("DeleteCluster", "DeleteWorkers"):
        yield where, f"{policy} is not for a job on an existing cluster (clusterSelector)"
    if policy == "DeleteWorkers" and (spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling"):
        yield where, "DeleteWorkers is not for a cluster with the autoscaler"


def _rules(spec: dict[str, Any], rules: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    seen: Counter[tuple[str, str]] = Counter()
    times: dict[str, dict[str, int]] = defaultdict(dict)
    for index, rule in enumerate(rules):
        where = f"{WHERE}.deletionRules.{index}"
        condition, policy = rule.get("condition", {}), str(rule.get("policy"))
        states = [f"{name} {condition[name]}" for name in ("jobStatus", "jobDeploymentStatus") if name in condition]
        if len(states) != 1:
            yield f"{where}.condition", "needs exactly one of jobStatus and jobDeploymentStatus"
            continue
        if condition.get("ttlSeconds", 0) < 0:
            yield f"{where}.condition.ttlSeconds", "must not be negative"
        yield from _policy(spec, policy, where)
        seen[states[0], policy] += 1
        if seen[states[0], policy] == 2:
            yield where, f"a second rule for {policy} after {states[0]}"
        times[states[0]][policy] = condition.get("ttlSeconds", 0)
    for state, found in times.items():
        in_order = [policy for policy in ORDER if policy in found]
        for first, later in pairwise(in_order):
            if found[later] < found[first]:
                yield f"{WHERE}.deletionRules", f"after {state}, {later} comes before {first}"
