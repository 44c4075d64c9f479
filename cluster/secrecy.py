"""What looks like a secret, so that none travels where others read it: job environments, command lines, logs.

Everybody who may ask a Ray cluster for its jobs reads their runtime environments and entrypoints. A secret belongs in
a file that only its owner reads, or in the platform's own store of secrets, and the job is told the file's path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cluster.errors import UserError

RIGHT_WAY = (
    "name a Kubernetes Secret in the profile, or put the value into the nodes' own environment or a file with mode"
    " 0600 there and pass its path (a name that ends in _FILE or _PATH)"
)
LEAST_LETTERS = 8
"""A shorter value is not masked in logs: it would be found in every other word."""

_NAMES = re.compile(
    r"(?:^|[^a-z0-9])(?:[a-z0-9]*passw(?:or)?d|passphrase|secret|token|credential|authorization|connection_string"
    r"|(?:api|access|private|secret|signing|account|storage|encryption|ssh)_?key)s?\d*(?:$|[^a-z0-9])"
    r"|[a-z0-9]_(?:pass|pwd|pat)$"
)
_NAMES_OF_VARIABLES = re.compile(r"[A-Z0-9]_(?:KEY|AUTH)$")
"""In the environment such names mean secrets (OPENAI_KEY, REDISCLI_AUTH); in a recipe a key is also one of a table."""
_PASSWORDS = re.compile(r"passw(?:or)?d|passphrase|secret|_(?:pass|pwd)$")
"""Which may be digits alone; a token that is a number (``max_tokens=512``) is none."""
_NAMES_OF_PLACES = re.compile(r"(?:_|^)(?:path|file|dir|folder|name|url|mode|id)$", re.IGNORECASE)
_SECTIONS = ("secrets", "passwords", "credentials")
_WORDS_OF_MODELS = re.compile(r"(?:^|[_.])(?:tokens|(?:eos|bos|pad|unk|sep|cls|mask|start|end|stop|special)_tokens?)$")
_IN_ADDRESS = "a password in an address"
_KNOWN: dict[str, re.Pattern[str]] = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})\b"),
    "a GitLab token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "a Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "an API key": re.compile(r"\b(?:sk|rk|pk)-[A-Za-z0-9_-]{20,}"),
    "a Google API key": re.compile(r"\bAIza[0-9A-Za-z_-]{35}"),
    "a Slack token": re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{10,}|\bhooks\.slack\.com/services/[A-Za-z0-9/]{20,}"),
    "an Azure key": re.compile(r"\b(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{20,}"),
    "a private key": re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"),
    "a JSON web token": re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+"),
    _IN_ADDRESS: re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]+@"),
}


def kind_of_secret(text: str) -> str | None:
    """What kind of secret a text holds ("a private key"), by its form alone; None where it holds none."""
    return next((kind for kind, pattern in _KNOWN.items() if pattern.search(text)), None)


def kind_of_key_in_file(text: str) -> str | None:
    """The same for a file's content, where addresses and documented examples (``…EXAMPLE``) are ordinary text."""
    for kind, pattern in _KNOWN.items():
        if kind != _IN_ADDRESS and any(not match.group().endswith("EXAMPLE") for match in pattern.finditer(text)):
            return kind
    return None


def secret_in(name: str, value: str) -> str | None:
    """Why a named value looks like a secret; None where it does not.

    Of a dotted name the last word counts (``tokens.existing`` is a recipe's section, not a token). A path to a secret,
    a number (``max_tokens=512``; but digits can be a password) and a switch are none.
    """
    kind = kind_of_secret(value)
    if kind is not None:
        return f"its value looks like {kind}"
    parts = [part for part in name.split(".") if not part.isdigit()] or [name]
    if any(part.lower() in _SECTIONS for part in parts[:-1]):
        return "it stands in a section of secrets"
    name = parts[-1]
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().replace("-", "_")
    if not _NAMES.search(words) and not _NAMES_OF_VARIABLES.search(name):
        return None
    if _NAMES_OF_PLACES.search(words) or _WORDS_OF_MODELS.search(words):
        return None
    plain = value.strip()
    if not plain or plain.lower() in ("true", "false", "none", "null"):
        return None
    if _is_number(plain) and not _PASSWORDS.search(words):
        return None
    return "its name is that of a secret"


def refuse_secrets(values: Mapping[str, str], where: str) -> None:
    """Raise UserError for the first named value that looks like a secret; the message never holds the value."""
    for name, value in values.items():
        reason = secret_in(name, value)
        if reason:
            raise UserError(f"{name} is not sent: {reason}", where=where, next_step=RIGHT_WAY)


def refuse_secret_words(words: Iterable[str], where: str) -> None:
    """The same for a command line: ``--token X``, ``--token=X`` and ``KEY=X``."""
    previous = ""
    for word in words:
        name, separator, value = word.partition("=")
        if separator:
            refuse_secrets({name.lstrip("-"): value}, where)
        elif previous.startswith("--") and not word.startswith("-"):
            refuse_secrets({previous.lstrip("-"): word}, where)
        else:
            refuse_secrets({"a word": word}, where)
        previous = "" if separator else word


def leaves(value: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested mappings and lists, as (dotted path, text)."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    elif isinstance(value, str):
        yield path, value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Mask:
    """Takes known secrets, and what has the form of one, out of text on its way to a log.

    Args:
        secrets: name -> value; a value of several lines, such as a key, is known by each, since logs come in lines.
            What is under LEAST_LETTERS letters is left alone.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        lines = {line.strip(): name for name, value in secrets.items() for line in [value, *value.splitlines()]}
        found = {line: name for line, name in lines.items() if len(line) >= LEAST_LETTERS}
        self._names = dict(sorted(found.items(), key=lambda item: -len(item[0])))
        self._known = re.compile("|".join(map(re.escape, self._names))) if self._names else None

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Mask:
        """The secrets that a process holds: variables with a secret's name, and the contents of files such name."""
        secrets = {name: value for name, value in environment.items() if secret_in(name, value)}
        for name, value in environment.items():
            if name.endswith(("_TOKEN_PATH", "_TOKEN_FILE", "_SECRET_FILE", "_PASSWORD_FILE", "_KEY_FILE")):
                try:
                    secrets[name] = Path(value).read_text(encoding="utf-8").strip()
                except (OSError, UnicodeDecodeError):  # not there or not text: then no log shows it either
                    continue
        return cls(secrets)

    def clean(self, text: str) -> str:
        """The text with ``[NAME]`` in place of each secret."""
        if self._known is not None:
            text = self._known.sub(lambda match: f"[{self._names[match.group()]}]", text)
        for kind, pattern in _KNOWN.items():
            text = pattern.sub(f"[{kind}]", text)
        return text
