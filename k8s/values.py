"""The values that a profile's keys take, each refused with words about what it should be."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

_IMAGE = (
    r"(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)


def _reads(pattern: str, words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(words)
        return text

    return check


def _cidr(text: str) -> str:
    from ipaddress import ip_network

    ip_network(text)
    if "/" not in text:
        raise ValueError("has no prefix: one address is written 10.1.2.3/32")
    return text


def _address(text: str) -> str:
    parts = urlsplit(text)
    if parts.username or parts.password:
        raise ValueError("holds a name or a password, which everybody who may see pods would read: use `secret`")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("reads http://host:port or https://host:port")
    port_of(text)
    return text


def port_of(address: str) -> int:
    """The port of a http(s) address; raises ValueError where it is none."""
    parts = urlsplit(address)
    return parts.port or (443 if parts.scheme == "https" else 80)


_LABEL = "is no name in Kubernetes: lower-case letters, digits and -, a letter first, {} at most"
DnsLabel = Annotated[str, AfterValidator(_reads(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", _LABEL.format(63)))]
GroupName = Annotated[str, AfterValidator(_reads(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", _LABEL.format(20)))]
Image = Annotated[str, AfterValidator(_reads(_IMAGE, "is no image: registry/name:tag, or name@sha256:…"))]
Address = Annotated[str, AfterValidator(_address)]
Cidr = Annotated[str, AfterValidator(_cidr)]
Port = Annotated[int, Field(ge=1, le=65535)]
Gib = Annotated[float, Field(ge=0.125, le=1_000_000)]
