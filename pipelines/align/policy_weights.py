"""The weights of a model in training as they would stand in its stored folder, adapters added: what an engine is given.

Added out of place: peft's own ``merge_adapter`` and ``unmerge_adapter`` leave rounding behind in the base's weights.
"""

from __future__ import annotations

from typing import Any

import torch

from pipelines.align.actor import VALUE_HEAD

WRAPPED = "base_layer."
"""What peft puts into the names of the weights that it wraps."""


@torch.no_grad()
def whole_weights(model: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Name in the stored model -> weight, on the CPU; of tied weights one.

    Args:
        model: a causal model of transformers', maybe with LoRA adapters on it, maybe with a value head.
    """
    from transformers.core_model_loading import revert_weight_conversion

    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    with torch.autocast(next(model.parameters()).device.type, enabled=False):
        changes = {
            f"{name}.weight": module
            for name, module in whole.named_modules()
            if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")
        }
        found: dict[str, torch.Tensor] = {}
        seen: set[int] = set()
        for name, tensor in whole.state_dict().items():
            plain = name.replace(WRAPPED, "")
            if ".lora_" in name or name.startswith(f"{VALUE_HEAD}.") or tensor.data_ptr() in seen:
                continue
            seen.add(tensor.data_ptr())
            if plain in changes:
                layer = changes[plain]
                for adapter in layer.active_adapters:
                    tensor = tensor + layer.get_delta_weight(adapter)
            found[plain] = tensor.detach().to(device="cpu", dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        stored: dict[str, torch.Tensor] = revert_weight_conversion(whole, found)
    return {name: tensor.contiguous() for name, tensor in stored.items()}
