"""B against A on the same documents: differences with intervals, corrected p-values, and a verdict in words.

Right-or-wrong metrics of one task are tested by McNemar's exact test; everything else (probabilities, groups of tasks,
the average of suites) by the stratified paired bootstrap. One metric a suite, and their average, make the family that
Holm's method corrects; the tasks of a group make a family of their own, for looking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cluster.errors import UserError
from evals.decide.bootstrap import Bootstrap, paired_bootstrap
from evals.decide.holm import holm
from evals.decide.metrics import common
from evals.decide.paired import mcnemar_exact, tango_interval
from evals.decide.pairing import (
    Pair,
    are_shares,
    by_task,
    chosen_metric,
    is_mean,
    is_right_or_wrong,
    pair,
    require_same_settings,
    require_suites,
    side_of,
)
from evals.decide.power import detectable_difference, detectable_mean, documents_needed, documents_needed_mean
from evals.decide.reading import Document, Key, Measured

Verdict = Literal["better", "worse", "different", "no evidence"]
AVERAGE = "average"
ALPHA = 0.05
SEED = 1234


@dataclass(frozen=True)
class Row:
    """One test.

    Attributes:
        name: the suite, the task, or ``average``.
        test: ``mcnemar`` or ``bootstrap``.
        documents: those that both were asked, on which everything else rests.
        difference: B's score minus A's; ``interval`` is of it, at 1 - alpha, not corrected for the other tests.
        gained, lost: documents on which B did better, and worse, than A; where no side is better, higher and lower.
        detectable: the true difference that would have been found four times in five, given the correction.
        decides: documents that would find a difference as large as the one seen, four times in five.
        side: 1 where more is better, -1 where less is, 0 where neither is.
        in_points: whether it is a share, whose differences are told in percentage points.
    """

    name: str
    metric: str
    test: str
    documents: int
    a: float
    b: float
    difference: float
    stderr: float
    interval: tuple[float, float]
    gained: int
    lost: int
    p_value: float
    adjusted: float = math.nan
    detectable: float | None = None
    decides: int | None = None
    verdict: Verdict = "no evidence"
    side: int = 1
    in_points: bool = True


@dataclass(frozen=True)
class Flip:
    """A document on which right turned wrong or wrong right; of shares of which more is better, a half was crossed."""

    key: Key
    a: Document
    b: Document
    gained: bool


@dataclass(frozen=True)
class Comparison:
    """Everything that `raymill compare` says.

    Attributes:
        rows: one a suite, and the average of them where there are several.
        tasks: suite -> one row a task, for suites of several tasks.
        flipped: suite -> the documents whose answer changed from right to wrong or back, where that can be said.
        left_out: what could not be compared, in words.
        verdict: better, worse, mixed, or no evidence.
    """

    a: Measured
    b: Measured
    alpha: float
    rows: list[Row]
    tasks: dict[str, list[Row]]
    flipped: dict[str, list[Flip]]
    left_out: list[str]
    verdict: str


def compare(
    a: Measured,
    b: Measured,
    *,
    metrics: Mapping[str, str] | None = None,
    alpha: float = ALPHA,
    any_settings: bool = False,
    seed: int = SEED,
) -> Comparison:
    """Compare two evaluations.

    Args:
        metrics: suite -> the metric to judge it by, where the usual one is not meant.
        any_settings: compare although they were asked differently (worked examples, versions of the tasks).

    Raises:
        UserError: they have no documents in common, or were not asked alike.
    """
    suites = common(a.suites, b.suites)
    require_suites(a, b, metrics or {}, suites)
    left_out = [
        f"{name}: only {each.name} has it"
        for each, other in ((a, b), (b, a))
        for name in each.suites
        if name not in other.suites
    ]
    left_out += [f"{each.name} is PARTIAL: {each.partial}" for each in (a, b) if each.partial]
    if not any_settings:
        require_same_settings(a, b, suites)
    rows: list[Row] = []
    tasks: dict[str, list[Row]] = {}
    flipped: dict[str, list[Flip]] = {}
    judged: dict[str, list[Pair]] = {}
    for suite in suites:
        metric = chosen_metric(a, b, suite, (metrics or {}).get(suite))
        if metric is None:
            left_out.append(f"{suite}: {_without_documents(a, b, suite)}")
            continue
        pairs = pair(a, b, suite, metric)
        if not pairs:
            left_out.append(f"{suite}: no document in common")
            continue
        unmatched = len(a.suites[suite]) + len(b.suites[suite]) - 2 * len(pairs)
        if unmatched:
            left_out.append(f"{suite}: {unmatched:,} documents that only one of the two was asked")
        if not all(is_mean(each, suite, metric) for each in (a, b)):
            left_out.append(f"{suite}: {metric} is not the mean of its documents' values")
            continue
        tasks_of = by_task(pairs)
        rows.append(judge_pairs(suite, metric, pairs, alpha, seed, side_of(a, b, suite, metric)))
        if len(tasks_of) > 1:
            tasks[suite] = corrected(
                [
                    judge_pairs(task, metric, own, alpha, seed, side_of(a, b, task, metric))
                    for task, own in sorted(tasks_of.items())
                ],
                alpha,
            )
        judged[suite] = pairs
        if turns(pairs, rows[-1].side):
            flipped[suite] = flips(a, b, suite, pairs, rows[-1].side)
    if not rows:
        raise UserError(
            "nothing that both measured can be compared:\n  " + "\n  ".join(left_out or ["no suite is in both"]),
            where=f"{a.name}, {b.name}",
            next_step="evaluate both on the same suites and questions; --metric judges a suite by another metric",
        )
    averaged = {row.name: judged[row.name] for row in rows if row.side > 0 and row.in_points}
    if len(averaged) > 1:
        rows.append(judge_average(averaged, alpha, seed)[0])
    rows = corrected(rows, alpha)
    return Comparison(a, b, alpha, rows, tasks, flipped, left_out, overall(rows))


def _without_documents(a: Measured, b: Measured, suite: str) -> str:
    """Why a suite has no value for each document, as BLEU over a whole set has none."""
    told = [
        f"{metric} {first:.4g} and {second:.4g}"
        for metric in a.results["tasks"].get(suite, {})
        if (first := a.recorded(suite, metric)) is not None and (second := b.recorded(suite, metric)) is not None
    ]
    if not told or not a.suites[suite] or not b.suites[suite]:
        return "no metric has a value for the documents of both"
    return f"{', '.join(told)} are figures of the whole set: without a value for each document no test tells them apart"


def turns(pairs: Sequence[Pair], side: int) -> bool:
    """Whether something says which answers are right, so that they can turn."""
    return side != 0 and (is_right_or_wrong(pairs) or (side > 0 and are_shares(pairs)))


def flips(a: Measured, b: Measured, suite: str, pairs: Sequence[Pair], side: int) -> list[Flip]:
    """The documents of a suite whose answer turned."""
    return [
        Flip(each.key, a.suites[suite][each.key], b.suites[suite][each.key], (each.b > each.a) == (side > 0))
        for each in pairs
        if (each.a >= 0.5) != (each.b >= 0.5)
    ]


def judge_pairs(name: str, metric: str, pairs: Sequence[Pair], alpha: float, seed: int, side: int) -> Row:
    """One suite or task, not yet corrected for the others."""
    count = len(pairs)
    up, down = sum(each.b > each.a for each in pairs), sum(each.b < each.a for each in pairs)
    gained, lost = (down, up) if side < 0 else (up, down)
    total = math.fsum(each.weight for each in pairs)
    weights = [each.weight / total for each in pairs]
    a = math.fsum(each.a * weight for each, weight in zip(pairs, weights, strict=True))
    b = math.fsum(each.b * weight for each, weight in zip(pairs, weights, strict=True))
    row = Row(
        *(name, metric, "mcnemar", count, a, b, b - a, math.nan, (-math.inf, math.inf), gained, lost, 1.0),
        side=side,
        in_points=is_right_or_wrong(pairs) or (side >= 0 and are_shares(pairs)),
    )
    if is_right_or_wrong(pairs) and len(by_task(pairs)) == 1:
        # Of B - A, whichever way is better.
        stderr = math.sqrt(up + down - (up - down) ** 2 / count) / count
        exact = tango_interval(up, down, count, 1 - alpha)
        return replace(row, stderr=stderr, interval=exact, p_value=mcnemar_exact(up, down))
    if count < 2:
        return replace(row, test="bootstrap")
    found = paired_bootstrap([each.b - each.a for each in pairs], [each.key[0] for each in pairs], weights, seed=seed)
    low, high = found.interval(1 - alpha)
    if are_shares(pairs):
        low, high = max(low, -1.0), min(high, 1.0)
    return replace(row, test="bootstrap", stderr=found.stderr, interval=(low, high), p_value=found.p_value)


def judge_average(judged: Mapping[str, Sequence[Pair]], alpha: float, seed: int = SEED) -> tuple[Row, Bootstrap]:
    """The plain average of the suites' scores, as leaderboards take it, and the bootstrap behind it.

    A document that stands in several suites (TruthfulQA's in mc1 and mc2) is drawn as one: its results belong together.
    """
    moved: dict[tuple[str, int], float] = {}
    tasks: dict[tuple[str, int], set[str]] = {}
    a = b = 0.0
    for pairs in judged.values():
        share = 1 / len(pairs) / len(judged)
        for each in pairs:
            task, doc_hash, number = each.key
            moved[doc_hash, number] = moved.get((doc_hash, number), 0.0) + (each.b - each.a) * share
            tasks.setdefault((doc_hash, number), set()).add(task)
            a, b = a + each.a * share, b + each.b * share
    strata = ["+".join(sorted(tasks[unit])) for unit in moved]
    found = paired_bootstrap([*moved.values()], strata, [1.0] * len(moved), seed=seed)
    low, high = found.interval(1 - alpha)
    gained, lost = sum(each > 0 for each in moved.values()), sum(each < 0 for each in moved.values())
    if all(are_shares(pairs) for pairs in judged.values()):
        low, high = max(low, -1.0), min(high, 1.0)
    row = Row(
        AVERAGE,
        "mean",
        "bootstrap",
        len(moved),
        a,
        b,
        found.difference,
        found.stderr,
        (low, high),
        gained,
        lost,
        found.p_value,
    )
    return row, found


def corrected(rows: Sequence[Row], alpha: float) -> list[Row]:
    """The rows with Holm's correction, what each could have seen, and its verdict."""
    strictest = alpha / len(rows) if rows else alpha
    finished = []
    for row, adjusted in zip(rows, holm([row.p_value for row in rows]), strict=True):
        share = (row.gained + row.lost) / row.documents
        if row.test == "mcnemar":
            detectable = detectable_difference(row.documents, share, strictest)
            decides = documents_needed(row.difference, share, strictest)
        else:
            known = row.stderr > 0  # not so where there was one document, or all differ alike
            detectable = detectable_mean(row.stderr, strictest) if known else None
            spread = row.stderr * math.sqrt(row.documents)
            decides = documents_needed_mean(row.difference, spread, strictest) if known else None
        verdict: Verdict = "no evidence"
        if adjusted <= alpha and row.difference:
            side = row.side * row.difference
            verdict = "better" if side > 0 else "worse" if side < 0 else "different"
        finished.append(replace(row, adjusted=adjusted, detectable=detectable, decides=decides, verdict=verdict))
    return finished


def overall(rows: Sequence[Row]) -> str:
    """better, worse, mixed or no evidence: what Holm's method lets one say of all rows together."""
    said = {row.verdict for row in rows} & {"better", "worse"}
    return "mixed" if len(said) > 1 else next(iter(said), "no evidence")
