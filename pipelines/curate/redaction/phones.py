"""Phone numbers by libphonenumber (the ``phonenumbers`` package), which knows every country's numbering plan.

It is slow, so it only sees places with enough digits. A number without a country code and without any separator is
taken only where a word such as "call" stands before it: ten digits alone are more often a count, an id or a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from cluster.errors import UserError
from pipelines.curate.redaction.config import PhoneConfig
from pipelines.curate.redaction.spans import Finder, Scan

_MOST_CHARACTERS = 60
"""A longer run of digits and separators is a table of figures."""
_BEFORE, _AFTER = 4, 8
_FEWEST_DIGITS = 7
_CALL = re.compile(
    r"\b(?:tel|phone|telephone|mobile|cell|call|dial|ring|text|fax|whatsapp|signal|sms|contact|hotline)\b",
    re.IGNORECASE,
)
_NOT_A_PHONE = re.compile(
    r"(?:\b(?:isbn|issn|doi|arxiv|rfc|order|invoice|ticket|tracking|part|sku|pid|gtin|ean|version)\b"
    r"[\w#:.,' -]{0,12}|[$€£¥#=/.,][0-9.,]{0,12}|[0-9a-fA-F]{4}-)$",
    re.IGNORECASE,
)
_DATE = re.compile(r"(?:19|20)[0-9]{2}[-./ ](?:0[1-9]|1[0-2])[-./ ](?:0[1-9]|[12][0-9]|3[01])\b")
_YEARS = re.compile(r"(?:1[0-9]|20)[0-9]{2}(?:[ ./-]{1,3}(?:1[0-9]|20)[0-9]{2})+$")


def phone_finder(config: PhoneConfig) -> Finder:
    """A finder for these regions.

    Raises:
        UserError: libphonenumber knows no such region.
    """
    import phonenumbers

    for region in config.regions:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise UserError(
                f"{region!r} is no region with phone numbers",
                where="curate.redact.phone.regions",
                next_step="use ISO 3166 codes, such as US, GB or DE",
            )
    leniency = _leniency(config.leniency)

    def find(scan: Scan) -> Iterator[tuple[int, int]]:
        for start, end in scan.runs:
            if end - start <= _MOST_CHARACTERS and _may_be(scan, start, end):
                yield from _numbers(scan, start, end, config.regions, leniency)

    return find


def _numbers(scan: Scan, start: int, end: int, regions: tuple[str, ...], leniency: Any) -> Iterator[tuple[int, int]]:
    import phonenumbers

    text = scan.text
    low, high = max(0, start - _BEFORE), min(len(text), end + _AFTER)
    window = text[low:high]
    international = "+" in text[max(0, start - 3) : end]
    taken: list[tuple[int, int]] = []
    for region in (None,) if international and not regions else regions:
        for match in phonenumbers.PhoneNumberMatcher(window, region, leniency=leniency, max_tries=20):
            first, last = low + match.start, low + match.end
            if any(first < each[1] and last > each[0] for each in taken):
                continue
            if match.raw_string.isdigit() and not scan.says_before(first, _CALL):
                continue
            if match.number.extension:
                last = first + _without_extension(match.raw_string)
            taken.append((first, last))
            yield first, last


def _may_be(scan: Scan, start: int, end: int) -> bool:
    text = scan.text
    if start > 0 and (text[start - 1].isalpha() or text[start - 1] == "_"):
        return False
    if sum(map(str.isdigit, text[start:end])) < _FEWEST_DIGITS:
        return False
    if text[start:end].count("(") > 1 or _DATE.match(text, start) or _YEARS.match(text[start:end]):
        return False
    return _NOT_A_PHONE.search(text, max(0, start - 24), start) is None


def _without_extension(raw: str) -> int:
    """Characters up to the extension, which says nothing without the number."""
    match = re.search(r"\s*(?:;|,|ext|x|#|int)", raw, re.IGNORECASE)
    return match.start() if match else len(raw)


@cache
def _leniency(name: str) -> Any:
    from phonenumbers import Leniency

    return getattr(Leniency, name.upper())
