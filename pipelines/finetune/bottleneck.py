"""Bottleneck adapters (arXiv:1902.00751; one after each layer, as in arXiv:2005.00247), which peft does not have.

After each layer ``h`` becomes ``h + up(gelu(down(h)))``, with ``up`` zero at first. Stored like peft's adapters:
``adapter_config.json`` with ``"peft_type": "RAYMILL_BOTTLENECK"``, the width, the base's name and what loads it, and
``adapter_model.safetensors`` with ``layers.<number>.down.weight`` [width, hidden], ``down.bias``, ``up.weight``
[hidden, width] and ``up.bias`` of each layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from cluster.errors import UserError
from pipelines.train.anatomy import blocks

NAME = "bottleneck"
KIND = "RAYMILL_BOTTLENECK"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Bottleneck(nn.Module):
    """What is added to a layer's output [..., hidden]."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(hidden, width)
        self.up = nn.Linear(width, hidden)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.active = True

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.up(functional.gelu(self.down(hidden))) if self.active else hidden


def add(base: Any, width: int) -> Any:
    """Put fresh adapters after the model's layers, and freeze everything else.

    Raises:
        UserError: the model has no list of layers.
    """
    layers = blocks(base)
    if not layers:
        raise UserError("the model has no list of layers", where="finetune.method: adapter", next_step="use full")
    base.requires_grad_(False)
    for layer in layers:
        layer.add_module(NAME, Bottleneck(base.config.hidden_size, width))
        layer.register_forward_hook(_after)
    return base


def _after(layer: Any, arguments: Any, output: Any) -> Any:
    """The layer's output with the adapter's addition; some models give a tuple that begins with it."""
    adapter = layer.get_submodule(NAME)
    return (adapter(output[0]), *output[1:]) if isinstance(output, tuple) else adapter(output)


def adapters(model: nn.Module) -> list[Any]:
    """The adapters, in the order of the layers."""
    return [getattr(layer, NAME) for layer in blocks(model) if hasattr(layer, NAME)]


def is_adapted(model: nn.Module) -> bool:
    """Whether the model has such adapters."""
    return bool(adapters(model))


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """The model without its adapters."""
    for each in adapters(model):
        each.active = False
    try:
        yield
    finally:
        for each in adapters(model):
            each.active = True


def save(model: nn.Module, folder: Path, base_name: str) -> None:
    """Write the adapters; see the module's text for the format."""
    folder.mkdir(parents=True, exist_ok=True)
    found = adapters(model)
    tensors = {
        f"layers.{number}.{name}": value.detach().float().cpu().contiguous()
        for number, each in enumerate(found)
        for name, value in each.named_parameters()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    settings = {
        "peft_type": KIND,
        "raymill_loader": "pipelines.finetune.bottleneck:load",
        "base_model_name_or_path": base_name,
        "bottleneck": found[0].down.out_features,
        "layers": len(found),
        "activation": "gelu",
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")


def is_stored(folder: Path) -> bool:
    """Whether a folder holds such adapters."""
    path = folder / CONFIG
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("peft_type") == KIND


def load(base: Any, folder: Path) -> Any:
    """A base with stored adapters.

    Raises:
        ValueError: they are for another number of layers or another width.
    """
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if len(blocks(base)) != settings["layers"]:
        raise ValueError(f"it is for {settings['layers']} layers, and the model has {len(blocks(base))}")
    model = add(base, settings["bottleneck"])
    tensors = load_file(folder / WEIGHTS)
    for number, each in enumerate(adapters(model)):
        prefix = f"layers.{number}."
        each.load_state_dict({n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    return model
