"""The rollout's section refuses what could never work."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.rollout.config import RolloutConfig
from serving.rollout.plan import plan_rollout, plan_sentence

PAIR = {"candidate": "tuned", "baseline": "base"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidate": "base"}, "two variants"),
        ({"steps": (5, 5)}, "rise"),
        ({"steps": (0, 5)}, "above 0"),
        ({"steps": (50, 101)}, "at most 100"),
        ({"steps": (100,)}, "below 100"),
        ({"steps": (0.001, 100)}, "0.01 per cent"),
        ({"guardrails": ()}, "at least 1"),
        ({"guardrails": ({"metric": "error_rate", "margin": 0.01},) * 2}, "one guardrail"),
        ({"guardrails": ({"metric": "error_rate"},)}, "needs a margin"),
        ({"guardrails": ({"metric": "error_rate", "margin": 0.1, "test": "superiority"},)}, "leave the margin out"),
        ({"guardrails": ({"metric": "error_rate", "margin": 1.5},)}, "accepts everything"),
        ({"guardrails": ({"metric": "error_rate", "margin": 0.1, "higher_is_better": False},)}, "leave higher"),
        ({"guardrails": ({"metric": "eror_rate", "margin": 0.1},)}, "is no measured metric"),
        ({"maximum_seconds": 300}, "must exceed"),
        ({"alpha": 0}, "greater than 0"),
        ({"alpha": 0.5}, "less than 0.5"),
    ],
)
def test_mistakes(changes, words):
    with pytest.raises(ValidationError, match=words):
        RolloutConfig(**(PAIR | changes))


def test_an_aa_rollout_has_one_even_step_unless_steps_are_given():
    assert RolloutConfig(**PAIR, mode="aa").steps == (50,)
    assert RolloutConfig(**PAIR, mode="aa", steps=(5, 50)).steps == (5, 50)
    again = RolloutConfig.model_validate_json(RolloutConfig(**PAIR, mode="aa").model_dump_json())
    assert again.steps == (50,), "the same after the journal"


def test_the_plan_names_sizes_and_times():
    config = RolloutConfig(**PAIR)
    slow, fast = plan_rollout(config), plan_rollout(RolloutConfig(**PAIR, users_per_minute=6000))
    assert [row.metric for row in slow.guardrails] == [each.metric for each in config.guardrails]
    assert all(row.units and row.seconds for row in slow.guardrails)
    assert slow.seconds > fast.seconds >= 5 * 600
    more = plan_rollout(RolloutConfig(**PAIR, minimum_units=1000))
    for few, many in zip(slow.guardrails, more.guardrails, strict=True):
        assert few.detectable_at_minimum is None or many.detectable_at_minimum < few.detectable_at_minimum
    assert "error_rate" in plan_sentence(config)
    assert "at 60 new users a minute" in plan_sentence(config)
    assert "at 7 new users a minute" in plan_sentence(RolloutConfig(**PAIR, users_per_minute=7))


def test_the_plan_says_where_equal_variants_never_pass():
    config = RolloutConfig(**PAIR, guardrails=({"metric": "token_seconds", "test": "superiority"},))
    assert plan_rollout(config).seconds is None
    assert "may never pass" in plan_sentence(config)


def test_the_plan_holds_in_simulation(world):
    """As many units as the plan asks for do pass, about as often as its power says."""
    rails = ({"metric": "error_rate", "margin": 0.05},)
    settings = {"steps": (50, 100), "guardrails": rails, "minimum_units": 10, "minimum_seconds": 0}
    needed = None
    passed = 0
    for seed in range(20):
        w = world(rollout=settings, users_per_second=20.0, requests=1, seed=seed)
        needed = needed or next(row.units for row in plan_rollout(w.config).guardrails)
        w.until(lambda w=w: w.run.machine.step == 1, needed / 20 + 25)
        passed += w.run.machine.step == 1
    assert passed >= 14
