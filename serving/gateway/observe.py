"""What a rollout learns from requests: collected while one runs, taken away twice a second, never without bound."""

from __future__ import annotations

import hashlib
import os
from collections import deque

from serving.gateway.metrics import GatewayMetrics
from serving.gateway.observation import Feedback, Observation

MOST_OBSERVATIONS = 50_000
"""Some minutes of a busy gateway; the oldest go first."""

MOST_FEEDBACK = 10_000


def unit_of(experiment: str, key: str | None) -> str:
    """A user's name in the statistics: 16 hex digits that do not tell the key (BLAKE2b, RFC 7693); random without."""
    if key is None:
        return os.urandom(8).hex()
    salted = f"unit\0{experiment}\0{key}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(salted, digest_size=8).hexdigest()


class Observations:
    """Observations and feedback that wait to be taken."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._seen: deque[Observation] = deque()
        self._told: deque[Feedback] = deque()
        self._metrics = metrics
        self.dropped = 0

    def add(self, observation: Observation) -> None:
        """Keep one."""
        self._seen.append(observation)
        if len(self._seen) > MOST_OBSERVATIONS:
            self._seen.popleft()
            self._drop()

    def add_feedback(self, feedback: Feedback) -> None:
        """Keep one."""
        self._told.append(feedback)
        if len(self._told) > MOST_FEEDBACK:
            self._told.popleft()
            self._drop()

    def take(self) -> tuple[tuple[Observation, ...], tuple[Feedback, ...]]:
        """Everything since it was last taken."""
        taken = tuple(self._seen), tuple(self._told)
        self._seen.clear()
        self._told.clear()
        return taken

    def _drop(self) -> None:
        self.dropped += 1
        self._metrics.observations_dropped.add()
