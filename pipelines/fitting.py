"""Which sections of a recipe go together with the kind of model that it trains: said before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.models.shapes import DECODERS
from pipelines.train.corruption import noise_counts

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

ADAPTED = ("llama",)
"""Architectures whose matrices fine-tuning knows."""

TRAINED = ("@pretrain", "@finetune", "@align")


def misfits(recipe: Recipe) -> Iterator[str]:
    """What in a recipe its own later stages would refuse, each with what to do about it."""
    model, written = recipe.pretrain, recipe.written
    name = model.architecture
    if recipe.tokenizer.source is None:
        yield from _missing_marks(recipe)
    if "finetune" in written and name not in ADAPTED:
        yield (
            f"finetune: the matrices that get adapters are those of {' and '.join(ADAPTED)}, not of {name}. Leave "
            f"finetune out, or train {' or '.join(ADAPTED)}"
        )
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


def _alignment(recipe: Recipe) -> Iterator[str]:
    """What ``align`` lacks, and what a reward model cannot be used for."""
    served = [variant.name for variant in recipe.serving.variants if variant.model == "@align"]
    if "serving" in recipe.written and served and not recipe.align.makes_writer:
        yield f"serving: @align is a reward model, which writes nothing (variant {served[0]}). Serve another model"
    if "align" not in recipe.written:
        return
    if recipe.align.data is None:
        yield "align: there is nothing to learn from. Set align.data to a file of preferences, for example prefs.jsonl"
    if recipe.pretrain.own or recipe.pretrain.architecture not in DECODERS:
        yield (
            f"align: {recipe.pretrain.architecture} cannot be aligned. Leave align out, or train "
            f"{' or '.join(name for name in DECODERS if ':' not in name)}"
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
