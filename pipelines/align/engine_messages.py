"""What a worker and the engine beside it say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Start:
    """The first message: what to run. Answered by :class:`Done` or :class:`Refused`.

    Attributes:
        folder: with the model's ``config.json``; weights come with :class:`Weights`.
        options: further arguments of ``vllm.LLM``.
    """

    folder: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Weights:
    """All of the model's weights in a safetensors file, and their version. Answered by :class:`Done`."""

    path: str
    version: int


@dataclass(frozen=True)
class Ask:
    """Prompts to answer with the weights of a version. Answered by :class:`Written`.

    Attributes:
        seeds: of each answer; what is drawn follows from it, the weights and the prompt.
        stops: tokens that end an answer, and belong to it.
        temperature: what is drawn with; 0 for the likeliest token.
    """

    prompts: list[list[int]]
    seeds: list[int]
    stops: list[int]
    tokens: int
    temperature: float
    version: int


@dataclass(frozen=True)
class Written:
    """Answers, and for each of their tokens the log-probability at the temperature that it was drawn with."""

    answers: list[list[int]]
    logprobs: list[list[float]]
    version: int


@dataclass(frozen=True)
class Done:
    """It was done; of :class:`Weights`, the version that the engine now has."""

    version: int = 0


@dataclass(frozen=True)
class Refused:
    """It cannot be done, and would not be the next time."""

    reason: str
