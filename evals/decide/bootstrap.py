"""A mean of paired differences by the stratified bootstrap: for TruthfulQA's mc2, for MMLU, for averages of suites.

Method: the studentised bootstrap ("bootstrap-t", Efron 1979; Hall 1992, section 3.5). Documents are drawn with
replacement within their stratum (MMLU's subject), both models' results together; each resample gives
t* = (its mean - the mean) / its own standard error. A p-value is the share of t* as large as the observed t, and an
interval ends where that share is 5 %, so the two never contradict each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evals.decide.paired import mcnemar_exact

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

RESAMPLES = 9_999
"""One less than a round number: levels of whole percents then fall on a t* itself."""

SMALLEST_STRATUM = 10
"""Strata with fewer documents are joined; a spread from two documents is worth nothing. That errs to the safe side."""

FEW_CHANGES = 20
"""Below so many documents with any difference, no smaller p-value is given than the sign test's, which is exact."""

_CHUNK_VALUES = 4_000_000
_FEW_VALUES = 8


@dataclass(frozen=True)
class Bootstrap:
    """The outcome.

    Attributes:
        difference: the weighted mean of the differences.
        stderr: its standard error, strata taken into account.
        p_value: two-sided, of a true difference of 0.
        spread: what a single difference's standard deviation would be in a plain sample with this standard error.
        t_values: t* of each resample, sorted. Where only few documents differ some are infinite, and so may a bound be.
    """

    difference: float
    stderr: float
    p_value: float
    spread: float
    t_values: Array

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Symmetric two-sided interval; it leaves out 0 exactly where the bootstrap's p-value is at most 1 - level."""
        import numpy as np

        half = _quantile(np.sort(np.abs(self.t_values)), level) * self.stderr if self.stderr else 0.0
        return self.difference - half, self.difference + half

    def lower(self, level: float = 0.95) -> float:
        """The true difference is at least this, with confidence ``level`` (one-sided)."""
        if not self.stderr:
            return self.difference
        return self.difference - _quantile(self.t_values, level) * self.stderr

    def upper(self, level: float = 0.95) -> float:
        """The true difference is at most this, with confidence ``level`` (one-sided)."""
        if not self.stderr:
            return self.difference
        return self.difference + _quantile(-self.t_values[::-1], level) * self.stderr


def paired_bootstrap(
    differences: Sequence[float],
    strata: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
    *,
    seed: int = 1234,
    resamples: int = RESAMPLES,
) -> Bootstrap:
    """Compare two models by the differences of their results on each document.

    Args:
        differences: B's value minus A's; at least two.
        strata: a name for each document; by default all are of one.
        weights: what each document adds to the mean; they sum to 1. By default all weigh the same.
    """
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    shares = np.full(count, 1 / count) if weights is None else np.asarray(weights, dtype=np.float64)
    contributions = values * shares
    groups = _groups(strata or [""] * count)
    rng = np.random.Generator(np.random.PCG64(seed))
    moved, variance_star = np.zeros(resamples), np.zeros(resamples)
    variance = 0.0
    for members in groups:
        own = contributions[members]
        size = len(own)
        variance += size * float(own.var(ddof=1)) if size > 1 else 0.0
        totals, variances = _resample(own, resamples, rng)
        moved += totals - own.sum()
        variance_star += variances
    difference = math.fsum(contributions)
    stderr = math.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_values = np.nan_to_num(moved / np.sqrt(variance_star), nan=0.0, posinf=np.inf, neginf=-np.inf)
    t_values.sort()
    observed = abs(difference) / stderr if stderr else (math.inf if difference else 0.0)
    p_value = (1 + int((np.abs(t_values) >= observed).sum())) / (resamples + 1)
    gained, lost = int((values > 0).sum()), int((values < 0).sum())
    if gained + lost < FEW_CHANGES or not stderr:
        p_value = max(p_value, mcnemar_exact(gained, lost))
    return Bootstrap(difference, stderr, p_value, stderr * math.sqrt(count), t_values)


def _groups(strata: Sequence[str]) -> list[list[int]]:
    """Indices by stratum, in name order, strata below SMALLEST_STRATUM joined with those after them."""
    found: dict[str, list[int]] = {}
    for index, name in enumerate(strata):
        found.setdefault(name, []).append(index)
    large = [members for _, members in sorted(found.items()) if len(members) >= SMALLEST_STRATUM]
    joined: list[list[int]] = [[]]
    for _, members in sorted(found.items()):
        if len(members) < SMALLEST_STRATUM:
            if len(joined[-1]) >= SMALLEST_STRATUM:
                joined.append([])
            joined[-1].extend(members)
    if len(joined) > 1 and len(joined[-1]) < SMALLEST_STRATUM:
        joined[-2].extend(joined.pop())
    return large + [members for members in joined if members]


def _resample(values: Array, resamples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """(sum, estimated variance of that sum) of each resample of one stratum.

    Where there are few different values (right and wrong: -1, 0, 1), how often each is drawn is drawn at once.
    """
    import numpy as np

    size = len(values)
    if size < 2:
        return np.full(resamples, values.sum()), np.zeros(resamples)
    different, counts = np.unique(values, return_counts=True)
    if len(different) <= _FEW_VALUES:
        drawn = rng.multinomial(size, counts / size, size=resamples)
        totals, squares = drawn @ different, drawn @ different**2
    else:
        totals, squares = np.empty(resamples), np.empty(resamples)
        step = max(1, _CHUNK_VALUES // size)
        for start in range(0, resamples, step):
            picked = values[rng.integers(0, size, size=(min(step, resamples - start), size))]
            totals[start : start + step] = picked.sum(axis=1)
            squares[start : start + step] = (picked**2).sum(axis=1)
    variances = np.maximum(squares - totals**2 / size, 0.0) * size / (size - 1)
    variances[variances < 1e-15 * float((values**2).sum() or 1.0)] = 0.0  # rounding of equal values
    return totals, variances


def _quantile(ordered: Array, level: float) -> float:
    """The t* that a share ``level`` does not exceed, as an order statistic of so many and the observed one."""
    place = math.ceil((len(ordered) + 1) * level - 1e-9)
    return float(ordered[min(place, len(ordered)) - 1])
