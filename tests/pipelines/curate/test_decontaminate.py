"""Questions planted in documents are found and counted, against a search over lists of words written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.report import Page
from pipelines.curate.decontaminate.config import DecontaminateConfig
from pipelines.curate.decontaminate.index import BenchmarkIndex, build_index, forms
from pipelines.curate.decontaminate.report import contamination_section
from pipelines.curate.decontaminate.verdict import ContaminationTally

FILLER = "Nothing of interest is said in this place, and nobody would ever ask about it in a test of any kind."


def question(
    text: str, *choices: str, right: int = 0, task: str = "arc_easy", suite: str | None = None
) -> dict[str, Any]:
    return {
        "suite": suite or task,
        "task": task,
        "question": text,
        "choices": list(choices) or ["yes"],
        "right": [right],
    }


def config(**values: Any) -> DecontaminateConfig:
    return DecontaminateConfig.model_validate(values)


@dataclass
class Outcome:
    """Reasons by the document's number, and the counts of contamination.json."""

    reasons: dict[int, str]
    suites: dict[str, dict[str, Any]]
    tasks: dict[str, dict[str, Any]]


def search(documents: list[str], index: BenchmarkIndex, **values: Any) -> Outcome:
    """Each document by a worker of its own."""
    tally, reasons = ContaminationTally(), {}
    for number, text in enumerate(documents):
        own = ContaminationTally()
        if reason := own.add(index.find(text), index, config(**values)):
            reasons[number] = reason
        tally.merge(own)
    written = tally.to_json(index, config(**values), {"benchmarks": "sample", "benchmarks_sha256": "0"})
    assert (written["documents_checked"], written["documents_contaminated"]) == (len(documents), len(reasons))
    return Outcome(reasons, written["suites"], written["tasks"])


LONG = "Mara hangs a wet towel on a clothesline on a sunny day and by evening the towel is dry."
TEN = "Which tool shows the cells in a piece of onion?"
SHORT = "Is water wet?"


def test_planted_questions_are_found() -> None:
    rows = [question(LONG, "It froze."), question(TEN, "a telescope", "a microscope"), question(SHORT, "no")]
    outcome = search(
        [
            FILLER,
            f"{FILLER} mara hangs a WET towel,\non a clothes-line. {FILLER}",
            f"{FILLER} Mara hangs a wet towel on a clothesline on a sunny day; and so on.",
            f"Quiz: {TEN} A. a telescope B. a microscope",
            f"{SHORT} no",
        ],
        build_index(rows, config()),
    )
    assert outcome.reasons == {2: "contaminated.arc_easy", 3: "contaminated.arc_easy"}
    assert outcome.suites["arc_easy"] == {
        "questions": 3,
        "unchecked": 1,
        "found": 2,
        "rate": pytest.approx(2 / 3),
        "left": 0,
        "left_rate": 0,
        "documents": 2,
    }


def test_an_answer_that_follows_its_question_completes_a_phrase() -> None:
    """Eight words of question and five of answer: neither alone has thirteen."""
    row = question("Why does the wet towel dry so fast", "wind", "warm air takes up water", right=1)
    index = build_index([row], config(min_words=13))
    assert search([f"so: Why does the wet towel dry so fast? Warm air takes up water. {FILLER}"], index).reasons
    assert not search([f"so: Why does the wet towel dry so fast? {FILLER}"], index).reasons


def test_both_ways_to_write_choices_are_looked_for() -> None:
    row = question("Which one", "red apples and pears", "green plums", "blue grapes", "white peaches and figs")
    assert forms(row)[-2:] == [
        "Which one red apples and pears green plums blue grapes white peaches and figs",
        "Which one A red apples and pears B green plums C blue grapes D white peaches and figs",
    ]
    index = build_index([row], config())
    plain = "Which one: red apples and pears, green plums, blue grapes, white peaches and figs"
    lettered = "Which one? (A) red apples and pears (B) green plums (C) blue grapes (D) white peaches and figs"
    assert set(search([plain, lettered, plain.replace("red", "pink")], index).reasons) == {0, 1}


