"""The whole machine under continuous peeking: among equal variants it alarms in at most alpha of the rollouts.

Superiority guardrails put equality on the very edge of what counts as harm, where false alarms are most frequent.
"""

from __future__ import annotations

import math
import random

import pytest

from serving.rollout.machine import Machine
from serving.rollout.units import Unit

ALPHA = 0.2
RAILS = {
    "error_rate": {"metric": "error_rate", "test": "superiority"},
    "first_token_seconds": {"metric": "first_token_seconds", "test": "superiority"},
    "latency_p95_seconds": {"metric": "latency_p95_seconds", "test": "superiority"},
}


def aa_rollout(config, seed, *, effect=0.0, units_a_look=20):
    """One simulated A/A rollout that is looked at every second; the machine at its end."""
    draw = random.Random(seed)
    machine = Machine(config)
    pair = {"base": 100.0, "tuned": 0.0}
    machine.apply({"kind": "start", "at": 0.0, "why": "", "by": "", "refusal": "", "weights": pair})
    now, version = 0.0, 1
    while machine.status == "running":
        share = machine.shares[machine.step]
        if machine.version is None:
            version += 1
            machine.apply(
                {
                    "kind": "state",
                    "at": now,
                    "version": version,
                    "status": "running",
                    "weights": {"base": 100 - share, "tuned": share},
                    "candidate_share": share / 100,
                    "by": "rollout",
                    "reason": "",
                }
            )
        now += 1
        units = [make_unit(draw, share / 100, effect).encode() for _ in range(units_a_look)]
        machine.apply({"kind": "units", "at": now, "units": units, "excluded": {}})
    return machine


def make_unit(draw, share, effect):
    candidate = draw.random() < share
    requests = 1 + draw.randrange(3)
    errors = sum(draw.random() < 0.05 + effect * candidate for _ in range(requests))
    seconds = draw.lognormvariate(effect * candidate, 0.6)
    side = "candidate" if candidate else "baseline"
    return Unit(side, "u", requests, errors, first=math.log(seconds), latencies=(seconds,))


def alarmed(machine):
    return any(decision.what == "false_alarm" for decision in machine.decisions)


def allowed(rollouts):
    """More false alarms than this happen with a chance under 1 in 10,000 where their rate is alpha."""
    return ALPHA * rollouts + 3.72 * math.sqrt(ALPHA * (1 - ALPHA) * rollouts)


def make(rollout_config, metrics, **others):
    settings = {"mode": "aa", "steps": (10, 50), "alpha": ALPHA, "minimum_seconds": 30, "minimum_units": 1}
    return rollout_config(**settings, guardrails=tuple(RAILS[name] for name in metrics), **others)


@pytest.mark.parametrize(("metrics", "rollouts"), [(["first_token_seconds"], 150), (["error_rate"], 40)])
def test_false_alarms_stay_within_alpha(rollout_config, metrics, rollouts):
    config = make(rollout_config, metrics)
    count = sum(alarmed(aa_rollout(config, seed, units_a_look=10)) for seed in range(rollouts))
    assert count <= allowed(rollouts)


def test_peeking_at_a_fixed_sample_test_would_not(rollout_config):
    """The simulation can tell: with an ordinary z test in the machine's place, looking all the time breaks alpha."""
    broken = 0
    for seed in range(200):
        draw = random.Random(seed)
        sums = {True: [0, 0.0, 0.0], False: [0, 0.0, 0.0]}
        for look in range(30 * 20):
            unit = make_unit(draw, 0.5, 0.0)
            side = sums[unit.side == "candidate"]
            side[0], side[1], side[2] = side[0] + 1, side[1] + unit.first, side[2] + unit.first**2
            if look > 60 and look % 20 == 0 and z_of(sums) > 1.2816:  # one-sided 0.1: half of what the machine may use
                broken += 1
                break
    assert broken > allowed(200)


def z_of(sums):
    (n, a, aa), (m, b, bb) = sums[True], sums[False]
    spread = math.sqrt((aa / n - (a / n) ** 2) / n + (bb / m - (b / m) ** 2) / m)
    return (a / n - b / m) / spread


def test_a_real_difference_is_found(rollout_config):
    config = make(rollout_config, ["error_rate", "first_token_seconds"])
    assert all(alarmed(aa_rollout(config, seed, effect=0.3)) for seed in range(10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metrics", "rollouts"), [(["first_token_seconds"], 10_000), (["error_rate"], 1000), (["latency_p95_seconds"], 300)]
)
def test_false_alarms_stay_within_alpha_in_many_rollouts(rollout_config, metrics, rollouts):
    config = make(rollout_config, metrics)
    count = sum(alarmed(aa_rollout(config, seed, units_a_look=10)) for seed in range(rollouts))
    print(f"{metrics}: {count} of {rollouts} rollouts alarmed")
    assert count <= allowed(rollouts)
