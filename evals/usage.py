"""What an evaluation took: time, tokens and money by task. Never part of a result: it differs from run to run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from cluster.config import StrictModel


class PricesConfig(StrictModel):
    """What things cost, in a currency of your own; what is not given is not counted."""

    worker_hour: float = Field(0.0, ge=0, description="one model replica for an hour")
    million_input_tokens: float = Field(0.0, ge=0, description="a million tokens read by a served model")
    million_output_tokens: float = Field(0.0, ge=0, description="a million tokens written by a served model")


@dataclass
class Meter:
    """Counts while a model is asked.

    Attributes:
        seconds: of waiting for the model, shared out among the tasks of a call by their tokens.
    """

    requests: Counter[str] = field(default_factory=Counter)
    input_tokens: Counter[str] = field(default_factory=Counter)
    output_tokens: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def call(self, requests: list[tuple[str, int]]) -> Iterator[None]:
        """Around one call of the model with (task, tokens to read) for each request."""
        tokens: Counter[str] = Counter()
        for task, count in requests:
            self.requests[task] += 1
            tokens[task] += count
        self.input_tokens.update(tokens)
        began = time.monotonic()
        try:
            yield
        finally:
            spent, total = time.monotonic() - began, sum(tokens.values()) or 1
            for task, count in tokens.items():
                self.seconds[task] = self.seconds.get(task, 0.0) + spent * count / total

    def wrote(self, task: str, tokens: int) -> None:
        """So many tokens came back."""
        self.output_tokens[task] += tokens

    def account(
        self, suites: Mapping[str, list[str]], seconds: float, workers: int, prices: PricesConfig
    ) -> dict[str, Any]:
        """``usage.json``.

        Args:
            suites: suite -> its tasks.
            seconds: of the whole evaluation, loading and building included.
        """
        by_suite = {
            suite: {
                "requests": sum(self.requests[task] for task in tasks),
                "input_tokens": sum(self.input_tokens[task] for task in tasks),
                "output_tokens": sum(self.output_tokens[task] for task in tasks),
                "seconds": round(sum(self.seconds.get(task, 0.0) for task in tasks), 3),
            }
            for suite, tasks in suites.items()
        }
        for each in by_suite.values():
            each["cost"] = round(
                each["seconds"] / 3600 * workers * prices.worker_hour
                + each["input_tokens"] / 1e6 * prices.million_input_tokens
                + each["output_tokens"] / 1e6 * prices.million_output_tokens,
                6,
            )
        return {
            "seconds": round(seconds, 3),
            "workers": workers,
            "prices": prices.model_dump(),
            "cost": round(
                seconds / 3600 * workers * prices.worker_hour
                + sum(self.input_tokens.values()) / 1e6 * prices.million_input_tokens
                + sum(self.output_tokens.values()) / 1e6 * prices.million_output_tokens,
                6,
            ),
            "tasks": by_suite,
        }
