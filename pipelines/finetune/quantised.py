"""A base that stays in 4 bits while adapters on it are trained: QLoRA (arXiv:2305.14314), by bitsandbytes.

The layers' matrices are NF4 with doubly quantised scales, and are multiplied in the run's precision. Embeddings, norms
and the output layer stay in fp32. What is written is an adapter for the base as it is: that is what serves it, and
what it is merged into. So the 4 bits cost something twice, while training and after; :func:`cost` measures the second.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import UserError

if TYPE_CHECKING:
    import torch

    from pipelines.finetune.config import FinetuneConfig

KEY = "finetune.base_bits"
OLDEST = (0, 46, 1)
"""The oldest bitsandbytes that transformers 5.19 loads a model with."""

RECORD = "quantisation.json"
"""In an adapter's folder: that its base was in 4 bits, and what that cost."""

PROBE_PATIENCE_S = 120.0
"""How long a worker is asked whether it can; on a busy cluster each finds out for itself when it begins."""


def refuse_quantised(config: FinetuneConfig) -> None:
    """What does not go with a base in 4 bits.

    Raises:
        ValueError: saying why, and what to do.
    """
    if config.base_bits is None:
        return
    if not config.gpus_per_worker:
        raise ValueError(
            "base_bits: 4 (QLoRA) needs NVIDIA GPUs with bitsandbytes, and gpus_per_worker is 0: set gpus_per_worker: "
            "1 where the workers have GPUs, or leave base_bits out and use lora on the base as it is"
        )
    if config.task != "generation":
        raise ValueError(f"base_bits: 4 (QLoRA) is for task generation, not for {config.task}: leave it out")
    if config.parallel.shard > 1:
        raise ValueError(
            "base_bits: 4 (QLoRA) packs weights in blocks with common scales, which parallel.shard would cut apart: "
            "use parallel.data, where each worker has the base in 4 bits, or leave base_bits out"
        )
    if config.merge:
        raise ValueError(
            "merge: true with base_bits: 4 (QLoRA) would publish a model that was never trained as it is, without "
            "anyone having seen the difference: leave merge out, and merge the adapter with `raymill merge`, which "
            "says what it is"
        )
    if config.precision == "fp8":
        raise ValueError("precision fp8 keeps weights in 8 bits, and base_bits: 4 (QLoRA) in 4: use bf16")
    if config.compile:
        raise ValueError("compile is for a base as it is, not for one with base_bits: 4 (QLoRA): leave one of them out")


def base_device() -> torch.device:
    """Where this process computes: its GPU, or the CPU where it has none."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def problem() -> str | None:
    """Why this process cannot keep a base in 4 bits; None where it can: a small matrix was packed and unpacked."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "bitsandbytes is not installed"
    found = metadata.version("bitsandbytes")
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < OLDEST:
        return f"bitsandbytes {found} is older than {'.'.join(map(str, OLDEST))}"
    import torch

    device = base_device()
    try:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        original = torch.linspace(-1, 1, 64, device=device).repeat(64, 1)
        again = dequantize_4bit(*quantize_4bit(original, quant_type="nf4", compress_statistics=True))
        difference = float((again - original).abs().max())
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"bitsandbytes {found} does not work on {device.type}: {reason[0]}"
    if not difference < 0.25:  # neighbouring values of NF4 are at most 0.31 apart, so half of that is the most
        return f"bitsandbytes {found} packs numbers wrongly on {device.type} (off by {difference:.2g})"
    return None


def _problem_with_gpu() -> str | None:
    if base_device().type != "cuda":
        return "its PyTorch has no NVIDIA GPU that it can use"
    return problem()


def require_here() -> None:
    """Raise UserError where this process cannot keep a base in 4 bits."""
    _refuse(problem())


def require_on_workers(config: FinetuneConfig) -> None:
    """Ask one worker of the cluster that is connected to; before any stage of a run, which may take hours until then.

    Raises:
        UserError: it has no GPU that PyTorch can use, or no bitsandbytes that works there.
    """
    if config.base_bits is None:
        return
    import ray
    from ray.exceptions import GetTimeoutError

    asked = ray.remote(num_cpus=1, num_gpus=config.gpus_per_worker, max_retries=0)(_problem_with_gpu).remote()
    try:
        found = ray.get(asked, timeout=PROBE_PATIENCE_S)
    except GetTimeoutError:
        ray.cancel(asked)
        return
    _refuse(found)


def _refuse(found: str | None) -> None:
    if found is not None:
        raise UserError(
            f"a worker cannot keep the base in 4 bits: {found}",
            where=KEY,
            next_step="install raymill[qlora] where the workers run, on NVIDIA GPUs, or leave base_bits out",
        )


def load_quantised(folder: Path, precision: str) -> Any:
    """A stored model with its layers' matrices in 4 bits, all of it frozen, on this process's device.

    Args:
        precision: what its matrices are multiplied in, bf16 or fp32.
    """
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = _dtype(precision)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, dtype=dtype, device_map={"": base_device()}
    )
    if not any(hasattr(each, "quant_state") for each in model.parameters()):
        raise UserError(
            "the model's layers have no matrices that 4 bits are for", where=KEY, next_step="leave base_bits out"
        )
    # Activation checkpointing is the recipe's `recompute`.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def cost(
    model: Any, base_folder: Path, adapter: Path, precision: str, loss_of: Callable[[Any], float]
) -> dict[str, float | None]:
    """Held-out loss of the same adapter on the base in 4 bits (``loss``) and on the base as it is
    (``loss_on_whole_base``, None where that finds no room beside it).
    """
    import torch
    from transformers import AutoModelForCausalLM

    from pipelines.finetune.methods import load_adapter

    found: dict[str, float | None] = {"loss": loss_of(model), "loss_on_whole_base": None}
    device = next(model.parameters()).device
    try:
        whole = AutoModelForCausalLM.from_pretrained(base_folder, dtype=_dtype(precision), device_map={"": device})
        found["loss_on_whole_base"] = loss_of(load_adapter(whole, adapter))
    except torch.OutOfMemoryError:  # what was trained counts; None says that this was not measured
        torch.cuda.empty_cache()
    return found


def record(folder: Path, measured: dict[str, float | None]) -> None:
    """Note in an adapter's folder that its base was in 4 bits."""
    text = {"bits": 4, "type": "nf4", "double_quantisation": True, **measured}
    (folder / RECORD).write_text(json.dumps(text, indent=1, sort_keys=True), encoding="utf-8")


def merged_note(adapter: Path) -> str | None:
    """What is to be known of a model that an adapter is merged into, if it was trained on a base in 4 bits."""
    path = adapter / RECORD
    if not path.exists():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    whole = known["loss_on_whole_base"]
    as_it_is = "not measured" if whole is None else f"{whole:.4f}"
    return (
        f"the adapter was trained on the base in {known['bits']} bits, and is merged into the base as it is: held-out "
        f"loss {known['loss']:.4f} as trained, {as_it_is} on the base as it is"
    )


def _dtype(precision: str) -> torch.dtype:
    import torch

    return torch.bfloat16 if precision == "bf16" else torch.float32
