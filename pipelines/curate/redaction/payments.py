"""Payment cards (issuer's prefix, length and Luhn's check digit, ISO/IEC 7812) and bank accounts (IBAN, ISO 13616)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.curate.redaction.spans import Scan

_CARD = re.compile(
    r"[2-6](?<![\w.+-].)[0-9]{3}"
    r"(?:[0-9]{9,15}|([ -])(?:[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|[0-9]{6}\1[0-9]{4,5}))"
    r"(?![\w-]|[., ]?[0-9])"
)
"""Thirteen to nineteen digits, bare or grouped as cards are printed, with no other figure beside them."""
_PREFIXES = {
    "visa": (re.compile("4"), (13, 16, 19)),
    "mastercard": (re.compile("5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),
    "amex": (re.compile("3[47]"), (15,)),
    "discover": (re.compile("6011|64[4-9]|65"), (16, 19)),
    "diners": (re.compile("30[0-5]|3[689]"), (14,)),
    "jcb": (re.compile("35(?:2[89]|[3-8])"), (16, 19)),
    "unionpay": (re.compile("62"), (16, 19)),
}
"""Issuers' published number ranges (ISO/IEC 7812-1 registry, as their own documents state them)."""
_OF_CARDS = re.compile(r"\b(?:card|visa|credit|debit|pan|unionpay|karte|carte|tarjeta)", re.IGNORECASE)
_ALSO_BARCODES = (13, 19)
"""Lengths of which most bare numbers are barcodes and other systems' ids: these need a word about cards before them."""

_IBAN_START = re.compile(r"[A-Za-z]{2}[0-9]{2}")
_IBAN_CHARACTERS = re.compile(r"[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_BEFORE_RUN = 12
"""An IBAN's digits begin at most so many characters after its first: country, check, bank code and blanks."""
_SHORTEST_IBAN = 15


def find_cards(scan: Scan) -> Iterator[tuple[int, int]]:
    """Numbers of payment cards."""
    for low, high in scan.runs:
        for match in _CARD.finditer(scan.text, low, min(len(scan.text), high + 2)):
            digits = re.sub(r"[ -]", "", match[0])
            if not is_card(digits):
                continue
            bare, before = match[1] is None, scan.text[max(0, match.start() - 2) : match.start()]
            if before[1:] == "," or (not bare and before[:1].isdigit()):
                continue  # a cell among others of a table
            if bare and len(digits) in _ALSO_BARCODES and not scan.says_before(match.start(), _OF_CARDS):
                continue
            yield match.span()


def is_card(digits: str) -> bool:
    """Whether an issuer gives out such numbers and the check digit is right."""
    if not any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in _PREFIXES.values()):
        return False
    from stdnum import luhn

    return bool(luhn.is_valid(digits))


def find_ibans(scan: Scan) -> Iterator[tuple[int, int]]:
    """International bank account numbers, bare or in groups: country, length, structure and check digits are right."""
    done = 0
    for low, high in scan.runs:
        for start in _IBAN_START.finditer(scan.text, max(done, low - _BEFORE_RUN), min(len(scan.text), high)):
            end = _iban_end(scan, start.start())
            if end is not None:
                done = end
                yield start.start(), end
                break


def _iban_end(scan: Scan, start: int) -> int | None:
    """Where the longest valid number from here ends; a blank after it may be followed by other words."""
    from stdnum import iban

    match = _IBAN_CHARACTERS.match(scan.text, start)
    if match is None:
        return None
    ends = [place + 1 for place in range(*match.span()) if scan.text[place] not in " -"]
    compact = re.sub(r"[ -]", "", match[0]).upper()
    for length in _lengths_that_add_up(compact):
        if scan.stands_alone(start, ends[length - 1]) and iban.is_valid(compact[:length], check_country=False):
            return ends[length - 1]
    return None


def _lengths_that_add_up(compact: str) -> list[int]:
    """The longest first: lengths at which the check digits are right, found in one pass since most texts have none."""
    head = int("".join(str(int(each, 36)) for each in compact[:4]))
    shift = 10 ** len(str(head)) % 97
    remainder = 0
    found = []
    for length, character in enumerate(compact[4:], 5):
        value = int(character, 36)
        remainder = (remainder * (100 if value > 9 else 10) + value) % 97
        if length >= _SHORTEST_IBAN and (remainder * shift + head) % 97 == 1:
            found.append(length)
    return found[::-1]
