"""What a deployment becomes when its recipe is served again: from one wanted state to the next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from cluster.errors import UserError
from serving.config import ServingConfig
from serving.control.journal import Journal
from serving.control.state import EngineState, ServingState
from serving.engines.plan import VariantSource, initial_state


def first_state(
    config: ServingConfig,
    sources: Mapping[str, VariantSource],
    *,
    name: str,
    by: str,
    now: float,
    reason: str = "",
) -> ServingState:
    """What the recipe alone makes; see :func:`serving.engines.plan.initial_state`.

    Args:
        reason: why it is served, for the journal; empty leaves that to :func:`intend`.
    """
    state = initial_state(config, sources, name=name, by=by, now=now)
    return state.model_copy(
        update={
            "reason": reason,
            "recipe_sha256": recipe_digest(config, sources, state.require_keys),
            "recipe_weights": config.weights(),
            "recipe_require_keys": state.require_keys,
        }
    )


def intend(journal: Journal, fresh: ServingState) -> ServingState:
    """Write what is to be deployed: what the recipe makes where nothing was, else what there is, as far as it may stay.

    The same recipe again goes on with the newest version: weights, keys and limits that were changed by hand stay.
    It is a version of its own, as engines that failed are then tried again.

    Raises:
        UserError: the recipe changed while a rollout is under way.
    """
    latest = journal.latest()
    if latest is None:
        return journal.create(fresh.model_copy(update={"reason": fresh.reason or "deployed"}))
    if latest.recipe_sha256 == fresh.recipe_sha256:
        return journal.change(
            lambda state: state.model_copy(update={"stopped": False, "served": state.served + 1}),
            by=fresh.changed_by,
            reason=fresh.reason or "served again",
        )
    reason = fresh.reason or "the recipe changed"
    return journal.change(lambda state: renewed(state, fresh), by=fresh.changed_by, reason=reason)


def recipe_digest(config: ServingConfig, sources: Mapping[str, VariantSource], require_keys: bool) -> str:
    """SHA-256 of everything in the section that makes the wanted state.

    Where it listens is not part of it, but that decides whether callers need keys, which is.
    """
    section = config.model_dump(mode="json", exclude={"host", "port", "admin_port", "gateways"})
    models = {name: [str(source.base), str(source.adapter or "")] for name, source in sources.items()}
    return hashlib.sha256(json.dumps([section, models, require_keys], sort_keys=True).encode()).hexdigest()


def renewed(old: ServingState, fresh: ServingState) -> ServingState:
    """The state after the recipe changed: what the recipe says, on engines that stay wherever they can.

    Keys stay, and whether callers need one, unless the recipe or its address now say otherwise than before. Where the
    recipe names the same variants with the same models and weights as before, the split stays as it is now, by hand
    or by a rollout; otherwise the recipe's weights hold, and only as many users move as must.

    Args:
        fresh: what the recipe alone would make.

    Raises:
        UserError: a rollout is under way.
    """
    if old.rollout is not None and old.rollout.active:
        raise UserError(
            f"rollout {old.rollout.id} is under way, and the recipe changed",
            where="serving",
            next_step="end it first with `raymill rollout promote` or `rollback`, or serve the recipe as it was",
        )
    names = _homes(old, fresh)
    engines = {}
    for name, engine in fresh.engines.items():
        home = old.engines.get(names[name])
        config = engine.config if home is None else home.config.model_copy(update={"replicas": engine.config.replicas})
        lora = engine.lora if home is None else home.lora
        engines[names[name]] = EngineState(name=names[name], source=engine.source, config=config, lora=lora)
    variants = {
        name: variant.model_copy(
            update={
                "engine": names[variant.engine],
                "engine_model": names[variant.engine] if variant.adapter is None else variant.engine_model,
            }
        )
        for name, variant in fresh.variants.items()
    }
    answer_alike = answers(old) == answers(fresh)
    same = old.recipe_weights == fresh.recipe_weights and answer_alike
    before = old.allocation()
    after = before if same else before.reweighted(fresh.weights)
    return fresh.model_copy(
        update={
            "version": old.version,
            "engines": engines,
            "variants": variants,
            "weights": old.weights if same else fresh.weights,
            "owners": old.owners if after.owners == before.owners else after.encode(),
            "keys": old.keys,
            "require_keys": _keys_required(old, fresh),
            "rollout": old.rollout if answer_alike else None,  # what ran with these does not begin again by itself
            "served": old.served + 1,
            "stopped": False,
        }
    )


def _keys_required(old: ServingState, fresh: ServingState) -> bool:
    if old.recipe_require_keys is None:  # an older record: whoever wanted keys goes on wanting them
        return old.require_keys or fresh.require_keys
    return old.require_keys if old.recipe_require_keys == fresh.recipe_require_keys else fresh.require_keys


def answers(state: ServingState) -> dict[str, tuple[object, ...]]:
    """Variant -> what its answers come from."""
    return {
        name: (state.engines[variant.engine].source, variant.adapter, variant.prompt)
        for name, variant in state.variants.items()
    }


def _homes(old: ServingState, fresh: ServingState) -> dict[str, str]:
    """Engine of the recipe -> the running engine that does for it, or a name that was never used."""
    free = dict(old.engines)
    homes = {}
    for name, engine in fresh.engines.items():
        home = next((each for each in free.values() if _does_for(each, engine, fresh)), None)
        homes[name] = home.name if home else f"{name}-v{old.version + 1}"
        if home:
            del free[home.name]
    return homes


def _does_for(home: EngineState, engine: EngineState, fresh: ServingState) -> bool:
    same = home.config.model_dump(exclude={"replicas"}) == engine.config.model_dump(exclude={"replicas"})
    if not same or home.source != engine.source:
        return False
    if engine.lora is None:
        return True
    adapters = {v.engine_model for v in fresh.variants.values() if v.engine == engine.name and v.adapter is not None}
    return home.lora is not None and len(adapters) <= home.lora.slots and engine.lora.max_rank <= home.lora.max_rank
