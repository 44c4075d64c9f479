"""May this model replace that one? Targets and "not worse by more than", each shown, refuted, or open.

A target holds when the one-sided interval of the score lies on its good side; "not worse" (non-inferiority) when that
of the paired difference does. Every check has to pass, so each may be tested at ``alpha`` itself: a candidate that
breaks one gets past it with a chance of at most alpha (Berger 1982). A failure is a claim of its own for each check, so
those share alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal

from cluster.errors import UserError
from evals.decide.bootstrap import FEW_CHANGES, paired_bootstrap
from evals.decide.comparison import AVERAGE, judge_average
from evals.decide.metrics import common
from evals.decide.paired import tango_interval
from evals.decide.pairing import (
    Pair,
    are_shares,
    chosen_metric,
    is_mean,
    is_right_or_wrong,
    pair,
    require_same_settings,
    side_of,
)
from evals.decide.power import POWER
from evals.decide.reading import Measured
from evals.intervals import wilson

Verdict = Literal["pass", "fail", "no_evidence"]
EXIT_CODES: dict[Verdict, int] = {"pass": 0, "fail": 1, "no_evidence": 4}
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Condition:
    """A target: ``suite.metric`` compared with a number by ``<``, ``<=``, ``>`` or ``>=``."""

    metric: str
    comparison: str
    bound: float


@dataclass(frozen=True)
class Check:
    """One condition's outcome.

    Attributes:
        value: the score, or B - A; None where it was not measured.
        low, high: one-sided bounds of it at 1 - alpha, where documents are behind it.
        documents: on how many it rests.
        needs: documents that would show it four times in five if the value is as seen (a target) or the models are
            equal (not worse), where it is open and that is more than there are.
        note: what a reader has to know besides.
    """

    name: str
    condition: str
    verdict: Verdict
    value: float | None
    low: float | None = None
    high: float | None = None
    documents: int | None = None
    needs: int | None = None
    note: str = ""

    def record(self) -> dict[str, Any]:
        """The check as a decision keeps it; what does not apply is left out, and a bound that there is none of."""
        kept = {key: value for key, value in asdict(self).items() if value not in (None, "")}
        # JSON knows no infinity.
        return {key: value for key, value in kept.items() if not isinstance(value, float) or math.isfinite(value)}


@dataclass(frozen=True)
class GateResult:
    """What a gate says; see :func:`decide`."""

    verdict: Verdict
    checks: list[Check] = field(default_factory=list)


def decide(
    candidate: Measured,
    baseline: Measured | None,
    targets: Sequence[Condition],
    margins: Mapping[str, float],
    *,
    alpha: float = 0.05,
    measured: bool = False,
) -> GateResult:
    """Hold an evaluation against what is asked of it.

    Args:
        margins: ``suite.metric``, ``suite`` (its usual metric) or ``average`` -> how much worse than the baseline is
            accepted, in the metric's own unit (0.01 is a percentage point).
        measured: targets are met by the measured value alone, as ``raymill run`` reports them.

    Raises:
        UserError: nothing is asked, or a margin without a baseline.
    """
    if not targets and not margins:
        raise UserError(
            "there is nothing to decide by",
            where="raymill gate",
            next_step="write objective.targets or objective.not_worse in the recipe, or give --target or --not-worse",
        )
    if margins and baseline is None:
        raise UserError(
            f"{', '.join(margins)}: not worse than what?",
            where="raymill gate",
            next_step="name the baseline's evaluation as well",
        )
    claims = len(targets) + len(margins)
    checks = [check_target(candidate, target, alpha, claims, by_value=measured) for target in targets]
    if baseline is not None and margins:
        require_same_settings(baseline, candidate, common(baseline.suites, candidate.suites))
        checks += [check_not_worse(baseline, candidate, name, d, alpha, claims) for name, d in margins.items()]
    for each in (candidate, baseline):
        if each is not None and each.partial:
            checks.append(Check(f"evaluation of {each.name}", "complete", "no_evidence", None, note=each.partial))
    said = {check.verdict for check in checks}
    verdict: Verdict = "fail" if "fail" in said else "no_evidence" if "no_evidence" in said else "pass"
    return GateResult(verdict, checks)


def check_target(measured: Measured, target: Condition, alpha: float, claims: int, *, by_value: bool) -> Check:
    """One target, by the score's interval; by its value alone where it has none or ``by_value`` says so."""
    condition = f"{target.comparison} {target.bound:g}"
    value = measured.metrics.get(target.metric)
    if value is None:
        return Check(target.metric, condition, "no_evidence", None, note="was not measured")
    upward = target.comparison.startswith(">")
    met = (value >= target.bound) if upward else (value <= target.bound)
    if value == target.bound and "=" not in target.comparison:
        met = False
    suite, _, metric = target.metric.partition(".")
    documents = [each for each in measured.suites.get(suite, {}).values() if metric in each.metrics]
    note = ""
    if by_value:
        note = "by its measured value"
    elif len(documents) < 2:
        note = "no documents behind it: by its measured value"
    elif not is_mean(measured, suite, metric):
        # A perplexity's documents hold log-likelihoods: their mean is no bound of it.
        note = "not the mean of its documents' values: by its measured value"
    if note:
        return Check(target.metric, condition, "pass" if met else "fail", value, note=note)
    pairs = [
        Pair(key, 0.0, each.metrics[metric], each.weight)
        for key, each in measured.suites[suite].items()
        if metric in each.metrics
    ]
    bounds = _Bounds.of_score(pairs, alpha)
    strict = _Bounds.of_score(pairs, alpha / claims)
    sign = 1 if upward else -1
    verdict = _verdict(bounds, strict, target.bound, sign)
    needs = None
    if verdict == "no_evidence" and met:
        needs = _needs(bounds.spread, value - target.bound, alpha, len(pairs))
    return Check(target.metric, condition, verdict, value, bounds.low, bounds.high, len(pairs), needs)


