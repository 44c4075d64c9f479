"""Figures of held-out sets against scikit-learn, sacrebleu, rouge-score and SQuAD's published rules."""

from __future__ import annotations

import random

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from evals import set_metrics

LABELS = st.sampled_from(["bug", "feature", "question", "spam"])


@settings(deadline=None)
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=40))
def test_classification_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    right, said = [a for a, _ in pairs], [b for _, b in pairs]
    by_label = set_metrics._by_label(
        [(sorted({*right, *said}).index(a), sorted({*right, *said}).index(b)) for a, b in pairs], len({*right, *said})
    )
    expected = sklearn_metrics.precision_recall_fscore_support(right, said, zero_division=0)
    for own, *oracle in zip(by_label, *expected, strict=True):
        assert own[:4] == pytest.approx(oracle)


def test_macro_averages_and_their_intervals() -> None:
    chance = random.Random(1)
    right = [chance.choice(["a", "b", "c"]) for _ in range(300)]
    said = [label if chance.random() < 0.7 else chance.choice(["a", "b", "c"]) for label in right]
    figures, table = set_metrics.classification(right, said)
    p, r, f, _ = sklearn_metrics.precision_recall_fscore_support(right, said, average="macro")
    assert [figures[name]["score"] for name in ("precision", "recall", "f1")] == pytest.approx([p, r, f])
    assert figures["acc"]["score"] == pytest.approx(sklearn_metrics.accuracy_score(right, said))
    for name in ("acc", "precision", "recall", "f1"):
        low, high = figures[name]["interval_95"]
        assert low < figures[name]["score"] < high
        assert high - low == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 300) ** 0.5, rel=0.25)
    assert [row["label"] for row in table] == ["a", "b", "c"]
    assert sum(row["documents"] for row in table) == 300


@pytest.mark.parametrize(
    ("right", "said", "exact", "f1"),
    [
        ("Denver Broncos", "denver broncos.", 1.0, 1.0),
        ("the Eiffel Tower", "Eiffel Tower", 1.0, 1.0),
        ("Paris", "It is Paris", 0.0, 0.5),
        ("in 1969", "1969 July", 0.0, 0.5),
        ("Paris", "", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),
    ],
)
def test_short_answers_by_squads_rules(right: str, said: str, exact: float, f1: float) -> None:
    figures, rows = set_metrics.answers([right], [said])
    assert rows == [{"exact_match": exact, "f1": pytest.approx(f1)}]
    assert figures["exact_match"]["score"] == exact


def test_bleu_is_sacrebleus_golden_example() -> None:
    """The README of sacrebleu: this system and these references score 48.5."""
    given = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    figures, rows, signature = set_metrics.references(references, given)
    assert figures["bleu"]["score"] == pytest.approx(48.530827009929865)
    assert figures["bleu"]["interval_95"][0] < 48.5 < figures["bleu"]["interval_95"][1]
    assert "version:2" in signature and "nrefs:2" in signature
    assert len(rows) == 3


def test_references_may_differ_in_number() -> None:
    figures, _, _ = set_metrics.references([["a b c d e"], ["f g h i", "x y z"]], ["a b c d e", "f g h i"])
    assert figures["bleu"]["score"] == pytest.approx(100)
    assert figures["rougeL"]["score"] == pytest.approx(1.0)
    single = sacrebleu.corpus_bleu(["a b c d f"], [["a b c d e"]]).score
    alone, _, _ = set_metrics.references([["a b c d e"]], ["a b c d f"])
    assert alone["bleu"]["score"] == pytest.approx(single)
    assert alone["bleu"]["interval_95"] is None


def test_rouge_is_the_papers_example() -> None:
    """Lin (2004), section 3: "police killed the gunman" against two candidates: ROUGE-L of 3/4 and 1/2."""
    reference = ["police killed the gunman"]
    _, rows, _ = set_metrics.references([reference, reference], ["police kill the gunman", "the gunman kill police"])
    assert [row["rougeL"] for row in rows] == pytest.approx([0.75, 0.5])
    assert rows[0]["rouge1"] == pytest.approx(0.75)
    assert rows[0]["rouge2"] == pytest.approx(1 / 3)
