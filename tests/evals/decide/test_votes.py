"""Votes counted, agreement by the published example, and what should not sway a voter."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from evals.decide.reading import Key
from evals.decide.votes import Choice, krippendorff_alpha, length_bias, majority, tally, tally_lines

KRIPPENDORFF_2011 = [
    "11.1", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", ".555", "..11", "..3.",
]  # fmt: skip
"""Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers, a dot where none."""


def test_agreement_is_the_published_one() -> None:
    units = [[vote for vote in unit if vote != "."] for unit in KRIPPENDORFF_2011]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_agreement_of_two_nears_cohens_kappa() -> None:
    """For two voters and many documents alpha and kappa agree up to how they take the margins."""
    chance = random.Random(1)
    first = [chance.choice("abt") for _ in range(2000)]
    second = [vote if chance.random() < 0.6 else chance.choice("abt") for vote in first]
    assert krippendorff_alpha(zip(first, second, strict=True)) == pytest.approx(
        cohen_kappa_score(first, second), abs=0.002
    )
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1.0
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "tie"]), min_size=1, max_size=80))
def test_the_tally_is_the_sign_test(votes: list[Choice]) -> None:
    found = tally(votes)
    a, b = votes.count("a"), votes.count("b")
    assert found.p_value == pytest.approx(stats.binomtest(b, a + b).pvalue if a + b else 1.0)
    assert found.a_wins + found.b_wins + found.ties == found.documents == len(votes)
    assert found.interval[0] <= found.difference <= found.interval[1]


def test_verdicts_in_words() -> None:
    assert tally(["b"] * 30 + ["a"] * 8).verdict == "better"
    assert tally(["a"] * 30 + ["b"] * 8).verdict == "worse"
    found = tally(["b"] * 12 + ["a"] * 8 + ["tie"] * 5)
    lines = tally_lines(found, "base", "tuned")
    assert found.detectable is not None
    assert f"a lead of {100 * found.detectable:.1f} points would have been found" in lines[2]
    assert lines[0] == "tuned won 12, base won 8, 5 ties of 25 documents"
    assert "no evidence either way" in lines[2] and "documents would decide" in lines[2]


@pytest.mark.parametrize(("votes", "expected"), [("ab", "tie"), ("aab", "a"), ("b", "b"), (("tie", "tie", "a"), "tie")])
def test_the_majority(votes: list[Choice], expected: str) -> None:
    assert majority([*votes]) == expected  # type: ignore[arg-type]


def test_length_bias_is_found_and_only_where_it_is() -> None:
    keys: list[Key] = [("t", str(number), 0) for number in range(100)]
    chance = random.Random(3)
    lengths = {key: (chance.randrange(50, 500), chance.randrange(50, 500)) for key in keys}
    longer: dict[Key, Choice] = {key: "b" if lengths[key][1] > lengths[key][0] else "a" for key in keys}
    found = length_bias(longer, lengths)
    assert (found.longer_wins, found.decided, found.shown) == (100, 100, True)
    fair: dict[Key, Choice] = {key: chance.choice(["a", "b"]) for key in keys}
    assert not length_bias(fair, lengths).shown
    alike = length_bias({keys[0]: "b"}, {keys[0]: (100, 100)})
    assert (alike.decided, alike.share, alike.difference_alike) == (0, None, 1.0)
