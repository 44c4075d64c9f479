"""How what a recipe fine-tunes can be served: known before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import load_artifact
from cluster.errors import UserError
from pipelines.align.generation import choose
from pipelines.finetune.config import MERGEABLE, FinetuneConfig
from pipelines.tokens.existing import ARTIFACT, HUB
from serving.engines.adaptable import UNSERVED_PAIRS, Verdict, verdict

if TYPE_CHECKING:
    from cluster.store import Store
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


def served_as(recipe: Recipe, store: Store | None = None) -> Verdict | None:
    """How vLLM can serve the recipe's adapter; None where fine-tuning makes a whole model, or nothing for vLLM.

    Args:
        store: where the base is looked up if it is an artifact or on the Hub; without it, it is not.
    """
    config = recipe.finetune
    if config.makes_model or config.task != "generation":
        return None
    found = verdict(adapter_settings(config), base_architectures(recipe, store))
    if found.how == "adapter" and config.chat_template not in (None, "plain"):
        return Verdict("merge", "it has a chat template of its own, and vLLM asks beside a base with the base's")
    return found


def adapter_settings(config: FinetuneConfig) -> dict[str, Any]:
    """What ``adapter_config.json`` will say, as far as serving asks."""
    settings: dict[str, Any] = {"peft_type": PEFT_TYPES[config.method]}
    if config.method == "lora":
        settings |= {"r": config.rank, "use_dora": config.dora}
    return settings


def base_architectures(recipe: Recipe, store: Store | None = None) -> list[str]:
    """The class of the model that is fine-tuned; nothing where that is not known.

    Args:
        store: as :func:`served_as` has it.
    """
    found = model_settings(recipe, recipe.finetune.model, store).get("architectures")
    return [str(each) for each in found] if isinstance(found, list) else []


def aligned_settings(recipe: Recipe, store: Store | None = None) -> dict[str, Any]:
    """``config.json`` of the model that is aligned, as far as it is known before it is there."""
    tuned = recipe.finetune.model if "finetune" in recipe.written else None
    return model_settings(recipe, recipe.align.model or tuned, store)


def model_settings(recipe: Recipe, model: str | None, store: Store | None = None) -> dict[str, Any]:
    """``config.json`` of a model; nothing where that is not known.

    Args:
        model: as a recipe names it; None for the one that the recipe pretrains.
        store: as :func:`served_as` has it.
    """
    if model is None:
        name = ARCHITECTURES.get(recipe.pretrain.architecture)
        return {"architectures": [name], "head_dim": recipe.pretrain.shape().head_dim} if name else {}
    try:
        found = json.loads(_config_of(model, store) or "{}")
    except (OSError, ValueError):
        return {}  # taking the model says what is wrong with it
    return found if isinstance(found, dict) else {}


def _config_of(source: str, store: Store | None) -> bytes | None:
    """The model's ``config.json``; None where it is not there, or is not looked for."""
    if ARTIFACT.fullmatch(source):
        artifact = load_artifact(store, source) if store is not None else None
        return store.read(artifact.key("config.json")) if store is not None and artifact is not None else None
    if not source.startswith(HUB):
        return (Path(source).expanduser() / "config.json").read_bytes()
    if store is None:
        return None
    from huggingface_hub import hf_hub_download

    name, _, revision = source.removeprefix(HUB).partition("@")
    return Path(hf_hub_download(name, "config.json", revision=revision or None)).read_bytes()


def require_servable(recipe: Recipe, store: Store) -> None:
    """Hold what the recipe serves against the kind of model that it fine-tunes, wherever that one is.

    Raises:
        UserError: vLLM cannot put the adapter beside its base, as a variant wants it.
    """
    tuned = [variant.name for variant in recipe.serving.variants if variant.model == "@finetune"]
    found = served_as(recipe, store) if tuned else None
    if found is not None and found.how != "adapter":
        raise UserError(
            f"vLLM cannot serve variant {tuned[0]} beside its base: {found.reason}",
            where="serving",
            next_step=found.advice,
        )


def describe(recipe: Recipe, store: Store) -> str:
    """In a sentence, for plans."""
    if recipe.finetune.task == "classification":
        return _describe_classifier(recipe.finetune)
    if recipe.finetune.task == "seq2seq":
        return _describe_seq2seq(recipe.finetune)
    found = served_as(recipe, store)
    if found is None:
        return "finetune makes a whole model: vLLM serves it as one"
    if found.how == "adapter":
        whole = ", which is then not in the 4 bits that it was trained on" if recipe.finetune.base_bits else ""
        known = (
            ""
            if base_architectures(recipe, store)
            else ", if it puts adapters beside that kind of model, which is not known before the model is here"
        )
        return f"finetune makes a LoRA adapter: vLLM serves it beside its base{whole}, several on one base{known}"
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
