"""A recipe that is served again: what was changed by hand stays, and keys never stop being required by accident."""

from __future__ import annotations

import pytest

from cluster.store_local import LocalStore
from serving.config import ServingConfig
from serving.control import operations
from serving.control.journal import Journal
from serving.control.redeploy import first_state, intend, renewed
from serving.control.state import ModelSource, ServingState
from serving.engines.plan import VariantSource

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
