"""What is to be done about engines, and what gateways are told of them."""

import pytest

from cluster.errors import InfraError, UserError
from serving.config import EngineConfig, PromptConfig, ServingConfig
from serving.control.reconcile import Application, Failure, bounds_of, first_target, plan_steps
from serving.control.redeploy import first_state, renewed
from serving.control.routes import engines_in_use, inherited_from, route_table, variant_routes
from serving.control.sightings import QUIET_S, SILENCE_S, Sightings
from serving.control.state import ModelSource, RolloutState
from serving.engines.announcement import Announcement
from serving.engines.plan import VariantSource
from serving.gateway.table import VariantRoute
from serving.rollout.config import RolloutConfig

RUNNING = {name: Application(name, "RUNNING", 1) for name in ("a", "b")}


def source(name):
    return VariantSource(ModelSource(folder=f"/models/{name}"))


def fresh(weights=(("a", 50), ("b", 50)), prompts=(), models=None, **engine):
    variants = [
        {"name": name, "model": "given", "weight": weight, "prompt": dict(prompts).get(name)}
        for name, weight in weights
    ]
    config = ServingConfig(variants=variants, engine=engine)
    sources = {name: source((models or {}).get(name, name)) for name, _ in weights}
    return first_state(config, sources, name="demo", by="me", now=1.0)


def sighted(*engines):
    sightings = Sightings()
    for number, engine in enumerate(engines):
        sightings.announce(announcement(engine, number), now=0)
    return sightings


def announcement(engine, number=0, models=None):
    address = f"http://{engine}-{number}"
    names = (engine,) if models is None else models
    return Announcement(f"replica-{engine}-{number}", engine, address, "node", 1, (1,), float(number), "log", names)


def test_missing_engines_are_started_and_unneeded_ones_removed():
    steps = plan_steps(fresh(), {"a": RUNNING["a"], "old": Application("old", "RUNNING", 1)}, {"a", "b"}, {}, 0)
    assert [each.name for each in steps.start] == ["b"] and steps.remove == ("old",)
    going = {**RUNNING, "old": Application("old", "DELETING", 0)}
    assert plan_steps(fresh(), going, {"a", "b"}, {}, 0).remove == ()


def test_a_refused_engine_is_removed_and_stays_away_while_others_are_untouched():
    failures = {"b": Failure(UserError("not to my taste"), at=0)}
    starting = {"a": RUNNING["a"], "b": Application("b", "DEPLOYING", 1)}
    assert plan_steps(fresh(), starting, {"a", "b"}, failures, 1) == plan_steps(
        fresh(), starting, {"a", "b"}, failures, 1e6
    )
    assert plan_steps(fresh(), starting, {"a", "b"}, failures, 1).remove == ("b",)
    assert plan_steps(fresh(), {"a": RUNNING["a"]}, {"a", "b"}, failures, 1e9).start == ()


def test_an_engine_that_died_is_tried_again_after_pauses_that_grow():
    first, third = (Failure(InfraError("died"), at=0, count=count) for count in (1, 3))
    assert [first.may_retry(now) for now in (0, 19, 20)] == [False, False, True]
    assert [third.may_retry(now) for now in (79, 80)] == [False, True]
    steps = plan_steps(fresh(), {"a": RUNNING["a"]}, {"a", "b"}, {"b": third}, 80)
    assert [each.name for each in steps.start] == ["b"]


def test_an_engine_in_a_rollout_never_sleeps():
    state = fresh(replicas="0:3", target_ongoing=4)
    assert bounds_of(state, state.engines["a"]).least == 0
    rollout = RolloutState(id="r", config=RolloutConfig(candidate="a", baseline="b"))
    for status, least in (("running", 1), ("paused", 1), ("promoted", 0)):
        under_way = state.model_copy(update={"rollout": rollout.model_copy(update={"status": status})})
        assert bounds_of(under_way, state.engines["a"]).least == least
    assert first_target(state.engines["a"]) == 1  # a model that cannot start must show it


