"""Training some parameters more than others: layer-wise learning rates, gradual unfreezing, a pull to the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipelines.train.anatomy import blocks, embedding_names
from pipelines.train.runner import Runner, local


@dataclass(frozen=True)
class Shaping:
    """See the module's text.

    Attributes:
        depths: name of a parameter -> how far it is from the output: 0 what follows the layers, 1 the last layer, …,
            and one more than the first layer the embeddings.
        layer_decay: a depth's learning rate is this power of it (discriminative fine-tuning, arXiv:1801.06146).
        unfreeze_every_steps: at first only depths 0 and 1 are trained, and after every so many steps one more
            (gradual unfreezing, arXiv:1801.06146); None trains all from the beginning.
        pull: L2-SP (arXiv:1802.01483): ``pull / 2 * |w - w_start|^2`` is added to what is minimised.
    """

    depths: Mapping[str, int]
    layer_decay: float = 1.0
    unfreeze_every_steps: int | None = None
    pull: float = 0.0

    def factor(self, depth: int, step: int) -> float:
        """What a depth's learning rate is multiplied by at a step (from 0); 0 where it is frozen."""
        if self.unfreeze_every_steps is not None and depth > 1 + step // self.unfreeze_every_steps:
            return 0.0
        return float(self.layer_decay**depth)


def depths_of(model: nn.Module) -> dict[str, int]:
    """Name -> depth of every parameter; see :class:`Shaping`."""
    layers = blocks(model)
    of_layer = {id(each): len(layers) - number for number, layer in enumerate(layers) for each in layer.parameters()}
    embeddings = embedding_names(model)
    found = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in of_layer:
            found[name] = of_layer[id(parameter)]
        else:
            found[name] = len(layers) + 1 if name in embeddings else 0
    return found


class Pull:
    """Adds L2-SP's gradient. Must be made before anything is trained or restored: it remembers the weights."""

    def __init__(self, strength: float, runner: Runner) -> None:
        self._strength = strength
        self._start = {name: local(each).detach().clone() for name, each in runner.parameters.items()}

    @torch.no_grad()
    def add_to(self, runner: Runner) -> None:
        """Add ``strength * (w - w_start)`` to the gradient of every parameter that has one."""
        for name, parameter in runner.parameters.items():
            if parameter.grad is not None:
                away = local(parameter) - self._start[name]
                local(parameter.grad).add_(away, alpha=self._strength)
