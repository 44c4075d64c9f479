from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.curate.redact import redact

BOTH = ["email", "ip"]
SIMPLE_EMAIL = re.compile(r"[A-Za-z0-9]@[A-Za-z0-9]+\.[A-Za-z]{2}")


@pytest.mark.parametrize(
    ("text", "expected", "count"),
    [
        ("Ann <ann.lee+x@example.org> wrote", "Ann <<EMAIL>> wrote", 1),
        ("mailto:joe@mail.example.co.uk.", "mailto:<EMAIL>.", 1),
        ("a@b.org, c@d.net; e@f.io", "<EMAIL>, <EMAIL>; <EMAIL>", 3),
        ("'joe@example.com'", "'<EMAIL>'", 1),
        ("**joe@example.com**", "**<EMAIL>**", 1),
        ("o'neil_x%y@example.com", "<EMAIL>", 1),
        ("@property\n@functools.cache", "@property\n@functools.cache", 0),
        ("A @ B.T", "A @ B.T", 0),
        ("user@localhost", "user@localhost", 0),
        ("x@1.2.3", "x@1.2.3", 0),
        ("name@-bad-.com", "name@-bad-.com", 0),
        ("x@y@example.com", "x@<EMAIL>", 1),
        ("z" * 100 + "@example.com", "z" * 36 + "<EMAIL>", 1),
        ("....@example.com", "....@example.com", 0),
        ("ünï@example.com", "ünï@example.com", 0),
    ],
)
def test_emails(text: str, expected: str, count: int) -> None:
    redacted, counts = redact(text, BOTH)
    assert redacted == expected
    assert counts["email"] == count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ping 8.8.8.8.", "ping <IP>."),
        ("http://151.101.1.69:80/", "http://<IP>:80/"),
        ("10.0.0.1 192.168.1.1 127.0.0.1 172.16.5.4 169.254.1.1 0.0.0.0", None),
        ("192.0.2.7 198.51.100.7 203.0.113.7", None),  # for documentation, RFC 5737
        ("999.1.1.1", None),
        ("1.2.3", None),
        ("1.2.3.4.5", None),
        ("v8.8.8.8", None),
        ("DNS 2606:4700:4700::1111 and [2001:4860:4860:0:0:0:0:8888]:53", "DNS <IP> and [<IP>]:53"),
        ("2001:db8::1 fe80::1 ::1 std::vector a::b 12:30:45 x[::2]", None),
    ],
)
def test_public_addresses(text: str, expected: str | None) -> None:
    assert redact(text, BOTH)[0] == (text if expected is None else expected)


def test_only_the_types_asked_for() -> None:
    text = "me@example.com 8.8.8.8"
    assert redact(text, ["ip"])[0] == "me@example.com <IP>"
    assert redact(text, ["email"])[0] == "<EMAIL> 8.8.8.8"
    assert redact(text, []) == (text, {})


@given(st.lists(st.one_of(st.emails(), st.text(alphabet="ab.@-_ <>'1\n", max_size=12)), max_size=8).map(" ".join))
def test_no_email_is_left(text: str) -> None:
    redacted, _ = redact(text, BOTH)
    assert SIMPLE_EMAIL.search(redacted) is None
    assert redact(redacted, BOTH) == (redacted, {})


@given(st.ip_addresses(v=4), st.sampled_from(["", "(", "at ", "\n"]), st.sampled_from(["", ")", ", ", "\n", "/24"]))
def test_an_ipv4_address_goes_exactly_if_it_is_public(address: object, before: str, after: str) -> None:
    public = bool(address.is_global)  # type: ignore[attr-defined]
    assert redact(f"{before}{address}{after}", BOTH)[0] == f"{before}{'<IP>' if public else address}{after}"
