"""How often the tests err when somebody looks after every single user: simulated steps of a rollout.

Looking at millions of states one by one would take hours. While a hypothesis is true, the evidence against it is at
most what it is at the true parameters, which closed forms give for all looks at once: only looks at which that bound
reaches the threshold can be alarms, and those are put to the comparisons themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, gammaln

from serving.evidence import bounded, means, quantiles, ratio
from serving.evidence.bounded import Tally
from serving.evidence.comparison import Comparison
from serving.evidence.means import Moments
from serving.evidence.quantiles import Sketch

CHUNK = 2_000_000

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""Independent values of users, runs x users."""


@dataclass(frozen=True)
class Scenario:
    """Users who arrive one by one and are split between two arms.

    Attributes:
        name: for the table.
        draw: a user's value on the baseline: an outcome in [0, 1], a number, or seconds.
        truth: its mean (rates and means) or its quantile (quantiles).
        effect: what the candidate adds to the value (means), or its factor - 1 on seconds (quantiles); 0 is A/A.
        candidate: a candidate's own draw, for rates with an effect: their truth is ``truth + effect``.
        share: of the users on the candidate.
        users: in each run.
        every: users between two looks.
    """

    name: str
    draw: Draw
    truth: float
    effect: float = 0.0
    candidate: Draw | None = None
    share: float = 0.5
    users: int = 2000
    every: int = 1


@dataclass(frozen=True)
class Errors:
    """What continuous looking brought about.

    Attributes:
        runs: simulated steps.
        harm: runs in which harm beyond the true effect was ever alleged.
        missed: runs whose confidence sequence ever left out the true effect.
        naive: runs in which a fixed-sample z-test at the same level ever did so (nan where there is none).
        alpha: what each of the first two may be at most, as a share of the runs.
    """

    scenario: str
    runs: int
    harm: int
    missed: int
    naive: float
    alpha: float


