from __future__ import annotations

import json
from typing import Any

import pytest

from pipelines.align.guard import GuardConfig, watch

FINE = {"kl_per_token": 0.1, "length": 40.0, "cut": 0.1, "distinct": 0.9, "reward": 0.0}
CONFIG = GuardConfig(patience_steps=3)


def run(*steps: dict[str, float], config: GuardConfig = CONFIG) -> str | None:
    """The first problem; what is remembered passes through JSON, as it does with a checkpoint."""
    memory: dict[str, Any] = {}
    for each in steps:
        problem = watch(FINE | each, memory, config)
        if problem:
            return problem
        memory = json.loads(json.dumps(memory))
    return None


@pytest.mark.parametrize(
    ("sign", "told"),
    [
        ({"kl_per_token": 3.5}, "over 3 nats a token from the reference"),
        ({"length": 3.0}, "answers had 3 tokens, 40 at first"),
        ({"cut": 1.0}, "100% of the answers never ended, 10% at first"),
        ({"distinct": 0.01}, "only 1.0% of the answers differed, 90.0% at first"),
    ],
)
def test_a_sign_that_lasts_is_told_with_the_reward(sign: dict[str, float], told: str) -> None:
    bad = sign | {"reward": 7.0}
    assert run({}, bad, bad) is None
    problem = run({}, bad, bad, bad)
    assert problem is not None
    assert told in problem
    assert problem.endswith("while the reward went from 0 to 7")
    assert run({}, bad, bad, {}, bad, bad) is None  # it must be in a row


def test_what_was_so_from_the_beginning_is_no_collapse() -> None:
    assert run(*[{"cut": 1.0, "distinct": 0.01, "length": 2.0}] * 9) is None


def test_a_rising_reward_alone_is_none() -> None:
    assert run(*[{"reward": float(step)} for step in range(50)]) is None


def test_pairs_are_watched_by_their_divergence_alone() -> None:
    memory: dict[str, Any] = {}
    found = [watch({"kl_per_token": 9.0, "margin": 1.0}, memory, CONFIG) for _ in range(3)]
    assert found[:2] == [None, None]
    assert found[2] is not None
    assert "reward went" not in found[2]
    assert watch({"margin": 1.0}, {}, CONFIG) is None
