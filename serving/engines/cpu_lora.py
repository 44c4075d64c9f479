"""Two corrections of adapters in vLLM on a CPU. Imported by vLLM's worker.

In vLLM 0.29 the CPU's LoRA operations take the last adapter slot for a token without an adapter (its index is -1,
which Python counts from the end; the GPU's kernels skip it): in a batch with an adapter's requests, requests for the
base get that adapter's answers (vllm-project/vllm#48421, open). The server is told to load this class through its own
extension point (``--worker-extension-cls``); it can go with the vLLM that has the correction.

For the log-probabilities of a prompt (``echo`` with ``logprobs``: how models are evaluated) vLLM computes one request's
logits at all its tokens, and picks adapters by a table of one row for each request. Two such requests in one batch
end the engine on a CPU, or take each other's adapters.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cluster.torch_store import listen_where_told

OPERATIONS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")
SAMPLED = 1
"""Where a wrapper's ``indices_len`` has the length of the table of requests."""


class KeepBaseApart:
    """What vLLM's worker inherits from; it adds nothing to it, as importing this module has done the work."""


def without_adapterless_rows(operation: Callable[..., None]) -> Callable[..., None]:
    """The operation with a change of zero for rows whose index is below zero: it is linear in its inputs."""

    @functools.wraps(operation)
    def run(inputs: Any, weights: Any, output: Any, indices: Any, *rest: Any, **options: Any) -> None:
        apart = inputs.masked_fill((indices < 0).unsqueeze(1), 0.0)
        operation(apart, weights, output, indices.clamp(min=0), *rest, **options)

    return run


def correct(operations: ModuleType, users: tuple[ModuleType, ...]) -> None:
    """Put the corrected operations in place of the module's own, also where others have imported them by name."""
    for name in OPERATIONS:
        corrected = without_adapterless_rows(getattr(operations, name))
        for module in (operations, *users):
            if hasattr(module, name):
                setattr(module, name, corrected)


def with_prompts_rows(add_logits: Callable[..., None]) -> Callable[..., None]:
    """A wrapper's ``add_lora_logits`` that takes the adapters of a prompt's tokens where it is given a prompt's tokens.

    They are a view into the batch's hidden states, in whose order the wrapper knows each token's adapter. Where new
    tokens are drawn the states are a tensor of their own, of a row for each request.
    """

    @functools.wraps(add_logits)
    def run(wrapper: Any, logits: Any, states: Any, *rest: Any, **options: Any) -> None:
        width = states.shape[-1]
        rows = states.numel() // width
        held = states.untyped_storage().nbytes() // (states.element_size() * width)
        drawn = wrapper.indices_len[SAMPLED]
        if rows == held == drawn:
            add_logits(wrapper, logits, states, *rest, **options)
            return
        first = states.storage_offset() // width
        kept = wrapper._sampler_indices[: max(rows, drawn)].clone()
        wrapper._sampler_indices[:rows] = wrapper.token_lora_indices[first : first + rows]
        wrapper.indices_len[SAMPLED] = rows
        try:
            add_logits(wrapper, logits, states, *rest, **options)
        finally:  # the table stays for the next step where the same requests go on
            wrapper._sampler_indices[: len(kept)] = kept
            wrapper.indices_len[SAMPLED] = drawn

    return run


def _correct_vllm() -> None:
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    correct(lora_ops, (torch_ops, punica_cpu))
    wrapper = punica_cpu.PunicaWrapperCPU
    wrapper.add_lora_logits = with_prompts_rows(wrapper.add_lora_logits)


if "vllm" in sys.modules:  # in a worker; elsewhere importing this loads nothing
    listen_where_told()  # a worker takes one class: this one does what the one of other engines does
    _correct_vllm()
