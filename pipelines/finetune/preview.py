"""Examples as the model will see them: every token, and whether it carries loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pipelines.finetune.examples.encode import Encoded, Encoder
from pipelines.finetune.examples.records import Conversation, Text

LEARNED = "*"


def preview(encoder: Encoder, tokenizer: Any, examples: Sequence[Conversation | Text]) -> list[str]:
    """Lines to print: for each example where it is from, then a token a line, those that carry loss marked.

    Raises:
        UserError: naming a row that is too long or whose answer gets lost, as training would.
    """
    lines = [f"a token a line; {LEARNED} carries loss", ""]
    for number, example in enumerate(examples, start=1):
        found = encoder.encode(example)
        if found is None:
            lines += [f"example {number}, {example.where}: left out, over {encoder.length:,} tokens", ""]
            continue
        encoded, shortened = found
        what = f"{len(encoded):,} tokens, {encoded.targets:,} carry loss{', shortened' if shortened else ''}"
        lines += [f"example {number}, {example.where}: {what}", *token_lines(encoded, tokenizer), ""]
    return lines


def token_lines(encoded: Encoded, tokenizer: Any) -> Iterable[str]:
    """Place, mark, id and text of each token."""
    for place, (token, learned) in enumerate(zip(encoded.ids, encoded.learned, strict=True)):
        carries = learned and place > 0  # nothing predicts the first
        yield f"{place:6} {LEARNED if carries else ' '} {token:7} {tokenizer.convert_ids_to_tokens(token)!r}"
