"""The examples that a recipe means, chosen, divided and turned into tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cluster.artifact import Artifact
from cluster.errors import UserError
from cluster.store import Store
from pipelines.finetune.config import LEARNED_PROMPTS, DocsPairs, FinetuneConfig
from pipelines.finetune.examples.divide import choose, split, subset
from pipelines.finetune.examples.encode import Encoder
from pipelines.finetune.examples.read import read_examples
from pipelines.finetune.examples.records import Conversation, Text

FORMS = ("chat", "pairs", "alpaca", "text")
"""What supervised fine-tuning learns from."""

MOST_REMEMBERED = 512
"""Examples that forgetting is measured on; one process reads them twice at the end."""

MOST_PACKED = 8192
"""Tokens of a packed row where the recipe does not say how many; single examples are only as long as they are."""

UNBOUNDED = 1 << 20
"""A context that a tokenizer gives where nobody set one is larger."""


@dataclass
class Loaded:
    """Examples by what they are for.

    Attributes:
        given: different examples before a subset was taken.
        bad: places of rows that were skipped, each with its reason.
    """

    train: list[Conversation | Text]
    validation: list[Conversation | Text]
    forgetting: list[Conversation | Text]
    given: int
    bad: list[str] = field(default_factory=list)

    def parts(self) -> dict[str, list[Conversation | Text]]:
        """Name -> examples, of the parts that there are."""
        found = {"train": self.train, "validation": self.validation, "forgetting": self.forgetting}
        return {name: examples for name, examples in found.items() if examples}


def load_examples(
    config: FinetuneConfig, corpus: Artifact | None, store: Store, forms: tuple[str, ...] = FORMS
) -> Loaded:
    """The examples of a recipe's section.

    Args:
        forms: what rows may be.

    Raises:
        UserError: the data cannot be read, a row is none, there are too few, or none has an answer to be scored.
        InfraError: S3 or the Hub does not answer.
    """
    bad: list[str] = []
    examples: list[Any]
    if isinstance(config.data, DocsPairs):
        from pipelines.finetune.docs_pairs import docstring_pairs, training_texts

        texts = training_texts(corpus, store) if corpus else iter(())
        examples = choose((pair for text in texts for pair in docstring_pairs(text)), config.data.max_pairs)
    else:
        read = read_examples(config.data, "finetune.data", forms)
        examples, bad = choose(read.examples), read.bad
    train, validation = split(subset(examples, config.subset), config.validation_fraction, "finetune.data")
    if config.scored and not isinstance(validation[0], Conversation):
        raise UserError(
            "the rows are texts, which have no answers to compare with",
            where="finetune.answers_scored",
            next_step="leave it out, or give rows with prompt and completion",
        )
    return Loaded(train, validation, remembered(config), len(examples), bad)


def remembered(config: FinetuneConfig) -> list[Any]:
    """What forgetting is measured on; nothing where the recipe names no such rows.

    Raises:
        UserError, InfraError: as :func:`load_examples` has it.
    """
    if config.forgetting is None:
        return []
    return choose(read_examples(config.forgetting, "finetune.forgetting", FORMS).examples, MOST_REMEMBERED)


def most_tokens(config: FinetuneConfig, context: int | None) -> int:
    """How long an example may be.

    Args:
        context: the model's longest sequence, where it has one.

    Raises:
        UserError: the recipe asks for more than the model's context, or there is no limit at all.
    """
    room = None if context is None else context - (config.virtual_tokens if config.method in LEARNED_PROMPTS else 0)
    wanted = config.sequence_length
    if wanted is None and room is None:
        raise UserError(
            "the model has no longest sequence of its own",
            where="finetune.sequence_length",
            next_step="set it, for example to 2048",
        )
    if wanted is not None and room is not None and wanted > room:
        learned = f" of which {config.virtual_tokens} are learned" if room != context else ""
        raise UserError(
            f"{wanted:,} tokens do not fit the model's context of {context:,}{learned}",
            where="finetune.sequence_length",
            next_step=f"set it to {room:,} or less",
        )
    found = wanted if wanted is not None else room
    assert found is not None
    if config.packing and wanted is None and found > MOST_PACKED:
        raise UserError(
            f"packed rows would have {found:,} tokens, all of the model's context, and each takes the memory for that",
            where="finetune.packing",
            next_step="set finetune.sequence_length to what a row may have, for example 4096",
        )
    if found < 2:
        raise UserError(
            f"{config.virtual_tokens} virtual tokens leave no room in the model's context of {context}",
            where="finetune.virtual_tokens",
            next_step="use fewer",
        )
    return found


def context_of(folder: Path) -> int | None:
    """The longest sequence that a stored model takes; None where it has no such limit."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        if isinstance(settings.get(name), int):
            return int(settings[name])
    return None


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a stored model."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


def encoder_of(config: FinetuneConfig, tokenizer: Any, template: str | None, context: int | None) -> Encoder:
    """The encoder that a recipe's section means; ``template`` as :func:`load_template` gives it."""
    limit = tokenizer.model_max_length
    if context is None and limit and limit < UNBOUNDED:
        context = int(limit)
    length = most_tokens(config, context)
    return Encoder(tokenizer, template, length, config.length_policy, "finetune", config.loss_on)


class Fitted(Protocol):
    """Examples as tokens, and what came of those that are too long."""

    encoded: Any
    dropped: list[str]
    shortened: int


def left_out(parts: Iterable[Fitted]) -> dict[str, Any]:
    """How many examples were left out for their length, the first of them, and how many were shortened."""
    found = list(parts)
    places = [place for part in found for place in part.dropped]
    return {
        "too_long": len(places),
        "too_long_places": places[:20],
        "shortened": sum(part.shortened for part in found),
    }


def require_any(found: Fitted, part: str, length: int) -> None:
    """Raise UserError where no example of a part is left."""
    if not found.encoded:
        raise UserError(
            f"no {part} example fits {length:,} tokens",
            where="finetune.sequence_length",
            next_step="use a model with a longer context, shorten the rows, or set too_long: left or right",
        )
