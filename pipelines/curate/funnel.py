"""Where every document went: documents in = kept + the sum of dropped by reason, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.errors import InternalError
from pipelines.curate.mix.run import MixSummary
from pipelines.curate.split import TRAIN
from pipelines.curate.tag import TagSummary, Tally
from pipelines.curate.write import WriteSummary

ORDER = (
    "licence",
    "text",
    "empty",
    "language",
    "gopher_repetition",
    "gopher_quality",
    "c4",
    "fineweb",
    "classifier",
    "filter",
    "audit",
    "contaminated",
    "duplicate.earlier",
    "duplicate.exact",
    "duplicate.near",
    "duplicate.text",
    "mix",
)
"""The order in which the steps drop documents; a rule's own name comes after its step's."""


@dataclass(frozen=True)
class Funnel:
    """The account of one run.

    Attributes:
        dropped: reason -> documents, in the order of the steps, as counted from what was written.
        splits: split -> documents written.
        redacted: type -> placeholders in the kept documents.
        before, after: what came in and what was kept.
        repeated_characters: taken out of kept documents as lines or paragraphs that stand elsewhere too.
    """

    documents_in: int
    dropped: dict[str, int]
    splits: dict[str, int]
    redacted: dict[str, int]
    before: Tally
    after: Tally
    repeated_characters: int = 0

    @classmethod
    def of(
        cls, tagged: Sequence[TagSummary], written: Sequence[WriteSummary], mixed: MixSummary | None = None
    ) -> Funnel:
        """Add up the parts: what came in from the first pass, what went where from the second and from mixing.

        Documents are counted once however often the mix repeats them.
        """
        before, after = Tally(), Tally()
        dropped: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        redacted: Counter[str] = Counter()
        for first in tagged:
            before.merge(first.before)
        for second in written:
            after.merge(second.after)
            dropped.update(second.dropped)
            splits.update(second.written)
            redacted.update(second.redacted)
        if mixed is not None:
            after.remove(mixed.removed)
            dropped.update(mixed.dropped)
            splits[TRAIN] -= mixed.dropped.total()
        ordered = {reason: dropped[reason] for reason in sorted(dropped, key=_place)}
        repeated = sum(each.repeated_characters for each in written)
        documents_in = sum(each.documents for each in tagged)
        return cls(documents_in, ordered, dict(splits), dict(+redacted), before, after, repeated)

    @property
    def kept(self) -> int:
        """Documents in all splits."""
        return sum(self.splits.values())

    def check(self) -> None:
        """Raise InternalError unless the funnel adds up exactly."""
        dropped = sum(self.dropped.values())
        if self.documents_in != self.kept + dropped:
            raise InternalError(
                f"the funnel does not add up: {self.documents_in:,} in, {self.kept:,} kept, {dropped:,} dropped",
                where="curate",
                next_step="report it with the recipe",
            )

    def after_by(self, field: str) -> dict[str, int]:
        """Kept documents by ``source``, ``kind`` or ``licence``."""
        return {value: count for (name, value), count in self.after.documents.items() if name == field}

    def table(self, field: str) -> list[dict[str, Any]]:
        """Documents and bytes before and after by ``source``, ``kind`` or ``licence``, most documents first."""
        keys = [key for key in self.before.documents if key[0] == field]
        return [
            {
                field: key[1],
                "documents in": self.before.documents[key],
                "documents kept": self.after.documents[key],
                "bytes in": self.before.bytes[key],
                "bytes kept": self.after.bytes[key],
            }
            for key in sorted(keys, key=lambda key: (-self.before.documents[key], key[1]))
        ]

    def to_json(self) -> dict[str, Any]:
        """What funnel.json holds."""
        return {
            "documents_in": self.documents_in,
            "kept": self.kept,
            "dropped": self.dropped,
            "splits": self.splits,
            "redacted": self.redacted,
            "repeated_characters": self.repeated_characters,
            "bytes_in": self.before.bytes["all", "all"],
            "bytes_kept": self.after.bytes["all", "all"],
            **{f"by_{field}": self.table(field) for field in ("source", "kind", "licence")},
        }


def _place(reason: str) -> tuple[int, str]:
    step = reason if reason in ORDER else reason.partition(".")[0]
    return (ORDER.index(step) if step in ORDER else len(ORDER), reason)
