"""Scoring with prefixes in common: which sequences, on which models, and what is said where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster.progress import Tracker
from evals.pool import ScorerPool
from evals.prefixes import computed_tokens, cut_rows, cut_runs, find_runs, row_tokens
from evals.scorer import Answer, Group


class Sharing:
    """What ``evals.share_prefixes`` does in one evaluation.

    Attributes:
        sequences: how many were scored after a prefix in common.
        saved_tokens: how many tokens were so not computed again.
        reason: why this model's prefixes cannot be shared; empty where they can, None before it was asked.
    """

    def __init__(self, pool: ScorerPool, tracker: Tracker, batch_size: int, max_length: int) -> None:
        self.sequences = self.saved_tokens = 0
        self.reason: str | None = None
        self._pool = pool
        self._tracker = tracker
        self._batch_size = batch_size
        self._max_length = max_length
        self._told = False
        self._rows = False

    def score(
        self, groups: Sequence[Group], fits: Sequence[bool], on_done: Callable[[int], None]
    ) -> dict[int, list[Answer]]:
        """Answers of the groups that share a prefix, by index.

        Args:
            fits: of each group, whether its sequence is whole. One that lost its beginning shares nothing.
        """
        if not self._possible():
            return {}
        whole = [index for index, fit in enumerate(fits) if fit]
        if len(whole) < len(groups) and not self._told:
            self._told = True
            self._tracker.note(
                f"share_prefixes: prompts longer than the model's context of {self._max_length:,} tokens lost their"
                " beginning, each another part of it; they are computed whole"
            )
        candidates = [groups[index] for index in whole]
        runs = find_runs(candidates, rows=self._rows)
        self.sequences += sum(len(run.members) for run in runs)
        in_rows = cut_rows(candidates, [run for run in runs if run.in_row], self._batch_size)
        cut = cut_runs(candidates, [run for run in runs if not run.in_row], self._batch_size)
        rows, batches = [batch for batch, _ in in_rows], [batch for batch, _ in cut]
        self.saved_tokens += sum(len(candidates[index].inputs) for run in runs for index in run.members)
        self.saved_tokens -= computed_tokens(batches) + sum(row_tokens(row) for batch in rows for row in batch)
        answered = self._pool.score_rows(rows, on_done) + self._pool.score_shared(batches, on_done)
        members = [each for _, each in in_rows] + [each for _, each in cut]
        return {
            whole[place]: answers
            for places, given in zip(members, answered, strict=True)
            for place, answers in zip(places, given, strict=True)
        }

    def record(self) -> dict[str, Any]:
        """For ``results.json``."""
        return {"sequences": self.sequences, "saved_tokens": self.saved_tokens, "not_possible": self.reason or ""}

    def _possible(self) -> bool:
        if self.reason is None:
            self.reason = self._pool.why_not_shared()
            self._rows = not self.reason and self._pool.takes_rows()
            if self.reason:
                self._tracker.note(
                    f"share_prefixes: not with this model: {self.reason}; every prompt is computed whole"
                )
        return not self.reason
