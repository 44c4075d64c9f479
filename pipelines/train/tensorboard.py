"""A run's journal as TensorBoard events."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipelines.train.journal import Record

KINDS = ("train", "validation")
NO_CURVES = ("kind", "step", "tokens")


def write_events(records: Iterable[Record], folder: Path) -> None:
    """Write every curve, and what happened as text, to an event file in a folder; at the times of no clock."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for record in records:
            if record["kind"] in KINDS:
                for name in (each for each in record if each not in NO_CURVES):
                    writer.add_scalar(f"{record['kind']}/{name}", record[name], record["step"])
            if record["kind"] == "event":
                writer.add_text("events", record["text"], record["step"])
