"""Changes by hand: what each leaves behind, whom it moves, and what it refuses with which advice."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from cluster.store_local import LocalStore
from serving.access.keys import KeyLimits, KeyRing, hash_secret
from serving.config import LimitsConfig, PromptConfig, ServingConfig, ShadowConfig, VariantConfig
from serving.control import changes, operations, status
from serving.control.journal import Journal
from serving.control.state import ModelSource, ServingState
from serving.control.status import DeploymentStatus, VariantStatus
from serving.engines.plan import VariantSource, initial_state
from serving.rollout.config import RolloutConfig

BASE = VariantSource(ModelSource(folder="/models/base"))
OTHER = VariantSource(ModelSource(folder="/models/other"))
WHO = {"by": "ann", "reason": "test"}


def three_variants() -> ServingState:
    config = ServingConfig(
        variants=(
            VariantConfig(name="base", model="b", weight=60),
            VariantConfig(name="tuned", model="o", weight=10),
            VariantConfig(name="short", model="b", weight=30, prompt=PromptConfig(system="be short")),
            VariantConfig(name="twin", model="b", weight=0),
        )
    )
    sources = {"base": BASE, "tuned": OTHER, "short": BASE, "twin": BASE}
    return initial_state(config, sources, name="docs", by="me", now=1.0)


@pytest.fixture
def journal(store: LocalStore) -> Journal:
    made = Journal(store, "docs")
    made.create(three_variants())
    return made


def rollout(**fields: object) -> RolloutConfig:
    return RolloutConfig.model_validate({"candidate": "tuned", "baseline": "base"} | fields)


def refused(change: Callable[[], object], message: str) -> UserError:
    with pytest.raises(UserError, match=message) as caught:
        change()
    assert caught.value.where
    assert caught.value.next_step
    return caught.value


def moved(before: ServingState, after: ServingState) -> float:
    pairs = zip(before.allocation().owners, after.allocation().owners, strict=True)
    return sum(a != b for a, b in pairs) / len(before.allocation().owners)


def test_weights_move_as_few_users_as_they_must(journal: Journal) -> None:
    before = journal.current()
    after = operations.set_weights(journal, {"base": 50, "tuned": 20, "short": 30}, **WHO)
    assert after.weights == {"base": 50, "tuned": 20, "short": 30, "twin": 0}
    assert after.allocation().shares() == {"base": 0.5, "tuned": 0.2, "short": 0.3}
    assert moved(before, after) == pytest.approx(0.1)
    assert (after.version, after.changed_by, after.reason) == (2, "ann", "test")


def test_the_same_shares_in_other_numbers_move_nobody(journal: Journal) -> None:
    before = journal.current()
    after = operations.set_weights(journal, {"base": 6, "tuned": 1, "short": 3}, **WHO)
    assert after.owners == before.owners
    assert operations.set_weights(journal, {"base": 6, "tuned": 1, "short": 3, "twin": 0}, **WHO).version == 2


def test_weights_that_are_refused(journal: Journal) -> None:
    words = "tuned has users and is not named"
    error = refused(lambda: operations.set_weights(journal, {"base": 1, "short": 1}, **WHO), words)
    assert "tuned=0" in error.next_step
    several = "base and tuned have users and are not named"
    refused(lambda: operations.set_weights(journal, {"short": 1}, **WHO), several)
    everyone = {"base": 1.0, "tuned": 1.0, "short": 1.0}
    refused(lambda: operations.set_weights(journal, everyone | {"tund": 1}, **WHO), "did you mean tuned")
    refused(lambda: operations.set_weights(journal, everyone | {"base": -1}, **WHO), "at least 0")
    refused(lambda: operations.set_weights(journal, everyone | {"base": float("nan")}, **WHO), "at least 0")
    refused(lambda: operations.set_weights(journal, dict.fromkeys(everyone, 0.0), **WHO), "above 0")
    operations.start_rollout(journal, rollout(), "", **WHO)
    refused(lambda: operations.set_weights(journal, everyone, **WHO), "the rollout of tuned sets the weights")
    refused(lambda: operations.set_weights(journal, {"tund": 1}, **WHO), "the rollout of tuned sets the weights")
    operations.pause(journal, **WHO)
    assert operations.set_weights(journal, everyone, **WHO).weights["base"] == 1
    assert journal.current().version == 4


@pytest.mark.parametrize(("asked", "kept"), [("2", 2), (3, 3), ("1:4", "1:4"), ("0:2", "0:2"), ("2:2", 2)])
def test_scale(journal: Journal, asked: int | str, kept: int | str) -> None:
    before = journal.current()
    after = operations.scale(journal, "short", asked, **WHO)
    engine = after.variants["short"].engine
    assert after.engines[engine].config.replicas == kept
    others = {name: each for name, each in after.engines.items() if name != engine}
    assert others == {name: each for name, each in before.engines.items() if name != engine}
    assert changes.sharing(after, "short") == ["base", "twin"]
    assert changes.sharing(after, "tuned") == []


@pytest.mark.parametrize("asked", ["0", "-1", "4:1", "many", "1:", ":", "", "1:2:3", "1.5", "0:0"])
def test_scale_refuses(journal: Journal, asked: str) -> None:
    refused(lambda: operations.scale(journal, "base", asked, **WHO), "is no number of replicas")
    refused(lambda: operations.scale(journal, "bas", 2, **WHO), "did you mean base")
    assert journal.current().version == 1


def test_keys(journal: Journal) -> None:
    limits = KeyLimits(requests_per_minute=60)
    key, secret = operations.create_key(journal, "search", limits=limits, models=("docs",), **WHO)
    state = Journal(journal.store, "docs").current()
    assert state.keys == (key,)
    assert key.sha256 == hash_secret(secret)
    assert re.fullmatch(r"k-[0-9a-f]{10}", key.id)
    assert (key.scopes, key.limits, key.created_by) == (("call",), limits, "ann")
    for file in journal.store.files("deployments/"):
        assert secret.encode() not in journal.store.read(file.key)
    assert KeyRing(state.keys).find(secret) == key
    limited = operations.set_key_limits(journal, "search", {"concurrency": 2, "requests_per_minute": None}, **WHO)
    assert limited.keys[0].limits == KeyLimits(concurrency=2)
    revoked = operations.revoke_key(journal, key.id, **WHO)
    assert KeyRing(revoked.keys).find(secret) is None
    assert revoked.keys[0].revoked_at
    assert operations.revoke_key(journal, key.id, **WHO).version == revoked.version
    refused(lambda: operations.set_key_limits(journal, key.id, {}, **WHO), "it is revoked")


def test_keys_that_are_refused(journal: Journal) -> None:
    first, _ = operations.create_key(journal, "team", **WHO)
    operations.create_key(journal, "team", **WHO)
    refused(lambda: operations.revoke_key(journal, "team", **WHO), "2 keys are called 'team'")
    refused(lambda: operations.revoke_key(journal, first.id[:-1], **WHO), f"did you mean {first.id}")
    refused(lambda: operations.create_key(journal, "x", models=("doc",), **WHO), "did you mean docs")
    refused(lambda: operations.create_key(journal, "x", scopes=(), **WHO), "needs a scope")


def test_requiring_keys_needs_a_good_one(journal: Journal) -> None:
    first, _ = operations.create_key(journal, "ops", scopes=("admin",), **WHO)
    operations.revoke_key(journal, first.id, **WHO)
    refused(lambda: operations.require_keys(journal, True, **WHO), "nobody could call")
    operations.create_key(journal, "team", **WHO)
    assert operations.require_keys(journal, True, **WHO).require_keys


def test_limits_and_shadow(journal: Journal) -> None:
    changed = operations.set_limits(journal, lambda limits: limits.model_copy(update={"max_tokens": 9}), **WHO)
    assert changed.limits.max_tokens == 9
    assert operations.set_shadow(journal, ShadowConfig(variant="twin", share=0.5), **WHO).shadow is not None
    refused(lambda: operations.set_shadow(journal, ShadowConfig(variant="twn"), **WHO), "did you mean twin")


class Late(Journal):
    """The journal of a writer before whose first write another one writes."""

    def __init__(self, journal: Journal, other: Callable[[Journal], object]) -> None:
        super().__init__(journal.store, journal.name)
        self._others: list[Callable[[Journal], object]] = [other]

    def _append(self, state: ServingState) -> ServingState | None:
        while self._others:
            self._others.pop()(Journal(self.store, self.name))
        return super()._append(state)


def test_limits_that_two_set_at_once_are_both_kept(journal: Journal) -> None:
    def limit(**fields: float) -> Callable[[LimitsConfig], LimitsConfig]:
        return lambda limits: limits.model_copy(update=fields)

    late = Late(journal, lambda other: operations.set_limits(other, limit(max_tokens=9), **WHO))
    limits = operations.set_limits(late, limit(queue_seconds=3.0), **WHO).limits
    assert (limits.max_tokens, limits.queue_seconds) == (9, 3.0)
    key, _ = operations.create_key(journal, "search", **WHO)
    late = Late(journal, lambda other: operations.set_key_limits(other, key.id, {"concurrency": 2}, **WHO))
    state = operations.set_key_limits(late, key.id, {"requests_per_minute": 60}, **WHO)
    assert state.keys[0].limits == KeyLimits(concurrency=2, requests_per_minute=60)


def test_rollout_by_hand(journal: Journal) -> None:
    refused(lambda: operations.pause(journal, **WHO), "no rollout runs")
    started = operations.start_rollout(journal, rollout(), "decision-1", **WHO)
    assert started.rollout is not None
    assert (started.rollout.id, started.rollout.decision, started.rollout.status) == (
        "tuned-2",
        "decision-1",
        "running",
    )
    assert started.rollout.before == {"base": 60, "tuned": 10, "short": 30, "twin": 0}
    assert started.weights == started.rollout.before
    refused(lambda: operations.start_rollout(journal, rollout(), "", **WHO), "is running")
    assert operations.pause(journal, **WHO).version == operations.pause(journal, **WHO).version
    assert operations.resume(journal, **WHO).rollout.status == "running"  # type: ignore[union-attr]
    promoted = operations.promote(journal, **WHO)
    assert promoted.rollout.status == "promoted"  # type: ignore[union-attr]
    assert promoted.weights == {"base": 0, "tuned": 70, "short": 30, "twin": 0}
    refused(lambda: operations.resume(journal, **WHO), "of tuned, is promoted")


@pytest.mark.parametrize(
    ("failed", "age_seconds", "version", "allowed"),
    [
        ("tuned", 3, 1, False),
        ("base", 3, 1, False),
        ("short", 3, 1, True),  # it has no part in it
        ("tuned", 3, 0, True),  # of the version before
        ("tuned", 60, 1, True),  # nobody serves it now
    ],
)
def test_no_rollout_begins_with_a_variant_that_does_not_come_up(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, failed: str, age_seconds: float, version: int, allowed: bool
) -> None:
    monkeypatch.setattr(operations, "SETTLE_S", 0.0)
    variant = VariantStatus(name=failed, weight=0, share=0, state="failed", reason="out of memory")
    now = DeploymentStatus(version=version, variants=(variant,), written_at=time.time() - age_seconds)
    status.write(journal.store, "docs", now)
    if allowed:
        assert operations.start_rollout(journal, rollout(), "", **WHO).version == 2
        return
    error = refused(lambda: operations.start_rollout(journal, rollout(), "", **WHO), f"{failed} does not come up: out")
    assert "raymill serve" in error.next_step
    assert journal.current().rollout is None


def test_a_variant_that_has_just_come_up_is_waited_for(journal: Journal) -> None:
    def write(state: Literal["failed", "ready"]) -> None:
        variant = VariantStatus(name="tuned", weight=0, share=0, state=state, reason="")
        now = DeploymentStatus(version=1, variants=(variant,), written_at=time.time())
        status.write(journal.store, "docs", now)

    write("failed")
    later = threading.Timer(0.2, write, ("ready",))
    later.start()
    assert operations.start_rollout(journal, rollout(), "", **WHO).version == 2
    later.join()


def test_rollback_returns_the_same_users(journal: Journal) -> None:
    before = journal.current()
    operations.start_rollout(journal, rollout(), "", **WHO)
    for share in (1, 5, 25, 50):
        step = {"tuned": 70 * share / 100, "base": 70 - 70 * share / 100}
        journal.change(
            lambda state, step=step: changes.moved_by_rollout(state, "tuned-2", step, None), by="rollout", reason=""
        )
    after = operations.rollback(journal, **WHO)
    assert after.weights == {"base": 70, "tuned": 0, "short": 30, "twin": 0}
    kept = [
        (a, b)
        for a, b in zip(before.allocation().owners, after.allocation().owners, strict=True)
        if a in ("base", "short")
    ]
    assert all(a == b for a, b in kept)


def test_what_a_rollout_decides_gives_way_to_what_was_done_by_hand(journal: Journal) -> None:
    operations.start_rollout(journal, rollout(), "", **WHO)
    paused = operations.pause(journal, **WHO)
    step = {"tuned": 35.0, "base": 35.0}
    assert changes.moved_by_rollout(paused, "tuned-2", step, "promoted") == paused
    running = operations.resume(journal, **WHO)
    assert changes.moved_by_rollout(running, "another-9", step, None) == running
    moved_on = changes.moved_by_rollout(running, "tuned-2", {"tuned": 70, "base": 0}, "promoted")
    assert moved_on.weights["tuned"] == 70
    assert moved_on.rollout.status == "promoted"  # type: ignore[union-attr]


def test_rollouts_that_are_refused(journal: Journal) -> None:
    refused(lambda: operations.start_rollout(journal, rollout(candidate="tuna"), "", **WHO), "did you mean tuned")
    refused(lambda: operations.start_rollout(journal, rollout(baseline="twin"), "", **WHO), "no users")
    refused(lambda: operations.start_rollout(journal, rollout(mode="aa"), "", **WHO), "compares equals")
    refused(lambda: operations.start_rollout(journal, rollout(mode="aa", candidate="short"), "", **WHO), "equals")
    assert operations.start_rollout(journal, rollout(mode="aa", candidate="twin"), "", **WHO).version == 2
    operations.rollback(journal, **WHO)
    assert operations.stop(journal, **WHO).stopped
    refused(lambda: operations.start_rollout(journal, rollout(), "", **WHO), "is stopped")


@settings(max_examples=30, deadline=None)
@given(
    turns=st.lists(
        st.sampled_from(["weights", "start", "step", "pause", "resume", "promote", "rollback", "key", "scale"]),
        max_size=12,
    )
)
def test_whatever_is_done_the_users_always_follow_the_weights(turns: list[str]) -> None:
    state, salt = three_variants(), 0
    for turn in turns:
        salt += 1
        step = {"base": 70 - salt, "tuned": float(salt)}
        every: dict[str, Callable[[ServingState], ServingState]] = {
            "weights": lambda s, n=salt: changes.with_weights(s, {"base": n, "tuned": 1, "short": 2, "twin": 3}),
            "start": lambda s: changes.with_rollout(s, rollout(), ""),
            "step": lambda s, w=step: changes.moved_by_rollout(s, s.rollout.id if s.rollout else "", w, None),
            "pause": changes.paused,
            "resume": changes.resumed,
            "promote": changes.promoted,
            "rollback": changes.rolled_back,
            "key": lambda s: changes.with_keys_required(s, False),
            "scale": lambda s: changes.with_replicas(s, "base", 2),
        }
        try:
            state = every[turn](state)
        except UserError:
            continue
        total = sum(state.weights.values())
        shares = state.allocation().shares()
        for name, weight in state.weights.items():
            assert shares.get(name, 0.0) == pytest.approx(weight / total, abs=1e-4)
