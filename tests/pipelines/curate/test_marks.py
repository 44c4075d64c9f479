"""Every rule's mark: inside a document made for the rule, and exactly what the rule counted."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.store_local import LocalStore
from pipelines.curate.c4 import c4
from pipelines.curate.classifier.config import ClassifierConfig
from pipelines.curate.classifier.model import Classifier
from pipelines.curate.config import CurateConfig
from pipelines.curate.decontaminate.config import DecontaminateConfig
from pipelines.curate.decontaminate.index import build_index
from pipelines.curate.fineweb import fineweb
from pipelines.curate.funnel import ORDER
from pipelines.curate.marks.gates import mark_classified, mark_contaminated, mark_language, mark_licence, mark_toxic
from pipelines.curate.marks.mark import Mark, joined
from pipelines.curate.marks.meaning import MEANING, meaning, measured_note
from pipelines.curate.marks.rules import mark_rule
from pipelines.curate.marks.shared import mark_shared
from pipelines.curate.mix.config import LicenceConfig
from pipelines.curate.quality import gopher_quality
from pipelines.curate.quality_chain import QualityChain
from pipelines.curate.repetition import gopher_repetition
from pipelines.curate.rules import Limit
from pipelines.curate.words import Words

EVERYTHING: dict[str, Any] = {
    "language": [],
    "quality": ["gopher", "c4", "fineweb"],
    "c4": {"curly_bracket": True},
    "gopher_quality": {"max_words": 6, "min_mean_word_length": 3, "max_mean_word_length": 10},
}
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def settings_of(**more: Any) -> CurateConfig:
    return CurateConfig.model_validate(EVERYTHING | more)


def limits() -> dict[str, Limit]:
    config = settings_of()
    sets = (
        gopher_repetition(config.gopher_repetition),
        gopher_quality(config.gopher_quality),
        c4(config.c4),
        fineweb(config.fineweb),
    )
    return {limit.reason: limit for rules in sets for limit in rules.limits}


def phrases(n: int) -> tuple[str, list[str]]:
    phrase = " ".join(NUMBERS[:n])
    return f"{phrase} x {phrase} y {phrase} z", [phrase, phrase]


DOCUMENTS: dict[str, tuple[str, list[str]]] = {
    "gopher_repetition.duplicate_paragraphs": ("same\n\nsame\n\nother\n\nsame", ["same", "same"]),
    "gopher_repetition.duplicate_paragraph_characters": ("same\n\nsame\n\nother\n\nsame", ["same", "same"]),
    "gopher_repetition.duplicate_lines": ("same\nother\nsame\n\nsame", ["same", "same"]),
    "gopher_repetition.duplicate_line_characters": ("a whole line\nx\na whole line", ["a whole line"]),
    **{f"gopher_repetition.top_{n}_gram": (phrases(n)[0], [phrases(n)[1][0]] * 3) for n in (2, 3, 4)},
    **{f"gopher_repetition.duplicate_{n}_grams": phrases(n) for n in range(5, 11)},
    "gopher_quality.min_words": ("far too short", []),
    "gopher_quality.max_words": ("one two three four five six seven", []),
    "gopher_quality.min_mean_word_length": ("a b dog c", ["a", "b", "c"]),
    "gopher_quality.max_mean_word_length": ("incomprehensibilities are", ["incomprehensibilities"]),
    "gopher_quality.hash_signs": ("## Heading\nbut # and #", ["#", "#"]),
    "gopher_quality.ellipses": ("well ... so … yes", ["...", "…"]),
    "gopher_quality.bullet_lines": ("- one\n  • two\n- three", ["- one", "• two", "- three"]),
    "gopher_quality.ellipsis_lines": ("and so...\nit ends.\nor not…  ", ["and so...", "or not…"]),
    "gopher_quality.alphabetic_words": ("12 word, 3.4: 99 !", ["12", "3.4", "99"]),
    "gopher_quality.stop_words": ("the cat sat here", []),
    "c4.lorem_ipsum": ("Here is Lorem ipsum dolor. And lorem IPSUM.", ["Lorem ipsum", "lorem IPSUM"]),
    "c4.curly_bracket": ("if (x) { y }", ["{"]),
    "c4.min_sentences": ("One sentence.\nRead our privacy policy.\nTwo.", ["Read our privacy policy."]),
    "fineweb.empty": (" ", []),
    "fineweb.line_punctuation": ("no end here\nnor at this ", ["here", "this"]),
    "fineweb.short_lines": ("short\n\nand short", ["short", "and short"]),
    "fineweb.duplicate_line_characters": ("a whole line.\nx\na whole line.", ["a whole line."]),
    "fineweb.line_ends": ("a\nb\nc", []),
}


def marked(text: str, made: Mark) -> list[str]:
    assert list(made.places) == sorted(made.places)
    assert all(0 <= start < end <= len(text) for start, end in made.places)
    assert all(first[1] < second[0] for first, second in pairwise(made.places))
    return [text[start:end] for start, end in made.places]


def test_there_is_a_document_for_every_rule() -> None:
    assert limits().keys() == DOCUMENTS.keys()


@pytest.mark.parametrize("reason", DOCUMENTS)
def test_the_mark_is_what_the_rule_counts(reason: str) -> None:
    text, expected = DOCUMENTS[reason]
    off = {"quality": ["gopher", "fineweb"]} if reason.startswith("fineweb") else {}
    seen, made = mark_rule(text, reason, settings_of(**off))
    assert marked(seen, made) == expected
    assert seen == text
    limit = limits()[reason]
    assert "wanted" in made.note or "stands in it" in made.note
    assert meaning(reason) in made.note
    scores = QualityChain(settings_of()).tag(text).scores[reason.partition(".")[0]]
    assert limit.breaks(scores[limit.score], limit.limit), "the document does not break the rule"


@pytest.mark.parametrize(
    "reason",
    [each for each in DOCUMENTS if each.startswith("gopher_repetition") and not each.endswith(("phs", "lines"))],
)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["a cat\n", "a cat ", "the dog\n\n", "runs, ", "x ", "to the sea. "]), max_size=60))
def test_marked_characters_are_the_rules_share(reason: str, pieces: list[str]) -> None:
    """Of every text, also where the rule is kept: the share that the rule measures is that of the marked characters."""
    text = "".join(pieces)
    if not text.strip():
        return
    seen, made = mark_rule(text, reason, settings_of())
    words = Words(seen)
    score = gopher_repetition(settings_of().gopher_repetition)
    limit = next(each for each in score.limits if each.reason == reason)
    measured = score.measures[limit.score](words)
    inside = "".join(marked(seen, made))
    if "gram" not in reason:
        inside_characters = len(inside)
    elif "duplicate" in reason:
        inside_characters = sum(
            end - start
            for number in words.speaking
            for start, end in [words.spans[number]]
            if any(a <= start and end <= b for a, b in made.places)
        )
    else:
        return  # a most frequent n-gram overlaps itself: counted twice, marked once
    assert inside_characters / max(len(seen), 1) == pytest.approx(measured)


@pytest.mark.parametrize("symbols", [True, False])
@settings(max_examples=40, deadline=None)
@given(text=st.lists(st.sampled_from(["word ", "12 ", ", ", "(3.4) ", "a1 ", "- "]), max_size=30).map("".join))
def test_the_words_marked_are_those_that_are_missing_from_the_share(symbols: bool, text: str) -> None:
    config = settings_of(gopher_quality={"symbols_are_words": symbols})
    _, made = mark_rule(text, "gopher_quality.alphabetic_words", config)
    document = Words(text)
    words = document.word_count if symbols else len(document.speaking)
    inside = sum(any(a <= start and end <= b for a, b in made.places) for start, end in document.spans)
    assert inside == words - document.counts.alphabetic


def test_empty_documents_show_what_the_line_rules_took() -> None:
    _, made = mark_rule(" \n", "empty", settings_of())
    assert (made.places, made.note) == ((), MEANING["empty"])
    text = "Our privacy policy.\nTerms of use apply."
    seen, made = mark_rule(text, "empty", settings_of())
    assert marked(seen, made) == text.split("\n")


def test_fineweb_is_marked_in_what_c4_leaves() -> None:
    text = "Read our privacy policy.\nno end here\nnor at this"
    seen, made = mark_rule(text, "fineweb.line_punctuation", settings_of())
    assert seen == "no end here\nnor at this"
    assert marked(seen, made) == ["here", "this"]


def test_stop_words_are_said_in_words() -> None:
    _, made = mark_rule("the cat and the dog", "gopher_quality.stop_words", settings_of())
    assert made.note.startswith("different stop words: 2 (at least 2 wanted); found: the, and; looked for: the, be,")


def test_a_value_just_beyond_the_limit_does_not_read_as_within() -> None:
    limit = limits()["gopher_repetition.duplicate_5_grams"]
    assert measured_note(limit, 0.150001) == (
        "share of characters in repeated runs of 5 words: 15.0001% (at most 15.0% wanted)"
    )


def test_every_step_of_the_funnel_has_a_meaning() -> None:
    steps = {reason.partition(".")[0] for reason in [*MEANING, "contaminated.mmlu", "filter.mine.rude"]}
    assert {step.partition(".")[0] for step in ORDER} - steps == {"cleaning", "repeated passages"}
    assert meaning("filter.mine.rude") == "your filter mine said: rude"
    assert meaning("filter.mine.error") == "your filter mine failed"


def test_language_licence_and_toxic_terms() -> None:
    german = "Dies ist ein deutscher Text, der nicht bleiben soll, weil er nicht englisch ist. " * 3
    note = mark_language(german, CurateConfig.model_validate({"language": {"en": 0.65}})).note
    assert re.match(r"identified as de with probability [01]\.\d\d from the first 2,000 characters; wanted: en ", note)
    licences = LicenceConfig.model_validate({"allow": ["MIT"], "on_refusal": "drop"})
    assert mark_licence("GPL-3.0-only", licences).note == "licence GPL-3.0-only: not allowed"
    text = "You idiot, shut up and go. Stupid!"
    config = CurateConfig.model_validate({"audit": {"drop_above": 5}}).audit
    assert config is not None
    made = mark_toxic(text, config)
    assert marked(text, made) == ["idiot", "shut up", "Stupid"]
    assert made.note.startswith("toxic terms: 3 in 7 words")


def test_contaminated_documents_name_the_task_and_show_every_ngram() -> None:
    question = "Mara hangs a wet towel on a clothesline on a sunny day and by evening the towel is dry."
    row = {"suite": "arc_easy", "task": "arc_easy", "question": question, "choices": ["x"], "right": [0]}
    config = DecontaminateConfig.model_validate({})
    text = f"So they ask: {question} Well."
    made = mark_contaminated(text, config, build_index([row], config))
    assert marked(text, made) == [question.rstrip(".")]
    assert made.note == "n-grams of 1 question stand in it: arc_easy (1)"


def test_marks_of_a_very_long_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are marked near its beginning, questions and toxic terms wherever they are."""
    monkeypatch.setattr("pipelines.curate.marks.rules.LOOKED_AT", 100)
    text = "same line\n" * 30
    _, made = mark_rule(text, "gopher_repetition.duplicate_lines", settings_of())
    assert made.places[-1][1] == 99
    assert made.note.endswith("; marked in the first 100 characters")
    assert "93.5%" in made.note  # 29 of 31 pieces, of the whole document
    config = CurateConfig.model_validate({"audit": {"drop_above": 0}}).audit
    assert config is not None
    late = "word " * 500_000 + "idiot"
    assert marked(late, mark_toxic(late, config)) == ["idiot"]


