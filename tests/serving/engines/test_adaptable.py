"""Which adapters vLLM serves: the table, and that it is what the installed vLLM says of itself."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from serving.engines.adaptable import ADAPTABLE, LARGEST_RANK, verdict
from serving.engines.plan import LORA_RANKS

LLAMA = ["LlamaForCausalLM"]


@pytest.mark.parametrize(
    ("settings", "architectures", "how", "reason"),
    [
        ({"peft_type": "LORA", "r": 8}, LLAMA, "adapter", ""),
        ({"peft_type": "LORA", "r": 8, "use_rslora": True}, LLAMA, "adapter", ""),
        ({"r": 8}, [], "adapter", ""),
        ({"peft_type": "LORA", "r": 8, "use_dora": True}, LLAMA, "merge", "DoRA"),
        ({"peft_type": "LORA", "r": 1024}, LLAMA, "merge", "its rank is 1024"),
        ({"peft_type": "LORA", "r": 8, "modules_to_save": ["lm_head"]}, LLAMA, "merge", "replaces modules"),
        ({"peft_type": "LORA", "r": 8, "bias": "all"}, LLAMA, "merge", "biases"),
        ({"peft_type": "LORA", "r": 8}, ["GPT2LMHeadModel"], "merge", "no adapters beside GPT2LMHeadModel"),
        ({"peft_type": "IA3"}, LLAMA, "merge", "peft_type IA3"),
        ({"peft_type": "PREFIX_TUNING"}, LLAMA, "never", "learned keys and values"),
        ({"peft_type": "PROMPT_TUNING"}, LLAMA, "never", "learned vectors"),
        ({"peft_type": "P_TUNING"}, LLAMA, "never", "learned vectors"),
        ({"peft_type": "RAYMILL_BOTTLENECK"}, LLAMA, "never", "layers of their own"),
        ({"peft_type": "LORA"}, LLAMA, "never", "its rank is None"),
    ],
)
def test_the_table(settings: dict[str, object], architectures: list[str], how: str, reason: str) -> None:
    found = verdict(settings, architectures)
    assert found.how == how
    assert reason in found.reason
    assert ("merge" in found.advice) == (how == "merge") or how == "adapter"


def sources() -> Path:
    found = importlib.util.find_spec("vllm")  # finds it without running it
    if found is None or not found.submodule_search_locations:
        pytest.skip("vLLM is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def test_the_architectures_are_those_of_the_installed_vllm() -> None:
    """Classes of its registry that inherit SupportsLoRA, read from the sources: importing them takes half a minute."""
    models = sources() / "model_executor" / "models"
    registry = (models / "registry.py").read_text(encoding="utf-8")
    listed = registry.partition("_TEXT_GENERATION_MODELS = {")[2].partition("\n}\n")[0]
    classes: dict[str, list[str]] = {}
    for path in models.glob("*.py"):
        for name, bases in re.findall(r"^class (\w+)\(([^)]*)\):", path.read_text(encoding="utf-8"), re.MULTILINE):
            classes[name] = re.findall(r"(\w+)\s*(?:,|$)", bases)

    def adaptable(name: str) -> bool:
        return any(base == "SupportsLoRA" or (base != name and adaptable(base)) for base in classes.get(name, ()))

    pairs = re.findall(r'"(\w+)":\s*\(\s*"\w+",\s*"(\w+)"', listed)
    assert len(pairs) > 80
    assert {architecture for architecture, name in pairs if adaptable(name)} == ADAPTABLE


def test_the_other_rules_are_in_its_sources() -> None:
    helper = (sources() / "lora" / "peft_helper.py").read_text(encoding="utf-8")
    for words in ("does not yet support DoRA", "only supports modules_to_save being None", "bias is not supported"):
        assert words in helper
    ranks = (sources() / "config" / "lora.py").read_text(encoding="utf-8")
    found = re.search(r"MaxLoRARanks = Literal\[([\d, ]+)\]", ranks)
    assert found and [int(each) for each in found[1].split(",")] == list(LORA_RANKS)
    assert max(LORA_RANKS) == LARGEST_RANK


def test_the_installed_vllm_has_no_encoder_decoder_from_text_to_text() -> None:
    registry = (sources() / "model_executor" / "models" / "registry.py").read_text(encoding="utf-8")
    built_in, _, plugins = registry.partition("_OOT_SUPPORTED_MODELS")
    for name in ("T5", "MT5", "UMT5", "T5Gemma", "Bart", "MBart", "Pegasus", "M2M100", "LED", "BigBirdPegasus"):
        assert f'"{name}ForConditionalGeneration"' not in built_in
    assert '"BartForConditionalGeneration"' in plugins  # not part of vLLM, nor of Raymill
