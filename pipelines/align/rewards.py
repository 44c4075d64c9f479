"""What an answer is worth: a function of the user's, or a reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import UserError
from pipelines.finetune.examples.records import ASSISTANT, Conversation, Message, Messages

SCORED_AT_ONCE = 32


class Reward(Protocol):
    """Gives every answer a number; larger is better."""

    def scores(self, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        """One for each answer, depending on nothing but it and its prompt."""


class FunctionReward:
    """A function ``f(prompts, answers)`` of the user's, given texts (a prompt's is its last message).

    Args:
        name: ``module:function``.

    Raises:
        UserError: there is no such function.
    """

    def __init__(self, name: str) -> None:
        from cluster.own_code import load_own

        self._name, self._function = name, load_own(name)
        if not callable(self._function):
            raise UserError(
                "is no function", where=f"align.reward: {name}", next_step="name one that takes prompts and answers"
            )

    def scores(self, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        """What the function gives.

        Raises:
            UserError: it fails, or does not give one finite number for each answer.
        """
        where = f"align.reward: {self._name}"
        texts = [messages[-1].content for messages in prompts]
        try:
            found = [float(each) for each in self._function(texts, list(answers))]
        except Exception as error:  # whatever the user's code raises is for the user to see
            raise UserError(
                f"fails: {type(error).__name__}: {error}",
                where=where,
                next_step="it takes a list of prompts and one of answers, and gives a number for each answer",
            ) from error
        if len(found) != len(answers) or not all(map(math.isfinite, found)):
            wrong = next((each for each in found if not math.isfinite(each)), None)
            raise UserError(
                f"gave {len(found)} numbers for {len(answers)} answers" if wrong is None else f"gave {wrong}",
                where=where,
                next_step="give one finite number for each answer",
            )
        return found


class ModelReward:
    """A model that scores a conversation: one of ``align.method: reward``, or another with one label.

    Args:
        folder: a Hugging Face folder of a sequence classifier, with its tokenizer.
        template: the chat template that the conversations are put in; None for the tokenizer's own.

    Raises:
        UserError: the folder holds no such model.
    """

    def __init__(self, folder: Path, name: str, template: str | None, device: Any) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from pipelines.finetune.examples.encode import Encoder
        from pipelines.models.export import longest

        where = f"align.reward: {name}"
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise UserError(
                f"is no reward model: {str(error).splitlines()[0]}",
                where=where,
                next_step="name a RewardModel artifact, or a folder with a sequence classifier and its tokenizer",
            ) from error
        if model.config.num_labels != 1 or loading["missing_keys"]:
            raise UserError(
                f"is no reward model: it has {model.config.num_labels} labels"
                if model.config.num_labels != 1
                else f"is no reward model: it lacks {min(loading['missing_keys'])}",
                where=where,
                next_step="train one with align.method: reward",
            )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
        self._model, self._tokenizer = model.eval().requires_grad_(False).to(device), tokenizer
        self._limit = longest(model.config) or 0
        self._encoder = Encoder(tokenizer, template, self._limit, "drop", where, learns="last_answer")

    def scores(self, prompts: Sequence[Messages], answers: Sequence[str]) -> list[float]:
        """The model's scores; of a conversation that is too long for it, of the end."""
        import torch

        rows = [self._ids(messages, answer) for messages, answer in zip(prompts, answers, strict=True)]
        found: list[float] = []
        for first in range(0, len(rows), SCORED_AT_ONCE):
            part = rows[first : first + SCORED_AT_ONCE]
            ids = torch.full((len(part), max(map(len, part))), self._model.config.pad_token_id, dtype=torch.int64)
            for number, row in enumerate(part):
                ids[number, : len(row)] = torch.tensor(row)
            with torch.no_grad():
                logits = self._model(input_ids=ids.to(self._model.device), use_cache=False).logits
            found += logits[:, 0].float().cpu().tolist()
        return found

    def _ids(self, messages: Messages, answer: str) -> list[int]:
        """As a pair's side is encoded for training."""
        ids = self._encoder.whole(Conversation((*messages, Message(ASSISTANT, answer)))).ids
        return list(ids[-self._limit :])  # all of them where positions are relative
