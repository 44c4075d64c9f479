"""Every change to a deployment as a function from one wanted state to the next. Pure: no store, no clock, no Ray.

Each refuses with a UserError that says what to do first, and gives the state back as it is where nothing changes.
Versions and who, when and why are the journal's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.errors import UserError
from serving.access.keys import ApiKey, KeyLimits
from serving.config import LimitsConfig, ShadowConfig, replica_bounds
from serving.control.names import unknown
from serving.control.state import RolloutState, RolloutStatus, ServingState, VariantState
from serving.rollout.config import RolloutConfig
from serving.split.assignment import check_weights


def variant_of(state: ServingState, name: str, *, where: str = "variant") -> VariantState:
    """The variant of that name, or a UserError with the nearest one."""
    if name not in state.variants:
        raise unknown("variant", name, state.variants, where=where)
    return state.variants[name]


def active_rollout(state: ServingState) -> RolloutState | None:
    """The rollout that runs or is paused."""
    return state.rollout if state.rollout and state.rollout.active else None


def with_weights(state: ServingState, weights: Mapping[str, float]) -> ServingState:
    """New weights, for every variant that has one above 0 now or is to have one; the others stay at 0."""
    rollout = active_rollout(state)
    if rollout and rollout.status == "running":
        raise UserError(
            f"the rollout of {rollout.config.candidate} sets the weights now",
            where=f"rollout {rollout.id}",
            next_step="`raymill rollout pause` first; or `promote` or `rollback` to end it",
        )
    for name in weights:
        variant_of(state, name, where="weights")
    check_weights(weights)
    forgotten = [name for name, weight in state.weights.items() if weight > 0 and name not in weights]
    if forgotten:
        one = len(forgotten) == 1
        raise UserError(
            f"{' and '.join(forgotten)} {'has users and is' if one else 'have users and are'} not named",
            where="weights",
            next_step=f"give {'it' if one else 'each'} a weight too; {forgotten[0]}=0 takes its users away",
        )
    return _reweighted(state, {name: float(weights.get(name, 0.0)) for name in state.weights})


def sharing(state: ServingState, variant: str) -> list[str]:
    """The other variants that answer from the same engine."""
    engine = variant_of(state, variant).engine
    return [each.name for each in state.variants.values() if each.engine == engine and each.name != variant]


def with_replicas(state: ServingState, variant: str, replicas: int | str) -> ServingState:
    """Another number of servers, or other bounds, for a variant's engine and all who share it."""
    engine = state.engines[variant_of(state, variant).engine]
    try:
        least, most = replica_bounds(replicas)
    except ValueError:
        raise UserError(
            f"{replicas!r} is no number of replicas",
            where=f"variant {variant}",
            next_step="give a number of at least 1, or MIN:MAX with MIN at most MAX; 0:2 lets it fall asleep",
        ) from None
    config = engine.config.model_copy(update={"replicas": least if least == most else f"{least}:{most}"})
    changed = engine.model_copy(update={"config": config})
    return state.model_copy(update={"engines": {**state.engines, engine.name: changed}})


def with_key(state: ServingState, key: ApiKey) -> ServingState:
    """One key more."""
    for model in key.models:
        if model != state.model_name:
            raise unknown("model", model, [state.model_name], where="--model")
    if not key.scopes:
        raise UserError("a key needs a scope", where="--scope", next_step="call, admin, or both")
    return state.model_copy(update={"keys": (*state.keys, key)})


def find_key(state: ServingState, key: str) -> ApiKey:
    """The key with this id, or the only good one with this name."""
    by_id = [each for each in state.keys if each.id == key]
    by_name = [each for each in state.keys if each.name == key and each.revoked_at is None]
    found = by_id or by_name
    if not found:
        raise unknown("key", key, [each.id for each in state.keys if each.revoked_at is None], where="keys")
    if len(found) > 1:
        raise UserError(
            f"{len(found)} keys are called {key!r}: {', '.join(each.id for each in found)}",
            where="keys",
            next_step="give the id of one",
        )
    return found[0]


def without_key(state: ServingState, key: str, *, now: float) -> ServingState:
    """A key that is good no more; it stays in the list, as revoked."""
    found = find_key(state, key)
    if found.revoked_at is not None:
        return state
    revoked = found.model_copy(update={"revoked_at": now})
    return state.model_copy(update={"keys": tuple(revoked if each.id == found.id else each for each in state.keys)})


def with_key_limits(state: ServingState, key: str, changed: Mapping[str, int | None]) -> ServingState:
    """Other limits for a key that is good; those that are not named stay, None takes one away."""
    found = find_key(state, key)
    if found.revoked_at is not None:
        raise UserError("it is revoked", where=f"key {found.id}", next_step="`raymill keys create NAME` makes another")
    limits = KeyLimits.model_validate({**found.limits.model_dump(), **changed})
    limited = found.model_copy(update={"limits": limits})
    return state.model_copy(update={"keys": tuple(limited if each.id == found.id else each for each in state.keys)})


def with_limits(state: ServingState, edit: Callable[[LimitsConfig], LimitsConfig]) -> ServingState:
    """Other limits for requests, made from those in force."""
    return state.model_copy(update={"limits": edit(state.limits)})


