"""Sample-ratio mismatch: whether the units arrive in the shares that the split promises.

Sequential multinomial test with a Dirichlet prior (Lindon and Malek 2022, "Anytime-valid inference for multinomial
count data").
"""

from __future__ import annotations

import math
from collections.abc import Sequence

CONCENTRATIONS = (100.0, 10_000.0)
"""How near to the promised shares a mismatch is expected: gross ones are found at once, slight ones in time."""


def log_evidence(
    counts: Sequence[int], shares: Sequence[float], concentrations: Sequence[float] = CONCENTRATIONS
) -> float:
    """Natural log of the evidence (an e-process) that units do not arrive in these shares.

    Args:
        counts: units of each arm in one step.
        shares: what each arm was promised, in the same order; they need not sum to 1.
        concentrations: of the Dirichlet priors around the shares, each equally likely.

    Raises:
        ValueError: the two differ in length, or no share is above 0.
    """
    if len(counts) != len(shares) or sum(shares) <= 0:
        raise ValueError(f"{len(counts)} counts and shares {shares!r} do not describe one split")
    expected = [share / sum(shares) for share in shares]
    if any(count and not share for count, share in zip(counts, expected, strict=True)):
        return math.inf
    arms = [(count, share) for count, share in zip(counts, expected, strict=True) if share]
    bets = [_log_bayes_factor(arms, concentration) for concentration in concentrations]
    top = max(bets)
    return top + math.log(math.fsum(math.exp(bet - top) for bet in bets) / len(bets))


def _log_bayes_factor(arms: list[tuple[int, float]], concentration: float) -> float:
    n = sum(count for count, _ in arms)
    log = math.lgamma(concentration) - math.lgamma(concentration + n)
    for count, share in arms:
        prior = concentration * share
        log += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return log
