"""Keys, tokens and passwords by the prefixes that their issuers give them, so that leaks can be recognised.

What follows the prefix must look drawn at random: enough bits a character by Shannon's entropy, and a digit, so that
the <your-key-here> of a manual stays. A rule is tried only where its hint occurs.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.curate.redaction.spans import Scan

_MADE_UP = re.compile(r"example|your|changeme|placeholder|dummy|xxxx|<|\$\{|\{\{", re.IGNORECASE)
_LONGEST_KEY_CHARACTERS = 20_000
_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_KEY_END = re.compile(r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_KEY_BODY = re.compile(r"(?:[A-Za-z0-9+/=,:.-]|\s|\\[nr]){64,}?(?=-----|[^A-Za-z0-9+/=,:.\s\\-]|\Z)")


@dataclass(frozen=True)
class SecretRule:
    """One issuer's format.

    Attributes:
        hints: texts of which a document with such a secret has one.
        pattern: the secret; its first group, if it has any, is what goes, and otherwise all of it.
        bits: least entropy of what goes, in bits for each character.
        digit: whether it must have a digit; random strings of some formats are letters only.
    """

    name: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    bits: float = 3.0
    digit: bool = True


def _rule(name: str, hints: str, pattern: str, bits: float = 3.0, digit: bool = True) -> SecretRule:
    return SecretRule(name, tuple(hints.split()), re.compile(pattern), bits, digit)


_END = r"(?![A-Za-z0-9_-])"
SECRETS = (
    _rule("AWS key id", "AKIA ASIA", rf"A[KS]IA[A-Z2-7]{{16}}{_END}"),
    _rule(
        "AWS secret key",
        "secret_access_key SECRET_ACCESS_KEY secretAccessKey",
        r"(?i:secret_?access_?key)[\"']?\s{0,4}[:=]\s{0,4}[\"']?([A-Za-z0-9+/]{40})(?![A-Za-z0-9+/=])",
        3.5,
    ),
    _rule("GitHub", "ghp_ gho_ ghu_ ghs_ ghr_", rf"gh[pousr]_[A-Za-z0-9]{{36,251}}{_END}"),
    _rule("GitHub, fine-grained", "github_pat_", rf"github_pat_[A-Za-z0-9]{{22}}_[A-Za-z0-9]{{59}}{_END}"),
    _rule("GitLab", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}"),
    _rule("Slack", "xoxb- xoxa- xoxp- xoxr- xoxs-", r"xox[abprs]-[0-9]+-[A-Za-z0-9-]{10,}"),
    _rule(
        "Slack webhook",
        "hooks.slack.com",
        r"https://hooks\.slack\.com/services/T[A-Z0-9]{6,12}/B[A-Z0-9]{6,12}/[A-Za-z0-9]{20,}",
        4.2,
    ),
    _rule("Google", "AIza", rf"AIza[A-Za-z0-9_-]{{35}}{_END}"),
    _rule("Stripe", "_live_ _test_", rf"[sr]k_(?:live|test)_[A-Za-z0-9]{{16,}}{_END}"),
    _rule("OpenAI style", "sk-", r"sk-(?:[a-z]{2,8}[0-9]{0,2}-)?(?:api[0-9]{2}-)?[A-Za-z0-9_-]{32,}", 4.0),
    _rule("Hugging Face", "hf_", rf"hf_[A-Za-z]{{34}}{_END}", 4.0, digit=False),
    _rule("npm", "npm_", rf"npm_[A-Za-z0-9]{{36}}{_END}"),
    _rule("PyPI", "pypi-", r"pypi-AgE[A-Za-z0-9_-]{50,}"),
    _rule("SendGrid", "SG.", rf"SG\.[A-Za-z0-9_-]{{22}}\.[A-Za-z0-9_-]{{43}}{_END}"),
    _rule("DigitalOcean", "_v1_", rf"do[opr]_v1_[a-f0-9]{{64}}{_END}"),
    _rule("Telegram", ":AA", rf"[0-9]{{8,10}}:AA[A-Za-z0-9_-]{{33}}{_END}"),
    _rule("Twilio", "SK", rf"SK[0-9a-f]{{32}}{_END}"),
    _rule(
        "JSON Web Token",
        "eyJ",
        r"eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,8000}\.[A-Za-z0-9_-]{20,2000}",
        4.0,
    ),
    _rule("password in a URL", "://", r"://[^\s/:@]{1,64}:([^\s/@:]{6,128})@[A-Za-z0-9]", 2.5),
)

"""The formats as their issuers document them. A pattern begins with its literal prefix: the search is fast then."""
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_ASSIGNED = re.compile(r"[:=]\s{0,4}[\"']([^\s\"'<>]{12,200})[\"']")
_SECRET_NAME = re.compile(r"(?:passw(?:or)?d|secret|api_?key|access_?key|auth_?token)[\"']?\s{0,4}$", re.IGNORECASE)
_NAME_CHARACTERS = 20
_ASSIGNED_BITS = 3.2


def find_secrets(scan: Scan) -> Iterator[tuple[int, int]]:
    """Private keys, then what the rules of SECRETS find."""
    text = scan.text
    if "PRIVATE KEY" in text:
        yield from _private_keys(text)
    for rule in SECRETS:
        if not any(hint in text for hint in rule.hints):
            continue
        for match in rule.pattern.finditer(text):
            group = 1 if rule.pattern.groups else 0
            inside = not group and match.start() > 0 and text[match.start() - 1] in _WORD
            if not inside and looks_random(match[group], rule.bits, rule.digit):
                yield match.span(group)
    if '"' in text or "'" in text:
        yield from _assigned(text)


def looks_random(secret: str, bits: float, digit: bool = True) -> bool:
    """Whether a text is no word or example: entropy, a digit, and none of the words that manuals write."""
    if _MADE_UP.search(secret) or (digit and not any(map(str.isdigit, secret))):
        return False
    counts = Counter(secret).values()
    entropy = -sum(count / len(secret) * math.log2(count / len(secret)) for count in counts)
    return entropy >= bits


def _assigned(text: str) -> Iterator[tuple[int, int]]:
    """Strings that code or settings give to what they call a password, secret or key."""
    for match in _ASSIGNED.finditer(text):
        if _SECRET_NAME.search(text, max(0, match.start() - _NAME_CHARACTERS), match.start()) and looks_random(
            match[1], _ASSIGNED_BITS
        ):
            yield match.span(1)


def _private_keys(text: str) -> Iterator[tuple[int, int]]:
    """From each header to its footer; without a footer as far as what looks like base64 goes."""
    place = 0
    while header := _PRIVATE_KEY.search(text, place):
        place = header.end()
        body = _KEY_BODY.match(text, place, place + _LONGEST_KEY_CHARACTERS)
        if body is None:
            continue
        footer = _PRIVATE_KEY_END.match(text, body.end())
        place = footer.end() if footer else body.end()
        yield header.start(), place
