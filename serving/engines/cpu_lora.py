"""Keeps requests for the base weights apart from adapters in one batch of vLLM on a CPU. Imported by vLLM's worker.

In vLLM 0.29 the CPU's LoRA operations take the last adapter slot for a token without an adapter (its index is -1,
which Python counts from the end; the GPU's kernels skip it): in a batch with an adapter's requests, requests for the
base get that adapter's answers (vllm-project/vllm#48421, open). The server is told to load this class through its own
extension point (``--worker-extension-cls``); it can go with the vLLM that has the correction.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

OPERATIONS = ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice")


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


def _correct_vllm() -> None:
    from vllm.lora.ops import torch_ops
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    correct(lora_ops, (torch_ops, punica_cpu))


if "vllm" in sys.modules:  # in a worker; elsewhere importing this loads nothing
    _correct_vllm()
