"""AdamW (arXiv:1711.05101) or Muon, with weight decay where it belongs, on whatever part of a model a process has.

Optimisers see plain tensors: of a parameter that is spread over processes, this one's part. Every operation of AdamW is
on single elements, so nothing is lost, torch's fused form works for any layout, and mixing layouts costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pipelines.train.anatomy import embedding_names, output_names
from pipelines.train.config import TrainConfig
from pipelines.train.runner import local
from pipelines.train.shaping import Shaping


def undecayed(model: nn.Module) -> frozenset[str]:
    """Names of parameters that do not decay: norms, biases and embeddings (an output tied to one counts as one).

    Asked of the undivided model, since a part does not say what it was part of.
    """
    small = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
    return frozenset(small | embedding_names(model))


def unorthogonal(model: nn.Module) -> frozenset[str]:
    """Names of parameters that Muon leaves to AdamW: all that are not matrices, embeddings, and the output layer."""
    others = {name for name, parameter in model.named_parameters() if parameter.ndim != 2}
    return frozenset(others | embedding_names(model) | output_names(model))


class Optimizer:
    """One or two torch optimisers over this process's parts of the parameters.

    Args:
        parameters: name -> trained parameter, possibly a DTensor.
        kept: names that do not decay.
        adamw_only: names that Muon leaves to AdamW.
        shaping: learning rates that differ between parameters.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: TrainConfig,
        kept: frozenset[str],
        adamw_only: frozenset[str],
        shaping: Shaping | None = None,
    ) -> None:
        self.parameters = dict(parameters)
        self._shaping = shaping
        self._parts = {name: _part(parameter) for name, parameter in parameters.items()}
        names = [name for name, part in self._parts.items() if part.numel()]  # a shard of a small tensor may be empty
        orthogonal = [name for name in names if config.optimizer == "muon" and name not in adamw_only]
        rest = [name for name in names if name not in set(orthogonal)]
        self._inner: list[torch.optim.Optimizer] = []
        settings: dict[str, Any] = {"lr": config.learning_rate}
        if rest:
            groups = [
                *self._groups([name for name in rest if name not in kept], config.weight_decay),
                *self._groups([name for name in rest if name in kept], None),
            ]
            self._inner.append(torch.optim.AdamW(groups, betas=config.betas, fused=True, **settings))
        if orthogonal:
            matrices = self._groups(orthogonal, config.weight_decay)
            self._inner.append(
                # Scaled so that AdamW's learning rates and weight decay suit it (arXiv:2502.16982).
                torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings)
            )

    def _groups(self, names: Sequence[str], weight_decay: float | None) -> list[dict[str, Any]]:
        """Parameter groups, one for each depth; None for what never decays."""
        by_depth: dict[int, list[nn.Parameter]] = {}
        for name in names:
            by_depth.setdefault(self._depth(name), []).append(self._parts[name])
        return [
            {"params": params, "weight_decay": weight_decay or 0.0, "decays": weight_decay is not None, "depth": depth}
            for depth, params in by_depth.items()
        ]

    def _depth(self, name: str) -> int:
        return 0 if self._shaping is None else self._shaping.depths[name]

    def _factor(self, depth: int, number: int) -> float:
        return 1.0 if self._shaping is None else self._shaping.factor(depth, number)

    def freeze(self, number: int) -> None:
        """Drop the gradients of what is not trained at a step (from 0), before anything reads them."""
        for name, parameter in self.parameters.items():
            if self._factor(self._depth(name), number) == 0.0:
                parameter.grad = None

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups of all the optimisers."""
        return [group for inner in self._inner for group in inner.param_groups]

    def decay(self, weight_decay: float) -> None:
        """The weight decay of the next steps, for what decays at all."""
        for group in self.groups:
            if group["decays"]:
                group["weight_decay"] = weight_decay

    def step(self, rate: float, number: int = 0) -> None:
        """Step ``number`` (from 0) with the parameters' gradients, which are gone afterwards."""
        for group in self.groups:
            group["lr"] = rate * self._factor(group["depth"], number)
        for name, parameter in self.parameters.items():
            part = self._parts[name]
            if part is not parameter:
                part.grad = None if parameter.grad is None else local(parameter.grad)
        for inner in self._inner:
            inner.step()
        self.clear()

    def clear(self) -> None:
        """Drop the gradients."""
        for name, parameter in self.parameters.items():
            parameter.grad = None
            self._parts[name].grad = None

    def state(self) -> dict[str, torch.Tensor]:
        """``name/key`` -> tensor of the optimisers' memory, spread as the parameters are; it shares the memory.

        Where there is none yet, because nothing or not all was trained, it is made, without moving a parameter.
        """
        have = {part for inner in self._inner for part in inner.state}
        missing = [part for part in self._parts.values() if part.numel() and part not in have]
        if missing:
            self._make_state(missing)
        found = {}
        for name, part in self._parts.items():
            for inner in self._inner:
                for key, value in inner.state.get(part, {}).items():
                    found[f"{name}/{key}"] = spread_like(value, self.parameters[name])
            if not part.numel():  # an empty shard has no memory here, and others have theirs: all must name the same
                found |= {
                    f"{name}/{key}": spread_like(torch.zeros_like(part), self.parameters[name])
                    for key in ("exp_avg", "exp_avg_sq")
                }
        return found

    def _make_state(self, parts: Sequence[nn.Parameter]) -> None:
        rates = [(group, group["lr"]) for group in self.groups]
        for part in parts:
            part.grad = torch.zeros_like(part)
        for group, _ in rates:
            group["lr"] = 0.0
        for inner in self._inner:
            inner.step()
        for inner in self._inner:
            for part in parts:
                for value in inner.state.get(part, {}).values():
                    value.zero_()
        for group, rate in rates:
            group["lr"] = rate
        self.clear()


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimiser of a model in one piece."""
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    return Optimizer(trained, config, undecayed(model), unorthogonal(model), config.shaping(model))


def spread_like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A process's part of something as large as a parameter, as the whole that the parameter is a part of."""
    if value is parameter or local(parameter) is parameter or value.shape != local(parameter).shape:
        return value
    from torch.distributed.tensor import DTensor

    whole: Any = parameter
    return DTensor.from_local(
        value, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def _part(parameter: nn.Parameter) -> nn.Parameter:
    part = local(parameter)
    return parameter if part is parameter else nn.Parameter(part.detach())
