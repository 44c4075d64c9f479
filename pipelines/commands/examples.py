"""`raymill plan --examples N`: what fine-tuning would learn, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cluster.artifact import Artifact, Identity, load_artifact, local_copy
from cluster.errors import UserError
from cluster.store import Store
from pipelines.finetune.config import DocsPairs
from pipelines.finetune.examples.records import Conversation
from pipelines.models.existing import ExistingModelConfig, locate, model_files
from pipelines.recipe import Recipe


def shown_examples(recipe: Recipe, store: Store, found: Mapping[str, Identity], count: int) -> list[str]:
    """Lines with the first examples; what they are made of must be there.

    Args:
        found: node -> identity, as :func:`pipelines.graph.identities` gives it.

    Raises:
        UserError: the recipe does not fine-tune, something is not made yet, or an example cannot be used.
    """
    if "finetune" not in found:
        raise UserError(
            "the recipe has no finetune section", where="--examples", next_step="write one, or leave it out"
        )
    if recipe.finetune.task == "classification":
        return _labelled(recipe, store, found, count)
    if recipe.finetune.task == "seq2seq":
        return _pairs(recipe, store, found, count)
    from pipelines.finetune.examples.template import load_template
    from pipelines.finetune.load import encoder_of, load_examples, load_tokenizer
    from pipelines.finetune.preview import preview

    config = recipe.finetune
    corpus = _published(store, found, "curate") if isinstance(config.data, DocsPairs) else None
    folder, context = _tokenizer(recipe, store, found)
    loaded = load_examples(config, corpus, store)
    tokenizer = load_tokenizer(folder)
    encoder = encoder_of(config, tokenizer, load_template(config.chat_template), context)
    return preview(encoder, tokenizer, loaded.train[:count])


def _labelled(recipe: Recipe, store: Store, found: Mapping[str, Identity], count: int) -> list[str]:
    """The same for texts with labels."""
    from pipelines.finetune.classification.encode import preview
    from pipelines.finetune.classification.load import load_texts
    from pipelines.finetune.classification.task import encoder_of
    from pipelines.finetune.load import load_tokenizer

    folder, context = _tokenizer(recipe, store, found)
    loaded = load_texts(recipe.finetune)
    tokenizer = load_tokenizer(folder)
    encoder = encoder_of(recipe.finetune, tokenizer, loaded.labels, context)
    return preview(encoder, tokenizer, loaded.labels, loaded.train[:count])


def _pairs(recipe: Recipe, store: Store, found: Mapping[str, Identity], count: int) -> list[str]:
    """The same for sources and targets; how these begin and end is what the model's folder says."""
    from pipelines.finetune.load import load_examples, load_tokenizer
    from pipelines.finetune.seq2seq.encode import preview
    from pipelines.finetune.seq2seq.stage import FORMS
    from pipelines.finetune.seq2seq.task import encoder_of

    config = recipe.finetune
    corpus = _published(store, found, "curate") if isinstance(config.data, DocsPairs) else None
    if config.model is None:
        _published(store, found, "pretrain")
    folder, _ = _tokenizer(recipe, store, found)
    tokenizer = load_tokenizer(folder)
    loaded = load_examples(config, corpus, store, FORMS)
    examples = [each for each in loaded.train[:count] if isinstance(each, Conversation)]
    return preview(encoder_of(config, tokenizer, folder), tokenizer, examples)


def _tokenizer(recipe: Recipe, store: Store, found: Mapping[str, Identity]) -> tuple[Path, int | None]:
    """A folder with the tokenizer, and the model's context: of the model where it is there, else as planned."""
    from pipelines.finetune.load import context_of

    if recipe.finetune.model is not None:
        config = ExistingModelConfig(source=recipe.finetune.model)
        folder = locate(config, store)
        model_files(folder, config)
        return folder, context_of(folder)
    if (model := load_artifact(store, found["pretrain"].id)) is not None:
        folder = local_copy(store, model)
        return folder, context_of(folder)
    tokenizer = _published(store, found, "tokenizer")
    return local_copy(store, tokenizer), recipe.pretrain.max_positions or recipe.tokens.sequence_length


def _published(store: Store, found: Mapping[str, Identity], name: str) -> Artifact:
    artifact = load_artifact(store, found[name].id)
    if artifact is None:
        raise UserError(
            f"{name} is not made yet, and the examples come from it",
            where="--examples",
            next_step=f"`raymill run RECIPE --until {name}` first",
        )
    return artifact
