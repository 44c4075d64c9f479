"""Rewards that need no model: to try a recipe with, and to show what ``align.reward: module:function`` is given."""

from __future__ import annotations

from collections.abc import Sequence


def brief(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """1 for a single word, less for each further one, and 0 for nothing said."""
    counts = [len(answer.split()) for answer in answers]
    return [1.0 / count if count else 0.0 for count in counts]


def on_topic(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """The share of an answer's words that the prompt has as well."""
    scores = []
    for prompt, answer in zip(prompts, answers, strict=True):
        asked, said = set(prompt.lower().split()), answer.lower().split()
        scores.append(sum(word in asked for word in said) / len(said) if said else 0.0)
    return scores
