"""E-mail addresses and public IP addresses, by rules that keep prices, versions, decorators and scopes out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from pipelines.curate.redaction.spans import Scan

_LOCAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.!#$%&'*+/=?^_`{|}~-")
"""What RFC 5322 section 3.2.3 lets the part before the @ be made of (dot-atom)."""
_LATIN = "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
"""Letters with marks, as in jürgen@bücher.example (RFC 6531); other scripts are written without a blank before."""
_LATIN_FIRST, _LATIN_LAST = "\u00c0", "\u024f"
_QUOTING = "'`*_|{}.!#$%&/=?^~"
"""Of those, characters that before an address are rather quotes, markup or punctuation than its beginning."""
_LABEL = f"[A-Za-z0-9{_LATIN}](?:[A-Za-z0-9{_LATIN}-]{{0,61}}[A-Za-z0-9{_LATIN}])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+[A-Za-z]{{2,63}}(?![A-Za-z0-9])")
_LONGEST_LOCAL = 64
_FIRST_DOT = re.compile(r"\.(?=[0-9]{1,3}\.[0-9]{1,3}\.[0-9])")
_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_MULTICAST = tuple(f"{first}." for first in range(224, 240))
_FIRST_COLON = re.compile(r":(?<=[23][0-9A-Fa-f]{3}:)")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
"""Global unicast only (2000::/3, RFC 4291), which keeps C++ scopes, slices and times out."""


def find_emails(scan: Scan) -> Iterator[tuple[int, int]]:
    """Looks around each @: searching for the local part first would cost up to 64 steps for every character."""
    text = scan.text
    done = 0
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        if domain:
            start = at
            while start > done and at - start < _LONGEST_LOCAL and _is_local(text[start - 1]):
                start -= 1
            while start < at and text[start] in _QUOTING:
                start += 1
            if start < at:
                done = domain.end()
                yield start, done
        at = text.find("@", max(at + 1, done))


def find_ips(scan: Scan) -> Iterator[tuple[int, int]]:
    """Public IPv4 and IPv6 addresses; what is private, reserved or for documentation stays."""
    text = scan.text
    for dot in _FIRST_DOT.finditer(text):
        start = dot.start()
        while start > 0 and dot.start() - start < 3 and text[start - 1] in "0123456789":
            start -= 1
        match = _IPV4.match(text, start)
        if match and is_public(match[0]) and not match[0].startswith(_MULTICAST):
            yield match.span()
    for colon in _FIRST_COLON.finditer(text):
        match = _IPV6.match(text, colon.start() - 4)
        address = match[0].rstrip(":") if match else ""
        if match and is_public(address):
            yield match.start(), match.start() + len(address)


def _is_local(character: str) -> bool:
    return character in _LOCAL or (_LATIN_FIRST <= character <= _LATIN_LAST and character.isalpha())


def is_public(address: str) -> bool:
    """Whether the text is an IP address of the public internet, as the standard library's registry says."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
