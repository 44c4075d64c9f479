"""Suites that are usually run together, with the settings their published scores have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A set of suites.

    Attributes:
        suites: tasks, groups and tags of lm-eval.
        num_fewshot: suite -> worked examples before each question; None for what each task says.
        headline: suite -> the metric that its score stands for.
    """

    suites: tuple[str, ...]
    num_fewshot: dict[str, int] | None
    headline: dict[str, str]


PRESETS = {
    # The first Open LLM Leaderboard's settings (https://huggingface.co/docs/leaderboards/open_llm_leaderboard/archive).
    "leaderboard": Preset(
        ("arc_challenge", "mmlu", "truthfulqa_mc2"),
        {"arc_challenge": 25, "mmlu": 5, "truthfulqa_mc2": 0},
        {"arc_challenge": "acc_norm", "mmlu": "acc", "truthfulqa_mc2": "acc"},
    ),
    "bias": Preset(
        ("crows_pairs_english", "winogender_all", "winogender_gotcha", "bbq"),
        None,
        {"crows_pairs_english": "pct_stereotype", "winogender_all": "acc", "winogender_gotcha": "acc", "bbq": "acc"},
    ),
}
