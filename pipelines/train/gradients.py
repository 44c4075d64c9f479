"""The norm of the whole gradient and its clipping, wherever its parts are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn

from pipelines.train.runner import Runner, local


def gradient_norm(runner: Runner) -> torch.Tensor:
    """The norm over all parameters of the model: each element counts once, however it is split or copied.

    A part's squares are summed here, then over the mesh dimensions along which that parameter is split, and at last
    over the stages of a pipeline.
    """
    parameters, group = runner.parameters, runner.group
    if group.layout.plain:
        return nn.utils.get_total_norm([each.grad for each in parameters.values() if each.grad is not None])
    total = torch.zeros((), device=group.device)
    for (mesh, dimensions), names in _by_split(parameters, runner.repeated).items():
        parts = [local(parameters[name].grad) for name in names if parameters[name].grad is not None]
        squares = torch.zeros((), device=group.device)
        if parts:
            squares = torch.stack(torch._foreach_norm(parts)).square().sum()
        for dimension in dimensions:
            dist.all_reduce(squares, group=mesh.get_group(dimension))
        total += squares
    if group.layout.pipeline > 1:
        dist.all_reduce(total, group=group.mesh["pipeline"].get_group())
    return total.sqrt()


def clip(runner: Runner, norm: torch.Tensor, largest: float) -> None:
    """Scale all gradients so that their norm is at most ``largest``; a smaller one is left as it is."""
    if float(norm) + 1e-6 <= largest:
        return
    parts = [local(each.grad) for each in runner.parameters.values() if each.grad is not None]
    factor = torch.clamp(largest / (norm + 1e-6), max=1.0)  # as torch.nn.utils.clip_grad_norm_ has it
    torch._foreach_mul_(parts, factor)


def _by_split(parameters: Mapping[str, nn.Parameter], left_out: frozenset[str]) -> dict[tuple, list[str]]:
    found: dict[tuple, list[str]] = {}
    for name, parameter in parameters.items():
        if name in left_out:
            continue
        mesh = getattr(parameter, "device_mesh", None)
        placements = getattr(parameter, "placements", ())
        split = tuple(number for number, each in enumerate(placements) if not each.is_replicate())
        found.setdefault((mesh, split), []).append(name)
    return found
