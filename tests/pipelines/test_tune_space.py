"""Which trials a search proposes: within bounds, all different, and the same whenever it is asked."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.tune.config import DEFAULT_TRIALS, SpaceConfig, TuneConfig
from pipelines.tune.space import MOST_TRIALS, proposals, sample, wanted_trials


def config(space: dict[str, Any], **more: Any) -> TuneConfig:
    return TuneConfig.model_validate({"metric": "pretrain.validation.loss", "space": space} | more)


MIXED: dict[str, Any] = {
    "a": {"loguniform": [1e-4, 1e-1]},
    "b": {"integers": [2, 9]},
    "c": {"choice": ["x", None, [1, 2]]},
    "d": {"grid": [1, 2]},
}


def test_the_same_search_proposes_the_same_trials() -> None:
    first = proposals(config(MIXED, trials=12))
    assert first == proposals(config(MIXED, trials=12))
    assert first == proposals(config(MIXED, trials=20))[:12], "more trials continue a search"
    assert first != proposals(config(MIXED, trials=12, seed=2))
    assert [each.number for each in first] == list(range(12))


def test_draws_are_golden() -> None:
    """Another Python or a rewritten sampler must not propose other trials for a search that is half done."""
    found = [each.values for each in proposals(config({"a": MIXED["a"], "b": MIXED["b"]}, trials=3))]
    assert found == GOLDEN


GOLDEN = [{"a": 0.02898, "b": 8}, {"a": 0.0102, "b": 9}, {"a": 0.09337, "b": 3}]
"""SHA-512 of seed, draw and key seeds Python's Mersenne twister, whose first number is the share."""


def test_a_further_key_does_not_change_the_others() -> None:
    alone = [each.values["a"] for each in proposals(config({"a": MIXED["a"]}, trials=5))]
    both = [each.values["a"] for each in proposals(config({"z": {"uniform": [0, 1]}, "a": MIXED["a"]}, trials=5))]
    assert alone == both


def test_a_grid_is_walked_whole_the_last_key_fastest() -> None:
    space = {"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y", "z"]}}
    found = [tuple(each.values.values()) for each in proposals(config(space))]
    assert found == list(itertools.product([1, 2], ["x", "y", "z"]))
    with_more = proposals(config(space | {"c": {"uniform": [0, 1]}}, trials=12))
    assert Counter((each.values["a"], each.values["b"]) for each in with_more) == Counter(found * 2)


def test_a_space_that_is_used_up_ends_the_search() -> None:
    space = {"a": {"choice": [1, 2, 3]}, "b": {"integers": [1, 2]}}
    found = {tuple(each.values.values()) for each in proposals(config(space, trials=50))}
    assert found == set(itertools.product([1, 2, 3], [1, 2]))


def test_how_many_trials_there_are() -> None:
    assert wanted_trials(config({"a": {"uniform": [0, 1]}})) == DEFAULT_TRIALS
    assert wanted_trials(config({"a": {"uniform": [0, 1]}}, max_seconds=60)) == MOST_TRIALS
    assert wanted_trials(config({"a": {"grid": [1]}})) == 1
    assert wanted_trials(config({"a": {"grid": [1, 2]}, "b": {"uniform": [0, 1]}})) == 2
    assert wanted_trials(config(MIXED, trials=7)) == 7


@given(st.floats(1e-6, 1.0), st.floats(1.001, 1e4), st.floats(0, 1, exclude_max=True))
def test_numbers_stay_within_their_bounds(low: float, factor: float, share: float) -> None:
    high = low * factor
    for way in ("uniform", "loguniform"):
        assert low <= sample(SpaceConfig.model_validate({way: (low, high)}), share) <= high


@given(st.integers(-50, 50), st.integers(1, 50))
def test_every_whole_number_is_as_likely(low: int, more: int) -> None:
    space = SpaceConfig(integers=(low, low + more))
    count = 20 * (more + 1)
    found = Counter(sample(space, (n + 0.5) / count) for n in range(count))
    assert found == dict.fromkeys(range(low, low + more + 1), 20)


def test_loguniform_spreads_the_logarithm() -> None:
    space = SpaceConfig(loguniform=(1e-4, 1e-2))
    assert sample(space, 0.5) == pytest.approx(1e-3, rel=1e-3)
    quarter = [math.log10(sample(space, share)) for share in (0.25, 0.75)]
    assert quarter == pytest.approx([-3.5, -2.5], abs=1e-3)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "exactly one of"),
        ({"choice": [1], "grid": [1]}, "exactly one of .*, not choice and grid"),
        ({"uniform": [2, 1]}, "the smaller one first"),
        ({"uniform": [0, math.inf]}, "two numbers"),
        ({"loguniform": [0, 1]}, "no logarithm of 0"),
        ({"integers": [1.5, 2]}, "whole number"),
        ({"choice": []}, "at least 1 item"),
        ({"grid": [1, 2, 1]}, "twice"),
        ({"uniform": [1]}, "required"),
    ],
)
def test_a_space_that_cannot_be(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?s){message}"):
        config({"a": space})
