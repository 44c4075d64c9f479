"""How much arithmetic a token costs, and what share of the device's best that makes (MFU)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.train.anatomy import embedding_names, numbers, output_names
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.hardware import flops_per_token, matmul_rate


@dataclass(frozen=True)
class Arithmetic:
    """Model FLOPs of a token, and what all workers could do in a second at best."""

    flops_per_token: float
    flops_per_second: float

    @classmethod
    def of(cls, model: Any, group: Group, config: TrainConfig) -> Arithmetic:
        """Counted on the undivided model, and measured on this process's device."""
        settings = getattr(model, "config", None)
        # The longest sequence stands for all: where they are shorter, attention costs a little less than counted.
        length = int(getattr(settings, "max_position_embeddings", 0) or getattr(settings, "n_positions", 0) or 1)
        layers = int(getattr(settings, "num_hidden_layers", 0) or 0)
        width = int(getattr(settings, "hidden_size", 0) or 0)
        # An embedding is looked up, not multiplied; one that is the output as well is multiplied there.
        looked_up = embedding_names(model) - output_names(model)
        parameters = {name: numbers(each) for name, each in model.named_parameters(remove_duplicate=False)}
        embedding = sum(parameters[name] for name in looked_up)
        every = sum(numbers(each) for each in model.parameters())
        if getattr(settings, "is_encoder_decoder", False):  # a token passes through one of two stacks, nearly alike
            every, embedding = every // 2, embedding // 2
        dtype = torch.float32 if config.resolved_precision() == "fp32" else torch.bfloat16
        rate = matmul_rate(group.device, dtype) * group.world
        return cls(flops_per_token(every, embedding, layers, width, length), rate)

    def mfu(self, tokens: int, seconds: float) -> float:
        """The share of the best that so many tokens in so many seconds make."""
        return tokens * self.flops_per_token / seconds / self.flops_per_second


class Stopwatch:
    """Times steps; the rate leaves out those before things have warmed up."""

    def __init__(self) -> None:
        self._tokens = 0
        self._seconds = 0.0
        self._counted = False
        self._began = 0.0

    def begin(self, counted: bool) -> None:
        """A step begins."""
        self._counted = counted
        self._began = time.perf_counter()

    def end(self, tokens: int) -> float:
        """A step of so many tokens ends; the seconds it took."""
        seconds = time.perf_counter() - self._began
        if self._counted:
            self._tokens += tokens
            self._seconds += seconds
        return seconds

    def rate(self) -> float:
        """Tokens a second; 0 where no step was counted."""
        return self._tokens / self._seconds if self._seconds else 0.0
