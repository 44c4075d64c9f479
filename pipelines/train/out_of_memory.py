"""What to tell a user whose training runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import UserError
from pipelines.train.config import TrainConfig
from pipelines.train.hardware import is_out_of_memory


@contextmanager
def explained(where: str, config: TrainConfig) -> Iterator[None]:
    """Say which knobs help where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        knobs = [
            "lower micro_batch_sequences" if config.micro_batch_sequences != 1 else "",
            "set recompute: full" if config.recompute != "full" else "",
            "spread the model with parallel.shard",
            "use a smaller size or sequence_length",
        ]
        raise UserError(
            f"out of memory: {str(error).splitlines()[0]}",
            where=where,
            next_step="; ".join(knob for knob in knobs if knob),
        ) from error
