"""The documents that two evaluations share, with both values: what every paired test rests on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.errors import UserError
from evals.decide.metrics import common, direction, headline_metric
from evals.decide.reading import Key, Measured


@dataclass(frozen=True)
class Pair:
    """One document with A's and B's value, and what it weighs in their mean (held-out text: its bytes)."""

    key: Key
    a: float
    b: float
    weight: float = 1.0


def pair(a: Measured, b: Measured, suite: str, metric: str) -> list[Pair]:
    """The documents of a suite that both were asked, in A's order."""
    theirs = b.suites[suite]
    return [
        Pair(key, float(document.metrics[metric]), float(theirs[key].metrics[metric]), document.weight)
        for key, document in a.suites[suite].items()
        if key in theirs and metric in document.metrics and metric in theirs[key].metrics
    ]


def chosen_metric(a: Measured, b: Measured, suite: str, wanted: str | None) -> str | None:
    """The metric that judges a suite; None where nobody named one and there is none of both.

    A suite may have no number for each document (wikitext, BLEU), and in a partial evaluation no document at all.

    Raises:
        UserError: the one wanted was not measured, or is not a mean of its documents' values.
    """
    names = [
        sorted({metric for document in each.suites[suite].values() for metric in document.metrics}) for each in (a, b)
    ]
    both = common(names[0], names[1])
    if wanted and wanted not in both:
        raise UserError(
            f"{suite} has no {wanted} for each document of both",
            where=f"{a.name}, {b.name}",
            next_step=f"metrics of both: {', '.join(both) or 'none'}",
        )
    return wanted or (headline_metric(suite, both) if both else None)


def side_of(a: Measured, b: Measured, name: str, metric: str) -> int:
    """1 where more of a suite's or task's metric is better, -1 where less is, 0 where neither is or both disagree."""
    said = {direction(metric, told) for each in (a, b) if (told := each.sides(name)) is not None}
    return 0 if len(said) > 1 else next(iter(said), direction(metric))


def require_same_settings(a: Measured, b: Measured, suites: Sequence[str]) -> None:
    """Raise UserError where the two were asked differently: other prompts are another test."""
    ours, theirs = a.results["settings"], b.results["settings"]
    different = [
        f"{suite}: {words} {ours[key].get(suite)} against {theirs[key].get(suite)}"
        for key, words in (("num_fewshot", "worked examples"), ("task_versions", "task version"))
        for suite in suites
        if isinstance(ours.get(key), dict)
        and isinstance(theirs.get(key), dict)
        and ours[key].get(suite) != theirs[key].get(suite)
    ]
    drawn = [suite for suite in suites if any((each.get("num_fewshot") or {}).get(suite) for each in (ours, theirs))]
    if drawn and ours.get("seed") != theirs.get("seed"):
        different.append(
            f"{', '.join(drawn)}: worked examples drawn with seed {ours.get('seed')}, {theirs.get('seed')}"
        )
    if different:
        raise UserError(
            f"they were not asked alike: {'; '.join(different)}",
            where=f"{a.name}, {b.name}",
            next_step="evaluate both with the same settings, or compare all the same with --any-settings",
        )


def require_suites(a: Measured, b: Measured, named: Iterable[str], suites: Sequence[str]) -> None:
    """Raise UserError where somebody names a suite that is not among those of both."""
    for name in named:
        if name not in suites:
            raise UserError(
                f"{name} is not a suite of both",
                where=f"{a.name}, {b.name}",
                next_step=f"they share: {', '.join(suites) or 'none'}",
            )


def is_mean(measured: Measured, suite: str, metric: str) -> bool:
    """Whether the reported score is the mean of the documents' values: only then do their differences explain it."""
    recorded = measured.recorded(suite, metric)
    if recorded is None:
        return True
    rows = [each for each in measured.suites[suite].values() if metric in each.metrics]
    weight = math.fsum(each.weight for each in rows)
    return math.isclose(
        math.fsum(each.metrics[metric] * each.weight for each in rows) / weight, recorded, rel_tol=1e-6, abs_tol=1e-9
    )


def is_right_or_wrong(pairs: Sequence[Pair]) -> bool:
    """Whether every value is 0 or 1."""
    return all(value in (0.0, 1.0) for each in pairs for value in (each.a, each.b))


def are_shares(pairs: Sequence[Pair]) -> bool:
    """Whether every value lies between 0 and 1, so that no difference is larger than 1."""
    return all(0 <= value <= 1 for each in pairs for value in (each.a, each.b))


def by_task(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """The pairs by task, in order."""
    found: dict[str, list[Pair]] = {}
    for each in pairs:
        found.setdefault(each.key[0], []).append(each)
    return found
