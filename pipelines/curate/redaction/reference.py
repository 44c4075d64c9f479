"""E-mail and IP addresses exactly as datatrove 0.10.1's PIIFormatter decides, so that corpora can be compared.

Written from what its two expressions accept. Their search starts anew at every character of the text, which is what
makes them slow; here the one character that every match must have (an @, or a dot between digits) is looked for
first, and the rest of the rule is tried around it. Its e-mail rule has its own edge: what follows an address without
a blank is not an address in the same pass but can be one in the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.curate.redaction.addresses import is_public
from pipelines.curate.redaction.spans import Scan

_ATOM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+/=?^_`{|}~-")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}|\[(?:{_OCTET}\.){{3}}(?:{_OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]")
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
_FIRST_DOT = re.compile(r"\.(?=[0-9]{1,3}\.[0-9]{1,3}\.[0-9])")
_DIGITS = "0123456789"


def find_emails(scan: Scan) -> Iterator[tuple[int, int]]:
    """The first place before each @ from which a dotted local part reaches it and where a word begins or ends."""
    text = scan.text
    done = 0
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        start = _local_start(text, done, at) if domain else None
        if domain and start is not None:
            done = domain.end()
            yield start, done
        at = text.find("@", max(at + 1, done))


def find_ips(scan: Scan) -> Iterator[tuple[int, int]]:
    """Public IPv4 addresses, also inside longer runs of digits and dots; a private one still uses its digits up."""
    text = scan.text
    done = 0
    for dot in _FIRST_DOT.finditer(text):
        place = dot.start()
        if place <= done:
            continue
        for start in range(max(done, place - 3), place):
            match = _IPV4.match(text, start) if text[start] in _DIGITS else None
            if match:
                done = match.end()
                if is_public(match[0]):
                    yield start, done
                break


def _local_start(text: str, done: int, at: int) -> int | None:
    """Where the leftmost match that ends at the @ begins: not before ``done``, and at the edge of a word."""
    first = at
    while first > done and (
        text[first - 1] in _ATOM
        or (text[first - 1] == "." and first < at and first - 1 > done and text[first - 2] in _ATOM)
    ):
        first -= 1
    before = first > 0 and _in_word(text[first - 1])
    for place in range(first, at):
        here = _in_word(text[place])
        if here != before and text[place] != ".":
            return place
        before = here
    return None


def _in_word(character: str) -> bool:
    """What \\w means to Python's expressions."""
    return character.isalnum() or character == "_"
