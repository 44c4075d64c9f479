"""Where a model keeps its layers, its embedding and its output: what parallelism and recomputation need to know."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn


def numbers(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for; one in 4 bits has two of them in a byte."""
    quantised = getattr(parameter, "quant_state", None)
    return parameter.numel() if quantised is None else math.prod(quantised.shape)


class Numbered(nn.ModuleDict):
    """Some of a model's layers under the numbers that they have in the whole model."""


def blocks(model: nn.Module) -> list[nn.Module]:
    """The model's layers: the members of its outermost module lists, in order; none where it has no such list."""
    return list(_blocks(model))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, Numbered):
            yield from child.values()
        elif isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def embedding_names(model: nn.Module) -> set[str]:
    """Names of parameters that are embeddings (tied outputs count as such)."""
    found = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in found}


def output_names(model: nn.Module) -> set[str]:
    """Names of the parameters of the output layer, where the model says which one that is."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        return set()
    found = {id(parameter) for parameter in head.parameters()}
    return {name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in found}
