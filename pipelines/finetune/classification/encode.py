"""Labelled texts as tokens, exactly those that the tokenizer gives when the model is asked, and as batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cluster.errors import UserError
from pipelines.finetune.examples.records import Labelled
from pipelines.train.order import Indices
from pipelines.train.task import Batch

TooLong = Literal["refuse", "drop", "left", "right"]


@dataclass(frozen=True)
class EncodedText:
    """A text's tokens, of each which of two texts it belongs to, and its label's number."""

    ids: tuple[int, ...]
    kinds: tuple[int, ...]
    label: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class EncodedTexts:
    """What came of many texts; ``dropped`` has the places of those left out for their length."""

    encoded: list[EncodedText] = field(default_factory=list)
    examples: list[Labelled] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    shortened: int = 0


class TextEncoder:
    """Turns labelled texts into tokens.

    Args:
        labels: every label, in the order of their numbers.
        length: most tokens of a text.
        too_long: refuse stops at the first longer one, drop leaves them out; left and right cut its beginning or end
            (of two texts the longer one's).
    """

    def __init__(self, tokenizer: Any, labels: Sequence[str], length: int, too_long: TooLong) -> None:
        self._tokenizer, self.length, self._too_long = tokenizer, length, too_long
        self._numbers = {label: number for number, label in enumerate(labels)}
        if too_long in ("left", "right"):
            tokenizer.truncation_side = too_long
        self._parts = parts(tokenizer)

    def encode_all(self, examples: Iterable[Labelled]) -> EncodedTexts:
        """Tokens of many texts, in their order.

        Raises:
            UserError: naming the row: it is too long, or has no token.
        """
        result = EncodedTexts()
        for example in examples:
            texts = (example.text,) if example.pair is None else (example.text, example.pair)
            given = texts if self._parts else (self._tokenizer.eos_token.join(texts),)
            found = self._tokenizer(*given, return_token_type_ids=True)
            if len(found.input_ids) > self.length:
                if self._too_long == "drop":
                    result.dropped.append(example.where)
                    continue
                if self._too_long == "refuse":
                    raise UserError(
                        f"{len(found.input_ids):,} tokens are more than the {self.length:,} that fit",
                        where=example.where,
                        next_step="shorten the row, or set finetune.too_long to drop, left or right",
                    )
                found = self._tokenizer(*given, return_token_type_ids=True, truncation=True, max_length=self.length)
                result.shortened += 1
            if not found.input_ids:
                raise UserError("it has no token", where=example.where, next_step="leave the row out")
            label = self._numbers[example.label]
            result.encoded.append(EncodedText(tuple(found.input_ids), tuple(found.token_type_ids), label))
            result.examples.append(example)
        return result


def parts(tokenizer: Any) -> bool:
    """Whether a tokenizer puts something between two texts. Where it does not, the token that ends a text does.

    Raises:
        UserError: it has no such token either.
    """
    alone = [tokenizer(text, add_special_tokens=False).input_ids for text in ("a", "b")]
    joined = alone[0] + alone[1]
    both = tokenizer("a", "b").input_ids
    touching = any(both[start : start + len(joined)] == joined for start in range(len(both)))
    if touching and not tokenizer.eos_token:
        raise UserError(
            "the tokenizer has nothing to put between two texts",
            where="finetune.model",
            next_step="name an eos_token in its tokenizer_config.json",
        )
    return not touching


class TextSamples:
    """Encoded texts as samples; a batch is padded on the right to its longest.

    Args:
        kinds: give ``token_type_ids`` to the model.
        weights: of each label by its number; None where all count the same.
    """

    def __init__(
        self,
        texts: Sequence[EncodedText],
        pad_id: int,
        *,
        kinds: bool = False,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._texts, self._pad_id, self._kinds = texts, pad_id, kinds
        self._lengths = np.asarray([len(each) for each in texts], np.int64)
        self._weights = np.asarray([1.0 if weights is None else weights[each.label] for each in texts], np.float64)

    def __len__(self) -> int:
        return len(self._texts)

    def batch(self, indices: Indices) -> Batch:
        """Token ids [n, length], labels [n], and which positions are padding."""
        rows = [self._texts[int(index) % len(self)] for index in indices]
        length = max(map(len, rows))
        inputs = torch.full((len(rows), length), self._pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), length), dtype=torch.int64)
        kinds = torch.zeros((len(rows), length), dtype=torch.int64)
        for number, row in enumerate(rows):
            inputs[number, : len(row)] = torch.tensor(row.ids)
            kinds[number, : len(row)] = torch.tensor(row.kinds)
            mask[number, : len(row)] = 1
        further = {"attention_mask": mask} | ({"token_type_ids": kinds} if self._kinds else {})
        return Batch(inputs, torch.tensor([row.label for row in rows]), further)

    def targets(self, indices: Indices) -> int:
        """Texts: each has one label."""
        return len(indices)

    def weight(self, indices: Indices) -> float:
        """What the sum of these texts' losses is divided by: the sum of their labels' weights."""
        return float(self._weights[indices % len(self)].sum())

    def tokens_of(self, indices: Indices) -> int:
        """Tokens that the model reads."""
        return int(self._lengths[indices % len(self)].sum())


def preview(encoder: TextEncoder, tokenizer: Any, labels: Sequence[str], examples: Sequence[Labelled]) -> list[str]:
    """Lines to print: for each example where it is from, its label and number, then a token a line.

    Raises:
        UserError: naming a row that is too long, as training would.
    """
    lines = []
    for number, example in enumerate(examples, start=1):
        found = encoder.encode_all([example]).encoded
        if not found:
            lines += [f"example {number}, {example.where}: left out, over {encoder.length:,} tokens", ""]
            continue
        (text,) = found
        what = f"{len(text):,} tokens, label {example.label} ({text.label} of {len(labels)})"
        lines += [f"example {number}, {example.where}: {what}"]
        lines += [
            f"{place:6} {token:7} {tokenizer.convert_ids_to_tokens(token)!r}" for place, token in enumerate(text.ids)
        ]
        lines.append("")
    return lines
