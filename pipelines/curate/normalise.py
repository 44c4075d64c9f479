"""Unicode normalisation that keeps lines and indentation; where asked for, the plainer text of classical models."""

from __future__ import annotations

import functools
import math
import re
import unicodedata

from pydantic import Field

from cluster.config import StrictModel
from pipelines.curate.contractions import expand_contractions
from pipelines.curate.spelling import Spelling, standardise_spelling

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ud800-\udfff]")
"""C0 and C1 controls other than tab and line ends, soft hyphen, zero-width space, word joiner, byte-order mark, and
surrogates. Zero-width joiners stay: several scripts and emoji need them."""
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BLANKS = re.compile(r"[ \t]{2,}")
_BLANK_LINES = re.compile(r"\n{3,}")
_MOST_ROUNDS = 8
_LAST_PUNCTUATION = 0x20000
"""Unicode has none beyond, and looking through all of it would take ten times as long."""


class NormaliseConfig(StrictModel):
    """How a text is cleaned. The last four are for classical models (n-grams, bags of words): language models need
    what they take away."""

    unicode: bool = Field(True, description="Unicode normalisation form C")
    mojibake: bool = Field(True, description="undo wrong decodings such as schÃ¶n, with ftfy (Speer 2019)")
    controls: bool = Field(True, description="remove control characters, byte-order marks, zero-width and soft hyphens")
    whitespace: bool = Field(
        True,
        description="one kind of line end and blank, no blanks at line ends, at most one blank line, none at the ends",
    )
    expand_contractions: bool = Field(False, description="classical models, English: isn't becomes is not")
    spelling: Spelling | None = Field(None, description="classical models, English: american or british spelling")
    remove_punctuation: bool = Field(
        False, description="classical models: punctuation becomes a blank, apostrophes in words vanish, 3.14 stays"
    )
    lowercase: bool = Field(False, description="classical models: small letters only")

    @property
    def for_classical_models(self) -> bool:
        """Whether any of the steps that language models can do without is on."""
        return self.expand_contractions or self.spelling is not None or self.remove_punctuation or self.lowercase


DEFAULT = NormaliseConfig.model_validate({})


def normalise(text: str, config: NormaliseConfig = DEFAULT) -> str:
    """The text repaired and in NFC, ending in one line end (or empty); applying it again changes nothing.

    ASCII text cannot have mojibake and skips looking for it.
    """
    for _ in range(_MOST_ROUNDS):
        cleaned = _clean(text, config)
        if cleaned == text or (cleaned.isascii() and not config.for_classical_models):
            return cleaned
        text = cleaned  # a repair, or a line that is gone, can make room for another repair
    return text


def readable_text(value: object) -> tuple[str, str | None]:
    """What a document's text field holds, as text; or an empty text and the reason why it cannot be used.

    Reasons: ``text.missing`` (nothing, or a table's not-a-number), ``text.wrong_type`` (a number, a list, a mapping,
    bytes that are no UTF-8). A wrong value is never turned into words that nobody wrote.
    """
    if isinstance(value, str):
        return value, None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", "text.missing"
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode("utf-8"), None
        except UnicodeDecodeError:
            pass
    return "", "text.wrong_type"


def _clean(text: str, config: NormaliseConfig) -> str:
    text = _plain(text, config)
    if not text.isascii():
        if config.mojibake:
            import ftfy

            text = ftfy.fix_encoding(text)
        if config.unicode:
            text = unicodedata.normalize("NFC", text)
        text = _plain(text, config)
    if config.for_classical_models:
        text = _for_classical_models(text, config)
    if config.whitespace:
        text = _BLANK_LINES.sub("\n\n", _without_trailing_blanks(text)).strip("\n")
        text = text + "\n" if text.strip() else ""
    return text


def _plain(text: str, config: NormaliseConfig) -> str:
    if config.whitespace:
        text = _LINE_ENDS.sub("\n", text)
        if not text.isascii():
            text = _SPACES.sub(" ", text)
    return _REMOVED.sub("", text) if config.controls else text


def _without_trailing_blanks(text: str) -> str:
    """By lines, since an expression would look at every blank of a long run again for each of them."""
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        return "\n".join(line.rstrip(" \t") for line in text.split("\n"))
    return text


def _for_classical_models(text: str, config: NormaliseConfig) -> str:
    if config.expand_contractions:
        text = expand_contractions(text)
    if config.spelling is not None:
        text = standardise_spelling(text, config.spelling)
    if config.remove_punctuation:
        text = _without_punctuation(text)
    if config.lowercase:
        text = text.lower()
        text = unicodedata.normalize("NFC", text) if config.unicode else text
    return text


def _without_punctuation(text: str) -> str:
    inside, marks = _punctuation()
    text = _BLANKS.sub(" ", marks.sub(" ", inside.sub("", text)))
    return "\n".join(line.strip(" \t") for line in text.split("\n"))


@functools.cache
def _punctuation() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Apostrophes inside words, and runs of other marks."""
    every = [chr(code) for code in range(_LAST_PUNCTUATION) if unicodedata.category(chr(code)).startswith("P")]
    other = "".join(map(re.escape, sorted({*every, *"$+<=>^`|~"} - {".", ","})))
    mark = rf"(?:[{other}]|(?<![0-9])[.,]|[.,](?![0-9]))"
    return (
        re.compile(r"(?<=\w)['’](?=\w)"),
        re.compile(f"{mark}+"),
    )
