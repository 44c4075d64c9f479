"""A recipe that is served again: what was changed by hand stays, and keys never stop being required by accident."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.store_local import LocalStore
from serving.config import ServingConfig
from serving.control import operations
from serving.control.journal import Journal
from serving.control.redeploy import first_state, intend, renewed
from serving.control.state import ModelSource, ServingState
from serving.engines.plan import VariantSource, adapters_of

SOURCE = VariantSource(ModelSource(folder="/models/a"))
WHO = {"by": "me", "reason": "test"}


def recipe(host: str = "127.0.0.1", require_keys: str | bool = "auto", seqs: int = 4) -> ServingState:
    config = ServingConfig.model_validate(
        {
            "host": host,
            "auth": {"require_keys": require_keys},
            "engine": {"max_num_seqs": seqs},
            "variants": [{"name": "a", "model": "given", "weight": 1}],
        }
    )
    return first_state(config, {"a": SOURCE}, name="docs", by="me", now=1.0)


@pytest.fixture
def journal(store: LocalStore) -> Journal:
    return Journal(store, "docs")


def test_the_same_recipe_changes_nothing_but_ends_a_stop_and_asks_for_another_try(journal: Journal) -> None:
    first, second = intend(journal, recipe()), intend(journal, recipe())
    assert (second.version, second.reason, second.served) == (2, "served again", first.served + 1)
    same = {"version", "served", "reason", "changed_at", "changed_by"}
    assert second.model_dump(exclude=same) == first.model_dump(exclude=same)
    operations.stop(journal, **WHO)
    again = intend(journal, recipe())
    assert (again.version, again.stopped) == (4, False)
    assert intend(journal, recipe(seqs=5)).served == again.served + 1


def test_the_journal_keeps_why_it_was_served(journal: Journal) -> None:
    assert intend(journal, recipe()).reason == "deployed"
    for seqs, reason in ((4, "a new node"), (5, "more at once")):
        config = ServingConfig.model_validate(
            {"engine": {"max_num_seqs": seqs}, "variants": [{"name": "a", "model": "given", "weight": 1}]}
        )
        fresh = first_state(config, {"a": SOURCE}, name="docs", by="me", now=1.0, reason=reason)
        assert intend(journal, fresh).reason == reason


def test_a_public_address_requires_keys_where_loopback_did_not(journal: Journal) -> None:
    assert not intend(journal, recipe()).require_keys
    operations.stop(journal, **WHO)
    assert intend(journal, recipe(host="0.0.0.0")).require_keys
    assert not intend(journal, recipe()).require_keys  # back on loopback, as the recipe says by itself


def test_keys_required_by_hand_stay_required_when_the_recipe_changes(journal: Journal) -> None:
    intend(journal, recipe())
    operations.create_key(journal, "team", **WHO)
    operations.require_keys(journal, True, **WHO)
    changed = intend(journal, recipe(seqs=5))
    assert changed.reason == "the recipe changed" and changed.require_keys
    assert intend(journal, recipe(host="0.0.0.0", seqs=5)).require_keys


def test_keys_given_up_by_hand_come_back_only_where_the_recipe_begins_to_want_them(journal: Journal) -> None:
    intend(journal, recipe(host="0.0.0.0"))
    operations.require_keys(journal, False, **WHO)
    assert not intend(journal, recipe(host="0.0.0.0", seqs=5)).require_keys
    assert not intend(journal, recipe(host="0.0.0.0", require_keys=False)).require_keys
    assert intend(journal, recipe(host="0.0.0.0", require_keys=True)).require_keys


def test_a_record_that_does_not_say_what_the_recipe_wanted_keeps_its_keys() -> None:
    old = recipe().model_copy(update={"recipe_require_keys": None, "require_keys": True})
    assert renewed(old, recipe()).require_keys
    assert renewed(old.model_copy(update={"require_keys": False}), recipe(host="0.0.0.0")).require_keys


PARTS = st.tuples(
    st.sampled_from(["/models/a", "/models/b"]),
    st.sampled_from([None, "/adapters/one", "/adapters/two", "/adapters/three"]),
    st.sampled_from([4, 16, 64]),
    st.booleans(),
)
RECIPES = st.lists(st.dictionaries(st.sampled_from("abcdef"), PARTS, min_size=1), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(RECIPES)
def test_whatever_comes_and_goes_no_engine_that_stays_is_touched(recipes) -> None:
    state: ServingState | None = None
    for variants in recipes:
        sources = {
            name: VariantSource(ModelSource(folder=base), adapter and ModelSource(folder=adapter), rank)
            for name, (base, adapter, rank, _) in variants.items()
        }
        section = [
            {"name": name, "model": "given", "weight": 1, "engine": {"max_num_seqs": 3} if own else {}}
            for name, (*_, own) in variants.items()
        ]
        fresh = first_state(ServingConfig(variants=section), sources, name="docs", by="me", now=1.0)
        before, state = state, fresh if state is None else renewed(state, fresh)
        state = state.model_copy(update={"version": before.version + 1 if before else 1})
        assert set(state.variants) == set(state.weights) == set(state.allocation().owners) == set(variants)
        assert {each.engine for each in state.variants.values()} == set(state.engines)
        for name, engine in state.engines.items():
            held = adapters_of(state, name)
            assert len(held) <= (engine.lora.slots if engine.lora else 0)
            folders = {variants[each.name][0] for each in state.variants.values() if each.engine == name}
            assert folders == {engine.source.folder}
            if before is not None and name in before.engines:
                assert engine == before.engines[name]
        if before is not None and set(before.weights) == set(state.weights):
            assert state.allocation().owners == before.allocation().owners
