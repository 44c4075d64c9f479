"""Small parts of training against formulas written out here: losses, clipping, recomputation, memory errors."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cluster.errors import UserError
from pipelines.models.build import build_model
from pipelines.models.config import ModelConfig
from pipelines.models.gpt2 import build_gpt2
from pipelines.models.llama import build_llama
from pipelines.models.shapes import Shape
from pipelines.train.anatomy import blocks, output_names
from pipelines.train.arithmetic import Arithmetic
from pipelines.train.config import TrainConfig
from pipelines.train.gradients import clip, gradient_norm
from pipelines.train.group import Group
from pipelines.train.hardware import flops_per_token, matmul_rate
from pipelines.train.loss import sums
from pipelines.train.out_of_memory import explained
from pipelines.train.parallel import arrange
from pipelines.train.pipeline import layer_range
from pipelines.train.task import IGNORED, Batch
from pipelines.train.worker import Job, on_hardware, require_precision

CONFIG = TrainConfig(workers=1)


def llama() -> nn.Module:
    torch.manual_seed(0)
    shape = Shape(hidden=32, layers=3, heads=1, kv_heads=1, intermediate=48)
    return build_llama(shape, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2)


def test_the_z_loss_is_its_formula_and_is_not_reported() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, 2, IGNORED], [0, IGNORED, 4]])
    entropy = normaliser = 0.0
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 2)):
        values = [math.exp(float(value)) for value in logits[row, column]]
        entropy -= math.log(values[int(labels[row, column])] / sum(values))
        normaliser += math.log(sum(values)) ** 2
    objective, reported = sums(logits, labels, 0.01)
    assert float(reported) == pytest.approx(entropy, abs=1e-5)
    assert float(objective) == pytest.approx(entropy + 0.01 * normaliser, abs=1e-5)
    assert float(sums(logits, labels, 0.0)[0]) == pytest.approx(entropy, abs=1e-5)


def batch() -> Batch:
    tokens = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(3))
    return Batch(tokens[:, :-1], tokens[:, 1:])


def test_clipping_is_torchs_own() -> None:
    ours, theirs = arrange(llama(), CONFIG, Group()), llama()
    ours.backward([batch()], 32)
    logits = theirs(input_ids=batch().inputs).logits
    nn.functional.cross_entropy(logits.reshape(-1, 50), batch().labels.reshape(-1)).backward()
    norm = gradient_norm(ours)
    clip(ours, norm, 0.1)
    assert float(norm) == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)), rel=1e-5)
    for (name, parameter), other in zip(ours.parameters.items(), theirs.parameters(), strict=True):
        assert torch.allclose(parameter.grad, other.grad, atol=1e-6), name  # type: ignore[arg-type]
    assert float(gradient_norm(ours)) == pytest.approx(0.1, rel=1e-4)


def of_kind(architecture: str) -> Any:
    """A small model with dropout, which must be drawn again as it was."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden": 64, "layers": 2, "heads": 2, "dropout": 0.1}
    if ":" in architecture:
        sizes = {"options": {"hidden": 16, "layers": 2, "dropout": 0.1}}
    config = ModelConfig(architecture=architecture, **sizes)
    return build_model(config, vocab_size=64, max_positions=16, bos_id=0, eos_id=1, pad_id=2)


@pytest.mark.parametrize("how", ["selective", "full"])
@pytest.mark.parametrize(
    "architecture", ["llama", "gpt2", "bert", "t5", "pipelines.models.convolutional:ConvolutionalModel"]
)
def test_recomputing_changes_no_gradient_and_keeps_less(architecture: str, how: str) -> None:
    kept: dict[str, int] = {}
    gradients = {}
    given = batch()
    if architecture == "t5":
        given = Batch(given.inputs, given.labels, {"decoder_input_ids": given.inputs})
    for name in ("none", how):
        runner = arrange(of_kind(architecture), CONFIG.model_copy(update={"recompute": name}), Group())
        torch.manual_seed(7)
        size = 0

        def hold(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
            runner.backward([given], 32)
        kept[name] = size
        gradients[name] = [each.grad for each in runner.parameters.values()]
        assert list(runner.parameters) == [name for name, _ in of_kind(architecture).named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(gradients["none"], gradients[how], strict=True))  # type: ignore[arg-type]
    assert kept[how] < kept["none"]


def test_layers_and_outputs_are_found() -> None:
    model = llama()
    assert blocks(model) == list(model.model.layers)  # type: ignore[union-attr, arg-type]
    assert output_names(model) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert blocks(nn.LSTM(3, 3)) == []


@pytest.mark.parametrize(("layers", "stages"), [(4, 2), (5, 2), (7, 3), (12, 8)])
def test_stages_have_every_layer_once_in_order(layers: int, stages: int) -> None:
    ranges = [layer_range(layers, stages, stage) for stage in range(stages)]
    assert [layer for each in ranges for layer in each] == list(range(layers))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_mfu_counts_what_multiplies() -> None:
    """By hand for a tied model: every matrix once, the embedding as the output, 12 * layers * width * length."""
    model = llama()
    counted = sum(each.numel() for each in model.parameters())
    arithmetic = Arithmetic.of(model, Group(), CONFIG)
    assert arithmetic.flops_per_token == flops_per_token(counted, 0, 3, 32, 16) == 6 * counted + 12 * 3 * 32 * 16
    assert arithmetic.mfu(100, 2.0) == pytest.approx(
        50 * arithmetic.flops_per_token / arithmetic.flops_per_second, rel=1e-9
    )
    assert matmul_rate(torch.device("cpu"), torch.float32) > 1e8
    two = of_kind("t5")  # a token is in one of its stacks
    positions = 2 * 32 * 2  # looked up, not multiplied
    counted = sum(each.numel() for each in two.parameters()) - positions
    assert Arithmetic.of(two, Group(), CONFIG).flops_per_token == 6 * counted // 2 + 12 * 2 * 64 * 1


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), MemoryError("9 bytes")]
)
def test_running_out_of_memory_names_the_knobs(error: Exception) -> None:
    with pytest.raises(UserError, match="out of memory") as raised, explained("pretrain", CONFIG):
        raise error
    assert "micro_batch_sequences" in raised.value.next_step and "recompute: full" in raised.value.next_step
    with pytest.raises(RuntimeError, match="another"), explained("pretrain", CONFIG):
        raise RuntimeError("another")


