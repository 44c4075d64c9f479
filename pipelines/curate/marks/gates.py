"""The marks for what is not measured by words and lines: licence, language, classifier, toxicity, benchmarks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from pipelines.curate.audit.config import AuditConfig
from pipelines.curate.audit.lexicon import load_lexicon
from pipelines.curate.classifier.model import Classifier
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.config import DecontaminateConfig
from pipelines.curate.decontaminate.index import BenchmarkIndex
from pipelines.curate.language import LOOKED_AT as CHARACTERS_OF_LANGUAGE
from pipelines.curate.language import identify_language
from pipelines.curate.marks.mark import Mark, mark
from pipelines.curate.mix.config import LicenceConfig
from pipelines.curate.mix.licences import refusal
from pipelines.curate.phrases import quotes

WORST_RUNS = 8
"""Runs of words that are marked for the classifier."""
MARKED_PHRASES = 1000


def mark_licence(licence: str, config: LicenceConfig) -> Mark:
    """A licence that is refused; there is no part of the text to show."""
    return Mark(f"licence {licence or 'not given'}: {refusal(licence, config) or 'allowed'}")


def mark_language(text: str, config: CurateConfig) -> Mark:
    """What the language was identified as, and how surely."""
    code, confidence = identify_language(text)
    wanted = [f"{each} (at least {config.least_confidence(each):.2f})" for each in config.language]
    return Mark(
        f"identified as {code} with probability {confidence:.2f} from the first {CHARACTERS_OF_LANGUAGE:,} characters; "
        f"wanted: {', '.join(wanted)}"
    )


def mark_classified(text: str, classifier: Classifier) -> Mark:
    """The score, and the runs of words that speak most against the text."""
    threshold = classifier.config.threshold
    wanted = "" if threshold is None else f" (at least {threshold:g} wanted)"
    places = quotes(text[: classifier.config.characters], classifier.worst_runs(text, WORST_RUNS))
    note = (
        f"score of the quality classifier: {classifier.score(text):.3f}{wanted}; marked is what speaks most against it"
    )
    return mark(note, places)


def mark_toxic(text: str, config: AuditConfig) -> Mark:
    """All toxic terms."""
    lexicon = load_lexicon(config)
    found = lexicon.mentions(text)
    toxic = lexicon.member[found.terms, lexicon.toxic]
    terms = [lexicon.terms[number] for number in found.terms[toxic].tolist()]
    phrases = zip(found.positions[toxic].tolist(), (len(term.split()) for term in terms), strict=True)
    note = (
        f"toxic terms: {len(terms):,} in {found.words:,} words, {lexicon.toxicity(text):.1f} for each 1,000 "
        f"(at most {config.drop_above:g} wanted)"
    )
    return mark(note, _quoted(text, phrases))


def mark_contaminated(text: str, config: DecontaminateConfig, index: BenchmarkIndex) -> Mark:
    """All n-grams of the benchmarks, and of which tasks the questions are."""
    matches = index.phrases.find(text)
    held = index.questions_held(np.unique(matches.phrases).astype(np.int32), config.min_share)
    tasks = Counter(index.task_names[task] for task in index.tasks[held].tolist())
    said = ", ".join(f"{task} ({count})" for task, count in sorted(tasks.items(), key=lambda it: (-it[1], it[0]))[:5])
    order = np.lexsort((matches.lengths, matches.positions))
    phrases = zip(matches.positions[order].tolist(), matches.lengths[order].tolist(), strict=True)
    return mark(
        f"n-grams of {len(held):,} question{'' if len(held) == 1 else 's'} stand in it: {said}", _quoted(text, phrases)
    )


def _quoted(text: str, phrases: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    wanted = [each for each, _ in zip(phrases, range(MARKED_PHRASES), strict=False)]
    return quotes(text, wanted)
