"""Examples from files, and which of them are held out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import UserError
from pipelines.corpus.config import JsonlSource, TextSource
from pipelines.corpus.documents import Document, Item
from pipelines.corpus.files import FoundFile, find_files, fits
from pipelines.corpus.readers import read_item
from pipelines.curate.classifier.config import ClassifierConfig
from pipelines.curate.normalise import NormaliseConfig, normalise

_LINES = (".jsonl", ".ndjson")
_SUFFIXES = (".txt", ".md", ".markdown", *_LINES)
FEWEST = 10
"""Examples of each kind; fewer say nothing, neither to learn from nor to measure with."""


@dataclass(frozen=True)
class Examples:
    """Texts of one kind, each once.

    Attributes:
        train, held_out: to learn from, and to measure with.
        unusable: documents that could not be read or have no text.
    """

    train: list[str]
    held_out: list[str]
    unusable: int


def find_examples(path: str) -> list[FoundFile]:
    """The files of a kind of examples.

    Raises:
        UserError: there are none.
    """
    return find_files(path, _SUFFIXES)


def read_examples(config: ClassifierConfig, cleaned: NormaliseConfig | None) -> tuple[Examples, Examples]:
    """The good and the bad examples, cleaned as the corpus is. A text that is in both would teach nothing: it goes.

    Raises:
        UserError: there are fewer than FEWEST of a kind.
    """
    (good, good_lost), (bad, bad_lost) = (_read(path, cleaned) for path in (config.good, config.bad))
    both = good & bad
    for side, texts in (("good", good - both), ("bad", bad - both)):
        if len(texts) < FEWEST:
            raise UserError(
                f"{len(texts)} usable examples; at least {FEWEST} different ones are needed",
                where=f"curate.classifier.{side}",
                next_step="add examples; a few hundred of each kind begin to be useful",
            )
    return (
        _split(sorted(good - both), config.held_out, good_lost + len(both)),
        _split(sorted(bad - both), config.held_out, bad_lost + len(both)),
    )


def _read(path: str, cleaned: NormaliseConfig | None) -> tuple[set[str], int]:
    texts: set[str] = set()
    unusable = 0
    for file in find_examples(path):
        lines = fits(file.name, _LINES)
        source = (JsonlSource if lines else TextSource).model_validate({"path": file.location})
        item = Item("jsonl" if lines else "text", file.name, file.location, file.size_bytes, "unknown")
        for outcome in read_item(item, source):
            text = outcome.text if isinstance(outcome, Document) else ""
            text = normalise(text, cleaned) if cleaned is not None else text
            if text.strip():
                texts.add(text)
            else:
                unusable += 1
    return texts, unusable


def _split(texts: Sequence[str], share: float, unusable: int) -> Examples:
    """By the hash of the text: an example stays on its side when others come and go."""
    ordered = sorted(texts, key=lambda text: hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    count = min(max(math.ceil(share * len(ordered)), 1), len(ordered) - 1)
    return Examples(ordered[count:], ordered[:count], unusable)
