"""Which engines variants need: who shares, and who gets an engine of its own."""

import pytest

from cluster.errors import UserError
from serving.config import ServingConfig, VariantConfig
from serving.control.state import ModelSource
from serving.engines.plan import (
    VariantSource,
    adapter_name,
    adapters_of,
    fitting_rank,
    initial_state,
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


def test_a_variant_without_a_model_is_named():
    with pytest.raises(UserError, match="no model for variant b"):
        deployed({"a": VariantSource(BASE)}, [variant("a"), variant("b")])


def test_an_adapters_name_is_its_sources_and_never_an_engines():
    assert adapter_name(LORA) == adapter_name(ModelSource(artifact=LORA.artifact))
    same_last_part = [adapter_name(ModelSource(folder=f"/{place}/lora/")) for place in ("one", "two")]
    assert len({*same_last_part, adapter_name(ModelSource(folder="/one/other"))}) == 3
    assert adapter_name(ModelSource(folder="/odd name/käse")).isascii()
    with pytest.raises(ValueError, match="pattern"):
        variant(adapter_name(LORA))  # engines are named after variants
