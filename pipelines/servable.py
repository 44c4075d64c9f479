"""How what a recipe fine-tunes can be served: known before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import UserError
from pipelines.align.generation import choose
from pipelines.finetune.config import MERGEABLE, FinetuneConfig
from serving.engines.adaptable import UNSERVED_PAIRS, Verdict, verdict

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

PEFT_TYPES = {
    "lora": "LORA",
    "ia3": "IA3",
    "prompt": "PROMPT_TUNING",
    "prefix": "PREFIX_TUNING",
    "p-tuning": "P_TUNING",
    "adapter": "RAYMILL_BOTTLENECK",
}
ARCHITECTURES = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}
"""transformers' class of our own architectures."""


def served_as(recipe: Recipe) -> Verdict | None:
    """How vLLM can serve the recipe's adapter; None where fine-tuning makes a whole model, or nothing for vLLM."""
    config = recipe.finetune
    if config.makes_model or config.task != "generation":
        return None
    found = verdict(adapter_settings(config), base_architectures(recipe))
    if found.how == "adapter" and config.chat_template not in (None, "plain"):
        return Verdict("merge", "it has a chat template of its own, and vLLM asks beside a base with the base's")
    return found


def adapter_settings(config: FinetuneConfig) -> dict[str, Any]:
    """What ``adapter_config.json`` will say, as far as serving asks."""
    settings: dict[str, Any] = {"peft_type": PEFT_TYPES[config.method]}
    if config.method == "lora":
        settings |= {"r": config.rank, "use_dora": config.dora}
    return settings


def base_architectures(recipe: Recipe) -> list[str]:
    """The class of the model that is fine-tuned; nothing where only the Hub or a store knows it yet."""
    found = model_settings(recipe, recipe.finetune.model).get("architectures")
    return [str(each) for each in found] if isinstance(found, list) else []


def aligned_settings(recipe: Recipe) -> dict[str, Any]:
    """``config.json`` of the model that is aligned, as far as it is known before it is there."""
    tuned = recipe.finetune.model if "finetune" in recipe.written else None
    return model_settings(recipe, recipe.align.model or tuned)


def model_settings(recipe: Recipe, model: str | None) -> dict[str, Any]:
    """``config.json`` of a model, as far as it is known: nothing where only the Hub or a store has it.

    Args:
        model: as a recipe names it; None for the one that the recipe pretrains.
    """
    if model is None:
        name = ARCHITECTURES.get(recipe.pretrain.architecture)
        return {"architectures": [name], "head_dim": recipe.pretrain.shape().head_dim} if name else {}
    try:
        found = json.loads((Path(model).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # taking the model says what is wrong with it
    return found if isinstance(found, dict) else {}


def describe(recipe: Recipe) -> str:
    """In a sentence, for plans."""
    if recipe.finetune.task == "classification":
        return _describe_classifier(recipe.finetune)
    if recipe.finetune.task == "seq2seq":
        return _describe_seq2seq(recipe.finetune)
    found = served_as(recipe)
    if found is None:
        return "finetune makes a whole model: vLLM serves it as one"
    if found.how == "adapter":
        whole = ", which is then not in the 4 bits that it was trained on" if recipe.finetune.base_bits else ""
        return f"finetune makes a LoRA adapter: vLLM serves it beside its base{whole}, several on one base"
    how = "must be merged before vLLM serves it" if found.how == "merge" else "cannot be served by vLLM"
    return f"finetune makes an adapter that {how}: {found.reason}. What to do: {found.advice}"


def _describe_classifier(config: FinetuneConfig) -> str:
    if config.makes_model:
        return (
            "finetune makes a classifier, which raymill does not serve: transformers loads it "
            "(AutoModelForSequenceClassification), and `vllm serve FOLDER --runner pooling` where vLLM has its class"
        )
    how = "merge it (`raymill merge`, or finetune.merge: true) for a folder that transformers loads alone"
    if config.method not in MERGEABLE:
        how = "peft puts it on its base in transformers"
    return f"finetune makes a classifier's adapter with its head, which neither raymill nor vLLM serves: {how}"


def unserved_pairs(recipe: Recipe) -> str | None:
    """Which variant of an encoder-decoder that is fine-tuned cannot be served, and why; None where there is none."""
    served = [each for each in recipe.serving.variants if each.model in ("@finetune", "@finetune-base")]
    if not served:
        return None
    return (
        f"serving: {served[0].model} is an encoder-decoder (variant {served[0].name}), and {UNSERVED_PAIRS}. Use it "
        "with transformers, or fine-tune a decoder"
    )


def _describe_seq2seq(config: FinetuneConfig) -> str:
    if config.makes_model:
        return f"finetune makes an encoder-decoder: {UNSERVED_PAIRS}. transformers loads it (AutoModelForSeq2SeqLM)"
    return (
        f"finetune makes an adapter of an encoder-decoder: {UNSERVED_PAIRS}. peft puts it on its base in transformers, "
        "and `raymill merge` (or finetune.merge: true) makes a folder that transformers loads alone"
    )


def describe_alignment(recipe: Recipe) -> str:
    """In a sentence, for plans."""
    config = recipe.align
    if not config.makes_writer:
        return "align makes a reward model: name its id in align.reward of a recipe with grpo or ppo"
    trained = "adapters, merged at the end" if config.weights == "lora" else "all weights"
    if config.weights == "full" and config.method != "simpo":
        trained += ", beside a frozen copy of what they were"
    told = f"align trains {trained}; it makes a whole model, which vLLM serves as one"
    return f"{told}. {describe_generation(recipe)}" if config.on_policy else told


def describe_generation(recipe: Recipe) -> str:
    """What will write the answers that the model learns from, and why, in a sentence for plans."""
    try:
        choice = choose(recipe.align, aligned_settings(recipe))
    except UserError as error:
        return f"vllm is to write the answers, and cannot here: {error.what}. What to do: {error.next_step}"
    return f"{choice.writer} writes the answers: {choice.reason}"
