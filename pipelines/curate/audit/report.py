"""What audit.json says, and the report's section on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from cluster.report import Page
from pipelines.curate.audit.config import AuditConfig
from pipelines.curate.audit.lexicon import Lexicon, load_lexicon
from pipelines.curate.audit.tally import AuditTally, SourceTally

FEWEST_EXPECTED = 5.0
"""A ratio stands on at least so many expected mentions; below, chance decides, and it is left out."""
SHOWN_TERMS = 20
METHOD = (
    "Mentions of terms are counted in the published documents, each once whatever the mix repeats: words without case "
    "and punctuation, no grammar, no context. Close: within {window} words before or after, in the same document "
    "(Bordia and Bowman 2019, arXiv:1904.03035). A group's ratio compares the share of its mentions close to a list "
    "with that of all mentions on its axis; 1 means no difference. Such counts show where to look, not what is "
    "meant."
)


def summarise(tally: AuditTally, config: AuditConfig) -> dict[str, Any]:
    """The content of audit.json."""
    lexicon = load_lexicon(config)
    sources = dict(sorted(tally.sources.items()))
    terms = sum((each.terms for each in sources.values()), np.zeros(len(lexicon.terms), np.int64))
    words = sum(each.words for each in sources.values())
    mentions = terms @ lexicon.member
    near = tally.near if tally.near is not None else np.zeros((len(lexicon.lists),) * 2, np.int64)
    lists = []
    for number, each in enumerate(lexicon.lists):
        axis = [other for other in lexicon.groups if lexicon.lists[other].axis == each.axis]
        entry: dict[str, Any] = {
            "kind": each.kind,
            "axis": each.axis,
            "name": each.name,
            "mentions": int(mentions[number]),
            "per_million_words": _rate(mentions[number], words),
            "documents": int(sum(source.with_list[number] for source in sources.values())),
            "by_source": _by_source(sources, lexicon, number),
        }
        if each.kind == "group":
            entry["share_of_axis"] = _share(mentions[number], mentions[axis].sum())
            entry["near"] = {
                lexicon.lists[other].name: _near(near[:, other], mentions, number, axis) for other in lexicon.beside
            }
        lists.append(entry)
    order = np.argsort(-terms, kind="stable")
    return {
        "method": METHOD.format(window=config.window_words),
        "origin_of_lists": lexicon.origin,
        "window_words": config.window_words,
        "drop_above": config.drop_above,
        "documents": sum(each.documents for each in sources.values()),
        "words": words,
        "words_by_source": {name: each.words for name, each in sources.items()},
        "lists": lists,
        "terms": {lexicon.terms[number]: int(terms[number]) for number in order if terms[number]},
    }


def _near(column: Any, mentions: Any, group: int, axis: list[int]) -> dict[str, Any]:
    expected_share = _share(column[axis].sum(), mentions[axis].sum())
    share = _share(column[group], mentions[group])
    enough = expected_share * mentions[group] >= FEWEST_EXPECTED
    return {"mentions": int(column[group]), "share": share, "ratio": share / expected_share if enough else None}


def _by_source(sources: Mapping[str, SourceTally], lexicon: Lexicon, number: int) -> dict[str, Any]:
    counts = {name: int(each.terms @ lexicon.member[:, number]) for name, each in sources.items()}
    whole = sum(counts.values())
    return {
        name: {
            "mentions": count,
            "share": _share(count, whole),
            "per_million_words": _rate(count, sources[name].words),
            "documents": int(sources[name].with_list[number]),
        }
        for name, count in counts.items()
    }


def _rate(count: float, words: float) -> float:
    return 1e6 * float(count) / float(words) if words else 0.0


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0


def audit_section(page: Page, audit: Mapping[str, Any], config: AuditConfig) -> None:
    """Add what audit.json says to the report."""
    page.heading("Bias and toxicity")
    page.paragraph(audit["method"])
    page.paragraph(f"Word lists: {audit['origin_of_lists']}")
    page.paragraph(
        "Nothing was dropped by it (drop_above is not set)."
        if audit["drop_above"] is None
        else f"Documents with more than {audit['drop_above']:g} toxic terms for each 1,000 words were dropped before "
        "(audit.toxic in the funnel) and are not counted here."
    )
    groups = [each for each in audit["lists"] if each["kind"] == "group"]
    silent = [each["name"] for each in groups if not each["mentions"]]
    groups = [each for each in groups if each["mentions"]]
    page.table([_group_row(each) for each in groups])
    if silent:
        page.paragraph(f"Never mentioned: {', '.join(silent)}.")
    names = list(groups[0]["near"]) if groups else []
    page.paragraph("Share of a group's mentions close to terms of a list, and in brackets its ratio to the axis:")
    page.table([{"group": each["name"], **{name: _cell(each["near"][name]) for name in names}} for each in groups])
    page.paragraph("Mentions per million words by source:")
    page.table(list(_source_rows(audit)))
    toxic = set(load_lexicon(config).lists[-1].terms)
    most = [(term, count) for term, count in audit["terms"].items() if term in toxic][:SHOWN_TERMS]
    page.paragraph("Toxic terms, most frequent first:")
    page.table([{"term": term, "mentions": count} for term, count in most])


def _group_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "axis": each["axis"],
        "group": each["name"],
        "mentions": each["mentions"],
        "share of axis": each["share_of_axis"],
        "per million words": each["per_million_words"],
        "documents": each["documents"],
    }


def _cell(near: Mapping[str, Any]) -> str:
    ratio = "" if near["ratio"] is None else f" ({near['ratio']:.2f})"
    return f"{near['share']:.1%}{ratio}"


def _source_rows(audit: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    yield {"terms": "(words in all)", **audit["words_by_source"]}
    for each in audit["lists"]:
        if each["mentions"]:
            rates = {source: each["by_source"][source]["per_million_words"] for source in audit["words_by_source"]}
            yield {"terms": each["name"], **rates}
