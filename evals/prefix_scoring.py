"""Scoring sequences that begin alike: the beginning's keys and values are computed once, and then only the rests.

Log-probabilities are those of whole sequences within 1e-4 in float32, not equal to the bit: attention and matrix
products are cut into other blocks. A batch's answers depend on the batch alone, whichever worker has it.
"""

from __future__ import annotations

import copy
import inspect
import json
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from evals.prefixes import fold
from evals.scorer import Answer, SharedBatch, pad, positions_read, read_answers

PROBE_TOKENS = 8
TOLERANCE = 1e-4
"""In float32; where numbers are stored in fewer bits, thirty of their smallest steps."""

MOVING_ROTATIONS = ("dynamic", "longrope")
"""Kinds of rotary positions whose rotation of the first tokens depends on how many there are."""


class PrefixScorer:
    """A model with the keys and values of one prefix, the last that was asked for.

    Args:
        model: a causal language model for which :func:`why_not_shared` has nothing to say.
    """

    def __init__(self, model: Any, device: str) -> None:
        self._model = without_wrapper(model)
        self._device = device
        self._prefix: list[int] = []
        self._cache: Any = None

    def score(self, batch: SharedBatch) -> list[list[Answer]]:
        """Answers by group and continuation."""
        prefix = batch.groups[0].inputs[: batch.prefix]
        rests = [group._replace(inputs=group.inputs[batch.prefix :]) for group in batch.groups]
        with torch.inference_mode():
            if prefix != self._prefix:
                self._prefix, self._cache = [], None  # never two at a time
                self._cache = read_only(compute_prefix(self._model, prefix, self._device))
                self._prefix = prefix
            rows = fold(batch.groups)
            logits = self._model(
                pad([rests[row[0]] for row in rows]).to(self._device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=positions_read(rests),
            ).logits
            place = {index: number for number, row in enumerate(rows) for index in row}
            return read_answers(logits, rests, [place[index] for index in range(len(rests))])


def compute_prefix(model: Any, tokens: list[int], device: str) -> Any:
    """The keys and values of a text's beginning: transformers' cache for one row."""
    return model(torch.tensor([tokens], device=device), use_cache=True, logits_to_keep=1).past_key_values


class _Beginning(DynamicLayer):
    """One layer's keys and values of a prefix: read by every row of a batch, and never added to.

    So a batch's own keys and values last as long as their layer is computed, and not for all layers at a time.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_arguments: Any, **_options: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prefix's, then these: (rows, heads, prefix and rest, size of a head)."""
        rows = len(key_states)
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )


def read_only(cache: Any) -> Any:
    """A prefix's cache, for batches of any size after it."""
    fixed = copy.copy(cache)
    fixed.layers = [_Beginning(layer) for layer in cache.layers]
    return fixed


def without_wrapper(model: Any) -> Any:
    """The model itself, which holds an adapter's layers by then: peft's wrapper takes no cache."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def why_not_shared(model: Any, device: str) -> str:
    """Why a model's prefixes cannot be shared; empty where they can.

    What can be known is asked for; then a few tokens are computed whole and in two parts, which has to agree.
    """
    adapter = getattr(model, "active_peft_config", None)
    if adapter is not None and (adapter.is_prompt_learning or adapter.is_adaption_prompt):
        return "its adapter adds to the prompt"
    model = without_wrapper(model)
    missing = {"past_key_values", "use_cache", "logits_to_keep"} - set(inspect.signature(model.forward).parameters)
    if missing:
        return f"its class takes no {', '.join(sorted(missing))}"
    kinds = json.dumps(getattr(model.config, "rope_parameters", None) or {}, default=str)
    if any(f'"{kind}"' in kinds for kind in MOVING_ROTATIONS):
        return "its rotary positions depend on the length of the whole prompt"
    size = model.get_input_embeddings().num_embeddings
    tokens = [(7 * place + 3) % size for place in range(PROBE_TOKENS)]
    half = PROBE_TOKENS // 2
    with torch.inference_mode():
        cache = compute_prefix(model, tokens[:half], device)
        if not _is_plain(cache, half):
            return "not every layer attends to the whole prompt"
        rest = torch.tensor([tokens[half:], tokens[half:]], device=device)
        parts = model(rest, past_key_values=read_only(cache), use_cache=True).logits[1]
        whole = model(torch.tensor([tokens], device=device), use_cache=False).logits[0, half:]
    if not agrees(parts, whole):
        return f"its answers differ by {difference(parts, whole):.2g} when a prompt is computed in two parts"
    return ""


def agrees(logits: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether logits (positions, vocabulary) give the log-probabilities of those of whole sequences."""
    return difference(logits, whole) <= max(TOLERANCE, 30 * torch.finfo(whole.dtype).eps)


def difference(logits: torch.Tensor, whole: torch.Tensor) -> float:
    """The largest between log-probabilities; not a number where one is none."""
    return float((torch.log_softmax(logits.double(), -1) - torch.log_softmax(whole.double(), -1)).abs().max())


def _is_plain(cache: Any, tokens: int) -> bool:
    """Whether every layer keeps every token's keys and values, and nothing else."""
    return (
        type(cache) is DynamicCache
        and bool(cache.layers)
        and all(type(layer) is DynamicLayer and layer.get_seq_length() == tokens for layer in cache.layers)
    )
