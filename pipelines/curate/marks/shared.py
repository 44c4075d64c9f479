"""What a duplicate and the document that stands for it have in common: runs of words in both."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.curate.marks.mark import LOOKED_AT, Mark, Place, joined

_WORD = re.compile(r"\w+")


def mark_shared(text: str, keeper: str, ngram: int) -> tuple[Mark, tuple[Place, ...]]:
    """The words of a text that stand in runs of ``ngram`` words which its keeper has too, and the same in the keeper.

    The note has the Jaccard similarity of the two sets of runs, which MinHash estimates.
    """
    runs, kept_runs = _runs(text, ngram), _runs(keeper, ngram)
    own, theirs = {run for run, _ in runs}, {run for run, _ in kept_runs}
    shared = own & theirs
    similarity = len(shared) / max(len(own | theirs), 1)
    note = (
        f"shares {len(shared):,} of its {len(own):,} runs of {ngram} words with the document that stays, which has "
        f"{len(theirs):,}: similarity {similarity:.2f}"
    )
    places, kept_places = (joined(place for run, place in each if run in shared) for each in (runs, kept_runs))
    return Mark(note, _with_gaps(text, places)), _with_gaps(keeper, kept_places)


def _runs(text: str, ngram: int) -> list[tuple[str, Place]]:
    return [*_each_run(text[:LOOKED_AT], ngram)]


def _each_run(text: str, ngram: int) -> Iterator[tuple[str, Place]]:
    found = [(match[0].casefold(), match.span()) for match in _WORD.finditer(text)]
    length = max(1, min(ngram, len(found)))
    for at in range(len(found) - length + 1):
        run = found[at : at + length]
        yield " ".join(word for word, _ in run), (run[0][1][0], run[-1][1][1])


def _with_gaps(text: str, places: tuple[Place, ...]) -> tuple[Place, ...]:
    """Places with nothing but blanks and marks between them as one."""
    done: list[Place] = []
    for start, end in places:
        if done and not _WORD.search(text, done[-1][1], start):
            done[-1] = done[-1][0], end
        else:
            done.append((start, end))
    return tuple(done)
