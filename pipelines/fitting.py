"""Which sections of a recipe go together with the kind of model that it trains: said before anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.align.generation import of_model
from pipelines.finetune.config import MERGEABLE
from pipelines.models.shapes import DECODERS
from pipelines.servable import aligned_settings, served_as, unserved_pairs
from pipelines.train.corruption import noise_counts

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

CLASSIFIABLE = (*DECODERS, "bert")
"""Our architectures that take a classifier's head."""

ENCODER_DECODERS = ("t5",)
"""Our architectures that turn a source into a target."""

MATRICES = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "bert": ("query", "key", "value", "dense"),
    "t5": ("q", "k", "v", "o", "wi", "wo"),
}
"""Our architectures -> what the matrices of their layers are called."""

OUTSIDE = ("embed_tokens", "wte", "lm_head", "shared")
"""What the matrices outside the layers are called."""

TRAINED = ("@pretrain", "@finetune", "@align")


def misfits(recipe: Recipe) -> Iterator[str]:
    """What in a recipe its own later stages would refuse, each with what to do about it."""
    yield from _unknown_sources(recipe)
    model, written = recipe.pretrain, recipe.written
    name = model.architecture
    if recipe.tokenizer.source is None:
        yield from _missing_marks(recipe)
    positions, length = model.max_positions, recipe.tokens.sequence_length
    if "pretrain" in written and positions is not None and positions < length:
        yield (
            f"pretrain: max_positions {positions:,} is shorter than the tokens' blocks of {length:,}. "
            f"Set pretrain.max_positions: {length} or more, or lower tokens.sequence_length"
        )
    yield from _too_long(recipe, positions or length)
    task = recipe.finetune.task
    if "finetune" in written and task == "classification":
        yield from _classification(recipe)
    elif "finetune" in written and task == "seq2seq":
        yield from _seq2seq(recipe)
    elif "finetune" in written and recipe.finetune.model is None and name not in DECODERS:
        other = "set task: seq2seq" if name in ENCODER_DECODERS else "leave finetune out"
        yield (
            f"finetune: it adapts models that predict next tokens and that transformers loads, not {name}. "
            f"{other[0].upper()}{other[1:]}, train {' or '.join(DECODERS)}, or name another model in finetune.model"
        )
    if "finetune" in written:
        yield from _unknown_targets(recipe)
    tuned = [variant.name for variant in recipe.serving.variants if variant.model == "@finetune"]
    if "serving" in written and tuned and task == "generation":
        found = served_as(recipe)
        if found is not None and found.how != "adapter":
            advice = found.advice[0].upper() + found.advice[1:]
            yield f"serving: vLLM cannot serve variant {tuned[0]} beside its base: {found.reason}. {advice}"
    yield from _alignment(recipe)
    if name in DECODERS:
        return
    decoders = " or ".join(DECODERS)
    if "evals" in written and not model.generative:
        yield (
            f"evals: {name} predicts no next token, which every suite and held-out perplexity ask for; its own "
            f"validation loss is in the pretraining report. Leave evals out, or train {decoders}"
        )
    served = [variant.name for variant in recipe.serving.variants if variant.model in TRAINED]
    if "serving" in written and served:
        yield f"serving: vLLM serves no {name} (variant {served[0]}). Leave serving out, or train {decoders}"


def _too_long(recipe: Recipe, context: int) -> Iterator[str]:
    """Examples that may be longer than what the model that is pretrained here will take."""
    foreign = False
    for section, config in (("finetune", recipe.finetune), ("align", recipe.align)):
        if section not in recipe.written or (section == "finetune" and recipe.finetune.task == "seq2seq"):
            continue  # encoder-decoders of our own have relative positions
        foreign = config.model is not None or foreign  # align begins with what finetune made
        if not foreign and config.sequence_length is not None and config.sequence_length > context:
            yield (
                f"{section}: sequence_length {config.sequence_length:,} is longer than the model's context of "
                f"{context:,}. Set {section}.sequence_length: {context} or less, or pretrain.max_positions: "
                f"{config.sequence_length} or more"
            )


