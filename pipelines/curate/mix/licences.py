"""The licence gate: SPDX expressions (SPDX 3.0 annex B) against what a recipe allows and denies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from cluster.artifact import Artifact
from cluster.errors import UserError
from pipelines.curate.mix.config import LicenceConfig

UNKNOWN = frozenset({"", "unknown", "none", "noassertion"})
SHOWN = 10
_TOKEN = re.compile(r"[()]|[^\s()]+")
_REFUSED = ("denied", "not allowed", "unknown")


def refusal(licence: str, config: LicenceConfig) -> str | None:
    """Why documents under a licence may not be published: ``denied``, ``not allowed`` or ``unknown``; or None.

    Args:
        licence: an SPDX expression, a list of names with commas (all of them apply), or words of any other kind,
            which are then one name.
    """
    parts = [part for part in re.split(r"[,;]", licence) if part.strip()] or [""]
    return _worst(_of_expression(part, config) for part in parts)


def check_licences(counts: Mapping[tuple[str, str], int], config: LicenceConfig | None) -> None:
    """Refuse a corpus with documents that may not be published.

    Args:
        counts: (source, licence) -> documents.

    Raises:
        UserError: naming sources, licences and counts, most documents first.
    """
    if config is None:
        return
    rows = []
    for (source, licence), count in counts.items():
        reason = refusal(licence, config) if count else None
        if reason:
            rows.append((count, source, licence, reason))
    if not rows:
        return
    rows.sort(key=lambda row: (-row[0], *row[1:]))
    lines = [
        f"{source}: {count:,} documents under {licence or 'no licence'} ({why})" for count, source, licence, why in rows
    ]
    more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    raise UserError(
        "the corpus holds documents that its licence gate refuses:\n  " + "\n  ".join(lines[:SHOWN]) + more,
        where="curate.licences",
        next_step="take these sources out of corpus, state their licence there if it is known, allow it, "
        "or set on_refusal: drop to leave such documents out",
    )


def _of_expression(text: str, config: LicenceConfig) -> str | None:
    tokens = _TOKEN.findall(text)
    try:
        result, rest = _either(tokens, config)
    except (IndexError, ValueError):
        rest, result = ["?"], None
    return result if not rest else _of_name(" ".join(text.split()), config)


def _either(tokens: list[str], config: LicenceConfig) -> tuple[str | None, list[str]]:
    """``a OR b``: the best of its sides. Each level gives its verdict and the tokens that are left."""
    verdict, rest = _both(tokens, config)
    while rest and rest[0].upper() == "OR":
        other, rest = _both(rest[1:], config)
        verdict = verdict and other and min(verdict, other, key=_REFUSED.index)
    return verdict, rest


def _both(tokens: list[str], config: LicenceConfig) -> tuple[str | None, list[str]]:
    verdict, rest = _single(tokens, config)
    while rest and rest[0].upper() == "AND":
        other, rest = _single(rest[1:], config)
        verdict = _worst((verdict, other))
    return verdict, rest


def _single(tokens: list[str], config: LicenceConfig) -> tuple[str | None, list[str]]:
    first = tokens[0]
    if first == "(":
        verdict, rest = _either(tokens[1:], config)
        if rest[0] != ")":
            raise ValueError("no closing bracket")
        return verdict, rest[1:]
    if first == ")" or first.upper() in ("OR", "AND", "WITH"):
        raise ValueError(f"{first} where a licence should stand")
    if len(tokens) > 2 and tokens[1].upper() == "WITH":
        whole = f"{first} WITH {tokens[2]}"
        named = _key(whole) in _keys(config.allow or ()) | _keys(config.deny)
        return _of_name(whole if named else first, config), tokens[3:]
    return _of_name(first, config), tokens[1:]


def _of_name(name: str, config: LicenceConfig) -> str | None:
    key, allowed = _key(name), _keys(config.allow or ())
    if key in _keys(config.deny):
        return "denied"
    if key in allowed:
        return None
    if key in UNKNOWN:
        return None if config.accept_unknown or "unknown" in allowed else "unknown"
    return None if config.allow is None else "not allowed"


def _worst(verdicts: Iterable[str | None]) -> str | None:
    refused = [verdict for verdict in verdicts if verdict]
    return min(refused, key=_REFUSED.index) if refused else None


def _keys(names: Iterable[str]) -> set[str]:
    return {_key(name) for name in names}


def _key(name: str) -> str:
    return " ".join(name.lower().split())


def declared(corpus: Artifact, config: LicenceConfig | None) -> dict[tuple[str, str], int]:
    """(source, licence) -> documents before curation, for a refusal before any work; empty where nothing is refused.

    No step judges by licence, so what may not be published is refused before hours are spent on it.
    """
    if config is None or config.on_refusal == "drop":
        return {}
    sources = corpus.details.get("sources")
    if sources is None:
        return {("corpus", licence): count for licence, count in corpus.licences.items()}
    return {(name, licence): count for name, each in sources.items() for licence, count in each["licences"].items()}
