"""What the device does at best, and how much memory a process has used."""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import torch

from pipelines.train.layout import Place


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in a large matrix product: what MFU is a share of.

    Measured, not looked up: half a second at most, the best of three.
    """
    size = 8192 if device.type == "cuda" else 512
    first = torch.ones(size, size, device=device, dtype=dtype)
    torch.mm(first, first)
    best = float("inf")
    for _ in range(3):
        synchronise(device)
        began = time.perf_counter()
        torch.mm(first, first)
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def synchronise(device: torch.device) -> None:
    """Wait for what the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: of the device, or of this process where it computes on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def seed_generators(seed: int, device: torch.device) -> None:
    """What ``torch.manual_seed`` does for the devices that are used; asking for all others takes it longer."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def step_seed(seed: int, step: int, place: Place) -> int:
    """Seeds dropout and the like; nothing needs saving, and a resumed run draws what it would have drawn.

    Workers that compute the same activations (tensor parallelism) draw the same, all others different numbers.
    """
    key = [seed, step, place.share] + ([place.pipeline] if place.pipeline else [])
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def flops_per_token(trained: int, embedding: int, layers: int, width: int, length: int) -> float:
    """Model FLOPs of a token, forward and backward (PaLM's appendix B, arXiv:2204.02311).

    Six for each parameter that multiplies, and ``12 * layers * width * length`` for attention.
    """
    return 6.0 * (trained - embedding) + 12.0 * layers * width * length
