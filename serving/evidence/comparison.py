"""What a comparison of two variants says: an estimate, what the truth may be, and the evidence either way."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Candidate against baseline, by all that one step has shown up to now.

    For absolute comparisons the effect is candidate - baseline in the metric's unit. For relative ones it is
    candidate / baseline - 1, so that 0.1 is 10 % more.

    Attributes:
        estimate: the effect; None while an arm is empty, or where too many of its values are not known.
        low: least effect that the confidence sequence still holds; None where nothing bounds it yet.
        high: greatest one, likewise.
        log_e_harm: natural log of the evidence (an e-process) against "the candidate is not worse than allowed".
        log_e_pass: of the evidence against "the candidate is worse than the margin, or exactly as bad".
        baseline_units: observations of the baseline.
        candidate_units: observations of the candidate.

    By Ville's inequality each of the two e-processes ever reaches ``log(1 / alpha)`` with a chance of at most alpha
    while its own hypothesis is true, however often one looks. ``log_e_pass`` reaches it exactly when the sequence
    [low, high] leaves out the margin and all that is worse.
    """

    estimate: float | None
    low: float | None
    high: float | None
    log_e_harm: float
    log_e_pass: float
    baseline_units: int
    candidate_units: int

    @property
    def p_harm(self) -> float:
        """Evidence now as a p-value; the always-valid one is the least of them over time."""
        return p_value(self.log_e_harm)

    @property
    def p_pass(self) -> float:
        """Likewise for passing."""
        return p_value(self.log_e_pass)


def p_value(log_e: float) -> float:
    """``min(1, 1 / e)``; always valid when given the greatest ``log_e`` that was seen."""
    return math.exp(-max(log_e, 0.0))


def harm_margin(margin: float, harm: float | None) -> float:
    """How much worse must be shown for harm: what was asked, by default the margin, for superiority nothing."""
    return max(margin, 0.0) if harm is None else harm


def log_factor(margin: float, lower_is_better: bool) -> float:
    """A relative margin on the log scale: 0.1 worse is a factor of 1.1, or of 0.9 where more is better."""
    factor = 1 + margin if lower_is_better else 1 - margin
    if factor <= 0:
        return math.inf if margin > 0 else -math.inf
    return math.log(factor) if lower_is_better else -math.log(factor)