def test_the_classifier_shows_the_words_against_a_text() -> None:
    config = ClassifierConfig.model_validate({"good": "g", "bad": "b", "ngram": 1, "threshold": 0.5})
    classifier = Classifier.train(config, ["a fine calm essay about rivers"] * 5, ["buy cheap casino pills now"] * 5)
    text = "Rivers are calm, but buy casino tickets."
    made = mark_classified(text, classifier)
    assert {"buy", "casino"} <= {*marked(text, made)}
    assert "calm" not in marked(text, made)
    assert "(at least 0.5 wanted)" in made.note


def test_what_duplicates_share_is_marked_in_both() -> None:
    text = "One two three four five, six seven! Something of its own here."
    keeper = "Before that: one two three four five six seven. And after."
    made, kept = mark_shared(text, keeper, 3)
    assert marked(text, made) == ["One two three four five, six seven"]
    assert marked(keeper, Mark("", kept)) == ["one two three four five six seven"]
    assert made.note.startswith("shares 5 of its 10 runs of 3 words with the document that stays, which has 9")
    assert "similarity 0.36" in made.note


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_joined_places_cover_the_same_characters(places: list[tuple[int, int]]) -> None:
    covered = {at for start, end in places for at in range(start, end)}
    done = joined(places)
    assert {at for start, end in done for at in range(start, end)} == covered
    assert all(first[1] < second[0] for first, second in pairwise(done))


def test_classifier_file_round_trip_keeps_the_worst_runs(tmp_path: Any) -> None:
    config = ClassifierConfig.model_validate({"good": "g", "bad": "b", "ngram": 2})
    classifier = Classifier.train(config, ["good words only"] * 3, ["bad words only"] * 3)
    store = LocalStore(tmp_path)
    store.write("c", classifier.to_bytes())
    again = Classifier.from_bytes(config, store.read("c"))
    assert again.worst_runs("bad words", 5) == classifier.worst_runs("bad words", 5)
    assert classifier.worst_runs("bad words", 5)[0][0] == 0
