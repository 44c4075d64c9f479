"""Population-based training (arXiv:1711.09846): who continues from whom, and with which values. Pure, no I/O.

The rules are those of Ray Tune's ``PopulationBasedTraining``; but all members are compared at the same point of their
training, and what is random follows from the seed, so that a search that is repeated decides the same again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

from pipelines.tune.config import SpaceConfig, TuneConfig
from pipelines.tune.space import rounded, sample

FACTORS = (0.8, 1.2)
TRIES = 50
"""Draws of new values, after which a member takes its parent's as they are or another's."""

Values = Mapping[str, Any]


def points(interval: float) -> list[float]:
    """The shares of the training at which members are compared."""
    return [round(number * interval, 6) for number in range(1, math.ceil(1 / interval)) if number * interval < 1 - 1e-9]


def parents(config: TuneConfig, generation: int, losses: Mapping[int, float]) -> dict[int, int]:
    """The members that give up, and whose checkpoint each of them takes.

    Args:
        losses: number -> validation loss at the generation's end, of all members that came there.
    """
    ranked = sorted(losses, key=lambda number: (not math.isfinite(losses[number]), losses[number], number))
    count = min(math.ceil(len(ranked) * config.quantile_fraction), len(ranked) // 2)
    best, worst = ranked[:count], ranked[len(ranked) - count :]
    return {number: _random(config, generation, number, "parent").choice(best) for number in sorted(worst)}


def explored(
    config: TuneConfig, generation: int, chosen: Mapping[int, int], known: Mapping[int, Values]
) -> dict[int, Values]:
    """New values for each member that gave up: near its parent's, and no two with one parent alike.

    Args:
        chosen: see :func:`parents`.
        known: number -> the values that the parents train with.
    """
    found: dict[int, Values] = {}
    taken: dict[int, list[Values]] = {parent: [dict(known[parent])] for parent in chosen.values()}
    for number, parent in sorted(chosen.items()):
        for attempt in range(TRIES):
            values = {
                key: explore(space, known[parent][key], config, _random(config, generation, number, attempt, key))
                for key, space in config.space.items()
            }
            if values not in taken[parent]:
                break
        taken[parent].append(values)
        found[number] = values
    return found


def explore(space: SpaceConfig, value: Any, config: TuneConfig, random: Random) -> Any:
    """A new value for one key: drawn anew with ``resample_probability``, otherwise a little more or less."""
    if random.random() < config.resample_probability:
        return sample(space, random.random())
    if space.way == "choice":
        place = space.values.index(value) + random.choice((-1, 1))
        return space.values[min(max(place, 0), len(space.values) - 1)]
    low, high = space.bounds
    return min(max(rounded(value * random.choice(FACTORS)), low), high)


def _random(config: TuneConfig, *words: object) -> Random:
    return Random("\0".join(map(str, (config.seed, "pbt", *words))))


def change_to(at_fraction: float, before: Values, after: Values) -> dict[str, Any]:
    """What ``changes`` of the section has for a step from some values to others."""
    different = {key.rpartition(".")[2]: after[key] for key in after if after[key] != before[key]}
    return {"at_fraction": at_fraction, **different}
