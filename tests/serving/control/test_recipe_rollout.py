"""A recipe's rollout begins when it may, says what it waits for, and never begins a second time by itself."""

from __future__ import annotations

import pytest

from cluster.decision import publish_decision
from cluster.errors import UserError
from cluster.store_local import LocalStore
from serving.config import ServingConfig
from serving.control import operations
from serving.control.journal import Journal
from serving.control.recipe_rollout import RecipeRollout
from serving.control.redeploy import first_state, intend
from serving.control.state import ModelSource, ServingState
from serving.engines.plan import VariantSource

BASE, TUNED = "Model/base-0123456789ab", "Model/tuned-0123456789ab"
WHO = {"by": "me", "reason": "test"}


def config(**rollout: object) -> ServingConfig:
    return ServingConfig.model_validate(
        {
            "variants": [
                {"name": "base", "model": "given", "weight": 100},
                {"name": "tuned", "model": "given", "weight": 0},
            ],
            "rollout": {"candidate": "tuned", "baseline": "base", **rollout},
        }
    )


def wanted(section: ServingConfig) -> ServingState:
    models = {name: VariantSource(ModelSource(artifact=each)) for name, each in (("base", BASE), ("tuned", TUNED))}
    return first_state(section, models, name="docs", by="me", now=1.0)


def test_without_a_decision_it_waits_says_so_and_begins_when_there_is_one(store: LocalStore) -> None:
    section, journal, said = config(), Journal(store, "docs"), list[str]()
    fresh = wanted(section)
    rollout = RecipeRollout.of(section.rollout, store, journal.latest(), fresh)
    intend(journal, fresh)
    assert rollout is not None and rollout.start(journal, "me", said.append) is None
    assert "does not begin yet: no evaluation decision lets" in said[0]
    assert journal.current().rollout is None

    publish_decision(store, candidate=TUNED, baseline=BASE, verdict="pass", by="me")
    rollout = RecipeRollout.of(section.rollout, store, journal.latest(), fresh)
    assert rollout is not None
    begun = rollout.start(journal, "me", said.append)
    assert begun is not None and begun.rollout is not None and begun.rollout.active
    assert begun.reason.startswith("serving.rollout in the recipe")


def test_one_that_somebody_began_meanwhile_is_no_trouble_but_another_one_is_said(store: LocalStore) -> None:
    section, journal, said = config(gate="none"), Journal(store, "docs"), list[str]()
    rollout = RecipeRollout.of(section.rollout, store, None, wanted(section))
    intend(journal, wanted(section))
    assert rollout is not None and section.rollout is not None
    operations.start_rollout(journal, section.rollout, "", **WHO)
    assert rollout.start(journal, "me", said.append) is None and said == []
    other = RecipeRollout.of(config(gate="none", minimum_units=7).rollout, store, None, wanted(section))
    assert other is not None and other.start(journal, "me", said.append) is None
    assert "is running" in said[0]


def test_one_that_was_rolled_back_does_not_begin_again_wherever_the_recipe_listens(store: LocalStore) -> None:
    section, journal = config(gate="none"), Journal(store, "docs")
    assert section.rollout is not None
    intend(journal, wanted(section))
    operations.start_rollout(journal, section.rollout, "", **WHO)
    operations.rollback(journal, **WHO)
    elsewhere = section.model_copy(update={"host": "0.0.0.0"})
    for each in (section, elsewhere):
        assert RecipeRollout.of(each.rollout, store, journal.latest(), wanted(each)) is None
    variants = [each.model_copy(update={"weight": each.weight + 1}) for each in section.variants]
    other_weights = section.model_copy(update={"variants": tuple(variants)})
    for _ in range(2):
        intend(journal, wanted(other_weights))
        assert RecipeRollout.of(section.rollout, store, journal.latest(), wanted(other_weights)) is None
    again = config(gate="none", minimum_units=7)
    assert RecipeRollout.of(again.rollout, store, journal.latest(), wanted(again)) is not None


def test_one_that_could_never_begin_is_refused_before_anything_starts(store: LocalStore) -> None:
    section = config(mode="aa", steps=[50])
    with pytest.raises(UserError, match="compares a model with itself"):
        RecipeRollout.of(section.rollout, store, None, wanted(section))
