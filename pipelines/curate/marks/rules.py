"""The mark for a rule that measures: what it measured in a document, and where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from pipelines.curate.c4 import c4, clean
from pipelines.curate.config import CurateConfig
from pipelines.curate.fineweb import fineweb
from pipelines.curate.marks.mark import LOOKED_AT, Mark, Place, mark
from pipelines.curate.marks.meaning import meaning, measured_note
from pipelines.curate.marks.quality import quality_places, stop_words_said
from pipelines.curate.marks.repetition import repetition_places
from pipelines.curate.marks.web import c4_places, fineweb_places, removed_lines
from pipelines.curate.quality import gopher_quality
from pipelines.curate.repetition import gopher_repetition
from pipelines.curate.rules import RuleSet
from pipelines.curate.words import Words

DocumentT = TypeVar("DocumentT")

STEPS = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
EMPTY = "empty"


def mark_rule(text: str, reason: str, config: CurateConfig) -> tuple[str, Mark]:
    """The text that the rule saw, and what it counted there.

    Args:
        text: normalised, as the first rule gets it.
        reason: EMPTY, or a rule of one of STEPS as the funnel counts it; KeyError for one that the configuration has
            not.
    """
    step, _, rule = reason.partition(".")
    looked = Words(text[:LOOKED_AT], config.words)
    places: Iterable[Place]
    if step == "gopher_repetition":
        note = _note(gopher_repetition(config.gopher_repetition), Words(text, config.words), reason)
        places = repetition_places(rule, looked, config.gopher_repetition)
    elif step == "gopher_quality":
        note = _note(gopher_quality(config.gopher_quality), Words(text, config.words), reason)
        note += f"; {stop_words_said(looked)}" if rule == "stop_words" else ""
        places = quality_places(rule, looked, config.gopher_quality)
    elif step == "c4":
        note = _note(c4(config.c4), clean(text, config.c4, config.words), reason)
        places = c4_places(rule, looked.text, config.c4)
    elif step == "fineweb":
        text = clean(text, config.c4, config.words).text if "c4" in config.quality else text
        looked = Words(text[:LOOKED_AT], config.words)
        note = _note(fineweb(config.fineweb), Words(text, config.words), reason)
        places = fineweb_places(rule, looked, config.fineweb)
    elif reason == EMPTY and text.strip():
        note, places = "C4's line rules take every line out", removed_lines(looked.text, config.c4)
    else:
        note, places = meaning(reason), ()
    if len(text) > LOOKED_AT:
        note += f"; marked in the first {LOOKED_AT:,} characters"
    return text, mark(note, places)


def _note(rules: RuleSet[DocumentT], document: DocumentT, reason: str) -> str:
    limits = {limit.reason: limit for limit in rules.limits}
    limit = limits[reason]
    return measured_note(limit, rules.measures[limit.score](document))