def test_variants_are_reached_at_engines_that_answer_for_their_model():
    state = fresh()
    routes = variant_routes(state, sighted("a", "a", "b"), asleep=(), before={})
    assert routes["a"].addresses == ("http://a-0", "http://a-1") and routes["b"].addresses == ("http://b-2",)
    silent = Sightings()
    silent.announce(announcement("a", models=()), 0)  # it runs, but this model has not answered
    assert variant_routes(state, silent, asleep=("b",), before={}) == {
        "a": VariantRoute("a"),
        "b": VariantRoute("b", asleep=True),
    }


def test_a_variant_keeps_its_engine_until_the_new_one_answers():
    old, prompt = fresh(), PromptConfig(system="be kind")
    changed = renewed(old, fresh(max_num_seqs=3, prompts=[("a", prompt.model_dump())]))
    before = variant_routes(old, sighted("a", "b"), (), {})
    sightings = sighted("a", "b")
    kept = variant_routes(changed, sightings, (), before)
    assert kept["a"].addresses == ("http://a-0",) and kept["a"].engine_model == "a" and kept["a"].prompt is None
    assert engines_in_use(changed, sightings, kept) == {"a", "b", "a-v2", "b-v2"}
    sightings.announce(announcement("a-v2", 7), 0)
    then = variant_routes(changed, sightings, (), kept)
    assert then["a"].addresses == ("http://a-v2-7",) and then["a"].prompt == prompt
    assert engines_in_use(changed, sightings, then) == {"b", "a-v2", "b-v2"}


def test_a_new_controller_goes_on_with_what_gateways_know_until_replicas_speak():
    state = fresh()
    routes = variant_routes(state, sighted("a", "b"), (), {})
    table = route_table(state, routes, key="k", serial=7, created=1)
    older = route_table(state, {}, key="k", serial=6, created=1)
    sightings = Sightings()
    sightings.inherit(inherited_from([older, table]), now=0)
    assert variant_routes(state, sightings, (), routes) == routes
    assert sightings.announce(announcement("a", 0), now=1)
    assert variant_routes(state, sightings, (), routes) == routes  # not twice
    assert sightings.forget_silent(SILENCE_S + 0.5)
    assert variant_routes(state, sightings, (), routes)["b"].addresses == ()


def test_a_replica_that_serve_lost_is_gone_when_it_is_quiet():
    sightings = sighted("a", "b")
    assert not sightings.forget_dead({"replica-a-0"}, QUIET_S)  # it may have spoken just now
    assert sightings.forget_dead({"replica-a-0"}, QUIET_S + 0.1)
    assert [each.engine for each in sightings.all()] == ["a"]


def test_the_same_section_with_other_settings_keeps_the_split_and_the_keys_and_engines_that_fit():
    old = fresh(replicas=1).model_copy(update={"weights": {"a": 10, "b": 90}, "version": 5})
    old = old.model_copy(update={"owners": old.allocation().reweighted({"a": 10, "b": 90}).encode()})
    new = renewed(old, fresh(replicas=3))
    assert new.weights == {"a": 10, "b": 90} and new.owners == old.owners
    assert set(new.engines) == {"a", "b"} and new.engines["a"].config.replicas == 3


def test_other_weights_or_another_model_in_the_recipe_bring_the_recipes_split():
    old = fresh().model_copy(update={"weights": {"a": 10, "b": 90}, "version": 5})
    assert renewed(old, fresh((("a", 70), ("b", 30)))).weights == {"a": 70, "b": 30}
    retrained = renewed(old, fresh(models={"b": "b2"}))
    assert retrained.weights == {"a": 50, "b": 50}  # nobody has tried this model on 90 % of the users
    assert retrained.variants["b"].engine == "b-v6" and retrained.variants["a"].engine == "a"
    fewer = renewed(old, fresh((("a", 1),)))
    assert set(fewer.engines) == {"a"} and fewer.allocation().shares() == {"a": 1.0}


def test_a_recipe_that_changed_is_refused_while_a_rollout_is_under_way():
    rollout = RolloutState(id="r", config=RolloutConfig(candidate="a", baseline="b"))
    with pytest.raises(UserError, match="rollout r is under way"):
        renewed(fresh().model_copy(update={"rollout": rollout}), fresh(replicas=2))


def test_engine_settings_have_defaults_that_scale():
    assert EngineConfig().target_ongoing is None
    state = fresh(max_num_seqs=7)
    assert bounds_of(state, state.engines["a"]).target_ongoing == 7
