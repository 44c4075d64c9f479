"""Splitting text into words and lines the way the quality rules count them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


@dataclass(frozen=True)
class Words:
    """A document's text with its words and lines, split once and used by every rule.

    A word is a run of letters, digits and underscores; ``don't`` and ``well-known`` are one word each.
    """

    text: str

    @cached_property
    def words(self) -> list[str]:
        """Words in order, without the symbols between them."""
        return _WORD.findall(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Lines that are not blank."""
        return [line for line in self.text.split("\n") if line.strip()]
