"""Counts over documents: mentions of each term by source, and how many mentions of a group stand close to what.

A mention of a group is close to a list where one of the list's terms begins at most ``window_words`` words before or
after it, in the same document (a fixed window as in Bordia and Bowman 2019, arXiv:1904.03035, without their weights).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipelines.curate.audit.lexicon import Lexicon
from pipelines.curate.phrases import Numbers


@dataclass
class SourceTally:
    """What one source holds.

    Attributes:
        terms: mentions by term.
        with_list: documents with a mention from each list.
    """

    documents: int
    words: int
    terms: Numbers
    with_list: Numbers


@dataclass
class AuditTally:
    """What all documents hold.

    Attributes:
        near: lists x lists; mentions of a group (row) close to an attribute or toxic term (column).
    """

    sources: dict[str, SourceTally] = field(default_factory=dict)
    near: Numbers | None = None

    def add(self, source: str, text: str, lexicon: Lexicon, window_words: int) -> None:
        """Count one document."""
        found = lexicon.mentions(text)
        count = len(lexicon.lists)
        own = self.sources.get(source)
        if own is None:
            own = SourceTally(0, 0, np.zeros(len(lexicon.terms), np.int64), np.zeros(count, np.int64))
            self.sources[source] = own
        own.documents += 1
        own.words += found.words
        if not len(found.terms):
            return
        own.terms += np.bincount(found.terms, minlength=len(lexicon.terms))
        of_list = lexicon.member[found.terms]
        present = np.asarray(of_list.any(axis=0))
        own.with_list += present
        if self.near is None:
            self.near = np.zeros((count, count), np.int64)
        positions = {number: found.positions[of_list[:, number]] for number in np.flatnonzero(present)}
        for group in lexicon.groups:
            if present[group]:
                for other in lexicon.beside:
                    if present[other]:
                        self.near[group, other] += count_near(positions[group], positions[other], window_words)

    def merge(self, other: AuditTally) -> None:
        """Add the counts of other documents."""
        for name, theirs in other.sources.items():
            own = self.sources.get(name)
            if own is None:
                self.sources[name] = SourceTally(
                    theirs.documents, theirs.words, theirs.terms.copy(), theirs.with_list.copy()
                )
                continue
            own.documents += theirs.documents
            own.words += theirs.words
            own.terms += theirs.terms
            own.with_list += theirs.with_list
        if other.near is not None:
            self.near = other.near.copy() if self.near is None else self.near + other.near

    def remove(self, other: AuditTally) -> None:
        """Take off the counts of documents that were counted here."""
        for name, theirs in other.sources.items():
            own = self.sources[name]
            own.documents -= theirs.documents
            own.words -= theirs.words
            own.terms -= theirs.terms
            own.with_list -= theirs.with_list
        if other.near is not None and self.near is not None:
            self.near = self.near - other.near


def count_near(mentions: Numbers, others: Numbers, window: int) -> int:
    """How many of some positions have another within the window, not counting one at the very place.

    Args:
        mentions, others: positions in words, ascending.
    """

    def any_between(low: Numbers, high: Numbers) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.searchsorted(others, high, side="right") > np.searchsorted(others, low, side="left")

    before = any_between(mentions - window, mentions - 1)
    return int((before | any_between(mentions + 1, mentions + window)).sum())
