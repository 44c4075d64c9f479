"""One part of a source, read by one worker into files of bounded size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cluster.errors import UserError
from cluster.store import Store, Written
from pipelines.corpus.documents import Document, Item, Outcome, PassedOver, Problem
from pipelines.corpus.quarantine import row
from pipelines.corpus.readers import read_item
from pipelines.corpus.source import DeclaredSource, SourceBase
from pipelines.corpus.summary import Chunk, PartSummary
from pipelines.corpus.table import QUARANTINE, chunk_name, encode, encode_metadata, to_table
from pipelines.corpus.tally import Tally

FEWEST_PARTS = 16
SMALLEST_PART_BYTES = 512 << 10
GIVEN_UP_AFTER = 100_000
"""A file of junk that is taken for lines has millions of bad ones, and none is worth the time of the others."""
_QUARANTINE_ROWS = 20_000


@dataclass(frozen=True)
class Part:
    """Consecutive items of one source that one worker reads."""

    number: int
    items: tuple[Item, ...]

    @property
    def estimated_bytes(self) -> int:
        """About how much text it gives."""
        return sum(item.estimated_bytes for item in self.items)

    def digest(self, source: str) -> str:
        """40 hex digits for what is read, of the source of that name; where it lies does not count."""
        about = [
            (each.form, each.path, each.estimated_bytes, each.licence, encode_metadata(each.metadata), each.span)
            for each in self.items
        ]
        return hashlib.sha256(repr((source, self.number, about)).encode("utf-8", "surrogatepass")).hexdigest()[:40]


def plan_parts(items: Sequence[Item], cap: int | None, part_bytes: int, first_number: int = 0) -> list[Part]:
    """Consecutive items in parts of about equal estimated size, which depends on the items, cap and part size only."""
    total = sum(item.estimated_bytes for item in items)
    target = min(max(min(total, cap or total) // FEWEST_PARTS, SMALLEST_PART_BYTES), part_bytes)
    parts: list[Part] = []
    held: list[Item] = []
    size = 0
    for item in items:
        held.append(item)
        size += item.estimated_bytes
        if size >= target:
            parts.append(Part(first_number + len(parts), tuple(held)))
            held, size = [], 0
    if held:
        parts.append(Part(first_number + len(parts), tuple(held)))
    return parts


def read_part(part: Part, *, source: SourceBase, name: str, part_bytes: int, store: Store, prefix: str) -> PartSummary:
    """Read a part and write what it gives as it comes, never holding much more than ``part_bytes`` of text.

    Args:
        prefix: the folder of the store that its files go to.

    Raises:
        UserError: bad input is to be refused, or a file cannot be read.
        InfraError: S3 or the Hub does not answer.
    """
    writer = _Writer(part.number, source, name, part_bytes, store, prefix)
    read = 0
    for item in part.items:
        for outcome in _worth_reading(item, read_item(item, source)):
            if isinstance(outcome, Document):
                read += writer.add(outcome)
                if source.max_bytes is not None and read > source.max_bytes:
                    return writer.finish()  # what follows cannot fit
            elif isinstance(outcome, PassedOver):
                writer.summary.passed_over[outcome.reason] += 1
            else:
                _refuse(outcome, item, source)
                writer.quarantine(outcome)
    return writer.finish()


def _worth_reading(item: Item, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes, up to where there were so many problems and nothing else that the item is given up."""
    problems = 0
    for outcome in outcomes:
        yield outcome
        problems += isinstance(outcome, Problem)
        if not isinstance(outcome, Problem):
            break
        if problems >= GIVEN_UP_AFTER:
            what = f"is given up: its first {problems:,} inputs cannot be used, and none could"
            yield Problem(item.path, what, "given_up")
            return
    yield from outcomes


def _refuse(problem: Problem, item: Item, source: SourceBase) -> None:
    if isinstance(source, DeclaredSource) and source.bad_input == "refuse":
        place = problem.where
        if item.form not in ("hf", "custom"):
            place = item.location + place.removeprefix(item.path)
        raise UserError(problem.what, where=place, next_step="repair it, or set the source's bad_input: quarantine")


class _Writer:
    """Documents and problems into files, each written when it is full."""

    def __init__(self, number: int, source: SourceBase, name: str, part_bytes: int, store: Store, prefix: str) -> None:
        self.summary = PartSummary(number)
        self._language = source.language if isinstance(source, DeclaredSource) else None
        self._name, self._part_bytes = name, part_bytes
        self._store, self._prefix = store, prefix
        self._documents: list[Document] = []
        self._tally = Tally()
        self._held = 0
        self._problems: list[dict[str, Any]] = []

    def add(self, document: Document) -> int:
        """Take a document; its UTF-8 bytes."""
        if document.language is None and self._language:
            document = Document(document.path, document.text, document.licence, document.metadata, self._language)
        size = len(document.text.encode("utf-8"))
        self._tally.add(size, str(document.metadata.get("kind", "")), document.licence, document.language)
        self._documents.append(document)
        self._held += size + len(encode_metadata(document.metadata))
        if self._held >= self._part_bytes:
            self._flush()
        return size

    def quarantine(self, problem: Problem) -> None:
        """Take a problem."""
        self.summary.bad.add(problem)
        self._problems.append(row(problem, self._name))
        if len(self._problems) >= _QUARANTINE_ROWS:
            self._flush_problems()

    def finish(self) -> PartSummary:
        """Write what is left; what became of the part."""
        self._flush()
        self._flush_problems()
        return self.summary

    def _flush(self) -> None:
        if self._documents:
            name = chunk_name("data", self.summary.number, len(self.summary.chunks))
            written = self._write(name, to_table(self._documents, self._name))
            self.summary.chunks.append(Chunk(name, written, self._tally))
            self._documents, self._tally, self._held = [], Tally(), 0

    def _flush_problems(self) -> None:
        if self._problems:
            name = chunk_name("quarantine", self.summary.number, len(self.summary.quarantine_files))
            table = pa.Table.from_pylist(self._problems, schema=QUARANTINE)
            self.summary.quarantine_files[name] = self._write(name, table)
            self._problems = []

    def _write(self, name: str, table: pa.Table) -> Written:
        return self._store.write_summed(f"{self._prefix}/{name}", encode(table))
