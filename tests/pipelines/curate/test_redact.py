from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import parse_document, validate
from cluster.errors import UserError
from pipelines.curate.config import CurateConfig
from pipelines.curate.redact import EVERY_TYPE, PLACEHOLDERS, RedactConfig, Redactor, redact, redact_sample
from pipelines.curate.redaction.payments import is_card
from pipelines.curate.redaction.secrets import looks_random

BOTH = ["email", "ip"]
SIMPLE_EMAIL = re.compile(r"[A-Za-z0-9]@[A-Za-z0-9]+\.[A-Za-z]{2}")
EVERY = Redactor(RedactConfig(types=EVERY_TYPE))


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
        ("ünï@bücher.example.com", "<EMAIL>", 1),
        ("連絡先はa@example.jpです", "連絡先は<EMAIL>です", 1),
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
        ("10.0.0.1 192.168.1.1 127.0.0.1 172.16.5.4 169.254.1.1 0.0.0.0 224.0.0.251", None),
        ("192.0.2.7 198.51.100.7 203.0.113.7", None),  # for documentation, RFC 5737
        ("999.1.1.1", None),
        ("1.2.3", None),
        ("1.2.3.4.5", None),
        ("v8.8.8.8", None),
        ("DNS 2606:4700:4700::1111 and [2001:4860:4860:0:0:0:0:8888]:53", "DNS <IP> and [<IP>]:53"),
        ("2001:db8::1 fe80::1 ::1 std::vector a::b 12:30:45 x[::2]", None),
        ("2606:4700:4700::1111", "<IP>"),
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
    public = bool(address.is_global and not address.is_multicast)  # type: ignore[attr-defined]
    assert redact(f"{before}{address}{after}", BOTH)[0] == f"{before}{'<IP>' if public else address}{after}"


PIECES = [
    *("me@example.com", "8.8.8.8", "+1 415 555 2671", "(212) 736-5000", "4343 1840 6266 6367", "4003790036517204"),
    *("DE40 3914 7267 4669 2768 48", "GB96NWBK54862985766566", "536-22-8726", "AB123456C", "56281259Y", "X0567350D"),
    *(
        "BSN",
        "call",
        "SSN",
        "284170446",
        "RLDTRD90S25H990M",
        "ghp" + "_YbmoGGSakb7QVH5i5t3iArgygnpm2ogtiJy4",
        "https://u:",
    ),
    *("password='", "'", "@", ".", "-", " ", " ", "\n", "🙂", "é", "日", "(", "+", ":", "1", "a", "_", "<", ">"),
    *PLACEHOLDERS.values(),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
def test_twice_changes_nothing_and_placeholders_survive(text: str) -> None:
    once, counts = EVERY(text)
    assert EVERY(once) == (once, {})
    for kind, placeholder in PLACEHOLDERS.items():
        assert once.count(placeholder) == text.count(placeholder) + counts[kind]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_what_is_left_is_the_text_around_the_spans(text: str) -> None:
    spans = EVERY.find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
    assert not any(placeholder in text[a:b] for a, b, _ in spans for placeholder in PLACEHOLDERS.values())


@settings(deadline=None)
@given(st.text(alphabet="🙂𝔘é\u200d ", max_size=20), st.sampled_from(PIECES[:9]))
def test_places_count_characters_beyond_the_basic_plane(before: str, value: str) -> None:
    before += " "
    (span,) = EVERY.find(before + value + " 🙂")
    assert (span.start, span.end) == (len(before), len(before) + len(value))
    assert EVERY(before + value + " 🙂")[0] == before + PLACEHOLDERS[span.type] + " 🙂"


def test_counts_are_by_type() -> None:
    text = "a@b.co, c@d.co, 8.8.8.8, +1 415 555 2671"
    assert EVERY(text)[1] == Counter(email=2, ip=1, phone=1)


def test_phone_numbers_of_the_regions_asked_for() -> None:
    def found(**settings: object) -> list[str]:
        text = "Tel. 030 901820 or (212) 736-5000 or +33 6 12 34 56 78"
        find = Redactor(RedactConfig.model_validate({"types": ["phone"], "phone": settings})).find
        return [text[start:end] for start, end, _ in find(text)]

    assert found() == ["(212) 736-5000", "+33 6 12 34 56 78"]
    assert found(regions=["DE", "US"]) == ["030 901820", "(212) 736-5000", "+33 6 12 34 56 78"]
    assert found(regions=[]) == ["+33 6 12 34 56 78"]


def test_leniency_decides_about_numbers_that_nobody_has() -> None:
    text = "call +1 23 4567 8901"
    assert redact(text, ["phone"])[0] == text
    loose = RedactConfig.model_validate({"types": ["phone"], "phone": {"leniency": "possible"}})
    assert redact(text, loose)[0] == "call <PHONE>"


@pytest.mark.parametrize(
    ("digits", "issued"),
    [("4343184062666367", True), ("4343184062666368", False), ("9999999999999995", False), ("373660735003543", True)],
)
def test_cards_have_an_issuer_and_a_check_digit(digits: str, issued: bool) -> None:
    assert is_card(digits) is issued


@pytest.mark.parametrize(
    "text",
    [
        "1000 4343 1840 6266 6367",
        "12-536-22-8726",
        "536-22-8726-99",
        "Order 212-736-5000 shipped",
        "part no. 650-253-0000",
        "$212.736.5000",
    ],
)
def test_numbers_that_are_parts_of_something_else_stay(text: str) -> None:
    assert EVERY(text) == (text, {})


def test_every_wrong_check_digit_of_a_card_is_seen() -> None:
    assert sum(is_card("434318406266636" + str(last)) for last in range(10)) == 1


@pytest.mark.parametrize(
    ("secret", "random"),
    [
        ("q7Zp2LmX9vTf4KcB", True),
        ("aaaaaaaa1aaaaaaa", False),
        ("nodigitsinhereatall", False),
        ("your-key-123456789abc", False),
    ],
)
def test_secrets_look_random(secret: str, random: bool) -> None:
    assert looks_random(secret, 3.0) is random


def test_a_private_key_without_its_end_goes_as_far_as_it_looks_like_one() -> None:
    text = "-----BEGIN RSA PRIVATE" + " KEY-----\n" + "MIIEow4Kf0aB" * 20 + '"; that was all'
    assert redact(text, ["secret"])[0] == '<SECRET>"; that was all'


def names_of_the_test(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer("Ada Lovelace|EMAIL", text)]


def test_names_by_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "some_names", sys.modules[__name__])
    config = RedactConfig.model_validate({"types": ["email"], "names": {"library": "some_names:names_of_the_test"}})
    text, counts = Redactor(config)("Ada Lovelace <ada@example.org>")
    assert text == "<NAME> <<EMAIL>>"
    assert counts == {"name": 1, "email": 1}
    assert Redactor(config)(text) == (text, {})


