"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from pipelines.train.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """The rate of a step counted from 0.

    It rises linearly over ``warmup_fraction`` of the steps (the first step already moves), then falls to
    ``final_learning_rate_fraction`` of its height by a half cosine (arXiv:1608.03983, without restarts) or a line,
    which it reaches with the last step. ``wsd`` (warm up, stay, decay: arXiv:2404.06395) stays at the top and falls by
    a line over the last ``decay_fraction`` of the steps.
    """
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "wsd":
        falling = max(round(config.decay_fraction * total), 1)
        # The first of the falling steps is already below the top; the last one is at the bottom.
        left = max(total - 1 - step, 0) / falling
        height = min(left, 1.0)
        final = config.final_learning_rate_fraction
        return config.learning_rate * (final + (1 - final) * height)
    share = (step - warmup) / max(total - 1 - warmup, 1)
    height = 0.5 * (1 + math.cos(math.pi * share)) if config.schedule == "cosine" else 1 - share
    final = config.final_learning_rate_fraction
    return config.learning_rate * (final + (1 - final) * height)
