"""Precision and recall on the labelled sentences of data/redaction; the README's table holds what comes out here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

import pipelines.curate
from pipelines.curate.redact import EVERY_TYPE, RedactConfig, Redactor
from pipelines.curate.redaction.spans import Span

FOLDER = Path(__file__).parent / "data" / "redaction"
README = Path(pipelines.curate.__file__).parent / "README.md"
LEAST_CASES = 25
_MARK = re.compile(r"⟦(\w+):(.*?)⟧", re.DOTALL)


@dataclass(frozen=True)
class Labelled:
    """A sentence and what a careful person would take out of it."""

    place: str
    text: str
    spans: frozenset[Span]


@dataclass(frozen=True)
class Score:
    """Exactly matching spans of one type: places that should go, that went, and that were rightly taken."""

    positives: int
    found: int
    right: int

    @property
    def precision(self) -> float:
        """Share of what went that should."""
        return self.right / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """Share of what should go that went."""
        return self.right / self.positives if self.positives else 1.0


def read_labelled() -> list[Labelled]:
    """All sentences; their format is explained in the first lines of the files."""
    cases = []
    for path in sorted(FOLDER.glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line and not line.startswith("# "):
                cases.append(_case(f"{path.name}:{number}", line.replace("¦", "").replace("\\n", "\n")))
    return cases


def _case(place: str, line: str) -> Labelled:
    text, spans, done = "", set(), 0
    for match in _MARK.finditer(line):
        text += line[done : match.start()]
        spans.add(Span(len(text), len(text) + len(match[2]), match[1]))
        text += match[2]
        done = match.end()
    return Labelled(place, text + line[done:], frozenset(spans))


def score(cases: Iterable[Labelled], find: Callable[[str], Iterable[Span]]) -> dict[str, Score]:
    """Type -> score; a place counts if its type, beginning and end are those of the label."""
    positives, found, right = Counter[str](), Counter[str](), Counter[str]()
    for case in cases:
        got = set(find(case.text))
        positives.update(span.type for span in case.spans)
        found.update(span.type for span in got)
        right.update(span.type for span in got & case.spans)
    return {kind: Score(positives[kind], found[kind], right[kind]) for kind in sorted(positives | found)}


@pytest.fixture(scope="module")
def cases() -> list[Labelled]:
    return read_labelled()


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return Redactor(RedactConfig(types=EVERY_TYPE))


@pytest.fixture(scope="module")
def scores(cases: list[Labelled], redactor: Redactor) -> dict[str, Score]:
    return score(cases, redactor.find)


def test_there_are_enough_cases_and_as_many_without_anything_to_find(cases: list[Labelled]) -> None:
    positives = Counter(span.type for case in cases for span in case.spans)
    assert set(positives) == set(EVERY_TYPE)
    assert min(positives.values()) >= LEAST_CASES
    assert sum(not case.spans for case in cases) > 200


def test_the_readme_holds_precision_and_recall(scores: dict[str, Score]) -> None:
    rows = [
        f"| {kind} | {scores[kind].positives} | {scores[kind].precision:.3f} | {scores[kind].recall:.3f} |"
        for kind in EVERY_TYPE
    ]
    assert "\n".join(rows) in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", EVERY_TYPE)
def test_precision_and_recall_are_high(kind: str, scores: dict[str, Score]) -> None:
    assert scores[kind].precision > 0.92
    assert scores[kind].recall > 0.92


def test_a_type_alone_finds_what_it_finds_among_all(cases: list[Labelled], redactor: Redactor) -> None:
    """Other types take nothing away from those that win where two overlap."""
    alone = Redactor(RedactConfig(types=("secret",)))
    for case in cases:
        assert {span for span in redactor.find(case.text) if span.type == "secret"} == set(alone.find(case.text))


def test_redacting_twice_changes_nothing_and_counts_add_up(cases: list[Labelled], redactor: Redactor) -> None:
    together = "\n".join(case.text for case in cases)
    for text in (together, *(case.text for case in cases)):
        redacted, counts = redactor(text)
        assert redactor(redacted) == (redacted, {})
        assert counts.total() >= len(redactor.find(text))
        assert redacted.count("<") - text.count("<") <= counts.total()
