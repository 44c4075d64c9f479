from __future__ import annotations

import pytest

from cluster.config import identity_fields, parse_document, validate
from cluster.errors import UserError
from cluster.stage import identify
from pipelines.pretrain import STAGE, PretrainConfig, resolve
from pipelines.train.config import TrainConfig


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
    assert resolve(pretrain("gpus_per_worker: 1"))["precision"] == "bf16"
    assert STAGE.resolve == "pipelines.pretrain:resolve"


def test_a_size_is_known_by_the_shape_that_it_gives() -> None:
    def identity(text: str) -> dict[str, object]:
        return identify(STAGE, pretrain(text), {}).config

    as_nano = "size: 1m\nlayers: 4\nkv_heads: 2\nintermediate: 352"
    assert identity(as_nano) == identity("size: nano") == identity("size: nano\nlayers: 4")
    assert identity("size: 1m") != identity("size: nano")


def test_precision_can_be_forced() -> None:
    assert TrainConfig(precision="fp32", gpus_per_worker=1).resolved_precision() == "fp32"
