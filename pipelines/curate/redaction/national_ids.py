"""Personal numbers that states give out, checked by python-stdnum.

Chosen so that little else is taken for them: a number is found either by its shape, where letters, separators or
two check digits make it unmistakable, or by a word for it shortly before, where it is only digits.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.curate.redaction.spans import Scan

_AROUND = 4
_GB_NINO = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]")
"""Letters that HM Revenue and Customs uses (National Insurance Manual, NIM39110)."""


@dataclass(frozen=True)
class NationalId:
    """One country's number.

    Attributes:
        pattern: its shape.
        module: the module of stdnum that checks it; empty where the shape is all there is.
        context: words of which one must stand before it; None if the shape is enough.
    """

    name: str
    pattern: re.Pattern[str]
    module: str
    context: re.Pattern[str] | None = None


def _words(*words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z])(?:{'|'.join(words)})", re.IGNORECASE)


_SSN_WORDS = _words("ssn", "social security")
NATIONAL_IDS = (
    NationalId("US SSN", re.compile(r"[0-9]{3}-[0-9]{2}-[0-9]{4}"), "us.ssn"),
    NationalId("US SSN", re.compile(r"[0-9]{3}([ -]?)[0-9]{2}\1[0-9]{4}"), "us.ssn", _SSN_WORDS),
    NationalId("UK NINO", re.compile(_GB_NINO.pattern + r"( ?)[0-9]{2}(\1[0-9]{2}){2}\1[A-D]"), ""),
    NationalId(
        "DE Steuer-ID",
        re.compile(r"[0-9]{2}( ?)[0-9]{3}\1[0-9]{3}\1[0-9]{3}"),
        "de.idnr",
        _words("steuer", "id-?nr", "tin", "tax id"),
    ),
    NationalId(
        "FR NIR", re.compile(r"[12]( ?)[0-9]{2}\1[01][0-9]\1[0-9][0-9AB]\1[0-9]{3}\1[0-9]{3}\1[0-9]{2}"), "fr.nir"
    ),
    NationalId("ES DNI", re.compile(r"[0-9]{8}-?[A-Z]"), "es.dni"),
    NationalId("ES NIE", re.compile(r"[XYZ]-?[0-9]{7}-?[A-Z]"), "es.nie"),
    NationalId(
        "IN Aadhaar",
        re.compile(r"[2-9][0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}"),
        "in_.aadhaar",
        _words("aadhaar", "aadhar", "uidai", "आधार"),
    ),
    NationalId("NL BSN", re.compile(r"[0-9]{9}"), "nl.bsn", _words("bsn", "burgerservice", "sofi")),
    NationalId("BR CPF", re.compile(r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"), "br.cpf"),
    NationalId("PL PESEL", re.compile(r"[0-9]{11}"), "pl.pesel", _words("pesel")),
    NationalId("CN resident", re.compile(r"[1-9][0-9]{16}[0-9X]"), "cn.ric"),
)
_IT_CODICE_FISCALE = NationalId(
    "IT codice fiscale",
    re.compile(r"[A-Z](?<![A-Z].)[A-Z]{5}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]"),
    "it.codicefiscale",
)


def find_national_ids(scan: Scan) -> Iterator[tuple[int, int]]:
    """Places of the numbers of NATIONAL_IDS and of Italy's, whose letters need a look of their own."""
    text = scan.text
    for low, high in scan.runs:
        for rule in NATIONAL_IDS:
            for match in rule.pattern.finditer(text, max(0, low - _AROUND), min(len(text), high + _AROUND)):
                if _is_it(scan, match, rule):
                    yield match.span()
    for match in _IT_CODICE_FISCALE.pattern.finditer(text):
        if _is_it(scan, match, _IT_CODICE_FISCALE):
            yield match.span()


def _is_it(scan: Scan, match: re.Match[str], rule: NationalId) -> bool:
    start, end = match.span()
    return (
        scan.stands_alone(start, end)
        and not _in_a_longer_number(scan.text, start, end)
        and (rule.context is None or scan.says_before(start, rule.context))
        and (
            not rule.module
            or bool(importlib.import_module(f"stdnum.{rule.module}").is_valid(re.sub("[ .-]", "", match[0])))
        )
    )


def _in_a_longer_number(text: str, start: int, end: int) -> bool:
    """Whether digits go on behind a separator, as in a telephone number, a decimal or a table."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    return (len(before) == 2 and before[1] in "-./" and before[0].isalnum()) or (
        len(after) == 2 and after[0] in "-./" and after[1].isalnum()
    )