def check_not_worse(
    baseline: Measured, candidate: Measured, name: str, margin: float, alpha: float, claims: int
) -> Check:
    """Non-inferiority on the same documents."""
    condition = f"not worse than the baseline by more than {margin:g}"
    if not margin > 0:
        raise UserError(
            f"the margin is {margin:g}", where=f"not_worse: {name}", next_step="give a number above 0: what is accepted"
        )
    if name == AVERAGE:
        return _average_not_worse(baseline, candidate, condition, margin, alpha, claims)
    suite, _, wanted = name.partition(".")
    if suite not in candidate.suites or suite not in baseline.suites:
        return Check(name, condition, "no_evidence", None, note="was not measured on both")
    metric = chosen_metric(baseline, candidate, suite, wanted or None)
    if metric is None:
        return Check(name, condition, "no_evidence", None, note="no metric has a value for the documents of both")
    pairs = pair(baseline, candidate, suite, metric)
    if len(pairs) < 2:
        return Check(name, condition, "no_evidence", None, note="no documents in common")
    if not all(is_mean(each, suite, metric) for each in (baseline, candidate)):
        return Check(name, condition, "no_evidence", None, note=f"{metric} is not the mean of its documents' values")
    sign = side_of(baseline, candidate, suite, metric)
    if not sign:
        return Check(name, condition, "no_evidence", None, note=f"nothing says which side of {metric} is better")
    bounds = _Bounds.of_difference(pairs, alpha)
    verdict = _verdict(bounds, _Bounds.of_difference(pairs, alpha / claims), -sign * margin, sign)
    needs = _needs(bounds.spread, margin, alpha, len(pairs)) if verdict == "no_evidence" else None
    return Check(name, condition, verdict, bounds.value, bounds.low, bounds.high, len(pairs), needs)


