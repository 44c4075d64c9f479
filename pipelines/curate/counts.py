"""Compiled: what the rules count in a text split into words: ``codes`` are characters, words are places in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.curate.characters import ALPHABETIC, PUNCTUATION, SENTENCE_END, SYMBOL, TABLE_SIZE
from pipelines.curate.chunks import Codes, Hashes, Places
from pipelines.curate.compiled import compiled

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
STOP_CODES = np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS], np.uint32)

_LINE_END, _BLANK = 10, 32
_ONE = np.uint64(1)
_HALF = np.uint64(32)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(29)


@compiled
def count_words(
    codes: Codes, starts: Places, ends: Places, table: npt.NDArray[np.uint8], stop_codes: npt.NDArray[np.uint32]
) -> tuple[int, int, int, int]:
    """Words that are more than symbols, their characters, words with a letter, and different stop words."""
    speaking = characters = alphabetic = 0
    stops = 0
    for word in range(len(starts)):
        kinds_of_all = 255
        kinds_of_any = 0
        packed = 0
        for i in range(starts[word], ends[word]):
            code = codes[i]
            kinds = table[code] if code < TABLE_SIZE else 0
            kinds_of_all &= kinds
            kinds_of_any |= kinds
            packed = (packed << 8 | code) if code < 128 else 0
        if kinds_of_all & SYMBOL == 0:
            speaking += 1
            characters += ends[word] - starts[word]
        if kinds_of_any & ALPHABETIC:
            alphabetic += 1
        if ends[word] - starts[word] <= 4:
            for each in range(len(stop_codes)):
                if packed == stop_codes[each]:
                    stops |= 1 << each
    different = 0
    while stops:
        different += stops & 1
        stops >>= 1
    return speaking, characters, alphabetic, different


@compiled
def are_speaking(codes: Codes, starts: Places, ends: Places, table: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which words are more than symbols."""
    speaking = np.zeros(len(starts), np.bool_)
    for word in range(len(starts)):
        for i in range(starts[word], ends[word]):
            code = codes[i]
            if code >= TABLE_SIZE or table[code] & SYMBOL == 0:
                speaking[word] = True
                break
    return speaking


@compiled
def _spread(value: np.uint64) -> np.uint64:
    key = value * _FACTOR
    key ^= key >> _SHIFT
    key *= _BASE
    return key ^ (key >> _HALF)


@compiled
def running_hashes(codes: Codes, starts: Places, ends: Places) -> tuple[Hashes, Hashes, Places]:
    """Of all words written together: the polynomial hash, the inverse power and the characters before each word.

    ``(hashes[b] - hashes[a]) * inverses[a]`` modulo 2^64 is then the hash of words a to b written together, whatever
    the borders between them. Two of n different texts meet with a probability of about n^2 / 2^65.
    """
    count = len(starts)
    hashes, inverses = np.zeros(count + 1, np.uint64), np.ones(count + 1, np.uint64)
    characters = np.zeros(count + 1, np.int64)
    total, power, inverse = np.uint64(0), _ONE, _ONE
    for word in range(count):
        for i in range(starts[word], ends[word]):
            value = (np.uint64(codes[i]) + _ONE) * _FACTOR
            total += (value ^ (value >> _SHIFT)) * power
            power *= _BASE
            inverse *= _INVERSE
        hashes[word + 1] = total
        inverses[word + 1] = inverse
        characters[word + 1] = characters[word] + ends[word] - starts[word]
    return hashes, inverses, characters


@compiled
def _index_size(count: int) -> int:
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@compiled
def count_top_ngram(hashes: Hashes, inverses: Hashes, characters: Places, n: int) -> tuple[int, int]:
    """Characters in all occurrences of the most frequent n-gram, with a blank between its words, and how many occur.

    Of equally frequent ones the first in the text counts. Nothing is (0, 0).
    """
    count = len(hashes) - n
    if count <= 0:
        return 0, 0
    size = _index_size(count)
    keys, times, first = np.zeros(size, np.uint64), np.zeros(size, np.int32), np.zeros(size, np.int64)
    mask = np.uint64(size - 1)
    best_times = best_first = 0
    for position in range(count):
        key = np.uint64(n)
        for word in range(position, position + n):
            key = _spread(key ^ ((hashes[word + 1] - hashes[word]) * inverses[word]))
        key |= _ONE
        place = (key >> _HALF) & mask
        while keys[place] != 0 and keys[place] != key:
            place = (place + _ONE) & mask
        if keys[place] == 0:
            keys[place] = key
            first[place] = position
        times[place] += 1
        if times[place] > best_times or (times[place] == best_times and first[place] < best_first):
            best_times = times[place]
            best_first = first[place]
    return int(characters[best_first + n] - characters[best_first] + n - 1) * int(best_times), int(best_times)


@compiled
def count_repeated_ngrams(hashes: Hashes, inverses: Hashes, characters: Places, n: int) -> int:
    """Characters of n-grams that occurred before, read from the start: a repeated one is counted and stepped over.

    Two n-grams are equal if their words written together are.
    """
    count = len(hashes) - n
    if count <= 0:
        return 0
    size = _index_size(count)
    keys = np.zeros(size, np.uint64)
    mask = np.uint64(size - 1)
    position = repeated = 0
    while position < count:
        key = _spread((hashes[position + n] - hashes[position]) * inverses[position]) | _ONE
        place = (key >> _HALF) & mask
        while keys[place] != 0 and keys[place] != key:
            place = (place + _ONE) & mask
        if keys[place] == 0:
            keys[place] = key
            position += 1
        else:
            repeated += characters[position + n] - characters[position]
            position += n
    return int(repeated)


@compiled
def count_sentences(codes: Codes, starts: Places, ends: Places, table: npt.NDArray[np.uint8]) -> int:
    """Sentences in the lines of a text: a line is one, and one more for each word behind an end that is no punctuation.

    Blanks are such a word where the tokenizer makes them one: all but a single space behind a word.
    """
    sentences = 1
    ended = False
    position = 0
    for word in range(len(starts) + 1):
        start = starts[word] if word < len(starts) else len(codes)
        blanks = 0
        for i in range(position, start + 1):
            if i < start and codes[i] != _LINE_END:
                blanks += 1
                continue
            if ended and (blanks > 1 or (blanks == 1 and codes[i - 1] != _BLANK)):
                sentences += 1
                ended = False
            if i < start:
                sentences += 1
                ended = False
                blanks = 0
        if word == len(starts):
            break
        only_punctuation = True
        for i in range(start, ends[word]):
            if codes[i] >= TABLE_SIZE or table[codes[i]] & PUNCTUATION == 0:
                only_punctuation = False
        ends_sentence = (
            ends[word] - start == 1 and codes[start] < TABLE_SIZE and table[codes[start]] & SENTENCE_END != 0
        )
        if ends_sentence:
            ended = True
        elif ended and not only_punctuation:
            sentences += 1
            ended = False
        position = ends[word]
    return sentences
