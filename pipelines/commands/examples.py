"""`raymill plan --examples N`: what fine-tuning and alignment would learn from, token by token."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.artifact import Artifact, Identity, load_artifact, local_copy
from cluster.errors import UserError
from cluster.store import Store
from pipelines.finetune.config import DocsPairs
from pipelines.finetune.examples.records import Conversation
from pipelines.models.existing import ExistingModelConfig, describe_in, locate, model_files
from pipelines.recipe import Recipe


def shown_examples(recipe: Recipe, store: Store, found: Mapping[str, Identity], count: int) -> list[str]:
    """Lines with the first examples of each section that learns from some; what they are made of must be there.

    Args:
        found: node -> identity, as :func:`pipelines.graph.identities` gives it.

    Raises:
        UserError: the recipe has no such section, something is not made yet, or an example cannot be used.
    """
    shown: dict[str, list[str]] = {}
    if "finetune" in found:
        of_task = {"generation": _conversations, "classification": _labelled, "seq2seq": _pairs}[recipe.finetune.task]
        shown["finetune"] = of_task(recipe, store, found, count)
    if "align" in found:
        shown["align"] = _aligned(recipe, store, found, count)
    if not shown:
        raise UserError(
            "the recipe has no section finetune or align, which learn from examples",
            where="--examples",
            next_step="write one, or leave it out",
        )
    if len(shown) == 1:
        return next(iter(shown.values()))
    return [line for name, lines in shown.items() for line in (f"{name} learns from:", *lines)]


def _conversations(recipe: Recipe, store: Store, found: Mapping[str, Identity], count: int) -> list[str]:
    """Examples of a model that is to write the answers."""
    from pipelines.finetune.examples.template import load_template
    from pipelines.finetune.load import encoder_of, load_examples, load_tokenizer
    from pipelines.finetune.preview import preview

    config = recipe.finetune
    corpus = _published(store, found, "curate") if isinstance(config.data, DocsPairs) else None
    loaded = load_examples(config, corpus, store)
    with _tokenizer(recipe, store, found, config.model) as (folder, context):
        tokenizer = load_tokenizer(folder)
    encoder = encoder_of(config, tokenizer, load_template(config.chat_template), context)
    return preview(encoder, tokenizer, loaded.train[:count])


def _labelled(recipe: Recipe, store: Store, found: Mapping[str, Identity], count: int) -> list[str]:
    """The same for texts with labels."""
    from pipelines.finetune.classification.encode import preview
    from pipelines.finetune.classification.load import load_texts
    from pipelines.finetune.classification.task import encoder_of
    from pipelines.finetune.load import load_tokenizer

    loaded = load_texts(recipe.finetune)
    with _tokenizer(recipe, store, found, recipe.finetune.model) as (folder, context):
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
    loaded = load_examples(config, corpus, store, FORMS)
    with _tokenizer(recipe, store, found, config.model) as (folder, _):
        tokenizer = load_tokenizer(folder)
        encoder = encoder_of(config, tokenizer, folder)
    examples = [each for each in loaded.train[:count] if isinstance(each, Conversation)]
    return preview(encoder, tokenizer, examples)


def _aligned(recipe: Recipe, store: Store, found: Mapping[str, Identity], count: int) -> list[str]:
    """Pairs of answers, or prompts; in the chat template that fine-tuning before it leaves."""
    from pipelines.align.encoding import encoder_of
    from pipelines.align.preview import preview
    from pipelines.align.records import load_records
    from pipelines.finetune.examples.template import PLAIN, load_template
    from pipelines.finetune.load import load_tokenizer

    config, tuned = recipe.align, recipe.finetune
    after_tuning = config.model is None and "finetune" in found
    own = tuned.model if after_tuning else config.model
    where = "finetune.model" if after_tuning else "align.model"
    with _tokenizer(recipe, store, found, own, where) as (folder, context):
        tokenizer = load_tokenizer(folder)
    left = load_template(tuned.chat_template) if after_tuning else None
    if left not in (None, PLAIN):
        tokenizer.chat_template = left
    encoder = encoder_of(config, tokenizer, load_template(config.chat_template), context)
    return preview(encoder, tokenizer, config, load_records(config).train[:count])


@contextmanager
def _tokenizer(
    recipe: Recipe, store: Store, found: Mapping[str, Identity], source: str | None, where: str = "finetune.model"
) -> Iterator[tuple[Path, int | None]]:
    """A folder with the tokenizer, and the model's context: of the model where it is there, else as planned.

    Args:
        source: the model that the recipe takes from elsewhere, by its key ``where``; None for what it pretrains.
    """
    from pipelines.finetune.load import context_of

    if source is not None:
        config = ExistingModelConfig(source=source, where=where)
        folder = locate(config, store)
        model_files(folder, config)
        with tempfile.TemporaryDirectory(prefix="raymill-plan-") as name:
            describe_in(folder, Path(name), store)
            yield Path(name), context_of(folder)
        return
    if (model := load_artifact(store, found["pretrain"].id)) is not None:
        folder = local_copy(store, model)
        yield folder, context_of(folder)
        return
    tokenizer = _published(store, found, "tokenizer")
    yield local_copy(store, tokenizer), recipe.pretrain.max_positions or recipe.tokens.sequence_length


def _published(store: Store, found: Mapping[str, Identity], name: str) -> Artifact:
    artifact = load_artifact(store, found[name].id)
    if artifact is None:
        raise UserError(
            f"{name} is not made yet, and the examples come from it",
            where="--examples",
            next_step=f"`raymill run RECIPE --until {name}` first",
        )
    return artifact
