"""Words as spaCy's English tokenizer splits them, which is what datatrove's rules count, at many times its speed.

The tokenizer looks at one run between blanks (a chunk) at a time, so what it makes of a chunk is kept, and compiled
code looks it up. One thing crosses a blank: its list of exceptions (emoticons, ``a.m.``) is matched last, over words,
and a longer match that crosses a blank, and so changes nothing, hides a shorter one within a chunk. Where that could
happen (about once in ten thousand documents) the tokenizer itself is asked about the chunks concerned together.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from itertools import pairwise, starmap

import numpy as np

from pipelines.curate import chunks
from pipelines.curate.characters import character_table, code_points
from pipelines.curate.chunks import Codes, Places
from pipelines.curate.english import english_tokenizer
from pipelines.curate.joints import find_joints

KNOWN_CHUNKS = 1 << 19
"""Chunks that a worker remembers before it forgets all and begins again: with their index, at most 40 MB."""
BLOCK_CHARACTERS = 1 << 18
"""Characters that are split at once; they hold fewer than half as many chunks."""
_POOL = 1 << 21
_UNSPEAKABLE, _STAND_IN = "IS_ALPHA", "IS_ALPHB"


class ReferenceWords:
    """The tokenizer, and what it is known to make of chunks. Not for several threads at once."""

    def __init__(self, known_chunks: int = KNOWN_CHUNKS, block_characters: int = BLOCK_CHARACTERS) -> None:
        self._tokenizer, self._vocab = english_tokenizer()
        self._rules = self._tokenizer.rules
        self._find_risks()
        self._is_risk = functools.lru_cache(1 << 14)(self._find_risk)
        self._block = block_characters
        self._most = len(self._rules) + known_chunks + block_characters // 2 + 1
        self._table = character_table()
        size = 1 << (2 * self._most - 1).bit_length()  # at most half of the places are taken
        self._keys, self._values = np.zeros(size, np.uint64), np.zeros(size, np.uint64)
        self._pool = np.zeros(_POOL, np.uint16)
        self._used = np.zeros(2, np.int64)
        self._forget()

    def _find_risks(self) -> None:
        """Which exceptions change words when they are matched last, and the characters around their inner borders."""
        from spacy.tokenizer import Tokenizer
        from spacy.vocab import Vocab

        ours = self._tokenizer
        plain = Tokenizer(
            Vocab(),
            prefix_search=ours.prefix_search,
            suffix_search=ours.suffix_search,
            infix_finditer=ours.infix_finditer,
            token_match=ours.token_match,
            url_match=ours.url_match,
        )
        changing = []
        self._borders: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for rule in self._rules:
            if rule.isspace():
                continue
            pieces = [word.text for word in plain(rule)]
            for cut in range(1, len(pieces)):
                left, right = "".join(pieces[:cut]), "".join(pieces[cut:])
                self._borders.setdefault((left[-1], right[0]), []).append((left, right))
            if pieces != [word.text for word in self._tokenizer(rule)]:
                changing.append(rule)
        self._changing = re.compile("|".join(re.escape(rule) for rule in sorted(changing)))
        number = {each: i for i, each in enumerate(sorted({each for pair in self._borders for each in pair}), 1)}
        self._sides = np.zeros(max(map(ord, number)) + 1, np.uint8)
        self._pairs = np.zeros((len(number) + 1, len(number) + 1), np.bool_)
        for each, index in number.items():
            self._sides[ord(each)] = index
        for left, right in self._borders:
            self._pairs[number[left], number[right]] = True

    def _forget(self) -> None:
        self._keys.fill(0)
        self._used.fill(0)
        self._learn([rule for rule in self._rules if not rule.isspace()], special=True)

    def _learn(self, texts: Sequence[str], special: bool = False) -> None:
        from spacy.attrs import LENGTH

        joined = "\n".join(texts)
        with self._vocab.memory_zone():
            lengths = self._tokenizer(joined).to_array(LENGTH).astype(np.int64)
        known = (self._table, self._keys, self._values, self._pool, self._used)
        chunks.remember(code_points(joined), lengths, int(special), *known)

    def split(self, text: str, codes: Codes) -> tuple[Codes, Places, Places]:
        """The characters that are split, and where each word starts and ends in them.

        Args:
            codes: the characters of ``text`` as code_points gives them.
        """
        if _UNSPEAKABLE in text:
            return self._without_unspeakable(text, codes)
        return self._split(text, codes)

    def _without_unspeakable(self, text: str, codes: Codes) -> tuple[Codes, Places, Places]:
        """The tokenizer fails at the word IS_ALPHA, its name for a feature; datatrove then takes the letters out."""
        spoken = text.replace(_UNSPEAKABLE, _STAND_IN)
        _, starts, ends = self._split(spoken, code_points(spoken))
        size = len(_UNSPEAKABLE)
        if any(text[start : start + size] == _UNSPEAKABLE for start in starts[ends - starts == size].tolist()):
            shorter = text.replace(_UNSPEAKABLE, "")
            return self._split(shorter, code_points(shorter))
        return codes, starts, ends

    def _split(self, text: str, codes: Codes) -> tuple[Codes, Places, Places]:
        all_starts, all_ends = [], []
        position = 0
        while position < len(codes):
            starts, ends, position = self._split_block(text, codes, position)
            all_starts.append(starts)
            all_ends.append(ends)
        if not all_starts:
            return codes, np.empty(0, np.int64), np.empty(0, np.int64)
        starts = np.concatenate(all_starts) if len(all_starts) > 1 else all_starts[0]
        ends = np.concatenate(all_ends) if len(all_ends) > 1 else all_ends[0]
        runs, count = find_joints(codes, self._table, self._sides, self._pairs)
        for run in range(0, count, 2):
            starts, ends = self._mend(text, int(runs[run]), int(runs[run + 1]), starts, ends)
        return codes, starts, ends

    def _split_block(self, text: str, codes: Codes, begin: int) -> tuple[Places, Places, int]:
        limit = min(begin + self._block, len(codes))
        most = (limit - begin) // 2 + 1
        if self._used[0] + most > self._most or self._used[1] + self._block + chunks.LONGEST_CHUNK > _POOL:
            self._forget()
        chunk_starts, chunk_ends = np.empty(most, np.int64), np.empty(most, np.int64)
        found = np.empty(most, np.uint64)
        known = (self._keys, self._values, self._pool, self._used)
        count, end = chunks.find_chunks(codes, begin, limit, self._table, *known, chunk_starts, chunk_ends, found)
        unknown = np.flatnonzero(found[:count] == 0)
        if len(unknown):
            places = zip(chunk_starts[unknown].tolist(), chunk_ends[unknown].tolist(), strict=True)
            self._learn(list(dict.fromkeys(text[start:end] for start, end in places)))
        words = chunks.look_again(codes, count, self._keys, self._values, chunk_starts, chunk_ends, found)
        starts, ends = np.empty(words, np.int64), np.empty(words, np.int64)
        chunks.place_words(count, self._pool, chunk_starts, chunk_ends, found, starts, ends)
        return starts, ends, end

    def _find_risk(self, left: str, right: str) -> bool:
        """Whether an exception could match across the blank between two chunks while another stands in one of them."""
        if not any(
            (left.endswith(before) or before.endswith(left)) and (right.startswith(after) or after.startswith(right))
            for before, after in self._borders[left[-1], right[0]]
        ):
            return False
        return any(len(each) > 1 and each not in self._rules and self._changing.search(each) for each in (left, right))

    def _mend(self, text: str, begin: int, end: int, starts: Places, ends: Places) -> tuple[Places, Places]:
        """Split chunks together if an exception within one of them might be hidden by a match across blanks."""
        run = text[begin:end]
        pieces = run.split(" ")
        if max(map(len, pieces)) > chunks.LONGEST_CHUNK or not any(starmap(self._is_risk, pairwise(pieces))):
            return starts, ends
        with self._vocab.memory_zone():
            words = [(word.idx, word.idx + len(word)) for word in self._tokenizer(run)]
        places = begin + np.array(words, np.int64).reshape(-1, 2)
        first, last = np.searchsorted(starts, (begin, end))
        return (
            np.concatenate((starts[:first], places[:, 0], starts[last:])),
            np.concatenate((ends[:first], places[:, 1], ends[last:])),
        )


@functools.cache
def reference_words() -> ReferenceWords:
    """The one of this process; loading takes about a second."""
    return ReferenceWords()
