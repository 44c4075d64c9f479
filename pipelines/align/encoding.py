"""Preferences and prompts as tokens, with what cannot be used refused by file and row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.errors import UserError
from pipelines.align.config import AlignConfig
from pipelines.align.pairs import EncodedPair
from pipelines.align.rollouts import Prompt
from pipelines.finetune.examples.encode import Encoded, Encoder
from pipelines.finetune.examples.records import (
    ASSISTANT,
    Conversation,
    Message,
    Messages,
    Preference,
    Prompted,
    Rated,
)

WHERE = "align"
STAND_IN = "x"
"""An answer whose text does not matter."""


@dataclass
class Kept:
    """What fits, and places of what was left out as too long."""

    encoded: list[Any]
    records: list[Any]
    dropped: list[str]
    shortened: int = 0


def encoder_of(config: AlignConfig, tokenizer: Any, template: str | None, context: int | None) -> Encoder:
    """The encoder that a recipe's section means.

    Args:
        template: as :func:`pipelines.finetune.examples.template.load_template` gives it.
        context: the model's longest sequence, where it has one.

    Raises:
        UserError: as :func:`most_tokens` has it.
    """
    length = most_tokens(config.sequence_length, context)
    return Encoder(tokenizer, template, length, config.too_long, WHERE, learns="last_answer")


def encode_pairs(encoder: Encoder, pairs: Sequence[Preference]) -> Kept:
    """Pairs as tokens; both answers follow the same prompt.

    Raises:
        UserError: as :func:`encode_pair` has it, or nothing fits.
    """
    kept = Kept([], [], [])
    for pair in pairs:
        found = encode_pair(encoder, pair)
        if found is None:
            kept.dropped.append(pair.where)
            continue
        kept.encoded.append(found[0])
        kept.records.append(found[1])
        kept.shortened += found[1] != pair
    return _some(kept, encoder.length)


def encode_pair(encoder: Encoder, pair: Preference) -> tuple[EncodedPair, Preference] | None:
    """A pair as tokens, and with the prompt that was left of it; None where it is too long and dropped.

    Raises:
        UserError: naming the row: it is too long, its two answers have the same tokens, or the template loses one.
    """
    sides = _sides(encoder, pair)
    if sides[0].ids == sides[1].ids:
        raise UserError(
            "chosen and rejected are the same tokens: nothing is preferred",
            where=pair.where,
            next_step="leave the row out, or look at what the chat template makes of it",
        )
    longest = max(map(len, sides))
    if longest > encoder.length and encoder.too_long in ("left", "right"):
        # The prompt has the same tokens before both answers: with the longer one it takes the most room.
        text = pair.chosen if len(sides[0]) == longest else pair.rejected
        shorter, _ = encoder.shorten(_conversation(pair, text), encoder.length)
        pair = replace(pair, prompt=shorter.messages[:-1])
        sides = _sides(encoder, pair)
        longest = max(map(len, sides))
    if longest <= encoder.length:
        return EncodedPair(*sides), pair
    if encoder.too_long == "drop":
        return None
    raise _too_long(longest, encoder, pair.where)


def encode_prompts(encoder: Encoder, records: Sequence[Any], answer_tokens: int) -> Kept:
    """Prompts as tokens, each different one once.

    Raises:
        UserError: as :func:`encode_prompt` has it, or nothing fits.
    """
    kept = Kept([], [], [])
    known = set()
    for record in records:
        messages = prompt_of(record)
        if messages in known:
            continue
        known.add(messages)
        found = encode_prompt(encoder, record, answer_tokens)
        if found is None:
            kept.dropped.append(record.where)
            continue
        kept.encoded.append(found[0])
        kept.records.append(record)
        kept.shortened += found[1]
    return _some(kept, encoder.length)


def encode_prompt(encoder: Encoder, record: Any, answer_tokens: int) -> tuple[Prompt, bool] | None:
    """A record's prompt as tokens and whether it was shortened; None where it is too long and dropped.

    Raises:
        UserError: naming the row: with ``answer_tokens`` behind it the prompt is too long.
    """
    messages = prompt_of(record)
    ids = prompt_ids(encoder, messages, record.where)
    shortened = len(ids) + answer_tokens > encoder.length and encoder.too_long in ("left", "right")
    if shortened:
        asked = _stand_in(messages, record.where)
        room = encoder.length - answer_tokens + len(encoder.whole(asked)) - len(ids)
        messages = encoder.shorten(asked, room)[0].messages[:-1]
        ids = prompt_ids(encoder, messages, record.where)
    if len(ids) + answer_tokens <= encoder.length:
        return Prompt(messages, tuple(ids)), shortened
    if encoder.too_long == "drop":
        return None
    raise _too_long(len(ids) + answer_tokens, encoder, record.where, "with its answer ")


def most_tokens(wanted: int | None, context: int | None) -> int:
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
            where=f"{WHERE}.sequence_length",
            next_step="set it, for example to 2048",
        )
    if wanted is not None and context is not None and wanted > context:
        raise UserError(
            f"{wanted:,} tokens do not fit the model's context of {context:,}",
            where=f"{WHERE}.sequence_length",
            next_step=f"set it to {context:,} or less",
        )
    found = context if wanted is None else wanted
    assert found is not None
    return found


def prompt_ids(encoder: Encoder, messages: Messages, place: str = "") -> list[int]:
    """A prompt's tokens as they stand before an answer that is learned."""
    whole = encoder.whole(_stand_in(messages, place))
    return list(whole.ids[: whole.learned.index(True)])


def prompt_of(record: Any) -> Messages:
    """What is asked in a record of any form: the turns before the last answer."""
    if isinstance(record, (Preference, Rated, Prompted)):
        return record.prompt
    messages: Messages = record.messages
    return messages[:-1] if messages[-1].role == ASSISTANT else messages


def _stand_in(messages: Messages, place: str) -> Conversation:
    return Conversation((*messages, Message(ASSISTANT, STAND_IN)), place)


def _conversation(pair: Preference, text: str) -> Conversation:
    return Conversation((*pair.prompt, Message(ASSISTANT, text)), pair.where)


def _sides(encoder: Encoder, pair: Preference) -> tuple[Encoded, Encoded]:
    return encoder.whole(_conversation(pair, pair.chosen)), encoder.whole(_conversation(pair, pair.rejected))


def _some(kept: Kept, length: int) -> Kept:
    if not kept.encoded:
        raise UserError(
            f"no row fits {length:,} tokens",
            where=f"{WHERE}.sequence_length",
            next_step="shorten the rows or what is asked (too_long: left or right), or align a model with a longer "
            "context",
        )
    return kept


def _too_long(tokens: int, encoder: Encoder, place: str, what: str = "") -> UserError:
    cut = encoder.too_long != "refuse"
    advice = "too_long: drop" if cut else "too_long: drop, or left or right to shorten what is asked"
    return UserError(
        f"{what}it has {tokens:,} tokens{' even without what is asked' if cut else ''}, more than the "
        f"{encoder.length:,} that fit",
        where=place,
        next_step=f"shorten the row, set {WHERE}.{advice}; or raise {WHERE}.sequence_length where the model's context "
        "allows it",
    )
