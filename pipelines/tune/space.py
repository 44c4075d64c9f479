"""Which values the trials try: a function of the space, the seed and the trial's number, and of nothing else.

So a search that is repeated proposes the same trials, whatever has become of them.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.tune.config import DEFAULT_TRIALS, SpaceConfig, TuneConfig

SIGNIFICANT_DIGITS = 4
MOST_TRIALS = 1000
"""Trials of a search that only its time limits."""

TRIES = 200
"""Draws in a row that repeat earlier trials, after which a space counts as used up."""


@dataclass(frozen=True)
class Proposal:
    """One trial: its number, from 0, and the value of each key."""

    number: int
    values: Mapping[str, Any]


def proposals(config: TuneConfig) -> list[Proposal]:
    """Every trial of a search in order; no two are the same. Fewer than asked for where the space has no more."""
    return list(itertools.islice(_different(config), wanted_trials(config)))


def wanted_trials(config: TuneConfig) -> int:
    """How many trials the configuration asks for."""
    if config.trials is not None:
        return config.trials
    cells = grid_cells(config.space)
    if cells > 1 or all(each.way == "grid" for each in config.space.values()):
        return cells
    as_long_as_it_takes = config.max_seconds is not None and config.scheduler != "pbt"  # a population is one size
    return MOST_TRIALS if as_long_as_it_takes else DEFAULT_TRIALS


def grid_cells(space: Mapping[str, SpaceConfig]) -> int:
    """Combinations of the grids' values; 1 without a grid."""
    return math.prod(len(each.values) for each in space.values() if each.way == "grid")


def _different(config: TuneConfig) -> Iterator[Proposal]:
    seen: set[str] = set()
    number, repeated = 0, 0
    for draw in itertools.count():
        values = _draw(config, draw)
        key = json.dumps(values, sort_keys=True)
        if key in seen:
            repeated += 1
            if repeated >= max(TRIES, grid_cells(config.space)):
                return
            continue
        seen.add(key)
        repeated = 0
        yield Proposal(number, values)
        number += 1


def _draw(config: TuneConfig, draw: int) -> dict[str, Any]:
    """The values of a draw: the grids' next cell (the last key changes fastest), and a random value of each other."""
    values: dict[str, Any] = {}
    cell = draw % grid_cells(config.space)
    for key in reversed(config.space):
        space = config.space[key]
        if space.way == "grid":
            cell, place = divmod(cell, len(space.values))
            values[key] = space.values[place]
        else:
            # By key as well: another key in the space changes nothing for this one.
            values[key] = sample(space, random.Random(f"{config.seed}\0{draw}\0{key}").random())
    return {key: values[key] for key in config.space}


def sample(space: SpaceConfig, share: float) -> Any:
    """The value of a space at a share (0 ≤ share < 1) of its probability."""
    if space.way == "choice":
        return space.values[int(share * len(space.values))]
    low, high = space.bounds
    if space.way == "integers":
        return int(low) + int(share * (int(high) - int(low) + 1))
    if space.way == "loguniform":
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    return min(max(rounded(value), low), high)


def rounded(value: float) -> float:
    """A value as short as a person would write it."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
