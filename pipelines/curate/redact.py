"""Personal data replaced by typed placeholders: e-mail addresses and public IP addresses."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence

PLACEHOLDERS = {"email": "<EMAIL>", "ip": "<IP>"}

_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-")
"""What RFC 5322 section 3.2.3 lets the part before the @ be made of (dot-atom)."""
_QUOTING = "'`*_|{}.!#$%&/=?^~"
"""Of those, characters that before an address are rather quotes, markup or punctuation than its beginning."""
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}(?![A-Za-z0-9])")
_LONGEST_LOCAL = 64
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
"""Global unicast only (2000::/3, RFC 4291), which keeps C++ scopes, slices and times out."""


def redact(text: str, types: Sequence[str]) -> tuple[str, Counter[str]]:
    """The text with placeholders, and how many of each type were put in. ``types`` are keys of PLACEHOLDERS."""
    counts: Counter[str] = Counter()
    if "email" in types and "@" in text:
        text, counts["email"] = _redact_emails(text)
    if "ip" in types:
        text, fours = _redact_matches(text, _IPV4)
        text, sixes = _redact_matches(text, _IPV6) if "::" in text or text.count(":") >= 7 else (text, 0)
        counts["ip"] = fours + sixes
    return text, +counts


def redact_sample(text: str, characters: int | None = None) -> str:
    """A text's beginning (by default all), fit for a page that people pass on: no personal data in it."""
    return redact(text, tuple(PLACEHOLDERS))[0][:characters]


def _redact_emails(text: str) -> tuple[str, int]:
    """Looks around each @: searching for the local part first would cost up to 64 steps for every character."""
    parts: list[str] = []
    done = count = 0
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        if domain:
            start = at
            while start > done and at - start < _LONGEST_LOCAL and text[start - 1] in _LOCAL:
                start -= 1
            while start < at and text[start] in _QUOTING:
                start += 1
            if start < at:
                parts += (text[done:start], PLACEHOLDERS["email"])
                done = domain.end()
                count += 1
        at = text.find("@", max(at + 1, done))
    return "".join([*parts, text[done:]]), count


def _redact_matches(text: str, pattern: re.Pattern[str]) -> tuple[str, int]:
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        address = match[0].rstrip(":")
        if not _is_public(address):
            return match[0]
        count += 1
        return PLACEHOLDERS["ip"] + match[0][len(address) :]

    return pattern.sub(replace, text), count


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