def with_shadow(state: ServingState, shadow: ShadowConfig | None) -> ServingState:
    """Copies of requests to a variant, or none any more."""
    if shadow is not None:
        variant_of(state, shadow.variant, where="shadow")
    return state.model_copy(update={"shadow": shadow})


def with_keys_required(state: ServingState, required: bool) -> ServingState:
    """Whether callers need a key."""
    if required and all(key.revoked_at is not None for key in state.keys):
        raise UserError(
            "nobody could call: there is no key",
            where="keys",
            next_step="`raymill keys create NAME` first",
        )
    return state.model_copy(update={"require_keys": required})


def require_no_rollout(state: ServingState) -> None:
    """Raise UserError while a rollout runs or is paused: there is one at a time."""
    running = active_rollout(state)
    if running:
        raise UserError(
            f"the rollout of {running.config.candidate} is {running.status}",
            where=f"rollout {running.id}",
            next_step="`raymill rollout promote` or `raymill rollout rollback` ends it",
        )


def with_rollout(state: ServingState, config: RolloutConfig, decision: str) -> ServingState:
    """The beginning of a rollout; its first step's weights are for the machine to set."""
    if state.stopped:
        raise UserError("the deployment is stopped", where="rollout", next_step="`raymill serve` it again first")
    require_no_rollout(state)
    candidate = variant_of(state, config.candidate, where="rollout.candidate")
    baseline = variant_of(state, config.baseline, where="rollout.baseline")
    if state.weights[config.baseline] <= 0:
        raise UserError(
            f"the baseline {config.baseline} has no users",
            where="rollout.baseline",
            next_step="give it a weight with `raymill rollout weights`, or name another baseline",
        )
    if config.mode == "aa" and _answers_from(state, candidate) != _answers_from(state, baseline):
        raise UserError(
            f"the models or prompts of {candidate.name} and {baseline.name} differ, and an A/A test compares equals",
            where="rollout.mode",
            next_step="name two variants over one model, or set mode: ab",
        )
    rollout = RolloutState(
        id=f"{config.candidate}-{state.version + 1}", config=config, decision=decision, before=dict(state.weights)
    )
    return state.model_copy(update={"rollout": rollout})


def _answers_from(state: ServingState, variant: VariantState) -> tuple[object, ...]:
    return (state.engines[variant.engine].source, variant.adapter, variant.prompt)


def paused(state: ServingState) -> ServingState:
    """The rollout stays where it is until it is resumed."""
    return _with_status(state, _need_rollout(state), "paused")


def resumed(state: ServingState) -> ServingState:
    """The rollout goes on."""
    return _with_status(state, _need_rollout(state), "running")


def promoted(state: ServingState) -> ServingState:
    """The end of a rollout: all users of the pair to the candidate."""
    config = _need_rollout(state).config
    return _ended(state, winner=config.candidate, loser=config.baseline, status="promoted")


def rolled_back(state: ServingState) -> ServingState:
    """The end of a rollout: all users of the pair back to the baseline."""
    config = _need_rollout(state).config
    return _ended(state, winner=config.baseline, loser=config.candidate, status="rolled_back")


def moved_by_rollout(
    state: ServingState, rollout_id: str, weights: Mapping[str, float] | None, status: RolloutStatus | None
) -> ServingState:
    """What the running rollout decided by itself; nothing where it was paused or ended by hand in the meantime."""
    rollout = state.rollout
    if rollout is None or rollout.id != rollout_id or rollout.status != "running":
        return state
    moved = state
    if weights is not None:
        known = {name: float(weight) for name, weight in weights.items() if name in state.weights}
        moved = _reweighted(state, {**state.weights, **known})
    return _with_status(moved, rollout, status) if status else moved


def stopped(state: ServingState) -> ServingState:
    """The deployment is to go."""
    return state.model_copy(update={"stopped": True})


def _need_rollout(state: ServingState) -> RolloutState:
    rollout = active_rollout(state)
    if rollout is None:
        last = (
            f"; the last one, of {state.rollout.config.candidate}, is {state.rollout.status}" if state.rollout else ""
        )
        raise UserError(f"no rollout runs{last}", where="rollout", next_step="`raymill rollout start` begins one")
    return rollout


def _with_status(state: ServingState, rollout: RolloutState, status: RolloutStatus) -> ServingState:
    return state.model_copy(update={"rollout": rollout.model_copy(update={"status": status})})


def _ended(state: ServingState, *, winner: str, loser: str, status: RolloutStatus) -> ServingState:
    """The pair's whole weight to one of the two. The others' shares stay, so only the loser's users move."""
    rollout = _need_rollout(state)
    before, now = rollout.before, state.weights
    others_as_before = all(now[name] == before.get(name) for name in now if name not in (winner, loser))
    source = before if others_as_before else now  # steps add up to the weights before, but for binary fractions
    pair = source.get(winner, 0.0) + source.get(loser, 0.0)
    weights = {**now, winner: pair if pair > 0 else 1.0, loser: 0.0}
    return _with_status(_reweighted(state, weights), rollout, status)


def _reweighted(state: ServingState, weights: dict[str, float]) -> ServingState:
    if weights == state.weights:
        return state
    before = state.allocation()
    after = before.reweighted(weights)
    # 9:1 for 90:10 moves nobody, and then the owners are not a new version either.
    owners = state.owners if after.owners == before.owners else after.encode()
    return state.model_copy(update={"weights": weights, "owners": owners})
