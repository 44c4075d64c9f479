"""What writes the answers that a model learns from: the model in training itself, or a vLLM engine with its weights."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pipelines.align.actor import Actor
from pipelines.align.config import AlignConfig
from pipelines.align.engine import Engine
from pipelines.align.engine_messages import Start
from pipelines.align.engine_settings import engine_environment, engine_options
from pipelines.align.policy_weights import whole_weights
from pipelines.align.sampling import draws_of, sample_answers, seed_of

GENERATED_AT_ONCE = 64
"""Answers that are drawn together where the recipe does not say how many rows fit."""


@dataclass(frozen=True)
class Asked:
    """A prompt's tokens, and what decides the answer besides them and the weights."""

    ids: Sequence[int]
    seed: int
    visit: int
    number: int


@dataclass(frozen=True)
class Answer:
    """What was written.

    Attributes:
        logprobs: of each token, as the engine drew it; None where training's own model did.
    """

    tokens: list[int]
    logprobs: np.ndarray[Any, Any] | None = None


class AnswerWriter(Protocol):
    """Writes answers with the weights that are in training at that moment.

    Attributes:
        apart: whether it computes by other programs than training does, and tells log-probabilities.
    """

    apart: bool

    def write(self, asked: Sequence[Asked], stops: Collection[int]) -> list[Answer]:
        """One answer to each, ended by a stop token, which belongs to it, or after ``answer_tokens``."""


class ModelWriter:
    """The model in training."""

    apart = False

    def __init__(self, actor: Actor, config: AlignConfig, pad_id: int) -> None:
        self._actor, self._config, self._pad_id = actor, config, pad_id

    def write(self, asked: Sequence[Asked], stops: Collection[int]) -> list[Answer]:
        """See :class:`AnswerWriter`."""
        config = self._config
        at_once = (config.micro_batch_sequences or 0) * config.group_size or GENERATED_AT_ONCE
        answers: list[Answer] = []
        for first in range(0, len(asked), at_once):
            part = asked[first : first + at_once]
            tokens = sample_answers(
                self._actor.policy,
                [each.ids for each in part],
                np.stack([draws_of(each.seed, each.visit, each.number, config.answer_tokens) for each in part]),
                stops=stops,
                pad_id=self._pad_id,
                temperature=config.temperature,
                device=self._actor.device,
            )
            answers += map(Answer, tokens)
        return answers


class EngineWriter:
    """A vLLM engine, which is given the weights of the model in training before each drawing."""

    apart = True

    def __init__(self, actor: Actor, config: AlignConfig, engine: Engine, dtype: torch.dtype) -> None:
        self._actor, self._config, self._engine, self._dtype = actor, config, engine, dtype

    def write(self, asked: Sequence[Asked], stops: Collection[int]) -> list[Answer]:
        """See :class:`AnswerWriter`."""
        if not asked:
            return []
        config = self._config
        self._engine.push(whole_weights(self._actor.policy, self._dtype))
        written = self._engine.answer(
            [list(each.ids) for each in asked],
            [seed_of(each.seed, each.visit, each.number) for each in asked],
            sorted(stops),
            config.answer_tokens,
            config.temperature,
        )
        return [
            Answer(tokens, np.asarray(logprobs, np.float64))
            for tokens, logprobs in zip(written.answers, written.logprobs, strict=True)
        ]

    def close(self) -> None:
        """End the engine."""
        self._engine.close()


def start_engine(
    model: Any, config: AlignConfig, length: int, device: torch.device, environment: dict[str, str]
) -> tuple[Engine, torch.dtype]:
    """An engine for models like this one, and the type of number that it computes in.

    Args:
        model: a causal model of transformers', maybe with adapters.
        length: most tokens of a prompt with its answer.
        environment: this worker's.

    Raises:
        UserError: vLLM does not run this model.
        InfraError: the engine's process ended.
    """
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    settings = whole.config.to_dict() | {"architectures": [type(whole).__name__]}
    options = engine_options(config, settings, length, device.type)
    with tempfile.TemporaryDirectory(prefix="raymill-engine-model-") as folder:
        described = type(whole.config).from_dict(settings)
        described.save_pretrained(Path(folder))
        engine = Engine(
            Start(folder, options), engine_environment(environment, device, config.threads_per_worker), "align"
        )
    return engine, getattr(torch, options["dtype"])
