"""Sources and targets as tokens and as batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cluster.errors import UserError
from pipelines.finetune.examples.records import Conversation
from pipelines.finetune.seq2seq.model import TargetMarks
from pipelines.train.order import Indices
from pipelines.train.task import IGNORED, Batch

TooLong = Literal["refuse", "drop", "left", "right"]


@dataclass(frozen=True)
class EncodedPair:
    """What the encoder reads, and what the decoder is to write, with the token that ends it."""

    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass
class EncodedPairs:
    """What came of many pairs; ``dropped`` has the places of those left out for their length."""

    encoded: list[EncodedPair] = field(default_factory=list)
    examples: list[Conversation] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    shortened: int = 0


class PairEncoder:
    """Turns prompts and completions into sources and targets.

    A source's tokens are exactly those that the tokenizer gives; a target's are those, too, unless the model forces
    what it writes first, and always end with the mark.

    Args:
        length: most tokens of a source, and of a target.
        too_long: refuse stops at the first longer one, drop leaves them out; left and right cut a source's beginning
            or end, never a target.
    """

    def __init__(self, tokenizer: Any, marks: TargetMarks, length: int, too_long: TooLong) -> None:
        self._tokenizer, self._marks = tokenizer, marks
        self.length, self._too_long = length, too_long
        if too_long in ("left", "right"):
            tokenizer.truncation_side = too_long

    def encode_all(self, examples: Iterable[Conversation]) -> EncodedPairs:
        """Tokens of many pairs, in their order.

        Raises:
            UserError: naming the row: it has several turns, or is too long, or its source has no token.
        """
        result = EncodedPairs()
        for example in examples:
            asked, answer = self._sides(example)
            source, target = self._tokenizer(asked).input_ids, self.target(answer)
            if max(len(source), len(target)) > self.length:
                if self._too_long == "drop":
                    result.dropped.append(example.where)
                    continue
                if self._too_long == "refuse" or len(target) > self.length:
                    raise self._error(len(source), len(target), example.where)
                source = self._tokenizer(asked, truncation=True, max_length=self.length).input_ids
                result.shortened += 1
            if not source:
                raise UserError("its prompt has no token", where=example.where, next_step="leave the row out")
            result.encoded.append(EncodedPair(tuple(source), tuple(target)))
            result.examples.append(example)
        return result

    def target(self, text: str) -> list[int]:
        """What the decoder is to write."""
        marks = self._marks
        if marks.first is None:
            ids = list(self._tokenizer(text).input_ids)
        else:
            ids = [marks.first, *self._tokenizer(text, add_special_tokens=False).input_ids]
        return ids if ids[-1:] == [marks.end] else [*ids, marks.end]

    @staticmethod
    def _sides(example: Conversation) -> tuple[str, str]:
        if len(example.messages) != 2:
            raise UserError(
                f"it has {len(example.messages)} messages: an encoder-decoder reads one source and writes one target",
                where=example.where,
                next_step='write rows such as {"prompt": "…", "completion": "…"}, or fine-tune a decoder',
            )
        asked, answer = (each.content for each in example.messages)
        return asked, answer

    def _error(self, source: int, target: int, place: str) -> UserError:
        what, count = ("completion", target) if target > self.length else ("prompt", source)
        advice = "drop" if what == "completion" else "drop, left or right"
        return UserError(
            f"its {what} has {count:,} tokens, more than the {self.length:,} that fit",
            where=place,
            next_step=f"shorten the row, set finetune.too_long to {advice}, or raise finetune.sequence_length where "
            "the model allows it",
        )


class PairSamples:
    """Encoded pairs as samples; sources and targets are padded on the right."""

    def __init__(self, pairs: Sequence[EncodedPair], marks: TargetMarks) -> None:
        self._pairs, self._marks = pairs, marks
        self._targets = np.asarray([len(each.target) for each in pairs], np.int64)
        self._tokens = self._targets + np.asarray([len(each.source) for each in pairs], np.int64)

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, indices: Indices) -> Batch:
        """Sources [n, length] with what of them is padding, targets [n, length] as labels and shifted right as read."""
        rows = [self._pairs[int(index) % len(self)] for index in indices]
        wide, long = max(len(each.source) for each in rows), max(len(each.target) for each in rows)
        inputs = torch.full((len(rows), wide), self._marks.pad, dtype=torch.int64)
        mask = torch.zeros_like(inputs)
        labels = torch.full((len(rows), long), IGNORED, dtype=torch.int64)
        before = torch.full((len(rows), long), self._marks.pad, dtype=torch.int64)
        before[:, 0] = self._marks.start
        for number, row in enumerate(rows):
            inputs[number, : len(row.source)] = torch.tensor(row.source)
            mask[number, : len(row.source)] = 1
            target = torch.tensor(row.target)
            labels[number, : len(target)] = target
            before[number, 1 : len(target)] = target[:-1]
        return Batch(inputs, labels, {"attention_mask": mask, "decoder_input_ids": before})

    def targets(self, indices: Indices) -> int:
        """Tokens that the targets have."""
        return int(self._targets[indices % len(self)].sum())

    def tokens_of(self, indices: Indices) -> int:
        """Tokens that the model reads and writes."""
        return int(self._tokens[indices % len(self)].sum())


def preview(encoder: PairEncoder, tokenizer: Any, examples: Sequence[Conversation]) -> list[str]:
    """Lines to print: for each example where it is from, then a token a line, those of the target marked.

    Raises:
        UserError: naming a row that is too long, as training would.
    """
    lines = ["a token a line, the source's first; * carries loss: what the decoder is to write", ""]
    for number, example in enumerate(examples, start=1):
        found = encoder.encode_all([example])
        if not found.encoded:
            lines += [f"example {number}, {example.where}: left out, over {encoder.length:,} tokens", ""]
            continue
        (pair,) = found.encoded
        what = f"{len(pair.source):,} tokens are read, {len(pair.target):,} carry loss"
        lines.append(f"example {number}, {example.where}: {what}{', shortened' if found.shortened else ''}")
        for sign, side in ((" ", pair.source), ("*", pair.target)):
            names = tokenizer.convert_ids_to_tokens(list(side))
            lines += [
                f"{place:6} {sign} {token:7} {name!r}"
                for place, (token, name) in enumerate(zip(side, names, strict=True))
            ]
        lines.append("")
    return lines
