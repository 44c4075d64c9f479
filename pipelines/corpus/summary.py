"""What became of a part of a source, small whatever was read; also as JSON, for the next try to take over."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cluster.store import Written
from pipelines.corpus.documents import Problem
from pipelines.corpus.quarantine import Bad
from pipelines.corpus.tally import Tally


@dataclass
class Chunk:
    """One file of the corpus table: its name in the artifact, its size and checksum, and what is in it."""

    name: str
    written: Written
    tally: Tally = field(default_factory=Tally)


@dataclass
class PartSummary:
    """What became of a part.

    Attributes:
        chunks: the files written, in order.
        bad: what was quarantined; quarantine_files (name -> size and checksum) hold it all.
        passed_over: records that are in order but no documents, by reason.
    """

    number: int
    chunks: list[Chunk] = field(default_factory=list)
    bad: Bad = field(default_factory=Bad)
    quarantine_files: dict[str, Written] = field(default_factory=dict)
    passed_over: Counter[str] = field(default_factory=Counter)

    @property
    def tally(self) -> Tally:
        """All of its documents."""
        return Tally.total(chunk.tally for chunk in self.chunks)

    @property
    def files(self) -> dict[str, Written]:
        """All files written, by name."""
        return {chunk.name: chunk.written for chunk in self.chunks} | self.quarantine_files

    def encode(self) -> bytes:
        """The summary as JSON."""
        return json.dumps(self, default=_plain).encode("ascii")

    @classmethod
    def decode(cls, data: bytes) -> PartSummary:
        """The inverse of encode."""
        plain = json.loads(data)
        return cls(
            plain["number"],
            [Chunk(each["name"], Written(**each["written"]), _tally(each["tally"])) for each in plain["chunks"]],
            Bad(
                Counter(plain["bad"]["reasons"]),
                {reason: [_problem(each) for each in some] for reason, some in plain["bad"]["samples"].items()},
            ),
            {name: Written(**each) for name, each in plain["quarantine_files"].items()},
            Counter(plain["passed_over"]),
        )


def _plain(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else vars(value)


def _tally(plain: dict[str, Any]) -> Tally:
    counters = {name: Counter(value) for name, value in plain.items() if isinstance(value, dict)}
    sizes = Counter({int(index): count for index, count in plain["sizes"].items()})  # JSON has texts as keys only
    return Tally(**{**plain, **counters, "sizes": sizes})


def _problem(plain: dict[str, Any]) -> Problem:
    plain["first_bytes"] = plain["first_bytes"].encode("latin-1")
    return Problem(**plain)
