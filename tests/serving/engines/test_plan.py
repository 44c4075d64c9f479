"""Which engines variants need: who shares, who gets an engine of its own, and that nobody else's ever changes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from serving.config import ServingConfig, VariantConfig
from serving.control.state import ModelSource
from serving.engines.plan import (
    VariantSource,
    adapter_name,
    adapters_of,
    fitting_rank,
    initial_state,
    with_variant,
    without_variant,
)

BASE, OTHER = ModelSource(artifact="Model/pretrain-aaaaaaaaaaaa"), ModelSource(folder="/models/other")
LORA, LORA_2 = ModelSource(artifact="Adapter/finetune-bbbbbbbbbbbb"), ModelSource(folder="/adapters/second")


def variant(name, weight=1.0, **fields):
    return VariantConfig(name=name, model="given", weight=weight, **fields)


def deployed(sources, variants=None, **section):
    config = ServingConfig(variants=variants or [variant(name) for name in sources], **section)
    return initial_state(config, sources, name="demo", by="ops", now=1.5)


def test_a_deployment_starts_with_what_the_recipe_says():
    state = deployed({"a": VariantSource(BASE)}, [variant("a", prompt={"system": "Be brief."})], host="0.0.0.0")
    assert (state.version, state.changed_at, state.changed_by) == (1, 1.5, "ops")
    assert (state.model_name, state.experiment) == ("demo", "demo")
    assert state.require_keys  # the endpoint is open to others
    assert state.variants["a"].prompt.system == "Be brief."
    assert state.allocation().shares() == {"a": 1.0}
    assert not deployed({"a": VariantSource(BASE)}).require_keys
    assert deployed({"a": VariantSource(BASE)}, auth={"require_keys": True}).require_keys


def test_adapters_and_prompts_share_the_engine_of_their_base_and_other_weights_get_their_own():
    state = deployed(
        {
            "a": VariantSource(BASE),
            "b": VariantSource(BASE, LORA, rank=20),
            "c": VariantSource(OTHER),
            "d": VariantSource(BASE, LORA, rank=20),
            "e": VariantSource(BASE),
        },
    )
    assert [each.engine for each in state.variants.values()] == ["a", "a", "c", "a", "a"]
    assert list(state.variants) == ["a", "b", "c", "d", "e"]
    models = {name: each.engine_model for name, each in state.variants.items()}
    assert models["a"] == models["e"] == "a"
    assert models["b"] == models["d"] == "lora:finetune-bbbbbbbbbbbb"
    assert (state.engines["a"].lora.slots, state.engines["a"].lora.max_rank) == (3, 32)  # one and two more
    assert state.engines["c"].lora is None
    assert adapters_of(state, "a") == {"lora:finetune-bbbbbbbbbbbb": LORA}
    assert adapters_of(state, "c") == {}


def test_engine_settings_of_its_own_give_a_variant_its_own_engine():
    canary = variant("canary", engine={"python": "/opt/vllm-next/bin/python"})
    scaled = variant("scaled", engine={"replicas": 2})
    sources = dict.fromkeys(("base", "canary", "scaled"), VariantSource(BASE))
    state = deployed(sources, [variant("base"), canary, scaled])
    assert {name: each.engine for name, each in state.variants.items()} == {name: name for name in sources}
    assert state.engines["canary"].config.python == "/opt/vllm-next/bin/python"
    assert state.engines["scaled"].config.replicas == 2


def test_slots_can_be_asked_for_and_must_suffice():
    spare = deployed({"a": VariantSource(BASE)}, engine={"adapter_slots": 4})
    assert (spare.engines["a"].lora.slots, spare.engines["a"].lora.max_rank) == (4, 16)
    with pytest.raises(UserError, match="1 adapter slots, but the variants need 2"):
        deployed({"a": VariantSource(BASE, LORA), "b": VariantSource(BASE, LORA_2)}, engine={"adapter_slots": 1})


@pytest.mark.parametrize(("rank", "largest"), [(1, 1), (2, 8), (8, 8), (9, 16), (512, 512), (513, 513)])
def test_the_rank_is_the_smallest_that_vllm_offers(rank, largest):
    assert fitting_rank(rank) == largest


def test_a_new_adapter_joins_a_running_engine_where_there_is_room():
    state = deployed({"a": VariantSource(BASE), "b": VariantSource(BASE, LORA, rank=8)}, engine={"adapter_slots": 2})
    joined = with_variant(state, variant("c"), VariantSource(BASE, LORA_2, rank=8))
    assert joined.engines == state.engines
    assert joined.variants["c"].engine == "a"
    again = with_variant(joined, variant("d"), VariantSource(BASE, LORA_2, rank=8))  # takes no further slot
    assert again.variants["d"].engine_model == joined.variants["c"].engine_model
    third = ModelSource(folder="/adapters/third")
    full = with_variant(again.model_copy(update={"version": 6}), variant("e"), VariantSource(BASE, third, rank=8))
    assert full.variants["e"].engine == "e-v7"  # the version that this change will be
    assert full.engines["e-v7"].lora.slots == 2
    assert {name: each for name, each in full.engines.items() if name != "e-v7"} == state.engines


@pytest.mark.parametrize("why", ["rank", "no lora"])
def test_an_adapter_that_does_not_fit_gets_an_engine_of_its_own(why):
    slots = {"adapter_slots": 3} if why == "rank" else {}
    state = deployed({"a": VariantSource(BASE)}, engine=slots)
    after = with_variant(state, variant("b"), VariantSource(BASE, LORA, rank=64))
    assert after.variants["b"].engine == "b-v2"
    assert after.engines["b-v2"].lora.max_rank == 64
    assert after.engines["b-v2"].source == BASE
    # A prompt over the plain base still goes to the first engine.
    assert with_variant(after, variant("c"), VariantSource(BASE)).variants["c"].engine == "a"


def test_an_engine_that_was_scaled_is_still_shared():
    state = deployed({"a": VariantSource(BASE)})
    config = state.engines["a"].config.model_copy(update={"replicas": "0:4"})
    scaled = state.model_copy(update={"engines": {"a": state.engines["a"].model_copy(update={"config": config})}})
    after = with_variant(scaled, variant("b"), VariantSource(BASE), ServingConfig(variants=[variant("x")]).engine)
    assert after.engines == scaled.engines
    wanting = variant("c", engine={"replicas": 1})
    assert with_variant(scaled, wanting, VariantSource(BASE)).variants["c"].engine == "c-v2"


def test_a_variant_without_weight_moves_nobody_and_one_with_weight_only_those_it_takes():
    state = deployed({"a": VariantSource(BASE), "b": VariantSource(OTHER)})
    quiet = with_variant(state, variant("c", weight=0), VariantSource(BASE))
    assert quiet.owners == state.owners
    assert quiet.weights == {"a": 1, "b": 1, "c": 0}
    loud = with_variant(state, variant("c", weight=2), VariantSource(BASE))
    moved = [
        (before, after)
        for before, after in zip(state.allocation().owners, loud.allocation().owners, strict=True)
        if before != after
    ]
    assert len(moved) == 5_000
    assert {after for _, after in moved} == {"c"}
    assert without_variant(quiet, "c") == state


def test_removing_the_last_user_of_an_engine_removes_it_and_no_other():
    state = deployed({"a": VariantSource(BASE), "b": VariantSource(BASE, LORA), "c": VariantSource(OTHER)})
    assert set(without_variant(state, "a").engines) == {"a", "c"}  # b is on it
    without_c = without_variant(state, "c")
    assert without_c.engines == {"a": state.engines["a"]}
    assert set(without_c.allocation().owners) == {"a", "b"}


def test_what_cannot_be_added_or_removed_is_said():
    state = deployed({"a": VariantSource(BASE), "b": VariantSource(BASE)}, shadow={"variant": "b"})
    with pytest.raises(UserError, match="there is a variant a already"):
        with_variant(state, variant("a"), VariantSource(BASE))
    with pytest.raises(UserError, match="no variant is called z"):
        without_variant(state, "z")
    with pytest.raises(UserError, match="copies of requests go to b"):
        without_variant(state, "b")
    with pytest.raises(UserError, match="weight above 0"):
        without_variant(deployed({"a": VariantSource(BASE)}), "a")
    with pytest.raises(UserError, match="no model for variant b"):
        deployed({"a": VariantSource(BASE)}, [variant("a"), variant("b")])


def test_an_adapters_name_is_its_sources_and_never_an_engines():
    assert adapter_name(LORA) == adapter_name(ModelSource(artifact=LORA.artifact))
    same_last_part = [adapter_name(ModelSource(folder=f"/{place}/lora/")) for place in ("one", "two")]
    assert len({*same_last_part, adapter_name(ModelSource(folder="/one/other"))}) == 3
    assert adapter_name(ModelSource(folder="/odd name/käse")).isascii()
    with pytest.raises(ValueError, match="pattern"):
        variant(adapter_name(LORA))  # engines are named after variants


BASES = st.sampled_from([BASE, OTHER])
ADAPTERS = st.sampled_from([None, LORA, LORA_2, ModelSource(folder="/adapters/third")])
STEPS = st.lists(
    st.tuples(st.sampled_from("abcdef"), BASES, ADAPTERS, st.sampled_from([4, 16, 64]), st.booleans()), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_comes_and_goes_no_engine_that_stays_is_touched(steps):
    state = deployed({"first": VariantSource(BASE), "second": VariantSource(BASE, LORA, rank=8)})
    for name, base, adapter, rank, own in steps:
        before = state
        if name in state.variants:
            state = without_variant(state, name)
        else:
            options = {"engine": {"max_num_seqs": 3}} if own else {}
            state = with_variant(state, variant(name, weight=0, **options), VariantSource(base, adapter, rank))
        state = state.model_copy(update={"version": state.version + 1})
        for engine in set(before.engines) & set(state.engines):
            assert state.engines[engine] == before.engines[engine]
        for other in set(before.variants) & set(state.variants):
            assert state.variants[other] == before.variants[other]
        assert {each.engine for each in state.variants.values()} == set(state.engines)
        for engine in state.engines.values():
            held = adapters_of(state, engine.name)
            assert len(held) <= (engine.lora.slots if engine.lora else 0)
        assert set(state.weights) == set(state.variants)
        assert state.owners == before.owners
