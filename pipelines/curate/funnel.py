"""Where every document and every byte went: what came in is what was kept and the sum of what left, always."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cluster.errors import InternalError
from pipelines.curate.marks.meaning import rule_order
from pipelines.curate.mix.run import MixSummary
from pipelines.curate.split import TRAIN
from pipelines.curate.survey import Survey
from pipelines.curate.tag import TagSummary
from pipelines.curate.tally import CLEANED, PASSAGES, Flow, Tally
from pipelines.curate.write import WriteSummary

ORDER = (
    "text",
    "licence",
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
    CLEANED,
    "duplicate.earlier",
    "duplicate.exact",
    "duplicate.near",
    "duplicate.text",
    PASSAGES,
    "mix",
)
"""The order in which the steps take documents and text out; a rule's own name comes after its step's."""


class Step(NamedTuple):
    """One line of the funnel: what leaves for a reason, and what is left behind it."""

    reason: str
    documents: int
    characters: int
    bytes: int
    documents_left: int
    characters_left: int
    bytes_left: int


@dataclass(frozen=True)
class Funnel:
    """The account of one run.

    Attributes:
        dropped: reason -> documents, in the order of the steps, as counted from what was written.
        splits: split -> documents written.
        redacted: (source, type) -> placeholders in the documents that stay, before repeated passages and the mix take
            some out.
        before, after: what came in and what was kept.
        repeated_characters: taken out of kept documents as lines or paragraphs that stand elsewhere too.
        flow: the text that left.
        surveyed_before, surveyed_after: what the rules measure in some documents.
    """

    documents_in: int
    dropped: dict[str, int]
    splits: dict[str, int]
    redacted: Counter[tuple[str, str]]
    before: Tally
    after: Tally
    repeated_characters: int = 0
    flow: Flow = field(default_factory=Flow)
    surveyed_before: Survey = field(default_factory=Survey)
    surveyed_after: Survey = field(default_factory=Survey)

    @classmethod
    def of(
        cls, tagged: Sequence[TagSummary], written: Sequence[WriteSummary], mixed: MixSummary | None = None
    ) -> Funnel:
        """Add up the parts: what came in from the first pass, what went where from the second and from mixing.

        Documents are counted once however often the mix repeats them.
        """
        before, after, flow = Tally(), Tally(), Flow()
        surveyed, left = Survey(), Survey()
        dropped: Counter[str] = Counter()
        splits: Counter[str] = Counter()
        redacted: Counter[tuple[str, str]] = Counter()
        for first in tagged:
            before.merge(first.before)
            flow.merge(first.flow)
            surveyed.merge(first.survey)
        for second in written:
            after.merge(second.after)
            flow.merge(second.flow)
            left.merge(second.survey)
            dropped.update(second.dropped)
            splits.update(second.written)
            redacted.update(second.redacted)
        if mixed is not None:
            after.remove(mixed.removed)
            flow.merge(mixed.flow)
            left.remove(mixed.survey)
            dropped.update(mixed.dropped)
            splits[TRAIN] -= mixed.dropped.total()
        ordered = {reason: dropped[reason] for reason in sorted(dropped, key=_place)}
        repeated = sum(each.repeated_characters for each in written)
        documents_in = sum(each.documents for each in tagged)
        return cls(documents_in, ordered, dict(splits), +redacted, before, after, repeated, flow, surveyed, left)

    @property
    def kept(self) -> int:
        """Documents in all splits."""
        return sum(self.splits.values())

    @property
    def redacted_by_type(self) -> dict[str, int]:
        """Type -> placeholders."""
        found: Counter[str] = Counter()
        for (_, kind), count in self.redacted.items():
            found[kind] += count
        return dict(sorted(found.items()))

    @property
    def redacted_by_source(self) -> dict[str, dict[str, int]]:
        """Source -> type -> placeholders, of the sources that have any."""
        found: dict[str, dict[str, int]] = {}
        for (source, kind), count in sorted(self.redacted.items()):
            found.setdefault(source, {})[kind] = count
        return found

    def check(self) -> None:
        """Raise InternalError unless documents, characters and bytes add up exactly."""
        dropped = sum(self.dropped.values())
        for unit, before, after, left in (
            ("documents", self.documents_in, self.kept, dropped),
            ("documents", self.before.documents[_ALL], self.after.documents[_ALL], dropped),
            ("characters", self.before.characters[_ALL], self.after.characters[_ALL], self.flow.characters.total()),
            ("bytes", self.before.bytes[_ALL], self.after.bytes[_ALL], self.flow.bytes.total()),
        ):
            if before != after + left:
                raise InternalError(
                    f"the funnel does not add up: {before:,} {unit} in, {after:,} kept, {left:,} dropped",
                    where="curate",
                    next_step="report it with the recipe",
                )

    def steps(self) -> Iterator[Step]:
        """What leaves, in order, and what is left each time."""
        documents, characters, size = self.documents_in, self.before.characters[_ALL], self.before.bytes[_ALL]
        for reason in sorted({*self.dropped, *(+self.flow.bytes), *(-self.flow.bytes)}, key=_place):
            out = self.dropped.get(reason, 0), self.flow.characters[reason], self.flow.bytes[reason]
            documents, characters, size = documents - out[0], characters - out[1], size - out[2]
            yield Step(reason, *out, documents, characters, size)

    def after_by(self, field: str) -> dict[str, int]:
        """Kept documents by ``source``, ``kind`` or ``licence``."""
        return {value: count for (name, value), count in self.after.documents.items() if name == field}

    def table(self, field: str) -> list[dict[str, Any]]:
        """Documents, bytes and words before and after by ``source``, ``kind`` or ``licence``, most documents first."""
        keys = [key for key in self.before.documents if key[0] == field]
        return [
            {
                field: key[1],
                "documents in": self.before.documents[key],
                "documents kept": self.after.documents[key],
                "bytes in": self.before.bytes[key],
                "bytes kept": self.after.bytes[key],
                "words in": self.before.words[key],
                "words kept": self.after.words[key],
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
            "redacted": self.redacted_by_type,
            "redacted_by_source": self.redacted_by_source,
            "repeated_characters": self.repeated_characters,
            "characters_in": self.before.characters[_ALL],
            "characters_kept": self.after.characters[_ALL],
            "bytes_in": self.before.bytes[_ALL],
            "bytes_kept": self.after.bytes[_ALL],
            "words_in": self.before.words[_ALL],
            "words_kept": self.after.words[_ALL],
            "steps": [each._asdict() for each in self.steps()],
            "languages_in": dict(self.before.languages.most_common()),
            "languages_kept": dict((+self.after.languages).most_common()),
            **{f"by_{field}": self.table(field) for field in ("source", "kind", "licence")},
        }


_ALL = ("all", "all")


def _place(reason: str) -> tuple[int, int, str]:
    step = reason if reason in ORDER else reason.partition(".")[0]
    return (ORDER.index(step) if step in ORDER else len(ORDER), rule_order(reason), reason)
