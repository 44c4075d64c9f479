"""What the rules measure, over about a thousand documents: the report's distributions, before and after.

Measuring everything in every document would cost as much again as deciding, which stops at the first rule that is
broken. The documents are chosen by their ids, at a rate that follows from the corpus's size: the same ones before and
after, on any number of workers.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import xxhash

from pipelines.curate.c4 import c4
from pipelines.curate.config import CurateConfig
from pipelines.curate.fineweb import fineweb
from pipelines.curate.measured.document import NOTHING_KEPT, Document
from pipelines.curate.measured.surveyed import DIGEST, digest_of, survey_schema
from pipelines.curate.quality import gopher_quality
from pipelines.curate.quality_chain import QualityChain
from pipelines.curate.repetition import gopher_repetition
from pipelines.curate.rules import Limit

SURVEYED = 1000
"""Documents that are measured, about, however large the corpus is."""
COLUMNS = 20

_SEED = 0x50D0C5
_YES_OR_NO = ("lorem_ipsum", "lorem_ipsum_first", "curly_bracket")
_COUNTED = {"words", "sentences", "lines"}


@dataclass(frozen=True)
class Scale:
    """How a score becomes a column.

    Attributes:
        limits: the rules about it.
        doubling: columns of 1, 2 to 3, 4 to 7 and so on; otherwise all are ``width`` wide, and the last holds more.
    """

    limits: tuple[Limit, ...]
    doubling: bool = False
    width: float = 1 / COLUMNS

    def column(self, value: float) -> int:
        """The column of a value."""
        if self.doubling:
            return min(int(value).bit_length(), COLUMNS - 1)
        return min(int(value / self.width + 1e-9), COLUMNS - 1)

    def place(self, value: float) -> float:
        """Where a value stands on the axis, in columns."""
        if self.doubling:
            return 0.0 if value < 1 else min(math.log2(value) + 1, COLUMNS)
        return min(value / self.width, COLUMNS)

    def begins(self, column: int) -> float:
        """The least value of a column."""
        return float(2 ** (column - 1) if column else 0) if self.doubling else column * self.width


def scales(config: CurateConfig) -> dict[str, Scale]:
    """``step.score`` -> scale, of everything that the recipe's rules measure and that has a distribution."""
    sets: list[tuple[str, Sequence[Limit]]] = []
    if config.repetition:
        sets.append(("gopher_repetition", gopher_repetition(config.gopher_repetition).limits))
    if "gopher" in config.quality:
        sets.append(("gopher_quality", gopher_quality(config.gopher_quality).limits))
    if "c4" in config.quality:
        sets.append(("c4", c4(config.c4).limits))
    if "fineweb" in config.quality:
        sets.append(("fineweb", fineweb(config.fineweb).limits))
    found: dict[str, Scale] = {}
    for step, limits in sets:
        for score in dict.fromkeys(limit.score for limit in limits):
            if score not in _YES_OR_NO:
                found[f"{step}.{score}"] = _scale(score, tuple(limit for limit in limits if limit.score == score))
    return found


def _scale(score: str, limits: tuple[Limit, ...]) -> Scale:
    if score in _COUNTED:
        return Scale(limits, doubling=True)
    if score in ("mean_word_length", "stop_words"):
        return Scale(limits, width=1.0)
    most = [limit.limit for limit in limits if limit.breaks is operator.gt]
    if most and 0 < most[0] < 0.5:
        return Scale(limits, width=most[0] / 5)  # a limit of a few per cent would stand in the first column
    return Scale(limits)


@dataclass
class Survey:
    """What was found.

    Attributes:
        documents: that were looked at.
        languages: identified language -> documents.
        columns: ``step.score`` and column -> documents.
    """

    documents: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    columns: Counter[tuple[str, int]] = field(default_factory=Counter)

    def merge(self, other: Survey) -> None:
        """Add another survey to this one."""
        self.documents += other.documents
        self.languages.update(other.languages)
        self.columns.update(other.columns)

    def remove(self, other: Survey) -> None:
        """Take a survey of documents that were counted here off this one."""
        self.documents -= other.documents
        self.languages.subtract(other.languages)
        self.columns.subtract(other.columns)

    def heights(self, score: str) -> list[int]:
        """Documents in each column of a score."""
        return [self.columns[score, column] for column in range(COLUMNS)]


def survey_share(documents: int) -> float:
    """The share of so many documents that is looked at."""
    return min(1.0, SURVEYED / max(documents, 1))


class Surveyor:
    """Looks at documents; made once a part.

    Args:
        share: of all documents.
        kept: id -> what an earlier run has measured in a text that stayed; see
            :mod:`pipelines.curate.measured.surveyed`.

    Attributes:
        rows: what was found in texts that stay, for whoever looks at them again.
    """

    def __init__(
        self, config: CurateConfig, share: float, kept: Mapping[str, Mapping[str, Any]] = NOTHING_KEPT
    ) -> None:
        self._config, self._share, self._kept = config, share, kept
        self._chain = QualityChain(config)
        self._scales = scales(config)
        self.rows: list[dict[str, Any]] = []

    @property
    def schema(self) -> pa.Schema:
        """Of ``rows``."""
        return survey_schema(self._scales)

    def look(self, name: str, text: str, survey: Survey) -> None:
        """Measure the text of an id, as it stays, if it is one of the chosen."""
        if not self._is_chosen(name):
            return
        digest = digest_of(text)
        kept = self._kept.get(name, NOTHING_KEPT)
        document = Document(text, self._config, self._chain, kept if kept.get(DIGEST) == digest else NOTHING_KEPT)
        self._count(document, survey)
        self.rows.append({"id": name, DIGEST: digest, **document.values})

    def look_at(self, name: str, document: Document, survey: Survey) -> None:
        """Measure a document as it came in, of which some is measured already, if it is one of the chosen."""
        if self._is_chosen(name):
            self._count(document, survey)

    def remember(self, name: str, document: Document) -> None:
        """Note what :meth:`look_at` has found in a document that may well stay as it is."""
        if self._is_chosen(name):
            self.rows.append({"id": name, DIGEST: digest_of(document.text), **document.values})

    def _is_chosen(self, name: str) -> bool:
        return xxhash.xxh64_intdigest(name.encode("utf-8"), _SEED) < self._share * 2.0**64

    def _count(self, document: Document, survey: Survey) -> None:
        survey.documents += 1
        if document.is_blank:
            return
        survey.languages[document.language[0]] += 1
        for name, scale in self._scales.items():
            step, _, score = name.partition(".")
            value = document.rules.scores[step][score]
            if math.isfinite(value):
                survey.columns[name, scale.column(value)] += 1
