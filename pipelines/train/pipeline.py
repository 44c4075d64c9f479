"""Pipeline parallelism: a model cut into stages of consecutive layers, which work on micro-batches in turn.

Schedules are torch's: 1F1B (PipeDream-flush, arXiv:2006.09503) and interleaved 1F1B (arXiv:2104.04473).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pipelines.train.anatomy import Numbered

CORES = {"llama": "model", "gpt2": "transformer"}
"""Architectures that can be cut, and the attribute that holds everything but the output layer."""

_FIRST = {"llama": ("embed_tokens",), "gpt2": ("wte", "wpe", "drop")}
_LAST = {"llama": ("norm",), "gpt2": ("ln_f",)}
_LAYERS = {"llama": "layers", "gpt2": "h"}


def architecture_of(model: Any) -> str:
    """transformers' name of a model's architecture; empty for a model that is not theirs."""
    return str(getattr(getattr(model, "config", None), "model_type", ""))


def layer_range(layers: int, stages: int, stage: int) -> range:
    """The layers of a stage; earlier stages have one more where they do not divide."""
    each, more = divmod(layers, stages)
    first = stage * each + min(stage, more)
    return range(first, first + each + (stage < more))


class StageModule(nn.Module):
    """One stage: ids in on the first, logits out on the last, hidden states between.

    Its parameters are those of the whole model, under ``net.`` and the names they have there.
    """

    def __init__(self, model: Any, stages: int, stage: int) -> None:
        super().__init__()
        self.kind = architecture_of(model)
        self.is_first, self.is_last = stage == 0, stage == stages - 1
        name = CORES[self.kind]
        net, core = _twin(model), _twin(getattr(model, name))
        net._modules[name] = core
        layers = getattr(core, _LAYERS[self.kind])
        chosen = layer_range(len(layers), stages, stage)
        core._modules[_LAYERS[self.kind]] = Numbered({str(number): layers[number] for number in chosen})
        for part in _FIRST[self.kind]:
            if not self.is_first:
                del core._modules[part]
        for part in _LAST[self.kind]:
            if not self.is_last:
                del core._modules[part]
        if not self.is_last:
            del net._modules["lm_head"]
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ids or hidden states of a micro-batch [sequences, length, …]."""
        core = getattr(self.net, CORES[self.kind])
        positions = torch.arange(x.shape[1], device=x.device)[None]
        arguments: dict[str, Any] = {"attention_mask": None, "use_cache": False}
        if self.kind == "llama":
            hidden = core.embed_tokens(x) if self.is_first else x
            arguments |= {"position_ids": positions, "position_embeddings": core.rotary_emb(hidden, positions)}
        else:
            hidden = core.drop(core.wte(x) + core.wpe(positions)) if self.is_first else x
        for layer in getattr(core, _LAYERS[self.kind]).values():
            hidden = layer(hidden, **arguments)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        if not self.is_last:
            return hidden
        for part in _LAST[self.kind]:
            hidden = getattr(core, part)(hidden)
        return self.net.lm_head(hidden)


def _twin(module: nn.Module) -> Any:
    """A second module object over the same children and parameters, from which children can be taken away."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def tied_names(model: Any) -> tuple[str, str] | None:
    """Names of the output's and the embedding's weight where they are one parameter."""
    names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first != name:
            return (name, first)
    return None
