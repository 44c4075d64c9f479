"""A run's journal as TensorBoard events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipelines.train.journal import Record

CURVES = {
    "train": ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu", "memory_bytes"),
    "validation": ("loss",),
}


def write_events(records: Iterable[Record], folder: Path) -> None:
    """Write every curve, and what happened as text, to an event file in a folder; at the times of no clock."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for record in records:
            for name in CURVES.get(record["kind"], ()):
                writer.add_scalar(f"{record['kind']}/{name}", record[name], record["step"])
            if record["kind"] == "event":
                writer.add_text("events", record["text"], record["step"])
