"""Votes for one of two answers, by a judge or by people: counted, tested, and checked for what should not sway them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evals.decide.paired import mcnemar_exact, tango_interval
from evals.decide.power import POWER, detectable_difference, documents_needed
from evals.decide.reading import Key
from evals.intervals import wilson

Choice = Literal["a", "b", "tie"]


@dataclass(frozen=True)
class Tally:
    """How often each model was preferred.

    Attributes:
        difference: share of documents where B won minus share where A won; ``interval`` is Tango's at 95 %.
        p_value: the sign test's (McNemar's exact test on wins); ties say nothing about which is better.
        detectable, decides: as of a comparison's row.
    """

    documents: int
    a_wins: int
    b_wins: int
    ties: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    detectable: float | None
    decides: int | None
    verdict: Literal["better", "worse", "no evidence"]


def tally(votes: Iterable[Choice], alpha: float = 0.05) -> Tally:
    """Count votes, one a document, and test whether B is preferred."""
    counts = Counter(votes)
    n, a, b = counts.total(), counts["a"], counts["b"]
    if n == 0:
        raise ValueError("there are no votes")
    p_value = mcnemar_exact(b, a)
    verdict: Literal["better", "worse", "no evidence"] = "no evidence"
    if p_value <= alpha:
        verdict = "better" if b > a else "worse"
    share = (a + b) / n
    return Tally(
        n,
        a,
        b,
        counts["tie"],
        (b - a) / n,
        tango_interval(b, a, n, 1 - alpha),
        p_value,
        detectable_difference(n, share, alpha),
        documents_needed((b - a) / n, share, alpha),
        verdict,
    )


def majority(votes: Sequence[Choice]) -> Choice:
    """What most of several voters said of one document; without a plurality it is a tie."""
    ((first, most), *rest) = Counter(votes).most_common()
    return "tie" if rest and rest[0][1] == most else first


def krippendorff_alpha(units: Iterable[Sequence[str]]) -> float | None:
    """Agreement of any number of voters on nominal values (Krippendorff 2011): 1 is perfect, 0 is chance.

    Args:
        units: the votes on each document, however many there are; documents with fewer than two say nothing.

    Returns:
        None where nothing was voted on twice, or where only one value was ever given.
    """
    coincidences: Counter[tuple[str, str]] = Counter()
    for votes in units:
        if len(votes) < 2:
            continue
        counts = Counter(votes)
        for first, n_first in counts.items():
            for second, n_second in counts.items():
                coincidences[first, second] += n_first * (n_second - (first == second)) / (len(votes) - 1)  # type: ignore[assignment]
    totals: Counter[str] = Counter()
    for (first, _), weight in coincidences.items():
        totals[first] += weight
    n = math.fsum(totals.values())
    expected = n * n - math.fsum(value**2 for value in totals.values())
    if n < 2 or expected == 0:
        return None
    observed = math.fsum(weight for (first, second), weight in coincidences.items() if first != second)
    return 1 - (n - 1) * observed / expected


@dataclass(frozen=True)
class LengthBias:
    """Whether the longer answer wins more often than it should.

    Attributes:
        longer_wins: of documents that were decided and whose answers differ in length, how many the longer one won.
        share, interval: the same as a share, with Wilson's 95 % interval.
        shown: the interval leaves out a half.
        difference_alike: B's lead where the lengths differ by at most a tenth, None where there is none such.
    """

    decided: int
    longer_wins: int
    share: float | None
    interval: tuple[float, float] | None
    shown: bool
    difference_alike: float | None


def length_bias(votes: Mapping[Key, Choice], lengths: Mapping[Key, tuple[int, int]]) -> LengthBias:
    """Hold votes against the lengths of A's and B's answers.

    A better model may well write more, so that this is a warning and not a correction: look at the lead among answers
    of about the same length.
    """
    decided = [
        (vote, lengths[key]) for key, vote in votes.items() if vote != "tie" and lengths[key][0] != lengths[key][1]
    ]
    longer = sum((vote == "b") == (b > a) for vote, (a, b) in decided)
    bounds = wilson(longer, len(decided)) if decided else None
    alike = [vote for key, vote in votes.items() if abs(lengths[key][1] - lengths[key][0]) <= 0.1 * max(lengths[key])]
    lead = (alike.count("b") - alike.count("a")) / len(alike) if alike else None
    shown = bounds is not None and not bounds[0] <= 0.5 <= bounds[1]
    return LengthBias(len(decided), longer, longer / len(decided) if decided else None, bounds, shown, lead)


def tally_lines(found: Tally, a: str, b: str) -> list[str]:
    """A tally in words."""
    lead = f"{b} won {found.b_wins:,}, {a} won {found.a_wins:,}, {found.ties:,} ties of {found.documents:,} documents"
    low, high = (100 * end for end in found.interval)
    lines = [
        lead,
        f"lead of {b}: {100 * found.difference:+.1f} points ({low:+.1f} to {high:+.1f}), p = {found.p_value:.4f}",
    ]
    if found.verdict == "no evidence":
        more = (
            f"; {found.decides:,} documents would decide a lead like this {POWER:.0%} of the time"
            if found.decides
            else ""
        )
        least = f"; a lead of {100 * found.detectable:.1f} points would have been found" if found.detectable else ""
        lines.append(f"no evidence either way{least}{more}")
    else:
        lines.append(f"{b} is {found.verdict}")
    return lines


def vote_rows(votes: Mapping[Key, Choice], by: str) -> list[dict[str, Any]]:
    """Votes as plain values, one a document, to be kept and compared."""
    return [
        {"task": task, "doc_hash": doc_hash, "number": number, "vote": vote, "by": by}
        for (task, doc_hash, number), vote in votes.items()
    ]
