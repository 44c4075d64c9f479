from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config import identity_fields, parse_document, validate
from cluster.errors import UserError
from cluster.stage import identify
from pipelines.pretrain import STAGE, PretrainConfig, resolve
from pipelines.train.config import TrainConfig
from pipelines.train.layout import Layout, ParallelConfig, plan_layout


def pretrain(text: str) -> PretrainConfig:
    return validate(PretrainConfig, parse_document(text, "recipe.yaml"))


def test_budgets() -> None:
    assert pretrain("tokens: 1e6\nbatch_sequences: 10").total_steps(500, 1000.0) == 100
    assert pretrain("tokens: 1000001\nbatch_sequences: 10").total_steps(500, 1000.0) == 101
    assert pretrain("steps: 7").total_steps(500, 1000.0) == 7
    assert pretrain("epochs: 2\nbatch_sequences: 10").total_steps(500, 1000.0) == 100
    assert pretrain("batch_sequences: 10").total_steps(500, 1000.0) == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens: 1.5", "recipe.yaml:1: tokens: must be a whole number"),
        ("tokens: 10\nsteps: 3", "steps and tokens each fix the length of the run: keep one"),
        ("workers: 4\nbatch_sequences: 2", "set workers: 2 or raise batch_sequences"),
        ("hidden: 96\nheads: 6", r"heads of 16, which vLLM cannot serve .*: set heads: 3"),
        ("hidden: 130\nheads: 4", "hidden 130 is not divisible by heads 4"),
        ("heads: 4\nkv_heads: 3", "kv_heads 3 does not divide heads 4: set kv_heads: 4"),
        ("learning_rat: 1", "did you mean learning_rate"),
        ("size: huge", "'nano', '1m', '15m', '125m'"),
    ],
)
def test_mistakes_name_their_fix(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(text)


def test_identity_has_what_presets_became_and_nothing_of_how_it_runs() -> None:
    first = pretrain("workers: 2")
    second = pretrain("workers: 1\nthreads_per_worker: 4\nmicro_batch_sequences: 2\ncheckpoint_every_steps: 3")
    assert identity_fields(first) | resolve(first) == identity_fields(second) | resolve(second)
    assert resolve(first)["precision"] == "fp32"
    assert resolve(first)["hidden"] == 128
    assert resolve(pretrain("gpus_per_worker: 1"))["precision"] == "auto"  # their kind decides
    assert pretrain("gpus_per_worker: 1").resolved_precision() == "bf16"
    assert STAGE.resolve == "pipelines.pretrain:resolve"


def test_a_budget_of_tokens_that_are_read_is_another_than_of_those_predicted() -> None:
    assert resolve(pretrain("architecture: bert\ntokens: 1e6"))["tokens_are"] == "read"
    for text in ("architecture: bert\nsteps: 5", "architecture: gpt2\ntokens: 1e6", "tokens: 1e6"):
        assert "tokens_are" not in resolve(pretrain(text))


def test_a_size_is_known_by_the_shape_that_it_gives() -> None:
    def identity(text: str) -> dict[str, object]:
        return identify(STAGE, pretrain(text), {}).config

    as_nano = "size: 1m\nlayers: 4\nkv_heads: 2\nintermediate: 352"
    assert identity(as_nano) == identity("size: nano") == identity("size: nano\nlayers: 4")
    assert identity("size: 1m") != identity("size: nano")


def test_precision_can_be_forced() -> None:
    assert TrainConfig(precision="fp32", gpus_per_worker=1).resolved_precision() == "fp32"
    assert pretrain("precision: fp8\ngpus_per_worker: 1").resolved_precision() == "fp8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: 4\nparallel: {shard: 3}", "set workers to a multiple of 3"),
        ("workers: 4\nparallel: {data: 2, shard: 4}", "= 8 workers, and workers is 4: set workers: 8"),
        ("parallel: {tensor: 2}\narchitecture: gpt2", "parallel.tensor knows how to split llama, not gpt2"),
        ("parallel: {pipeline: 2}\narchitecture: bert", "parallel.pipeline knows how to cut llama and gpt2, not bert"),
        ("parallel: {tensor: 4}\nworkers: 4", "parallel.tensor 4 does not divide kv_heads 2"),
        ("parallel: {pipeline: 8}\nworkers: 8", "4 layers make no 8 stages"),
        (
            "parallel: {pipeline: 2}\nmicro_batch_sequences: 16",
            "needs as many micro-batches, and a worker's 16 sequences make 1",
        ),
        (
            "parallel: {pipeline: 2, schedule: interleaved}\nmicro_batch_sequences: 1\nbatch_sequences: 7",
            "cannot run 7 micro-batches: make them a multiple of 2",
        ),
        ("parallel: {pipeline: 2}\nisolate_documents: true", "isolate_documents needs a mask"),
        ("parallel: {shard: 2}\noptimizer: muon", "optimizer muon works on whole matrices"),
        ("parallel: {shard: 2}\nprecision: fp8", "precision fp8 is for whole models"),
        ("precision: fp8", "precision fp8 needs GPUs of the Hopper generation or later: set gpus_per_worker: 1"),
        (
            "precision: fp8\ngpus_per_worker: 1\narchitecture: gpt2",
            "precision fp8 is for llama, bert, t5, .* not for gpt2: set precision: auto",
        ),
        ("precision: fp8\ngpus_per_worker: 1\narchitecture: 'my:Model'", "not for my:Model"),
        ("max_workers: 4\nparallel: {shard: 2}", "leave parallel out with it"),
        ("max_workers: 1", "max_workers 1 is below workers 2"),
        ("max_workers: 40", "workers 40 leaves some without a sequence"),
    ],
)
def test_combinations_that_cannot_be_are_refused_when_the_recipe_is_read(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(text)


def test_plan_refuses_them_with_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.cli import run_command

    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\nstore: " + str(tmp_path / "store") + "\npretrain:\n  parallel: {tensor: 4}\n  workers: 4\n"
    )
    assert run_command(["plan", str(path)]) == 2
    assert "parallel.tensor 4 does not divide kv_heads 2" in capsys.readouterr().err


def test_adapters_are_not_cut() -> None:
    from pipelines.finetune import FinetuneConfig

    with pytest.raises(UserError, match=r"adapters train with parallel\.data or parallel\.shard"):
        validate(FinetuneConfig, parse_document("parallel: {tensor: 2}", "recipe.yaml"))


def test_early_stopping_depends_on_how_often_one_validates() -> None:
    every_5, every_9 = (pretrain(f"early_stopping: 2\nvalidation_every_steps: {n}") for n in (5, 9))
    assert resolve(every_5) != resolve(every_9)
    assert resolve(pretrain("validation_every_steps: 5")) == resolve(pretrain("validation_every_steps: 9"))


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_a_layouts_places_are_each_taken_once(data: int, shard: int, tensor: int, pipeline: int) -> None:
    layout = plan_layout(
        ParallelConfig(shard=shard, tensor=tensor, pipeline=pipeline), data * shard * tensor * pipeline
    )
    assert layout == Layout(data, shard, tensor, pipeline)
    places = [layout.place(rank) for rank in range(layout.world)]
    assert len(set(places)) == layout.world
    for share in range(layout.shares):  # each part of a batch is worked on by one column of the grid
        assert sum(place.share == share for place in places) == tensor * pipeline
