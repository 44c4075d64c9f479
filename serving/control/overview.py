"""The status that people and commands read, from everything that the controller knows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from serving.control.sightings import Sightings
from serving.control.state import ServingState
from serving.control.status import (
    DeploymentStatus,
    EngineStatus,
    GatewayStatus,
    ReplicaStatus,
    VariantPhase,
    VariantStatus,
)
from serving.gateway.table import VariantRoute


def overview(
    state: ServingState,
    *,
    gateways: Collection[GatewayStatus],
    sightings: Sightings,
    routes: Mapping[str, VariantRoute],
    targets: Mapping[str, int],
    reasons: Mapping[str, str],
    ongoing: Mapping[str, int],
    rollout: dict[str, Any],
    problems: Collection[str],
    now: float,
) -> DeploymentStatus:
    """One status.

    Args:
        targets: engine -> replicas that it should have; engines without an application are absent.
        reasons: engine or adapter name -> why it does not come up.
        ongoing: address -> requests in flight there.
        problems: what does not work at the moment beside engines.
        now: seconds since the epoch.
    """
    shares = state.allocation().shares()
    return DeploymentStatus(
        version=state.version,
        gateways=tuple(gateways),
        engines=tuple(
            EngineStatus(
                name=engine.name,
                variants=tuple(each.name for each in state.variants.values() if each.engine == engine.name),
                wanted=str(engine.config.replicas),
                target=targets.get(engine.name, 0),
                replicas=tuple(
                    ReplicaStatus(
                        pid=each.pid,
                        address=each.address,
                        node=each.node,
                        log=each.log,
                        started=each.started,
                        models=each.models,
                        ongoing=ongoing.get(each.address, 0),
                    )
                    for each in sightings.of(engine.name)
                ),
                refusal=reasons.get(engine.name, ""),
            )
            for engine in state.engines.values()
        ),
        variants=tuple(
            VariantStatus(
                name=variant.name,
                weight=state.weights[variant.name],
                share=shares.get(variant.name, 0.0),
                state=standing,
                reason=reason if standing == "failed" else "",
            )
            for variant in state.variants.values()
            for reason in (reasons.get(variant.engine_model) or reasons.get(variant.engine, ""),)
            for standing in (_state(routes.get(variant.name), variant.engine_model, bool(reason)),)
        ),
        rollout=rollout,
        problems=tuple(problems),
        written_at=now,
    )


def _state(route: VariantRoute | None, model: str, refused: bool) -> VariantPhase:
    if route is not None and route.addresses and route.engine_model == model:
        return "ready"
    if refused:
        return "failed"
    return "asleep" if route is not None and route.asleep else "starting"
