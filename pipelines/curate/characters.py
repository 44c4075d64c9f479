"""What kind each character is, as one table that compiled code can read."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
import numpy.typing as npt

SPACE, ALPHABETIC, SYMBOL, PUNCTUATION, SENTENCE_END, WORD, UPPER = (1 << bit for bit in range(7))
"""Bits of the table: isspace, isalpha, in SYMBOLS, category P, in SENTENCE_ENDS, isalnum or _, isupper."""

TABLE_SIZE = 0x40000
"""Characters beyond are none of these (Unicode gives them no letter, blank or punctuation)."""

_ENDS = (
    "21 2E 3F 589 61D-61F 6D4 700-702 7F9 837 839 83D-83E 964-965 104A-104B 1362 1367-1368 166E 1735-1736 17D4-17D6 "
    "17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 203C-203D 2047-2049 "
    "2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB "
    "FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 "
    "111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 "
    "1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 16A6E-16A6F 16AF5 16B37-16B38 "
    "16B44 16E98 1BC9F 1DA88"
)
_NOT_IN_SPACY = (
    "61D-61E 837 839 83D-83E 17D4-17D6 17D9-17DA 1B7D-1B7E 2E53-2E54 10F55-10F59 10F86-10F89 11944 11946 11EF7-11EF8 "
    "11F43-11F44 16E98"
)


def _characters(ranges: str) -> frozenset[str]:
    found: set[str] = set()
    for each in ranges.split():
        first, _, last = each.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)


LINE_ENDS = _characters(_ENDS)
"""What ends a whole line in FineWeb's rule: the sentence-terminal characters of all scripts (Unicode's
Sentence_Terminal, without some late additions, with three Khmer signs), as datatrove's TERMINAL_PUNCTUATION lists."""

SENTENCE_ENDS = LINE_ENDS - _characters(_NOT_IN_SPACY)
"""What ends a sentence for spaCy's rule-based sentencizer, which datatrove counts C4's sentences with."""

SYMBOLS = (
    LINE_ENDS
    | frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～")
    | _characters("0-8 B-1F 7F-9F")
)
"""Gopher's rules count no word that consists of these alone: the punctuation of CCNet's normalisation (Wenzek et al.
2019, arXiv:1911.00359; the full-width 1 is in its list), controls, and LINE_ENDS, as in datatrove's PUNCTUATION_SET."""


@functools.cache
def character_table() -> npt.NDArray[np.uint8]:
    """The bits of every character below TABLE_SIZE; made once in a process, in about 0.1 s."""
    every = [chr(code) for code in range(TABLE_SIZE)]
    table = np.zeros(TABLE_SIZE, np.uint8)
    table |= np.array([each.isspace() for each in every], np.uint8) * np.uint8(SPACE)
    table |= np.array([each.isalpha() for each in every], np.uint8) * np.uint8(ALPHABETIC)
    table |= np.array([each.isalnum() or each == "_" for each in every], np.uint8) * np.uint8(WORD)
    table |= np.array([each.isupper() for each in every], np.uint8) * np.uint8(UPPER)
    category = unicodedata.category
    table |= np.array([category(each)[0] == "P" for each in every], np.uint8) * np.uint8(PUNCTUATION)
    for characters, bit in ((SYMBOLS, SYMBOL), (SENTENCE_ENDS, SENTENCE_END)):
        table[[ord(each) for each in characters]] |= np.uint8(bit)
    return table


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """A text as numbers, 4 bytes a character. UnicodeEncodeError for half a surrogate pair."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
