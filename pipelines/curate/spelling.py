"""One spelling of English, British or American, for models that count words.

The list, spelling.txt, holds the regular groups (-our, -ise, -yse, -re, doubled l) and single words, as Oxford and
Merriam-Webster give them. A word that is also another word in the other country (check, tire, meter, program) is only
changed towards American spelling, where no doubt is left.
"""

from __future__ import annotations

import functools
import itertools
import re
from importlib.resources import files
from typing import Literal

Spelling = Literal["american", "british"]

_WORD = re.compile(r"[A-Za-z]{4,}")


def standardise_spelling(text: str, spelling: Spelling) -> str:
    """The text in one spelling; case is kept, and words that are not in the list are."""
    table = _table(spelling)

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        other = table.get(word.lower())
        if other is None:
            return word
        return other.upper() if word.isupper() else other.capitalize() if word[0].isupper() else other

    return _WORD.sub(replace, text)


@functools.cache
def _table(spelling: Spelling) -> dict[str, str]:
    """Word -> how it is written in that country, from spelling.txt."""
    both: dict[str, str] = {}
    only_to_american: dict[str, str] = {}
    for line in files("pipelines.curate").joinpath("spelling.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if "|" in line:
            both |= _group(line)
        else:
            british, american = line.removeprefix("> ").split()
            (only_to_american if line.startswith(">") else both)[british] = american
    if spelling == "british":
        return {american: british for british, american in both.items()}
    return both | only_to_american


def _group(line: str) -> dict[str, str]:
    (british, american), stems, endings = ([each.strip("-") for each in part.split()] for part in line.split("|"))
    return {stem + british + end: stem + american + end for stem, end in itertools.product(stems, endings)}
