"""Answers drawn from a model so that each is a function of the weights, the prompt and its own random numbers.

``transformers``' ``generate`` draws a batch from one generator: an answer then depends on what else is in the batch,
and so on the number of workers. Here every answer brings its uniform numbers, one a token, and picks by the inverse of
the cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

Draws = np.ndarray[Any, np.dtype[np.float64]]


def draws_of(seed: int, visit: int, answer: int, tokens: int) -> Draws:
    """The uniform numbers of one answer to one visit of a prompt."""
    return np.random.default_rng([seed, visit, answer]).random(tokens)


def seed_of(seed: int, visit: int, answer: int) -> int:
    """The same as one number below 2^63, for a program that draws by itself."""
    return int(np.random.SeedSequence([seed, visit, answer]).generate_state(1, np.uint64)[0]) >> 1


@torch.no_grad()
def sample_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    draws: Draws,
    *,
    stops: Collection[int],
    pad_id: int,
    temperature: float,
    device: torch.device,
) -> list[list[int]]:
    """One answer a prompt, ended by one of the stop tokens (which belongs to it) or when its numbers are used up.

    Args:
        prompts: token ids, of any lengths.
        draws: uniform numbers [prompts, most tokens].
    """
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.int64)
    seen = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        seen[row, longest - len(prompt) :] = 1
    ids, seen, numbers = ids.to(device), seen.to(device), torch.from_numpy(draws).to(device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    ends = torch.tensor(sorted(stops), device=device)
    going = torch.ones(len(prompts), dtype=torch.bool, device=device)
    written: list[torch.Tensor] = []
    past: Any = None
    for place in range(draws.shape[1]):
        output = model(input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=past, use_cache=True)
        past = output.past_key_values
        chosen = _pick(output.logits[:, -1], numbers[:, place], temperature)
        written.append(torch.where(going, chosen, -1))
        going &= ~torch.isin(chosen, ends)
        if not bool(going.any()):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        seen = torch.cat([seen, torch.ones_like(ids)], dim=1)
    rows = torch.stack(written, dim=1).cpu().tolist()
    return [[token for token in row if token >= 0] for row in rows]


def _pick(logits: torch.Tensor, numbers: torch.Tensor, temperature: float) -> torch.Tensor:
    """The token at which the cumulative probability passes each number."""
    shares = torch.softmax(logits.double() / temperature, dim=-1).cumsum(-1)
    passed = torch.searchsorted(shares, (numbers * shares[:, -1])[:, None], right=True)[:, 0]
    return passed.clamp(max=logits.shape[-1] - 1)
