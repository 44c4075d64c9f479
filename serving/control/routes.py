"""The gateways' route table from what is wanted and what answers. Pure: no Ray, no clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from serving.control.sightings import Inherited, Sightings
from serving.control.state import ServingState
from serving.gateway.table import RouteTable, VariantRoute


def variant_routes(
    state: ServingState,
    sightings: Sightings,
    asleep: Collection[str],
    before: Mapping[str, VariantRoute],
) -> dict[str, VariantRoute]:
    """Variant -> how it is reached now.

    A variant whose new engine is not up yet keeps its previous one, as long as that answers.

    Args:
        asleep: engines scaled to zero.
        before: the routes of the table before this one.
    """
    routes = {}
    for variant in state.variants.values():
        model = variant.engine_model
        own = sightings.serving(variant.engine, model)
        addresses = own or sightings.inherited(variant.name, model)
        sleeping = variant.engine in asleep and not addresses
        previous = before.get(variant.name)
        if not addresses and not sleeping and previous is not None and previous.engine_model != model:
            kept = tuple(
                address
                for address in previous.addresses
                if address in {each.address for each in sightings.all() if previous.engine_model in each.models}
                or address in sightings.inherited(variant.name, previous.engine_model)
            )
            if kept:
                routes[variant.name] = VariantRoute(previous.engine_model, kept, previous.prompt)
                continue
        routes[variant.name] = VariantRoute(model, addresses, variant.prompt, sleeping)
    return routes


def engines_in_use(state: ServingState, sightings: Sightings, routes: Mapping[str, VariantRoute]) -> set[str]:
    """Engines that must stay: those wanted, and those that answer for a variant whose own is not up yet."""
    routed = {address for route in routes.values() for address in route.addresses}
    return {*state.engines, *(engine for address in routed if (engine := sightings.engine_at(address)))}


def route_table(
    state: ServingState, routes: Mapping[str, VariantRoute], *, key: str, serial: int, created: int
) -> RouteTable:
    """What gateways are told."""
    rollout = state.rollout
    return RouteTable(
        model=state.model_name,
        experiment=state.experiment,
        allocation=state.allocation(),
        variants=dict(routes),
        key=key,
        serial=serial,
        created=created,
        version=state.version,
        limits=state.limits,
        keys=state.keys,
        require_keys=state.require_keys,
        fallback=state.fallback,
        shadow=state.shadow,
        rollout=(rollout.config.baseline, rollout.config.candidate)
        if rollout is not None and rollout.active  # a paused one goes on observing
        else None,
    )


def inherited_from(tables: Collection[RouteTable]) -> list[Inherited]:
    """What the newest of the gateways' tables says about engines."""
    if not tables:
        return []
    newest = max(tables, key=lambda table: table.serial)
    addresses: dict[str, dict[str, str]] = {}
    for name, route in newest.variants.items():
        for address in route.addresses:
            addresses.setdefault(address, {})[name] = route.engine_model
    return [Inherited(address, variants) for address, variants in addresses.items()]
