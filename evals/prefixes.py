"""Which sequences are scored together because they begin alike: the worked examples of an MMLU subject, the question
of several answers.

A run of sequences shares one prefix, which is computed once; of each sequence only the rest is. A short run, as a
question's answers are, is one row: the prefix and the rests after each other. Where the rests' logits are read (the
continuations), a sequence is never shared. Found on token ids, without asking who belongs to which task, so the same
sequences give the same runs wherever they are scored.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from evals.scorer import Group, SharedBatch

LEAST_SAVED = 256
"""A run has to save so many tokens: its prefix is a forward pass of its own, and its last batch is not full."""


LEAST_IN_ROW = 32
"""The same for a run in one row: nothing is computed apart, but attention has to follow a mask."""

ROW_TOKENS = 512
"""The longest row: in one, each rest's attention also costs what the other rests have."""


class Run(NamedTuple):
    """Sequences that share their first ``prefix`` tokens.

    Attributes:
        members: their indices, the longest sequence first.
        in_row: whether they are one row.
    """

    prefix: int
    members: list[int]
    in_row: bool = False


@dataclass
class _Span:
    """Neighbours in sorted order, ``start`` to ``end`` inclusive, and how to save the most among them."""

    start: int
    end: int
    tokens: int
    saved: int = 0
    prefix: int = 0
    """Above 0: they are one run. Otherwise ``parts`` say."""
    in_row: bool = False
    parts: tuple[_Span, ...] = ()


def find_runs(groups: Sequence[Group], rows: bool = False) -> list[Run]:
    """Runs that are worth it, longest sequences first; what is in none is better scored alone.

    Args:
        rows: short runs may be one row.

    Sorted sequences that begin alike are neighbours. Spans of them are joined in the order of what they have in
    common, most first; a joined span is one run where that saves more tokens than its parts do.
    """
    if not groups:
        return []
    packed = [array("q", group.inputs).tobytes() for group in groups]
    order = sorted(range(len(groups)), key=lambda index: (packed[index], index))
    usable = [_usable(group) for group in groups]
    common = [
        min(_common_tokens(packed[one], packed[other]), usable[one], usable[other]) for one, other in pairwise(order)
    ]
    starting = {place: _Span(place, place, len(groups[index].inputs)) for place, index in enumerate(order)}
    ending = dict(starting)
    span = starting[0]
    for place in sorted(range(len(common)), key=lambda place: -common[place]):
        left, right = ending.pop(place), starting.pop(place + 1)
        span = _join(left, right, common[place], rows)
        starting[span.start] = ending[span.end] = span

    runs: list[Run] = []
    waiting = [span]
    while waiting:
        span = waiting.pop()
        if span.prefix:
            members = order[span.start : span.end + 1]
            members.sort(key=lambda index: (-len(groups[index].inputs), groups[index].inputs, index))
            runs.append(Run(span.prefix, members, span.in_row))
        else:
            waiting.extend(span.parts)
    return sorted(runs, key=lambda run: (-len(groups[run.members[0]].inputs), groups[run.members[0]].inputs))


def fold(groups: Sequence[Group]) -> list[list[int]]:
    """Indices of groups that one row answers, the longest sequences first: the others are its beginning.

    Where some letters are one token after a blank and some are two, a question's choices are two such sequences.
    """
    rows: list[list[int]] = []
    for index in sorted(range(len(groups)), key=lambda index: (groups[index].inputs, index), reverse=True):
        inputs = groups[index].inputs
        # Of all sequences, the next in order is the first that can begin like this one.
        if rows and groups[rows[-1][0]].inputs[: len(inputs)] == inputs:
            rows[-1].append(index)
        else:
            rows.append([index])
    return sorted(rows, key=lambda row: (-len(groups[row[0]].inputs), groups[row[0]].inputs))


def cut_runs(groups: Sequence[Group], runs: Sequence[Run], batch_size: int) -> list[tuple[SharedBatch, list[int]]]:
    """Runs cut into batches of so many rows, each with the indices of its groups."""
    batches = []
    for run in runs:
        rows = [[run.members[place] for place in row] for row in fold([groups[index] for index in run.members])]
        for start in range(0, len(rows), batch_size):
            members = [index for row in rows[start : start + batch_size] for index in row]
            batches.append((SharedBatch(run.prefix, [groups[index] for index in members]), members))
    return batches


def cut_rows(
    groups: Sequence[Group], runs: Sequence[Run], batch_size: int
) -> list[tuple[list[SharedBatch], list[int]]]:
    """Runs that are a row each, the longest first, in batches of so many sequences; with the indices of its groups."""
    batches: list[tuple[list[SharedBatch], list[int]]] = []
    by_length = sorted(runs, key=lambda run: (-row_tokens(_row(groups, run)), groups[run.members[0]].inputs))
    for run in by_length:
        if not batches or len(batches[-1][1]) + len(run.members) > batch_size:
            batches.append(([], []))
        batches[-1][0].append(_row(groups, run))
        batches[-1][1].extend(run.members)
    return batches


def row_tokens(row: SharedBatch) -> int:
    """The length of a row: the prefix and every rest."""
    return row.prefix + sum(len(group.inputs) - row.prefix for group in row.groups)


def _row(groups: Sequence[Group], run: Run) -> SharedBatch:
    return SharedBatch(run.prefix, [groups[index] for index in run.members])


def computed_tokens(batches: Sequence[SharedBatch]) -> int:
    """Tokens that are computed for batches of runs: each run's prefix once, and every row's rest."""
    heads = {tuple(batch.groups[0].inputs[: batch.prefix]) for batch in batches}
    rests = sum(len(batch.groups[row[0]].inputs) - batch.prefix for batch in batches for row in fold(batch.groups))
    return sum(map(len, heads)) + rests


def _join(left: _Span, right: _Span, common: int, rows: bool) -> _Span:
    tokens, shared = left.tokens + right.tokens, (right.end - left.start) * common
    in_row = rows and tokens - shared <= ROW_TOKENS
    together = shared - (LEAST_IN_ROW if in_row else LEAST_SAVED)
    apart = left.saved + right.saved
    if together > apart:
        return _Span(left.start, right.end, tokens, together, prefix=common, in_row=in_row)
    return _Span(left.start, right.end, tokens, apart, parts=(left, right))


def _usable(group: Group) -> int:
    """The tokens before the first whose logits are read."""
    return len(group.inputs) - max(map(len, group.continuations))


def _common_tokens(one: bytes, other: bytes) -> int:
    """How many whole tokens two packed sequences have in common at their beginning."""
    size = array("q").itemsize
    low, high = 0, min(len(one), len(other)) // size  # the first `low` are equal, the first `high + 1` are not
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * size : middle * size] == other[low * size : middle * size]:
            low = middle
        else:
            high = middle - 1
    return low