def test_a_document_goes_by_the_suite_that_it_holds_most_of() -> None:
    other = [question(f"{word} {TEN}", task=f"mmlu_{word}", suite="mmlu") for word in ("first", "second")]
    rows = [question(LONG), *other]
    text = f"{LONG} first {TEN} second {TEN}"
    outcome = search([text], build_index(rows, config()))
    assert outcome.reasons == {0: "contaminated.mmlu"}
    assert {name: each["documents"] for name, each in outcome.suites.items()} == {"arc_easy": 1, "mmlu": 1}
    assert {name: each["found"] for name, each in outcome.tasks.items()} == {
        "arc_easy": 1,
        "mmlu_first": 1,
        "mmlu_second": 1,
    }


def test_the_wording_that_questions_share_counts_for_none() -> None:
    shared = "Judge by ordinary moral standards in the United States whether this act is clearly wrong or not:"
    rows = [question(f"{shared} {word}", "a", "b") for word in ("one", "two", "three")]
    strict, loose = build_index(rows, config(max_questions=2)), build_index(rows, config(max_questions=3))
    assert not search([f"{shared} and more"], strict).reasons
    assert search([f"{shared} and more"], loose).suites["arc_easy"]["found"] == 3
    assert search([f"{shared} two a"], strict).suites["arc_easy"]["found"] == 1


def test_a_share_of_the_question_can_be_asked_for() -> None:
    words = LONG.split()
    index = build_index([question(LONG)], config(ngram=4, min_words=2))
    half = " ".join(words[:10])
    assert len(forms(question(LONG))[0].split()) - 3 == 16  # n-grams of the question alone, of which half holds 7
    assert search([half], index, min_share=7 / 16).reasons
    assert not search([half], index, min_share=0.5).reasons
    assert search([LONG], index, min_share=1.0).reasons


def test_only_reporting_leaves_the_questions_in() -> None:
    index, tally = (
        build_index([question(LONG), question(TEN, task="mmlu_a", suite="mmlu")], config()),
        ContaminationTally(),
    )
    tally.add(index.find(LONG), index, config())
    for remove, left in ((True, 0), (False, 1)):
        written = tally.to_json(index, config(remove=remove), {"benchmarks": "sample", "benchmarks_sha256": "0"})
        assert written["suites"]["arc_easy"]["left"] == left
        assert written["suites"]["arc_easy"]["rate"] == 1.0
        assert written["documents_removed"] == 1 - left
        page = Page("t")
        contamination_section(page, written)
        html = page.render()
        assert ("remove: false" in html) != remove
        assert "1 of 1 documents hold questions of the benchmarks (sample)" in html


def test_the_index_survives_the_store() -> None:
    index = build_index([question(LONG), question(TEN, task="mmlu_x", suite="mmlu")], config())
    again = BenchmarkIndex.from_bytes(index.to_bytes())
    text = f"{FILLER} {LONG}"
    one, other = index.find(text), again.find(text)
    assert one is not None
    assert other is not None
    assert one.phrases.tolist() == other.phrases.tolist()
    assert (one.position, one.length) == (other.position, other.length) == (len(FILLER.split()), 13)
    assert (again.task_names, again.task_suites) == (("arc_easy", "mmlu_x"), ("arc_easy", "mmlu"))


def test_no_questions_find_nothing() -> None:
    outcome = search([LONG], build_index([], config()))
    assert (outcome.reasons, outcome.suites) == ({}, {})


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=9)


@settings(max_examples=150, deadline=None)
@given(questions=st.lists(WORDS, min_size=1, max_size=4), documents=st.lists(WORDS, min_size=1, max_size=4))
def test_equal_to_a_search_written_out(questions: list[list[str]], documents: list[list[str]]) -> None:
    length, least = 4, 3

    def contains(document: list[str], words: list[str]) -> bool:
        return any(document[i : i + len(words)] == words for i in range(len(document) - len(words) + 1))

    def held(document: list[str], row: dict[str, Any]) -> bool:
        for form in forms(row):
            words = form.lower().split()
            size = min(len(words), length)
            if size >= least:
                grams = [words[i : i + size] for i in range(len(words) - size + 1)]
                if any(contains(document, gram) for gram in grams):
                    return True
        return False

    rows = [question(" ".join(each), "x", "y") for each in questions]
    index = build_index(rows, config(ngram=length, min_words=least, max_questions=None))
    outcome = search([" ".join(each) for each in documents], index)
    expected = [[held(document, row) for row in rows] for document in documents]
    assert set(outcome.reasons) == {number for number, row in enumerate(expected) if any(row)}
    assert outcome.suites["arc_easy"]["found"] == int(np.any(expected, axis=0).sum())
