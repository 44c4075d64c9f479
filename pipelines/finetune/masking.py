"""Pairs as token sequences of which only the answer carries loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cluster.errors import UserError
from pipelines.finetune.pairs import Pair
from pipelines.train.order import Indices
from pipelines.train.task import IGNORED, Batch


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of the rendered prompt, and of the answer with the token that ends it."""

    prompt: list[int]
    answer: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def render_prompt(tokenizer: Any, prompt: str) -> str:
    """A question as the chat template puts it to the model."""
    return str(
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    )


def encode_pair(tokenizer: Any, pair: Pair) -> EncodedPair:
    """Tokens of a pair under the tokenizer's chat template.

    Prompt and answer are encoded apart, as they are when the model is asked: no token spans the two.

    Raises:
        UserError: the template does not render the answer right after the prompt.
    """
    prompt = render_prompt(tokenizer, pair.prompt)
    messages = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.completion}]
    whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    if not whole.startswith(prompt) or not whole[len(prompt) :].strip():
        raise UserError(
            "the chat template loses the answer: a rendered conversation does not go on from its rendered prompt",
            where="tokenizer_config.json: chat_template",
            next_step="use a template whose generation prompt is how an assistant's message begins",
        )
    ids = [tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, whole[len(prompt) :].rstrip("\n"))]
    return EncodedPair(*ids)


class PairSamples:
    """Encoded pairs as samples; a batch is padded on the right to its longest pair."""

    def __init__(self, pairs: Sequence[EncodedPair], pad_id: int) -> None:
        self._pairs = pairs
        self._pad_id = pad_id
        self._targets = np.asarray([len(pair.answer) for pair in pairs], np.int64)

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, indices: Indices) -> Batch:
        """Inputs are a pair's tokens but the last; labels the tokens but the first, answers only.

        Padding comes after everything that carries loss, so that with causal attention nothing sees it.
        """
        chosen = [self._pairs[int(index) % len(self)] for index in indices]
        length = max(len(pair) for pair in chosen) - 1
        inputs = torch.full((len(chosen), length), self._pad_id, dtype=torch.int64)
        labels = torch.full((len(chosen), length), IGNORED, dtype=torch.int64)
        for row, pair in enumerate(chosen):
            tokens = torch.tensor(pair.prompt + pair.answer, dtype=torch.int64)
            inputs[row, : len(pair) - 1] = tokens[:-1]
            labels[row, len(pair.prompt) - 1 : len(pair) - 1] = tokens[len(pair.prompt) :]
        return Batch(inputs, labels)

    def targets(self, indices: Indices) -> int:
        """Answer tokens in these pairs."""
        return int(self._targets[indices % len(self)].sum())
