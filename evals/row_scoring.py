"""Scoring sequences that begin alike in one row: their beginning, and then each one's rest after the other.

A mask keeps the rests apart and positions count on from the beginning in each, so every token sees what it would see in
a sequence of its own (the tree attention of SpecInfer, Miao et al. 2024, section 4.2, for known texts). A question and
its four answers are one pass over the question. Answers are within 1e-4 of those of whole sequences in float32.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from evals.prefix_scoring import agrees, without_wrapper
from evals.prefixes import row_tokens
from evals.scorer import Answer, Group, SharedBatch, read_answer

ATTENTION = ("sdpa", "eager")
"""Transformers' kinds of attention that follow a mask of pairs."""

PADDING = -1


def score_rows(model: Any, rows: list[SharedBatch], device: str) -> list[list[Answer]]:
    """Answers by sequence, row after row, and continuation."""
    kept = max(map(row_tokens, rows)) - min(row.prefix for row in rows)
    found: list[list[Answer]] = []
    with torch.inference_mode():
        logits = compute_rows(without_wrapper(model), rows, device, kept)
        for row, of_row in zip(rows, logits, strict=True):
            end = row.prefix - (max(map(row_tokens, rows)) - kept)
            for group in row.groups:
                end += len(group.inputs) - row.prefix
                longest = max(map(len, group.continuations))
                read = torch.log_softmax(of_row[end - longest : end], dim=-1)
                found.append([read_answer(read, tokens) for tokens in group.continuations])
    return found


def compute_rows(model: Any, rows: list[SharedBatch], device: str, kept: int) -> torch.Tensor:
    """Logits of the last ``kept`` positions of rows padded on the right: (rows, kept, vocabulary)."""
    width = max(map(row_tokens, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    branches = torch.full((len(rows), width), PADDING)
    for number, row in enumerate(rows):
        end = row.prefix
        tokens[number, :end] = torch.tensor(row.groups[0].inputs[:end])
        positions[number, :end] = torch.arange(end)
        branches[number, :end] = 0
        for branch, group in enumerate(row.groups, start=1):
            rest = slice(end, end + len(group.inputs) - row.prefix)
            tokens[number, rest] = torch.tensor(group.inputs[row.prefix :])
            positions[number, rest] = torch.arange(row.prefix, len(group.inputs))
            branches[number, rest] = branch
            end = rest.stop
    mask = _mask(branches, model.dtype)
    options = {"use_cache": False, "logits_to_keep": kept}
    logits: torch.Tensor = model(
        tokens.to(device), attention_mask=mask.to(device), position_ids=positions.to(device), **options
    ).logits
    return logits


def takes_rows(model: Any, device: str) -> bool:
    """Whether a model, for whose prefixes :func:`why_not_shared` has nothing to say, answers rows as whole sequences.

    A few tokens are computed both ways.
    """
    model = without_wrapper(model)
    missing = {"attention_mask", "position_ids", "logits_to_keep"} - set(inspect.signature(model.forward).parameters)
    if missing or getattr(model.config, "_attn_implementation", None) not in ATTENTION:
        return False
    size = model.get_input_embeddings().num_embeddings
    one, other = ([(step * place + 3) % size for place in range(7)] for step in (7, 11))
    head = one[:3]
    rests = [one[3:], other[3:6]]
    row = SharedBatch(len(head), [Group([*head, *rest], [rest[-1:]]) for rest in rests])
    with torch.inference_mode():
        try:
            own = compute_rows(model, [row], device, sum(map(len, rests)))[0]
        except (TypeError, ValueError, RuntimeError, IndexError):  # a class that knows masks of tokens alone
            return False
        whole = [
            model(torch.tensor([group.inputs], device=device), use_cache=False).logits[0, len(head) :]
            for group in row.groups
        ]
    return agrees(own, torch.cat(whole))


def _mask(branches: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention's scores: (rows, 1, positions, positions), 0 or as good as minus infinity."""
    width = branches.shape[1]
    seen = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    seen &= torch.ones(width, width, dtype=torch.bool).tril()
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