def _average_not_worse(
    baseline: Measured, candidate: Measured, condition: str, margin: float, alpha: float, claims: int
) -> Check:
    judged = {}
    for suite in common(baseline.suites, candidate.suites):
        metric = chosen_metric(baseline, candidate, suite, None)
        if metric is None:
            continue
        pairs = pair(baseline, candidate, suite, metric)
        means = pairs and all(is_mean(each, suite, metric) for each in (baseline, candidate))
        if means and side_of(baseline, candidate, suite, metric) > 0 and are_shares(pairs):
            judged[suite] = pairs
    if not judged:
        return Check(AVERAGE, condition, "no_evidence", None, note="no suite was measured on both")
    row, found = judge_average(judged, alpha)
    bounds = _Bounds(row.difference, found.lower(1 - alpha), found.upper(1 - alpha), found.spread)
    strict = _Bounds(row.difference, found.lower(1 - alpha / claims), found.upper(1 - alpha / claims), found.spread)
    verdict = _verdict(bounds, strict, -margin, 1)
    needs = _needs(bounds.spread, margin, alpha, row.documents) if verdict == "no_evidence" else None
    return Check(AVERAGE, condition, verdict, row.difference, bounds.low, bounds.high, row.documents, needs)


@dataclass(frozen=True)
class _Bounds:
    """A value with one-sided bounds, and the standard deviation of what a single document says of it."""

    value: float
    low: float
    high: float
    spread: float

    @classmethod
    def of_score(cls, pairs: Sequence[Pair], alpha: float) -> _Bounds:
        """Bounds of B's score: Wilson's where every answer is right or wrong, else the bootstrap's."""
        if is_right_or_wrong(pairs):
            share = math.fsum(each.b for each in pairs) / len(pairs)
            low, high = wilson(share * len(pairs), len(pairs), 1 - 2 * alpha)
            return cls(share, low, high, math.sqrt(share * (1 - share)))
        return cls._bootstrap(pairs, alpha)

    @classmethod
    def of_difference(cls, pairs: Sequence[Pair], alpha: float) -> _Bounds:
        """Bounds of B - A: Tango's for one task of right and wrong, else the bootstrap's.

        Where few documents changed, the bootstrap's one-sided bounds are a little too narrow (docs/evaluation.md), so
        that those of a group are then no narrower than Tango's.
        """
        if not is_right_or_wrong(pairs):
            return cls._bootstrap(pairs, alpha)
        gained, lost = sum(each.b > each.a for each in pairs), sum(each.b < each.a for each in pairs)
        low, high = tango_interval(gained, lost, len(pairs), 1 - 2 * alpha)
        if len({each.key[0] for each in pairs}) == 1:
            difference = (gained - lost) / len(pairs)
            return cls(difference, low, high, math.sqrt((gained + lost) / len(pairs) - difference**2))
        found = cls._bootstrap(pairs, alpha)
        if gained + lost >= FEW_CHANGES:
            return found
        return replace(found, low=min(low, found.low), high=max(high, found.high))

    @classmethod
    def _bootstrap(cls, pairs: Sequence[Pair], alpha: float) -> _Bounds:
        total = math.fsum(each.weight for each in pairs)
        found = paired_bootstrap(
            [each.b - each.a for each in pairs],
            [each.key[0] for each in pairs],
            [each.weight / total for each in pairs],
        )
        return cls(found.difference, found.lower(1 - alpha), found.upper(1 - alpha), found.spread)


def _verdict(bounds: _Bounds, strict: _Bounds, bound: float, sign: int) -> Verdict:
    """Shown to lie on the good side of ``bound`` (above it for sign 1), shown to lie on the bad one, or open."""
    good, bad = (bounds.low, strict.high) if sign > 0 else (-bounds.high, -strict.low)
    if good >= sign * bound:
        return "pass"
    return "fail" if bad < sign * bound else "no_evidence"


def _needs(spread: float, distance: float, alpha: float, documents: int) -> int | None:
    """Documents with which something ``distance`` away from its bound is shown, one-sided, with the usual power.

    None where it would be no more than the ``documents`` that have just not shown it.
    """
    if not distance or not spread:
        return None
    needed = math.ceil(((_NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(POWER)) * spread / distance) ** 2)
    return needed if needed > documents else None
