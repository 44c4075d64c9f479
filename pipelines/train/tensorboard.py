"""A run's journal as TensorBoard events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pipelines.train.journal import Record

KINDS = ("train", "validation")
NO_CURVES = ("kind", "step", "tokens")


def curves(record: Record) -> Iterator[tuple[str, float]]:
    """Name and value of each curve that a record has a point of."""
    if record["kind"] in KINDS:
        for name in (each for each in record if each not in NO_CURVES):
            yield f"{record['kind']}/{name}", float(record[name])


def write_events(records: Iterable[Record], folder: Path) -> None:
    """Write every curve, and what happened as text, to an event file in a folder; at the times of no clock."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for record in records:
            for name, value in curves(record):
                writer.add_scalar(name, value, record["step"])
            if record["kind"] == "event":
                writer.add_text("events", record["text"], record["step"])
