"""What one step has shown: sums over the units of both sides, and what the sequential tests say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from serving.evidence import bounded, means, quantiles, ratio
from serving.evidence.bounded import Tally
from serving.evidence.comparison import Comparison, p_value
from serving.evidence.means import Moments
from serving.evidence.quantiles import Sketch
from serving.rollout.config import GuardrailConfig, RolloutConfig
from serving.rollout.decision import Finding
from serving.rollout.units import SIDES, Side, Unit

LATENCY_QUANTILE = 0.95
GAVE_UP_MARGIN = 0.02
"""Callers may leave the candidate in so many more of a hundred requests before its answers cannot be compared."""


class Measure:
    """One guardrail's sums on both sides, and the strongest evidence that they ever gave.

    Args:
        reference: sums of the baseline that are fixed before the step begins, where it has no users of its own.
    """

    def __init__(self, guardrail: GuardrailConfig, alpha: float, reference: Measure | None = None) -> None:
        self.guardrail = guardrail
        self.alpha = alpha
        self.sums: dict[Side, Tally | Moments | Sketch] = {side: _nothing(guardrail) for side in SIDES}
        if reference is not None:
            self.sums["baseline"] = reference.sums["baseline"]
        self._log_harm = 0.0
        self._log_pass = 0.0
        self.finding = self._compare()

    def fold(self, units: Iterable[Unit]) -> None:
        """Add units, then look once."""
        more: dict[Side, Tally | Moments | Sketch] = {side: _nothing(self.guardrail) for side in SIDES}
        for unit in units:
            more[unit.side] = _with(more[unit.side], unit, self.guardrail.metric)
        if any(sums.n for sums in more.values()):
            self.sums = {side: self.sums[side] + more[side] for side in SIDES}  # type: ignore[operator]
            self.finding = self._compare()

    def _compare(self) -> Finding:
        rail = self.guardrail
        result = self._test()
        self._log_harm = max(self._log_harm, result.log_e_harm)
        self._log_pass = max(self._log_pass, result.log_e_pass)
        return Finding(
            metric=rail.metric,
            test=rail.test,
            margin=rail.margin,
            relative=rail.relative,
            baseline_units=result.baseline_units,
            candidate_units=result.candidate_units,
            estimate=result.estimate,
            low=result.low,
            high=result.high,
            p_harm=p_value(self._log_harm),
            p_pass=p_value(self._log_pass),
        )

    def _test(self) -> Comparison:
        rail, margin = self.guardrail, self.guardrail.margin
        baseline, candidate = self.sums["baseline"], self.sums["candidate"]
        lower = rail.lower_is_better
        if isinstance(baseline, Sketch) and isinstance(candidate, Sketch):
            return quantiles.compare(
                baseline, candidate, quantile=LATENCY_QUANTILE, margin=margin, alpha=self.alpha, lower_is_better=lower
            )
        if isinstance(baseline, Tally) and isinstance(candidate, Tally):
            return bounded.compare(baseline, candidate, margin=margin, alpha=self.alpha, lower_is_better=lower)
        assert isinstance(baseline, Moments) and isinstance(candidate, Moments)
        return means.compare(
            baseline, candidate, margin=margin, alpha=self.alpha, lower_is_better=lower, relative=rail.relative
        )


def _nothing(guardrail: GuardrailConfig) -> Tally | Moments | Sketch:
    if guardrail.metric == "latency_p95_seconds":
        return Sketch()
    if guardrail.metric == "error_rate" or (guardrail.reported and guardrail.bounded):
        return Tally()
    return Moments()


def _with(sums: Tally | Moments | Sketch, unit: Unit, metric: str) -> Tally | Moments | Sketch:
    """With one more unit; unchanged where the unit does not have the metric."""
    if isinstance(sums, Sketch):
        return sums.add(unit.latencies, unit.waited)
    built_in = {"error_rate": unit.error_fraction, "first_token_seconds": unit.first, "token_seconds": unit.token}
    value = built_in[metric] if metric in built_in else unit.metrics.get(metric)
    return sums if value is None else sums.add(value)


class Evidence:
    """One step's.

    Args:
        config: the rollout's.
        share: the share of new users that the candidate should get, 0 … 1; None where only the candidate has users.
        reference: the last compared step, whose baseline's errors stand in for a baseline that has no users now.

    Attributes:
        sides: side -> units, requests, errors, retried, fallback, gave_up.
        excluded: ``side.reason`` -> requests left out.
        ratio_p: always-valid p-value of the sample ratio.
        gave_up_p: of "callers leave the candidate, before an answer begins, no more often than they may".
    """

    def __init__(self, config: RolloutConfig, share: float | None, reference: Evidence | None = None) -> None:
        self.config, self.share = config, share
        self.sides: dict[Side, Counter[str]] = {
            side: Counter(units=0, requests=0, errors=0, retried=0, fallback=0, gave_up=0) for side in SIDES
        }
        self.excluded: Counter[str] = Counter()
        self.assigned: Counter[Side] = Counter()
        self.ratio_p = self.gave_up_p = 1.0
        self.gave_up: dict[Side, Tally] = {side: Tally() for side in SIDES}
        if reference is not None:
            self.gave_up["baseline"] = reference.gave_up["baseline"]
        self.measures = [
            Measure(rail, config.alpha, reference.measure(rail.metric) if reference is not None else None)
            for rail in config.guardrails
            if share is not None or (rail.metric == "error_rate" and reference is not None)
        ]

    def measure(self, metric: str) -> Measure:
        """The sums of one guardrail."""
        return next(each for each in self.measures if each.guardrail.metric == metric)

    def findings(self) -> tuple[Finding, ...]:
        """What each guardrail's numbers say now."""
        return tuple(measure.finding for measure in self.measures)

    def fold(self, units: list[Unit], excluded: Mapping[str, int]) -> None:
        """Add closed units and the counts of what was left out."""
        self.excluded.update(excluded)
        if not units:
            return
        for unit in units:
            counts = self.sides[unit.side]
            counts["units"] += 1
            counts["requests"] += unit.requests
            counts["errors"] += unit.errors
            counts["retried"] += unit.retried
            counts["fallback"] += unit.fallback
            counts["gave_up"] += unit.gave_up
            self.gave_up[unit.side] = self.gave_up[unit.side].add(unit.gave_up_fraction)
            self.assigned[unit.side] += unit.fresh
        for measure in self.measures:
            measure.fold(units)
        if self.gave_up["candidate"].total:
            arms = (self.gave_up[side] for side in SIDES)
            found = bounded.compare(*arms, margin=GAVE_UP_MARGIN, alpha=self.config.alpha)
            self.gave_up_p = min(self.gave_up_p, found.p_harm)
        if self.share is not None:
            log_e = ratio.log_evidence([self.assigned[side] for side in SIDES], [1 - self.share, self.share])
            self.ratio_p = min(self.ratio_p, p_value(log_e))