@dataclass
class _Stream:
    """One chunk of runs: values and arms, runs x users, and at which users somebody looks."""

    values: np.ndarray
    arm: np.ndarray
    looks: np.ndarray

    def total(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums up to each look of the baseline's and of the candidate's."""
        new = np.cumsum(np.where(self.arm, of, 0.0), axis=1)[:, self.looks]
        return np.cumsum(of, axis=1)[:, self.looks] - new, new

    def users(self) -> tuple[np.ndarray, np.ndarray]:
        """Users of each arm up to each look."""
        new = np.cumsum(self.arm, axis=1)[:, self.looks]
        return self.looks + 1 - new, new

    def seen(self, run: int, look: int) -> tuple[np.ndarray, np.ndarray]:
        """The values of each arm that this look sees."""
        upto = self.looks[look] + 1
        values, arm = self.values[run, :upto], self.arm[run, :upto]
        return values[~arm], values[arm]


def errors_of_rates(scenario: Scenario, runs: int, alpha: float, seed: int) -> Errors:
    """Outcomes in [0, 1]."""

    def bound(stream: _Stream) -> np.ndarray:
        (n_old, n_new), (s_old, s_new) = stream.users(), stream.total(stream.values)
        truths = scenario.truth, scenario.truth + scenario.effect
        mixed = np.logaddexp(
            _log_beta_of(n_old + n_new, s_old + s_new), _log_beta_of(n_old, s_old) + _log_beta_of(n_new, s_new)
        )
        likelihood = sum(
            s * math.log(p) + (n - s) * math.log1p(-p)
            for n, s, p in zip((n_old, n_new), (s_old, s_new), truths, strict=True)
        )
        return np.asarray(mixed - math.log(2) - likelihood)

    def compare(old: np.ndarray, new: np.ndarray) -> Comparison:
        arms = Tally(old.size, float(old.sum())), Tally(new.size, float(new.sum()))
        return bounded.compare(*arms, margin=scenario.effect, harm=scenario.effect, alpha=alpha)

    return _count(scenario, runs, alpha, seed, bound, compare)


def _log_beta_of(n: np.ndarray, total: np.ndarray) -> np.ndarray:
    a = bounded.PRIOR
    return np.asarray(betaln(a + total, a + np.maximum(n - total, 0)) - betaln(a, a))


def errors_of_means(scenario: Scenario, runs: int, alpha: float, seed: int) -> Errors:
    """Values whose means are compared; before the burn-in there are no alarms."""

    def bound(stream: _Stream) -> np.ndarray:
        counts = stream.users()
        ready = np.minimum(*counts) >= means.BURN_IN
        n = [count[ready].astype(float) for count in counts]
        first, second, third = (
            [part[ready] / count for part, count in zip(stream.total(stream.values**power), n, strict=True)]
            for power in (1, 2, 3)
        )
        spread = [np.maximum(square - mean**2, 0) for mean, square in zip(first, second, strict=True)]
        cubes = [cube - 3 * a * b + 2 * a**3 for a, b, cube in zip(first, second, third, strict=True)]
        m2, m3 = (sum(part * count for part, count in zip(parts, n, strict=True)) for parts in (spread, cubes))
        needed = means.BURN_IN + means.SKEWED_UNITS * (n[0] + n[1]) * m3**2 / np.maximum(m2, 1e-300) ** 3
        parts = [part / (count - 1) for part, count in zip(spread, n, strict=True)]
        variance = np.maximum(parts[0] + parts[1], 1e-300)
        freedom = variance**2 / (parts[0] ** 2 / (n[0] - 1) + parts[1] ** 2 / (n[1] - 1) + 1e-300)
        gain = means.PRIOR_SPREAD**2 / (1 / n[0] + 1 / n[1])
        fit = (first[1] - first[0] - scenario.effect) ** 2 / variance / freedom
        fall = np.log1p(fit) - np.log1p(fit / (1 + gain))
        evidence = np.full(counts[0].shape, -np.inf)
        # rounding of the sums of powers may not hide an alarm
        begun = np.minimum(*n) >= needed * 0.999
        evidence[ready] = np.where(begun, (freedom + 1) / 2 * fall - np.log1p(gain) / 2 + 1e-6, -np.inf)
        return evidence

    def compare(old: np.ndarray, new: np.ndarray) -> Comparison:
        return means.compare(_moments(old), _moments(new), margin=scenario.effect, harm=scenario.effect, alpha=alpha)

    return _count(scenario, runs, alpha, seed, bound, compare)


def _moments(values: np.ndarray) -> Moments:
    off = values - values.mean()
    return Moments(values.size, float(values.mean()), float((off**2).sum()), float((off**3).sum()))


def errors_of_quantiles(scenario: Scenario, runs: int, alpha: float, seed: int, quantile: float = 0.95) -> Errors:
    """Seconds whose quantiles are compared."""
    factor = 1 + scenario.effect
    places = [quantiles.bin_of(scenario.truth), quantiles.bin_of(scenario.truth * factor)]

    def bound(stream: _Stream) -> np.ndarray:
        evidence = np.zeros(stream.users()[0].shape)
        for side, place in enumerate(places):
            n = stream.users()[side]
            edges = (quantiles.SHORTEST * math.exp((place + end) * quantiles.STEP) for end in (0, 1))
            lower, upper = (stream.total(np.where(stream.values <= edge, 1.0, 0.0))[side] for edge in edges)
            evidence += quantiles.log_evidence_at(lower, upper, n, quantile)
        return evidence

    def compare(old: np.ndarray, new: np.ndarray) -> Comparison:
        arms = _sketch(old), _sketch(new)
        return quantiles.compare(*arms, margin=scenario.effect, harm=scenario.effect, alpha=alpha, quantile=quantile)

    return _count(scenario, runs, alpha, seed, bound, compare)


def _sketch(values: np.ndarray) -> Sketch:
    bins, counts = np.unique([quantiles.bin_of(value) for value in values], return_counts=True)
    return Sketch(values.size, dict(zip(bins.tolist(), counts.astype(float).tolist(), strict=True)))


def errors_of_ratio(share: float, actual: float, users: int, runs: int, alpha: float, seed: int) -> float:
    """Share of runs in which a mismatch is ever alleged where ``share`` was promised and ``actual`` holds."""
    rng = np.random.default_rng(seed)
    alarms = 0
    for size in _chunks(runs, users):
        new = np.cumsum(rng.random((size, users)) < actual, axis=1)
        total = np.arange(1, users + 1)
        bets = []
        for strength in ratio.CONCENTRATIONS:
            bet = gammaln(strength) - gammaln(strength + total)
            for count, part in ((total - new, 1 - share), (new, share)):
                bet = bet + gammaln(strength * part + count) - gammaln(strength * part) - count * math.log(part)
            bets.append(bet)
        peaks = np.argmax(np.logaddexp(*bets), axis=1)
        for run, look in enumerate(peaks):
            counts = [int(total[look] - new[run, look]), int(new[run, look])]
            alarms += ratio.log_evidence(counts, [1 - share, share]) >= math.log(1 / alpha)
    return alarms / runs


def _count(
    scenario: Scenario,
    runs: int,
    alpha: float,
    seed: int,
    bound: Callable[[_Stream], np.ndarray],
    compare: Callable[[np.ndarray, np.ndarray], Comparison],
) -> Errors:
    rng = np.random.default_rng(seed)
    threshold = math.log(1 / alpha)
    harm = missed = naive = 0
    for size in _chunks(runs, scenario.users):
        stream = _stream(scenario, rng, size)
        possible = bound(stream) >= threshold - 1e-9
        for run in np.flatnonzero(possible.any(axis=1)):
            harmed = left = False
            for look in np.flatnonzero(possible[run]):
                found = compare(*stream.seen(run, look))
                harmed = harmed or found.log_e_harm >= threshold
                left = left or harmed or found.log_e_pass >= threshold
                if harmed:
                    break
            harm += harmed
            missed += left
        naive += int(_naive(stream, scenario, alpha).any(axis=1).sum())
    return Errors(scenario.name, runs, harm, missed, naive / runs, alpha)


def _stream(scenario: Scenario, rng: np.random.Generator, runs: int) -> _Stream:
    shape = (runs, scenario.users)
    arm = rng.random(shape) < scenario.share
    values = scenario.draw(rng, shape)
    if scenario.candidate is not None:
        values = np.where(arm, scenario.candidate(rng, shape), values)
    return _Stream(values, arm, np.arange(scenario.every - 1, scenario.users, scenario.every))


def _naive(stream: _Stream, scenario: Scenario, alpha: float) -> np.ndarray:
    """Whether the usual z-test for a difference of means rejects the true one, at each look from 30 users a side on."""
    from scipy.stats import norm

    counts, sums, squares = stream.users(), stream.total(stream.values), stream.total(stream.values**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = [total / n for total, n in zip(sums, counts, strict=True)]
        variance = sum((square / n - m**2) / n for square, n, m in zip(squares, counts, mean, strict=True))
        z = (mean[1] - mean[0] - (scenario.effect if scenario.candidate else 0.0)) / np.sqrt(variance)
    return (np.abs(z) > norm.isf(alpha / 2)) & (np.minimum(*counts) >= 30)


def _chunks(runs: int, users: int) -> list[int]:
    size = max(1, CHUNK // users)
    return [min(size, runs - start) for start in range(0, runs, size)]
