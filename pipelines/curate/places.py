"""Numbers for documents: where one stands (part, row, line) in 64 bits, and the node that it is in a graph.

A place sorts by part, so that a part can read what was decided about it as one key range. A node is the place with its
bits mixed (one to one), so that equal ranges of nodes hold equally many documents.
"""

from __future__ import annotations

import numpy as np

from cluster.errors import InternalError
from pipelines.curate.minhash import U64, mix, unmix
from pipelines.curate.runs import KeyRange

_ROW_BITS, _LINE_BITS = 24, 20
MOST_PARTS, MOST_ROWS, MOST_LINES = 1 << 20, 1 << 24, 1 << 20


def places(part: int, rows: U64 | int, lines: U64 | int = 0) -> U64:
    """The places of rows of a part (and of lines in them).

    Raises:
        InternalError: there are more parts or rows than the numbers have room for.
    """
    if part >= MOST_PARTS or (np.size(rows) and int(np.max(rows)) >= MOST_ROWS):
        raise InternalError(
            f"part {part} or its rows have no number", where="curate", next_step="cut the corpus into other parts"
        )
    start = np.uint64(part << (_ROW_BITS + _LINE_BITS))
    return start | (np.asarray(rows, np.uint64) << np.uint64(_LINE_BITS)) | np.asarray(lines, np.uint64)


def part_of(place: U64) -> U64:
    """The part of each place."""
    return place >> np.uint64(_ROW_BITS + _LINE_BITS)


def row_of(place: U64) -> U64:
    """The row of each place."""
    return (place >> np.uint64(_LINE_BITS)) & np.uint64(MOST_ROWS - 1)


def line_of(place: U64) -> U64:
    """The line of each place."""
    return place & np.uint64(MOST_LINES - 1)


def part_range(part: int) -> KeyRange:
    """All places of a part."""
    bits = _ROW_BITS + _LINE_BITS
    return KeyRange(part << bits, ((part + 1) << bits) - 1)


def to_nodes(place: U64) -> U64:
    """The nodes of places."""
    return mix(place)


def to_places(nodes: U64) -> U64:
    """The places of nodes."""
    return unmix(nodes)
