"""Which adapters vLLM puts beside a base model, which must be merged into it first, and which it cannot serve at all.

Read from vLLM 0.29's own sources (``lora/peft_helper.py``, and the classes with ``SupportsLoRA``); a test holds the
table against the vLLM that is installed. Pure and light: plans ask it before anything is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

LARGEST_RANK = 512
"""The largest of vLLM's maximum ranks (vllm.config.lora.MaxLoRARanks)."""

ADAPTABLE = frozenset(
    """
    AfmoeForCausalLM ApertusForCausalLM ArceeForCausalLM AXK1ForCausalLM BailingMoeForCausalLM
    BailingMoeV2ForCausalLM ChatGLMForConditionalGeneration ChatGLMModel Cohere2ForCausalLM CohereForCausalLM
    CwmForCausalLM DeciLMForCausalLM DeepseekForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM
    Ernie4_5ForCausalLM Ernie4_5_MoeForCausalLM Exaone4ForCausalLM ExaoneForCausalLM ExaoneMoeForCausalLM
    FalconH1ForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM Gemma4ForCausalLM GemmaForCausalLM Glm4ForCausalLM
    Glm4MoeForCausalLM Glm4MoeLiteForCausalLM GlmForCausalLM GptOssForCausalLM GraniteForCausalLM
    GraniteMoeForCausalLM GraniteMoeHybridForCausalLM GraniteMoeSharedForCausalLM GraniteMoeSWAForCausalLM
    GraniteSWAForCausalLM HYV3ForCausalLM HyperCLOVAXForCausalLM InternLM2ForCausalLM InternLM3ForCausalLM
    IQuestCoderForCausalLM Jais2ForCausalLM JambaForCausalLM LagunaForCausalLM Lfm2ForCausalLM Lfm2MoeForCausalLM
    Llama4ForCausalLM LlamaForCausalLM LLaMAForCausalLM LongcatFlashForCausalLM LongcatFlashNgramForCausalLM
    MellumForCausalLM MiMoForCausalLM MiniCPM3ForCausalLM MiniCPMForCausalLM MiniMaxM2ForCausalLM
    Ministral3ForCausalLM MistralForCausalLM MistralLarge3ForCausalLM MixtralForCausalLM MuseGlimmerForCausalLM
    NemotronForCausalLM NemotronHForCausalLM NemotronHPuzzleForCausalLM OlmoeForCausalLM OlmoHybridForCausalLM
    OPTForCausalLM PanguEmbeddedForCausalLM PanguProMoEV2ForCausalLM PanguUltraMoEForCausalLM Param2MoEForCausalLM
    Phi3ForCausalLM PhiForCausalLM PhiMoEForCausalLM Plamo3ForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM
    Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM Qwen3NextForCausalLM
    Rnj1ForCausalLM SarvamMLAForCausalLM SarvamMoEForCausalLM SeedOssForCausalLM SolarForCausalLM
    TeleChat2ForCausalLM TeleChat3ForCausalLM TeleFLMForCausalLM
    """.split()  # noqa: SIM905 - ninety quoted names say no more
)
"""Classes of models (``architectures`` in config.json) whose base vLLM can put a LoRA adapter beside."""

UNMERGEABLE = {
    "PROMPT_TUNING": "learned vectors in front of the text",
    "MULTITASK_PROMPT_TUNING": "learned vectors in front of the text",
    "P_TUNING": "learned vectors in front of the text",
    "PREFIX_TUNING": "learned keys and values in front of the text",
    "ADAPTION_PROMPT": "learned vectors in front of the text",
    "RAYMILL_BOTTLENECK": "layers of their own between the base's",
}
"""peft's types (and our own) that vLLM does not know and that are no change of the base's matrices -> what they are."""

UNSERVED_PAIRS = "vLLM has no encoder-decoder that turns text into text"
"""Why t5, bart and their kind are not served; those that vLLM has read sounds, and bart needs a plugin."""


@dataclass(frozen=True)
class Verdict:
    """How vLLM can serve an adapter: beside its base, merged into it, or never; and why not beside it."""

    how: Literal["adapter", "merge", "never"]
    reason: str = ""

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.how == "merge":
            return "merge it into its base (`raymill merge`, or finetune.merge: true) and serve that"
        return "use it with transformers, or fine-tune with lora, ia3 or full for what vLLM serves"


def verdict(settings: Mapping[str, Any], architectures: Sequence[str]) -> Verdict:
    """How an adapter can be served.

    Args:
        settings: its ``adapter_config.json``.
        architectures: of its base's ``config.json``; empty where it is not known yet.
    """
    kind = settings.get("peft_type", "LORA")
    if kind in UNMERGEABLE:
        return Verdict("never", f"{kind} adapters are {UNMERGEABLE[kind]}, which vLLM does not have")
    if kind != "LORA":
        return Verdict(
            "merge", f"it is not a LoRA adapter (peft_type {kind}), and vLLM has no other kind beside a base"
        )
    rank = settings.get("r")
    if not isinstance(rank, int) or rank < 1:
        return Verdict("never", f"its rank is {rank!r}: it is not a LoRA adapter that was finished")
    if settings.get("use_dora"):
        return Verdict("merge", "vLLM does not scale by DoRA's magnitudes")
    if settings.get("modules_to_save") or settings.get("bias", "none") != "none":
        return Verdict("merge", "it replaces modules or biases of its base, which vLLM shares between variants")
    if rank > LARGEST_RANK:
        return Verdict("merge", f"its rank is {rank}, and vLLM takes up to {LARGEST_RANK}")
    if architectures and not ADAPTABLE.intersection(architectures):
        return Verdict("merge", f"vLLM puts no adapters beside {' or '.join(architectures)}")
    return Verdict("adapter")
