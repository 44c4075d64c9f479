"""Which sections of a recipe go together with the kind of model that it trains: said before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipelines.models.shapes import DECODERS
from pipelines.servable import served_as
from pipelines.train.corruption import noise_counts

if TYPE_CHECKING:
    from pipelines.recipe import Recipe

TRAINED = ("@pretrain", "@finetune")


def misfits(recipe: Recipe) -> Iterator[str]:
    """What in a recipe its own later stages would refuse, each with what to do about it."""
    model, written = recipe.pretrain, recipe.written
    name = model.architecture
    if recipe.tokenizer.source is None:
        yield from _missing_marks(recipe)
    if "finetune" in written and recipe.finetune.model is None and name not in DECODERS:
        yield (
            f"finetune: it adapts models that predict next tokens and that transformers loads, not {name}. Leave "
            f"finetune out, train {' or '.join(DECODERS)}, or name another model in finetune.model"
        )
    tuned = [variant.name for variant in recipe.serving.variants if variant.model == "@finetune"]
    if "serving" in written and tuned:
        found = served_as(recipe)
        if found is not None and found.how != "adapter":
            advice = found.advice[0].upper() + found.advice[1:]
            yield f"serving: vLLM cannot serve variant {tuned[0]} beside its base: {found.reason}. {advice}"
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
