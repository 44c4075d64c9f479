"""A random sample of a suite's questions, stratified by task, in which every question has the same chance."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from cluster.errors import UserError


def draw(sizes: Mapping[str, int], count: int, seed: int, suite: str) -> dict[str, list[int]]:
    """Task -> which of its questions to ask, ascending.

    Systematic sampling (Madow & Madow 1944): the questions are shuffled within each task, the tasks laid end to end,
    and every (N/count)-th question taken from a random start. A task of share s of the suite gives s·count questions,
    rounded up or down, and every question is drawn with probability count/N, so that the plain mean over the sample is
    an unbiased estimate of the suite's score. For one task this is a simple random sample.

    Args:
        sizes: task -> how many questions it has.
        count: how many to draw; at least the suite's size draws all of them.

    Raises:
        UserError: so few that a task could be left without a question.
    """
    total = sum(sizes.values())
    if count >= total:
        return {task: list(range(size)) for task, size in sizes.items()}
    least = math.ceil(total / min(sizes.values()))
    if count < least and len(sizes) > 1:
        raise UserError(
            f"a sample of {count} can leave a task of {suite} without a question",
            where="evals.sample",
            next_step=f"draw at least {least} of its {total:,} questions",
        )
    chance = random.Random(f"{seed}\0{suite}")
    step = total / count
    start = chance.random() * step
    taken = {min(int(start + number * step), total - 1) for number in range(count)}
    drawn: dict[str, list[int]] = {}
    begin = 0
    for task, size in sizes.items():
        order = list(range(size))
        random.Random(f"{seed}\0{suite}\0{task}").shuffle(order)
        drawn[task] = sorted(order[place - begin] for place in taken if begin <= place < begin + size)
        begin += size
    return drawn
