"""The watch against reward collapse: a reward that rises because the model found a hole, not because it got better.

Its signs are a KL divergence from the reference that runs away, answers that shrink to nothing or never end, and the
same answer to everything. A sign must last: one step's sample may show anything. Pure; what it remembers is plain JSON
and kept with checkpoints, so that a run that continues judges as it would have judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from cluster.config import StrictModel

ADVICE = (
    "look at its answers and at what the reward pays for; then mend the reward, raise align.beta, lower "
    "align.learning_rate, or set align.guard where this is what you want"
)
FIRST = "first"
LASTED = "lasted"


class GuardConfig(StrictModel):
    """Key ``align.guard``: when training goes back to a good checkpoint, and after ``max_rollbacks`` times stops."""

    max_kl_per_token: float = Field(
        3.0, gt=0, description="nats a token that the model may be from the reference (none without one: simpo, reward)"
    )
    min_length_share: float = Field(
        0.1, ge=0, lt=1, description="share of the first step's mean length that answers must keep (grpo, ppo)"
    )
    max_cut: float = Field(
        0.98,
        gt=0,
        le=1,
        description="share of answers cut off at answer_tokens that is too many, where fewer were at first (grpo, ppo)",
    )
    min_distinct: float = Field(
        0.02, ge=0, lt=1, description="share of a step's answers that must differ, where more did at first (grpo, ppo)"
    )
    patience_steps: int = Field(5, ge=1, description="steps in a row that show a sign before it counts")


def watch(figures: Mapping[str, float], memory: dict[str, Any], config: GuardConfig) -> str | None:
    """What is wrong, or None.

    Args:
        figures: of one step: ``kl_per_token``, ``length``, ``cut``, ``distinct``, ``reward``, as far as they are there.
        memory: empty at first; changed.
    """
    first = memory.setdefault(
        FIRST, {name: figures[name] for name in ("length", "cut", "reward", "distinct") if name in figures}
    )
    seen = dict(_signs(figures, first, config))
    before = memory.get(LASTED, {})
    lasted = {name: before.get(name, 0) + 1 for name in seen}
    memory[LASTED] = lasted
    for name, steps in lasted.items():
        if steps >= config.patience_steps:
            return f"the reward collapses: for {steps} steps {seen[name]}{_rewards(figures, first)}"
    return None


def _signs(figures: Mapping[str, float], first: Mapping[str, float], config: GuardConfig) -> Iterator[tuple[str, str]]:
    divergence = figures.get("kl_per_token", 0.0)
    if divergence > config.max_kl_per_token:
        yield (
            "kl",
            f"the model was over {config.max_kl_per_token:g} nats a token from the reference (now {divergence:.3g})",
        )
    if "length" not in figures:
        return
    if figures["length"] < config.min_length_share * first["length"]:
        yield "length", f"answers had {figures['length']:.3g} tokens, {first['length']:.3g} at first"
    if figures["cut"] > config.max_cut >= first["cut"]:
        yield "cut", f"{figures['cut']:.0%} of the answers never ended, {first['cut']:.0%} at first"
    if figures["distinct"] < config.min_distinct <= first["distinct"]:
        yield "distinct", f"only {figures['distinct']:.1%} of the answers differed, {first['distinct']:.1%} at first"


def _rewards(figures: Mapping[str, float], first: Mapping[str, float]) -> str:
    if "reward" not in figures:
        return ""
    return f", while the reward went from {first['reward']:.3g} to {figures['reward']:.3g}"
