"""Arrange a model for a layout. The order of wrapping matters and is this one:

pipeline stages, tensor parallelism, activation checkpointing, compilation, then sharding or copies.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from cluster.errors import UserError
from pipelines.train.anatomy import blocks
from pipelines.train.config import TrainConfig
from pipelines.train.group import Group
from pipelines.train.loss import LossModule
from pipelines.train.pipeline import StageModule, tied_names
from pipelines.train.recompute import save_memory
from pipelines.train.runner import PipelineRunner, Runner, WholeRunner
from pipelines.train.task import OwnObjective


def arrange(model: Any, config: TrainConfig, group: Group, own: OwnObjective | None = None) -> Runner:
    """The model on this process's device, as its part in the layout has it.

    Args:
        own: what is minimised, where that is not the labels' cross-entropy; not for tensor or pipeline parallelism.
    """
    model.to(group.device)
    if group.layout.pipeline > 1:
        return _pipelined(model, config, group)
    if group.layout.tensor > 1:
        _split(model, group)
    if config.resolved_precision() == "fp8":
        _to_fp8(model)
    save_memory(model, config.recompute)
    module: Any = LossModule(model, config.z_loss) if own is None else own.objective(model, group)
    figures: tuple[str, ...] = getattr(module, "figures", ())
    if config.compile and group.layout.plain:
        module.compile()
    elif config.compile:
        compile_blocks(model)
    if group.layout.shard > 1:
        _shard(model, config, group)
    elif group.layout.plain and group.world > 1:
        module = DistributedDataParallel(module, gradient_as_bucket_view=True, forward_sync_buffers=False)
    by_hand = not group.layout.plain and group.layout.shard == 1
    return WholeRunner(module, _trained(model), group, _autocast(config, group), sums_by_hand=by_hand, figures=figures)


def _pipelined(model: Any, config: TrainConfig, group: Group) -> Runner:
    tied = tied_names(model)
    stages = config.parallel.stages
    mine = range(group.place.pipeline, stages, group.layout.pipeline)
    vocabulary, width = model.get_output_embeddings().weight.shape
    parts = [StageModule(model, stages, number) for number in mine]
    for part in parts:
        if group.layout.tensor > 1:
            _split(part.net, group)
        save_memory(part, config.recompute)
        if config.compile:
            compile_blocks(part)
        if group.layout.shard > 1:
            _shard(part, config, group)

    def schedule(runner: PipelineRunner, count: int, sequences: int, length: int, *, train: bool) -> Any:
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

        ids = torch.empty(sequences, length, dtype=torch.int64, device="meta")
        hidden = torch.empty(sequences, length, width, device="meta", requires_grad=train)
        logits = torch.empty(sequences, length, vocabulary, device="meta", requires_grad=train)
        made = [
            PipelineStage(
                part,
                number,
                stages,
                group.device,
                input_args=ids if number == 0 else hidden,
                output_args=logits if number == stages - 1 else hidden,
                group=group.mesh["pipeline"].get_group(),
            )
            for number, part in zip(mine, parts, strict=True)
        ]
        if config.parallel.schedule == "1f1b":
            return Schedule1F1B(made[0], count, loss_fn=runner.objective, scale_grads=False)
        return ScheduleInterleaved1F1B(made, count, loss_fn=runner.objective, scale_grads=False)

    parameters = {name.removeprefix("net."): each for part in parts for name, each in _trained(part).items()}
    return PipelineRunner(
        parts,
        parameters,
        group,
        _autocast(config, group),
        schedule,
        tied=tied,
        sums_by_hand=group.layout.shard == 1,
        z_loss=config.z_loss,
    )


def _to_fp8(model: nn.Module) -> None:
    """Layers' matrix products in fp8 (torchao, scaled by whole tensors); the output layer stays in bf16.

    Raises:
        UserError: there are none that can be.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    chosen = 0

    def fits(module: nn.Module, name: str) -> bool:
        nonlocal chosen
        suits = isinstance(module, nn.Linear) and all(side % 16 == 0 for side in module.weight.shape)
        chosen += suits
        return suits

    # The units want sixteen tokens at a time, and examples and corrupted spans have any number.
    settings = Float8LinearConfig(pad_inner_dim=True)
    for block in blocks(model):
        convert_to_float8_training(block, module_filter_fn=fits, config=settings)
    if not chosen:
        raise UserError(
            f"no layer of {type(model).__name__} can compute in fp8: that takes torch's Linear with sides that are "
            "multiples of 16",
            where="precision: fp8",
            next_step="set precision: auto",
        )


def _split(model: Any, group: Group) -> None:
    from pipelines.train.tensor import split_tensors

    split_tensors(model, group.mesh["tensor"])


def _shard(model: nn.Module, config: TrainConfig, group: Group) -> None:
    """FSDP2: every layer, and then what is left, spread over the ``shard`` dimension and copied over ``data``."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = group.mesh["data", "shard"] if group.layout.data > 1 else group.mesh["shard"]
    policy = outer = MixedPrecisionPolicy()
    if config.resolved_precision() != "fp32":
        policy = outer = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        if group.layout.pipeline > 1:  # hidden states are sent on in fp32: that is what the next stage waits for
            outer = replace(policy, output_dtype=torch.float32)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=outer)


def compile_blocks(model: nn.Module) -> None:
    """Compile layer by layer: equal layers share their code, and wrappers between them stay outside of it."""
    for block in blocks(model):
        block.compile()


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _autocast(config: TrainConfig, group: Group) -> AbstractContextManager[Any]:
    """bf16 by autocast, except where FSDP itself keeps the parameters in bf16 while they compute."""
    if config.resolved_precision() != "fp32" and group.layout.shard == 1:
        return torch.autocast(group.device.type, torch.bfloat16)
    return nullcontext()