def _unknown_targets(recipe: Recipe) -> Iterator[str]:
    """Matrices that are to be adapted and that the model which is pretrained here does not have."""
    known = MATRICES.get(recipe.pretrain.architecture)
    if recipe.finetune.model is not None or known is None:
        return
    for name in recipe.finetune.target_modules or ():
        last = name.rpartition(".")[2]
        if last not in (*known, *OUTSIDE):
            near = difflib.get_close_matches(last, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else "."
            yield (
                f"finetune: target_modules: {name} matches nothing in a {recipe.pretrain.architecture}{meant} Its "
                f"layers have {', '.join(known)}"
            )


def _classification(recipe: Recipe) -> Iterator[str]:
    """What a classifier cannot be put on, and what it cannot be used for."""
    name, written = recipe.pretrain.architecture, recipe.written
    if recipe.finetune.model is None and name not in CLASSIFIABLE:
        yield (
            f"finetune: transformers has no classifier on {name} that Raymill trains. Pretrain "
            f"{' or '.join(CLASSIFIABLE)}, or name another model in finetune.model"
        )
    served = [variant.name for variant in recipe.serving.variants if variant.model == "@finetune"]
    if "serving" in written and served:
        yield (
            f"serving: @finetune is a classifier (variant {served[0]}), and Raymill serves models that write. Load it "
            "with transformers, or give its folder to `vllm serve --runner pooling`"
        )
    if "evals" in written and recipe.finetune.model is not None:
        yield (
            "evals: every suite asks a model that writes, and finetune makes a classifier; its own scores on held-out "
            "texts are in its report. Leave evals out"
        )
    if "align" in written and recipe.align.model is None:
        yield "align: it needs a model that writes, and finetune makes a classifier. Name a model in align.model"


def _seq2seq(recipe: Recipe) -> Iterator[str]:
    """What is no encoder-decoder, and what one cannot be used for."""
    name, written, elsewhere = recipe.pretrain.architecture, recipe.written, recipe.finetune.model is not None
    if not elsewhere and name not in ENCODER_DECODERS:
        yield (
            f"finetune: task seq2seq is for encoder-decoders, not {name}. Pretrain {' or '.join(ENCODER_DECODERS)}, "
            "name another model in finetune.model, or set task: generation, by which a decoder learns the same rows"
        )
    if not elsewhere and name in ENCODER_DECODERS and recipe.finetune.sequence_length is None:
        yield (
            f"finetune: {name} has relative positions, so that nothing bounds a text. Set finetune.sequence_length to "
            "the most tokens that a prompt, and a completion, may have"
        )
    if "serving" in written and (refusal := unserved_pairs(recipe)):
        yield refusal
    if "evals" in written and elsewhere:
        yield (
            "evals: every suite asks a model that predicts next tokens, and finetune makes an encoder-decoder; ROUGE "
            "and BLEU on held-out rows are in its report. Leave evals out"
        )
    if "align" in written and recipe.align.model is None:
        yield (
            "align: it needs a decoder that writes, and finetune makes an encoder-decoder. Name a model in align.model"
        )


def _unknown_sources(recipe: Recipe) -> Iterator[str]:
    """Sources that curation is to mix and that the corpus does not have."""
    if not recipe.curate.mix.sources:
        return
    from pipelines.corpus.sources import source_names

    names = source_names(recipe.corpus)
    for unknown in sorted(recipe.curate.mix.sources.keys() - set(names)):
        near = difflib.get_close_matches(unknown, names, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        yield f"curate.mix.sources: {unknown} is no source of corpus; {meant}Sources here: {', '.join(names)}"


def _alignment(recipe: Recipe) -> Iterator[str]:
    """What ``align`` cannot begin with, and what a reward model cannot be used for."""
    served = [variant.name for variant in recipe.serving.variants if variant.model == "@align"]
    if "serving" in recipe.written and served and not recipe.align.makes_writer:
        yield f"serving: @align is a reward model, which writes nothing (variant {served[0]}). Serve another model"
    if "align" not in recipe.written:
        return
    # What this machine lacks, another may have that the recipe is sent to; what the model is, it is everywhere.
    if recipe.align.generation == "vllm" and (obstacle := of_model(recipe.align, aligned_settings(recipe))):
        yield f"align: generation vllm cannot be: {obstacle.reason}. {obstacle.advice[0].upper()}{obstacle.advice[1:]}"
    if recipe.align.model is not None:
        return
    tuned = recipe.finetune
    if "finetune" in recipe.written and not (tuned.makes_model or tuned.method in MERGEABLE):
        yield (
            f"align: it begins with a whole model, and what {tuned.method} adds cannot be merged into one. Use "
            f"finetune.method {' or '.join(MERGEABLE)} or full"
        )
    if ("finetune" not in recipe.written or tuned.model is None) and recipe.pretrain.architecture not in DECODERS:
        yield (
            f"align: it needs a model that writes and that transformers loads, not {recipe.pretrain.architecture}. "
            f"Leave align out, train {' or '.join(DECODERS)}, or name another model in align.model"
        )


def _missing_marks(recipe: Recipe) -> Iterator[str]:
    """Marks that a tokenizer learned by this recipe would lack."""
    name = recipe.pretrain.architecture
    if name == "bert" and not recipe.tokenizer.mask_token:
        yield "pretrain: bert learns by a mask token. Set tokenizer.mask_token: true"
    spans = noise_counts(recipe.tokens.sequence_length)[1]
    if name == "t5" and recipe.tokenizer.sentinels < spans:
        yield (
            f"pretrain: t5 needs {spans} sentinels for blocks of {recipe.tokens.sequence_length:,} tokens. "
            f"Set tokenizer.sentinels: {spans} or more"
        )
