"""Preferences and prompts as tokens, with what cannot be used refused by file and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError
from pipelines.align.pairs import EncodedPair
from pipelines.align.rollouts import Prompt
from pipelines.finetune.examples.encode import Encoder
from pipelines.finetune.examples.records import ASSISTANT, USER, Conversation, Message, Preference, Prompted, Rated

STAND_IN = "x"
"""An answer whose text does not matter."""


@dataclass
class Kept:
    """What fits, and places of what was left out as too long."""

    items: list[Any]
    records: list[Any]
    dropped: list[str]


def encode_pairs(encoder: Encoder, pairs: Sequence[Preference], length: int, drop: bool, where: str) -> Kept:
    """Pairs as tokens; both answers follow the same prompt.

    Raises:
        UserError: naming the row: it is too long (without ``drop``), its two answers have the same tokens, or the
            template loses one; or nothing fits.
    """
    kept = Kept([], [], [])
    for pair in pairs:
        sides = [_side(encoder, pair, text) for text in (pair.chosen, pair.rejected)]
        if sides[0].ids == sides[1].ids:
            raise UserError(
                "chosen and rejected are the same tokens: nothing is preferred",
                where=pair.where,
                next_step="leave the row out, or look at what the chat template makes of it",
            )
        longer = max(sides, key=len)
        if len(longer) > length:
            if not drop:
                raise _too_long(len(longer), length, pair.where, where)
            kept.dropped.append(pair.where)
            continue
        kept.items.append(EncodedPair(*sides))
        kept.records.append(pair)
    return _some(kept, length, where)


def encode_prompts(
    encoder: Encoder, records: Sequence[Any], length: int, answer_tokens: int, drop: bool, where: str
) -> Kept:
    """Prompts as tokens, each different one once.

    Raises:
        UserError: naming the row: with ``answer_tokens`` behind it a prompt is too long (without ``drop``); or nothing
            fits.
    """
    kept = Kept([], [], [])
    known = set()
    for record in records:
        messages = prompt_of(record)
        if messages in known:
            continue
        known.add(messages)
        ids = prompt_ids(encoder, messages, record.where)
        if len(ids) + answer_tokens > length:
            if not drop:
                raise _too_long(len(ids) + answer_tokens, length, record.where, where, "with its answer ")
            kept.dropped.append(record.where)
            continue
        kept.items.append(Prompt(messages, tuple(ids)))
        kept.records.append(record)
    return _some(kept, length, where)


def most_tokens(wanted: int | None, context: int | None, where: str) -> int:
    """How long a prompt with its answer may be.

    Args:
        wanted: what the recipe says.
        context: the model's longest sequence, where it has one.

    Raises:
        UserError: the recipe asks for more than the model's context, or there is no limit at all.
    """
    if wanted is None and context is None:
        raise UserError(
            "the model has no longest sequence of its own",
            where=f"{where}.sequence_length",
            next_step="set it, for example to 2048",
        )
    if wanted is not None and context is not None and wanted > context:
        raise UserError(
            f"{wanted:,} tokens do not fit the model's context of {context:,}",
            where=f"{where}.sequence_length",
            next_step=f"set it to {context:,} or less",
        )
    found = context if wanted is None else wanted
    assert found is not None
    return found


def prompt_ids(encoder: Encoder, messages: tuple[Message, ...], place: str = "") -> list[int]:
    """A prompt's tokens as they stand before an answer that is learned."""
    whole = encoder.whole(Conversation((*messages, Message(ASSISTANT, STAND_IN)), place))
    return list(whole.ids[: whole.learned.index(True)])


def ending_id(encoder: Encoder) -> int:
    """The token that the template puts behind an answer, or an answer's last where it puts none."""
    return int(encoder.whole(Conversation((Message(USER, STAND_IN), Message(ASSISTANT, STAND_IN)))).ids[-1])


def prompt_of(record: Any) -> tuple[Message, ...]:
    """What is asked in a record of any form: the turns before the last answer."""
    if isinstance(record, (Preference, Rated, Prompted)):
        return record.prompt
    messages: tuple[Message, ...] = record.messages
    return messages[:-1] if messages[-1].role == ASSISTANT else messages


def _side(encoder: Encoder, pair: Preference, text: str) -> Any:
    return encoder.whole(Conversation((*pair.prompt, Message(ASSISTANT, text)), pair.where))


def _some(kept: Kept, length: int, where: str) -> Kept:
    if not kept.items:
        raise UserError(
            f"no row fits {length:,} tokens",
            where=f"{where}.sequence_length",
            next_step="shorten the rows, or align a model with a longer context",
        )
    return kept


def _too_long(tokens: int, length: int, place: str, where: str, what: str = "") -> UserError:
    return UserError(
        f"{what}it has {tokens:,} tokens, more than the {length:,} that fit",
        where=place,
        next_step=f"shorten the row, set {where}.too_long: drop, or raise {where}.sequence_length where the model's "
        "context allows it",
    )