def test_a_precision_that_the_hardware_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="fp8 needs a GPU of the Hopper generation"):
        require_precision("fp8", torch.device("cpu"), "pretrain")
    require_precision("bf16", torch.device("cpu"), "pretrain")
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match="Tesla T4 does not compute in bf16") as raised:
        require_precision("bf16", gpu, "pretrain")
    assert raised.value.next_step == "set pretrain.precision: fp32"
    with pytest.raises(UserError, match="fp8 needs a GPU of the Hopper generation"):
        require_precision("fp8", gpu, "pretrain")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="fp8 needs torchao, which is not installed on the workers"):
        require_precision("fp8", gpu, "pretrain")


@dataclass
class PlainTask:
    config: TrainConfig


@pytest.mark.parametrize(("lacking", "precision"), [(0, "auto"), (1, "fp32"), (2, "fp32")])
def test_auto_is_fp32_where_one_workers_gpu_has_no_bf16(
    monkeypatch: pytest.MonkeyPatch, lacking: int, precision: str
) -> None:
    """Of two workers; what the other one says is added as all_reduce does."""
    here = min(lacking, 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not here)
    group = SimpleNamespace(device=torch.device("cuda"), sum=lambda mine: mine + (lacking - here))
    monkeypatch.setattr(torch, "tensor", lambda value, device: float(value))
    config = TrainConfig(gpus_per_worker=1, workers=2)
    job: Any = Job(PlainTask(config), None, "resume", "output")  # type: ignore[arg-type]
    found = on_hardware(job, group)  # type: ignore[arg-type]
    assert (found.task.config.precision, job.task.config.precision) == (precision, "auto")
    assert found.task.config.resolved_precision() == ("bf16" if precision == "auto" else "fp32")
    asked = replace(job, task=PlainTask(TrainConfig(gpus_per_worker=1, precision="bf16")))
    assert on_hardware(asked, group) is asked  # type: ignore[arg-type]


class Torchao:
    """Notes what torchao would be asked to convert; its own layers are tried where it is installed."""

    def __init__(self) -> None:
        self.converted: list[str] = []

    def Float8LinearConfig(self, **settings: Any) -> dict[str, Any]:
        return settings

    def convert_to_float8_training(self, block: nn.Module, *, module_filter_fn: Any, config: Any) -> None:
        assert config == {"pad_inner_dim": True}
        self.converted += [name for name, each in block.named_modules() if module_filter_fn(each, name)]


def test_fp8_is_for_the_layers_matrices_and_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Torchao()
    monkeypatch.setitem(sys.modules, "torchao", asked)
    monkeypatch.setitem(sys.modules, "torchao.float8", asked)
    config = TrainConfig(workers=1, gpus_per_worker=1, precision="fp8")
    arrange(llama(), config, Group())
    projections = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    assert asked.converted == projections * 3
    shape = Shape(hidden=32, layers=1, heads=1, kv_heads=1, intermediate=48)
    other = build_gpt2(shape, vocab_size=50, max_positions=16, bos_id=0, eos_id=1, pad_id=2)
    with pytest.raises(UserError, match="no layer of GPT2LMHeadModel can compute in fp8"):
        arrange(other, config, Group())


def test_fp8_as_torchao_has_it() -> None:
    """Its layers stand in for fp32's: same names, all gradients, losses close by; for any number of tokens."""
    pytest.importorskip("torchao", reason="torchao is not installed, and no dependency")
    config = TrainConfig(workers=1, gpus_per_worker=1, precision="fp8")
    losses = []
    for each in (config, CONFIG):
        runner = arrange(llama(), each, Group())
        assert list(runner.parameters) == [name for name, _ in llama().named_parameters()]
        odd = Batch(batch().inputs[:3, :7], batch().labels[:3, :7])
        losses.append(float(runner.backward([odd], 21)) / 21)
        assert all(parameter.grad is not None for parameter in runner.parameters.values())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)
