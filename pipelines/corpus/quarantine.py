"""Input that could not be used: counted, kept in a table with its place, reason and first bytes, and bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cluster.errors import UserError
from pipelines.corpus.documents import FIRST_BYTES, Problem
from pipelines.corpus.source import DeclaredSource, SourceBase

SAMPLES_PER_REASON = 3
LONGEST_EXPLANATION = 1000
"""Characters of what a library says of an input; some quote all of it."""
HOPELESS = 1000
"""So many bad inputs before the first document, and the rest is not looked at."""


@dataclass
class Bad:
    """What was quarantined: how often for which reason, and a few examples of each."""

    reasons: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[Problem]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Bad inputs in all."""
        return self.reasons.total()

    def add(self, problem: Problem) -> None:
        """Count a problem; only the first few are kept as they are."""
        self.reasons[problem.reason] += 1
        self._sample(problem)

    @classmethod
    def total(cls, several: Iterable[Bad]) -> Bad:
        """The sum, with the samples of the first."""
        whole = cls()
        for each in several:
            whole.reasons.update(each.reasons)
            for problem in [problem for problems in each.samples.values() for problem in problems]:
                whole._sample(problem)
        return whole

    def _sample(self, problem: Problem) -> None:
        samples = self.samples.setdefault(problem.reason, [])
        if len(samples) < SAMPLES_PER_REASON:
            samples.append(replace(problem, what=problem.what[:LONGEST_EXPLANATION]))


def row(problem: Problem, source: str) -> dict[str, object]:
    """A row of the quarantine table."""
    return {
        "source": source,
        "place": problem.where,
        "reason": problem.reason,
        "what": problem.what[:LONGEST_EXPLANATION],
        "first_bytes": problem.first_bytes[:FIRST_BYTES],
    }


def refuse_too_many(source: SourceBase, name: str, documents: int, bad: Bad, most: float) -> None:
    """Raise UserError where more than the share ``most`` of a source's inputs is bad."""
    everything = documents + bad.count
    if not isinstance(source, DeclaredSource) or bad.count <= most * everything:
        return
    worst = bad.reasons.most_common(3)
    counts = ", ".join(f"{reason} {count:,}" for reason, count in worst)
    examples = "".join(f"\n  {bad.samples[reason][0].where}: {bad.samples[reason][0].what}" for reason, _ in worst)
    raise UserError(
        f"{bad.count:,} of {everything:,} inputs ({bad.count / everything:.1%}) cannot be used, "
        f"and max_bad_fraction allows {most:.1%}: {counts}{examples}",
        where=f"corpus source {name}",
        next_step="check the source's kind and fields, repair the files, or raise corpus.max_bad_fraction",
    )


def is_hopeless(documents: int, bad: int, most: float) -> bool:
    """Whether so many inputs are bad, and none good, that reading on is a waste of time."""
    return most < 1 and documents == 0 and bad >= HOPELESS
