"""What alignment will see: every token of both answers, or of a prompt, and what of them counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.align.config import AlignConfig
from pipelines.align.encoding import encode_pair, encode_prompt
from pipelines.finetune.examples.encode import Encoded, Encoder
from pipelines.finetune.preview import token_lines

COMPARED = "a token a line; of those with * the two answers' probabilities are compared"
SCORED = "a token a line; the score of an answer is read at *"
ASKED = "a token a line; the model writes up to {:,} tokens behind them, which carry loss by what they earn"


def preview(encoder: Encoder, tokenizer: Any, config: AlignConfig, records: Sequence[Any]) -> list[str]:
    """Lines to print: for each record where it is from, then a token a line.

    Raises:
        UserError: naming a row that is too long or that cannot be used, as training would.
    """
    if config.on_policy:
        head, show = ASKED.format(config.answer_tokens), _prompt
    else:
        head, show = (SCORED if config.method == "reward" else COMPARED), _pair
    lines = [head, ""]
    for number, record in enumerate(records, start=1):
        found = show(encoder, tokenizer, config, record)
        what, tokens = found or (f"left out, over {encoder.length:,} tokens", [])
        lines += [f"example {number}, {record.where}: {what}", *tokens, ""]
    return lines


def _pair(encoder: Encoder, tokenizer: Any, config: AlignConfig, record: Any) -> tuple[str, list[str]] | None:
    found = encode_pair(encoder, record)
    if found is None:
        return None
    pair, kept = found
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    if config.method == "reward":
        sides = {name: _last_alone(each) for name, each in sides.items()}
        told = ", ".join(f"{name} has {len(each):,} tokens" for name, each in sides.items())
    else:
        told = ", ".join(f"{each.targets:,} of {name}'s {len(each):,} tokens count" for name, each in sides.items())
    lines = []
    for name, each in sides.items():
        lines += [f"{name}:", *token_lines(each, tokenizer)]
    return told + (", shortened" if kept != record else ""), lines


def _prompt(encoder: Encoder, tokenizer: Any, config: AlignConfig, record: Any) -> tuple[str, list[str]] | None:
    found = encode_prompt(encoder, record, config.answer_tokens)
    if found is None:
        return None
    prompt, shortened = found
    nothing = Encoded(prompt.ids, (False,) * len(prompt.ids))
    told = f"{len(prompt.ids):,} tokens are asked{', shortened' if shortened else ''}"
    return told, list(token_lines(nothing, tokenizer))


def _last_alone(side: Encoded) -> Encoded:
    return Encoded(side.ids, (False,) * (len(side) - 1) + (True,), side.where)
