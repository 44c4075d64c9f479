"""Answers that another program drew from the same weights: it rounds otherwise, so its distribution is a little off.

Each token's advantage is weighed by how much likelier it is to the model in training than to what drew it, cut off
above (truncated importance sampling, Ionides 2008, as trl does by default for vLLM's answers).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cluster.errors import UserError

MOST_WEIGHT = 3.0
"""As in trl: a token that the engine hardly ever draws must not decide a step."""

MOST_GAP = 0.5
"""Nats a token, the mean of a drawing: by so much rounding does not move log-probabilities, and another model does."""

Floats = np.ndarray[Any, np.dtype[np.float64]]


def importance(mine: Floats, drawn: Floats) -> Floats:
    """The weight of each token.

    Args:
        mine: log-probabilities by the model in training.
        drawn: the same by what drew them.
    """
    return np.minimum(np.exp(mine - drawn), MOST_WEIGHT)


def require_near(gap: float, where: str) -> None:
    """Refuse answers of an engine that cannot have had the same weights, or computes something else with them.

    Args:
        gap: mean absolute difference of log-probabilities, in nats a token.

    Raises:
        UserError: saying how far off it is.
    """
    if gap > MOST_GAP:
        raise UserError(
            f"vLLM computes this model otherwise than training does: its log-probabilities are {gap:.2g} nats a token "
            "away",
            where=f"{where}.generation: vllm",
            next_step=f"set {where}.generation: transformers",
        )