def wrong_places(text: str) -> list[tuple[int, int]]:
    return [(0, len(text) + 1)]


def test_a_function_that_gives_impossible_places_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "some_names", sys.modules[__name__])
    with pytest.raises(UserError, match="0-4 in a text of 3 characters"):
        Redactor(RedactConfig.model_validate({"names": {"library": "some_names:wrong_places"}}))("abc")


def test_names_by_a_pipeline_of_spacy(tmp_path: object) -> None:
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns(
        [{"label": "PERSON", "pattern": "Grace Hopper"}, {"label": "ORG", "pattern": "Navy"}]
    )
    pipeline.to_disk(tmp_path)
    config = RedactConfig.model_validate({"types": [], "names": {"spacy": str(tmp_path)}})
    assert Redactor(config)("🙂 Grace Hopper joined the Navy.")[0] == "🙂 <NAME> joined the Navy."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": {"library": "nowhere:names"}}, "nowhere:names cannot be loaded"),
        ({"names": {"library": "json:nothing"}}, "json:nothing cannot be loaded"),
        ({"names": {"spacy": "xx_no_such_pipeline"}}, "xx_no_such_pipeline is not installed"),
        ({"types": ["phone"], "phone": {"regions": ["ZZ"]}}, "'ZZ' is no region"),
    ],
)
def test_what_is_not_there_is_refused_before_any_text(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Redactor(RedactConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("yaml", "types"),
    [
        ("redact: [ip, email, ip]", ("email", "ip")),
        ("redact: []", ()),
        ("redact: null", ()),
        ("redact: {types: [card], phone: {regions: [DE]}}", ("card",)),
        ("repetition: null", ("email", "ip")),
    ],
)
def test_a_recipe_lists_types_or_gives_settings(yaml: str, types: tuple[str, ...]) -> None:
    assert validate(CurateConfig, parse_document(yaml, "recipe.yaml")).redact.types == types


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("redact: [email, fone]", "fone|phone"),
        ("redact: {typs: [email]}", "typs: unknown key; did you mean types"),
        ("redact: {phone: {regions: [us]}}", "'us' is no country code"),
        ("redact: {names: {}}", "either library"),
    ],
)
def test_mistakes_in_a_recipe_are_named(yaml: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(CurateConfig, parse_document(yaml, "recipe.yaml"))


@pytest.mark.parametrize(
    "text",
    [
        "1 " * 100_000,
        "4" * 200_000,
        "1." * 100_000,
        "a." * 100_000 + "@",
        "@" + "a-" * 100_000,
        "@a." * 60_000,
        "user@example.com " * 10_000,
        "8.8.8.8 <IP> " * 10_000,
        "://a:" * 40_000,
        "eyJ" * 60_000,
        "sk-" + "a1-" * 60_000,
        "password='" * 15_000,
        ("-----BEGIN PRIVATE" + " KEY-----\n") * 5_000,
        "DE40 3914 " * 20_000,
        "2001:" * 40_000,
        "(((" * 60_000,
        "A" * 200_000,
        " " * 200_000,
    ],
    ids=lambda text: text[:12],
)
def test_no_text_makes_it_stall(text: str) -> None:
    begin = time.process_time()
    EVERY(text)
    assert time.process_time() - begin < 5  # quadratic time would be minutes


def test_samples_show_nothing_of_any_type() -> None:
    assert redact_sample("me@example.com 536-22-8726 and more", 24) == "<EMAIL> <NATIONAL_ID> an"


def test_it_loads_neither_ray_nor_what_it_does_not_need() -> None:
    code = (
        "import sys; from pipelines.curate.redact import RedactConfig, Redactor; "
        "print(Redactor(RedactConfig(types=('email', 'secret')))('me@example.com')[0]); "
        "print(sorted({'ray', 'torch', 'spacy', 'phonenumbers', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["<EMAIL>", "[]"]
