"""A run's newest figures as Prometheus gauges, through Ray's own exporter; they cost microseconds a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GAUGES = {
    "loss": "mean training loss of the step, nats a token",
    "learning_rate": "learning rate of the step",
    "gradient_norm": "norm of the whole gradient before clipping",
    "tokens_per_second": "tokens a second of the step, over all workers",
    "mfu": "share of the measured matrix product rate",
    "memory_bytes": "peak memory of the first worker",
}


class Gauges:
    """``raymill_train_…`` with the label ``run``; within a Ray worker only.

    Args:
        run: what the label says.
    """

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Gauge

        self._step = _gauge(Gauge, "step", "steps done", run)
        self._train = {name: _gauge(Gauge, name, text, run) for name, text in GAUGES.items()}
        self._validation = _gauge(Gauge, "validation_loss", "loss on the validation split, nats a token", run)

    def show(self, record: Mapping[str, Any]) -> None:
        """Take over a journal's record."""
        if record["kind"] == "train":
            self._step.set(record["step"])
            for name, gauge in self._train.items():
                gauge.set(record[name])
        elif record["kind"] == "validation":
            self._validation.set(record["loss"])


def _gauge(kind: Any, name: str, text: str, run: str) -> Any:
    gauge = kind(f"raymill_train_{name}", description=text, tag_keys=("run",))
    gauge.set_default_tags({"run": run})
    return gauge
