"""How the engine beside a training worker is started: its environment and vLLM's options."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from pipelines.align.config import AlignConfig
from pipelines.align.generation import head_size

TRAININGS_OWN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Where training's processes find each other; the engine is none of them."""

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine ends with its process
    "VLLM_HOST_IP": "127.0.0.1",  # and meets nobody
}
ON_CPU = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",  # else the sampler is compiled at the first answer: 16 s, and a C++ compiler
}

AT_ONCE = {"cpu": 64, "cuda": 256}
"""Answers that are written at the same time, by the kind of device."""

BLOCK_TOKENS = 128  # vLLM's block on a CPU; a request takes whole ones
LEAST_CACHE_BYTES, MOST_CACHE_BYTES = 64 << 20, 4 << 30


def engine_environment(inherited: Mapping[str, str], device: Any, threads: int) -> dict[str, str]:
    """The environment of an engine on a worker's device, a ``torch.device``.

    Args:
        inherited: the worker's.
        threads: that it computes with on a CPU.
    """
    kept = {name: value for name, value in inherited.items() if name not in (*TRAININGS_OWN, "VLLM_CPU_KVCACHE_SPACE")}
    # The worker may have got its path from Ray, and not from its environment.
    kept |= ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if device.type == "cpu":
        return kept | ON_CPU | {"OMP_NUM_THREADS": str(threads)}
    number = device.index or 0
    visible = [each for each in kept.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return kept | {"CUDA_VISIBLE_DEVICES": visible[number] if visible else str(number)}


def engine_options(config: AlignConfig, settings: Mapping[str, Any], length: int, kind: str) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``.

    Args:
        settings: the model's ``config.json``.
        length: most tokens of a prompt with its answer.
        kind: of device: ``cpu`` or ``cuda``.
    """
    options: dict[str, Any] = {"max_model_len": length, "max_num_seqs": AT_ONCE[kind], "enable_prefix_caching": True}
    if kind == "cpu":
        # Compiling takes longer than a small model ever saves.
        return options | {"dtype": "float32", "enforce_eager": True, "kv_cache_memory_bytes": _cache(settings, length)}
    dtype = "float32" if config.resolved_precision() == "fp32" else "bfloat16"
    return options | {"dtype": dtype, "gpu_memory_utilization": config.generation_memory}


def _cache(settings: Mapping[str, Any], length: int) -> int:
    """Bytes of keys and values of as many answers as are written at once, in float32."""
    heads = settings.get("num_key_value_heads") or settings.get("num_attention_heads") or settings.get("n_head") or 0
    layers = settings.get("num_hidden_layers") or settings.get("n_layer") or 0
    tokens = -(-length // BLOCK_TOKENS) * BLOCK_TOKENS * AT_ONCE["cpu"]
    needed = 2 * 4 * int(layers) * int(heads) * (head_size(settings) or 0) * tokens
    return min(max(needed, LEAST_CACHE_BYTES), MOST_CACHE_BYTES)
