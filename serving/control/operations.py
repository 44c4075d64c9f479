"""Every change by hand, written to a deployment's journal. No Ray: access to the store is the authority.

``by`` is who does it and ``reason`` why; both stay in the journal. Each gives the state that is wanted from then on,
and :func:`serving.control.status.wait_applied` tells when every gateway works by it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping

from cluster.errors import UserError
from serving.access.keys import ApiKey, KeyLimits, Scope, hash_secret, make_secret
from serving.config import LimitsConfig, ShadowConfig
from serving.control import changes, status
from serving.control.journal import Journal
from serving.control.records import FRESH_S
from serving.control.state import ServingState
from serving.control.status import VariantStatus
from serving.rollout.config import RolloutConfig

SETTLE_S = 1.0
"""A controller has written down what changed within this."""


def set_weights(journal: Journal, weights: Mapping[str, float], *, by: str, reason: str) -> ServingState:
    """Split the users anew; only as many move as must. Refused while a rollout runs (pause it first)."""
    return journal.change(lambda state: changes.with_weights(state, weights), by=by, reason=reason)


def scale(journal: Journal, variant: str, replicas: int | str, *, by: str, reason: str) -> ServingState:
    """Servers for a variant's engine: ``2``, or ``"1:4"`` to follow the requests; a MIN of 0 lets it fall asleep."""
    return journal.change(lambda state: changes.with_replicas(state, variant, replicas), by=by, reason=reason)


def create_key(
    journal: Journal,
    name: str,
    *,
    by: str,
    reason: str,
    scopes: tuple[Scope, ...] = ("call",),
    limits: KeyLimits | None = None,
    models: tuple[str, ...] = (),
) -> tuple[ApiKey, str]:
    """A new key and its secret, which is kept nowhere."""
    secret = make_secret()
    key = ApiKey(
        id=f"k-{secrets.token_hex(5)}",
        name=name,
        sha256=hash_secret(secret),
        scopes=scopes,
        limits=limits or KeyLimits(),
        models=models,
        created_at=time.time(),
        created_by=by,
    )
    journal.change(lambda state: changes.with_key(state, key), by=by, reason=reason)
    return key, secret


def revoke_key(journal: Journal, key: str, *, by: str, reason: str) -> ServingState:
    """End a key, given by its id or by a name that only one good key has; again changes nothing."""
    now = time.time()
    return journal.change(lambda state: changes.without_key(state, key, now=now), by=by, reason=reason)


def set_key_limits(
    journal: Journal, key: str, changed: Mapping[str, int | None], *, by: str, reason: str
) -> ServingState:
    """What a key may use, from now on: limits by name, those that are not named stay; None takes one away."""
    return journal.change(lambda state: changes.with_key_limits(state, key, changed), by=by, reason=reason)


def set_limits(journal: Journal, edit: Callable[[LimitsConfig], LimitsConfig], *, by: str, reason: str) -> ServingState:
    """What one request may ask for, from now on; ``edit`` makes it from what is newest, so it may run again."""
    return journal.change(lambda state: changes.with_limits(state, edit), by=by, reason=reason)


def set_shadow(journal: Journal, shadow: ShadowConfig | None, *, by: str, reason: str) -> ServingState:
    """Copy some requests to a variant; None ends it."""
    return journal.change(lambda state: changes.with_shadow(state, shadow), by=by, reason=reason)


def require_keys(journal: Journal, required: bool, *, by: str, reason: str) -> ServingState:
    """Whether callers need a key; refused where no key could call."""
    return journal.change(lambda state: changes.with_keys_required(state, required), by=by, reason=reason)


def start_rollout(journal: Journal, config: RolloutConfig, decision: str, *, by: str, reason: str) -> ServingState:
    """Begin a rollout; ``decision`` is the evaluation's that allows it, empty where none is required.

    Raises:
        UserError: the state does not allow it, or one of the two does not come up (:func:`require_working`).
    """
    require_working(journal, config)
    return journal.change(lambda state: changes.with_rollout(state, config, decision), by=by, reason=reason)


def require_working(journal: Journal, config: RolloutConfig) -> None:
    """Refuse a rollout whose candidate or baseline does not come up, where a controller that lives says so.

    Raises:
        UserError: with the reason, and what to do first.
    """
    patience = time.monotonic() + SETTLE_S
    while failed := _failed(journal, (config.candidate, config.baseline)):
        if time.monotonic() >= patience:
            raise UserError(
                f"{failed.name} does not come up: {failed.reason or 'it failed'}",
                where=f"rollout of {config.candidate} against {config.baseline}",
                next_step="`raymill status` names its log; correct the recipe, `raymill serve` it again, then start",
            )
        time.sleep(status.POLL_SECONDS)


def _failed(journal: Journal, names: Collection[str]) -> VariantStatus | None:
    now = status.read(journal.store, journal.name)
    if now is None or time.time() - now.written_at > FRESH_S or now.version < journal.current().version:
        return None  # nobody serves it, or not yet what is wanted now
    return next((each for each in now.variants if each.name in names and each.state == "failed"), None)


def pause(journal: Journal, *, by: str, reason: str) -> ServingState:
    """Keep the rollout where it is."""
    return journal.change(changes.paused, by=by, reason=reason)


def resume(journal: Journal, *, by: str, reason: str) -> ServingState:
    """Let a paused rollout go on."""
    return journal.change(changes.resumed, by=by, reason=reason)


def promote(journal: Journal, *, by: str, reason: str) -> ServingState:
    """End the rollout with all users of the pair on the candidate."""
    return journal.change(changes.promoted, by=by, reason=reason)


def rollback(journal: Journal, *, by: str, reason: str) -> ServingState:
    """End the rollout with all users of the pair on the baseline."""
    return journal.change(changes.rolled_back, by=by, reason=reason)


def stop(journal: Journal, *, by: str, reason: str) -> ServingState:
    """Let the deployment go; its keys and its journal stay."""
    return journal.change(changes.stopped, by=by, reason=reason)
