"""Personal data and secrets replaced by typed placeholders such as ``<EMAIL>``; needs neither Ray nor a recipe.

redactor = Redactor(RedactConfig(types=("email", "phone")))
text, counts = redactor("Write to ann@example.org.")   # "Write to <EMAIL>.", {"email": 1}
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence

from pipelines.curate.redaction import addresses, reference
from pipelines.curate.redaction.config import EVERY_TYPE, PLACEHOLDERS, RedactConfig, Redaction
from pipelines.curate.redaction.names import name_finder
from pipelines.curate.redaction.national_ids import find_national_ids
from pipelines.curate.redaction.payments import find_cards, find_ibans
from pipelines.curate.redaction.phones import phone_finder
from pipelines.curate.redaction.secrets import find_secrets
from pipelines.curate.redaction.spans import Finder, Scan, Span, without_overlaps

__all__ = ["EVERY_TYPE", "PLACEHOLDERS", "RedactConfig", "Redactor", "redact", "redact_sample", "redactor"]


class Redactor:
    """Replaces what its configuration names.

    Redacting what was redacted changes nothing, except with ``addresses: reference``, which decides in one pass as
    its reference does.

    Raises:
        UserError: a region, function or pipeline of the configuration does not exist (when it is made).
    """

    def __init__(self, config: RedactConfig) -> None:
        self.config = config
        self._once = config.addresses == "reference"
        self._finders = _finders(config)

    def find(self, text: str) -> list[Span]:
        """What would be replaced, by place, none overlapping; places count characters (code points)."""
        scan = Scan(text)
        found = [Span(start, end, kind) for kind, find in self._finders for start, end in find(scan)]
        if not found:
            return found
        return without_overlaps(text, found)

    def __call__(self, text: str) -> tuple[str, Counter[str]]:
        """The text with placeholders, and how many of each type were put in."""
        counts: Counter[str] = Counter()
        while spans := self.find(text):
            # What a match touched may be recognised once it is gone. Each round leaves fewer characters: it ends.
            text = _replace(text, spans, counts)
            if self._once:
                break
        return text, counts


def _finders(config: RedactConfig) -> list[tuple[str, Finder]]:
    """In the order in which they win where two overlap: the most certain first."""
    rules = reference if config.addresses == "reference" else addresses
    every: dict[Redaction, Finder] = {
        "secret": find_secrets,
        "email": rules.find_emails,
        "iban": find_ibans,
        "card": find_cards,
        "national_id": find_national_ids,
        "ip": rules.find_ips,
        "phone": phone_finder(config.phone) if "phone" in config.types else find_secrets,
    }
    finders: list[tuple[str, Finder]] = [(kind, find) for kind, find in every.items() if kind in config.types]
    if config.names is not None:
        finders.append(("name", name_finder(config.names)))
    return finders


def _replace(text: str, spans: Sequence[Span], counts: Counter[str]) -> str:
    parts: list[str] = []
    done = 0
    for start, end, kind in spans:
        parts += (text[done:start], PLACEHOLDERS[kind])
        counts[kind] += 1
        done = end
    return "".join([*parts, text[done:]])


@functools.cache
def redactor(config: RedactConfig) -> Redactor:
    """The redactor of a configuration, made once in a process."""
    return Redactor(config)


def redact(text: str, what: RedactConfig | Sequence[str]) -> tuple[str, Counter[str]]:
    """The text without the given types of personal data (a plain list: by the default rules), and counts by type."""
    config = what if isinstance(what, RedactConfig) else _of_types(tuple(what))
    return redactor(config)(text)


@functools.cache
def _of_types(types: tuple[str, ...]) -> RedactConfig:
    return RedactConfig.model_validate({"types": types})


def redact_sample(text: str, characters: int | None = None) -> str:
    """A text's beginning (by default all), fit for a page that people pass on: no personal data in it."""
    return redact(text, EVERY_TYPE)[0][:characters]
