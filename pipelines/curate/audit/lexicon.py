"""Word lists: Raymill's own or the recipe's, and where their terms stand in a text."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.curate.audit.config import AuditConfig
from pipelines.curate.phrases import Numbers, PhraseIndex, hash_grams, hash_words

WORDS = Path(__file__).parent / "words.json"
TOXIC = "toxic"


@dataclass(frozen=True)
class WordList:
    """One list of terms.

    Attributes:
        kind: ``group``, ``attribute`` or ``toxic``.
        axis: what a group is one of (``gender``); empty for the others.
    """

    kind: str
    axis: str
    name: str
    terms: tuple[str, ...]


@dataclass(frozen=True)
class Mentions:
    """Where terms stand in one text.

    Attributes:
        words: how many words the text has.
        positions, terms: of each mention, by position: its first word, and the term's number.
    """

    words: int
    positions: Numbers
    terms: Numbers


@dataclass(frozen=True)
class Lexicon:
    """All lists together.

    Attributes:
        origin: where the lists come from.
        lists: groups, then attributes, then the toxic list.
        terms: the different terms of all lists, as the index numbers them.
        member: terms x lists; whether a term is on a list.
    """

    origin: str
    lists: tuple[WordList, ...]
    terms: tuple[str, ...]
    member: npt.NDArray[np.bool_]
    index: PhraseIndex

    @functools.cached_property
    def groups(self) -> list[int]:
        """Numbers of the lists that name groups of people."""
        return [number for number, each in enumerate(self.lists) if each.kind == "group"]

    @functools.cached_property
    def beside(self) -> list[int]:
        """Numbers of the lists whose closeness to groups is measured: attributes and toxic terms."""
        return [number for number, each in enumerate(self.lists) if each.kind != "group"]

    @property
    def toxic(self) -> int:
        """The number of the toxic list."""
        return len(self.lists) - 1

    def mentions(self, text: str) -> Mentions:
        """Every mention of every term, overlapping ones too."""
        found = self.index.find(text)
        order = np.lexsort((found.phrases, found.positions))
        return Mentions(found.words, found.positions[order], found.phrases[order])

    def toxicity(self, text: str) -> float:
        """Toxic terms for each 1,000 words; 0 for a text without words."""
        found = self.mentions(text)
        return 1000 * int(self.member[found.terms, self.toxic].sum()) / found.words if found.words else 0.0


@functools.lru_cache(maxsize=4)
def _load(settings: str) -> Lexicon:
    config = AuditConfig.model_validate_json(settings)
    own: dict[str, Any] = json.loads(WORDS.read_text(encoding="utf-8"))
    groups, attributes = config.groups or own["groups"], config.attributes or own["attributes"]
    given = [name for name in ("groups", "attributes", "toxic") if getattr(config, name) is not None]
    lists = [
        WordList("group", axis, name, tuple(terms))
        for axis, by_name in groups.items()
        for name, terms in by_name.items()
    ]
    lists += [WordList("attribute", "", name, tuple(terms)) for name, terms in attributes.items()]
    lists.append(WordList(TOXIC, "", TOXIC, tuple(config.toxic or own[TOXIC])))
    hashes: dict[str, int] = {}
    lengths = set()
    for term in (term for each in lists for term in each.terms):
        words = hash_words(term)
        lengths.add(len(words))
        hashes[term] = int(hash_grams(words, len(words))[0])
    index = PhraseIndex.of(np.array(list(hashes.values()), np.uint64), lengths)
    numbers = index.number(np.array(list(hashes.values()), np.uint64))
    number_of = dict(zip(hashes, map(int, numbers), strict=True))
    terms = [""] * len(index.hashes)
    member = np.zeros((len(terms), len(lists)), bool)
    for place, each in enumerate(lists):
        for term in each.terms:
            terms[number_of[term]] = terms[number_of[term]] or term
            member[number_of[term], place] = True
    origin = f"From the recipe: {', '.join(given)}." if given else ""
    rest = own["origin"] if len(given) < 3 else ""
    return Lexicon(" ".join(filter(None, [origin, rest])), tuple(lists), tuple(terms), member, index)


def load_lexicon(config: AuditConfig) -> Lexicon:
    """The lists that a configuration means, made once in each process."""
    return _load(config.model_dump_json(include={"groups", "attributes", "toxic"}))
