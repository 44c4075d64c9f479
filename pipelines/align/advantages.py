"""How much better than expected an answer, or each of its tokens, was. Plain arrays: this runs once a rollout."""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

FLOOR = 1e-4
"""Added to a deviation that is divided by, as in trl: answers that are all alike teach nothing."""


def within_groups(rewards: Floats, scale: bool) -> Floats:
    """Rewards against those of the same prompt's other answers (GRPO, arXiv:2402.03300, section 4.1.2).

    Args:
        rewards: [prompts, answers].
        scale: divide by the group's standard deviation; without it every prompt counts by how much its answers differ
            (arXiv:2503.20783).
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return centred / (rewards.std(axis=1, ddof=1, keepdims=True) + FLOOR) if scale else centred


def generalised(rewards: Floats, values: Floats, discount: float, trace: float) -> Floats:
    """Generalised advantage estimation (arXiv:1506.02438, equation 16) of one answer; after its end nothing comes.

    Args:
        rewards: of each token [length].
        values: what was expected before each token [length].
        discount: gamma in the paper.
        trace: lambda in the paper.
    """
    found = np.zeros_like(rewards)
    following, ahead = 0.0, 0.0
    for place in range(len(rewards) - 1, -1, -1):
        surprise = rewards[place] + discount * following - values[place]
        ahead = surprise + discount * trace * ahead
        found[place], following = ahead, values[place]
    return found
