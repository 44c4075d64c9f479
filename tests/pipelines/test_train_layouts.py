"""Parallel layouts on real gloo processes against one process, and what a killed rank leaves. No Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.store import open_store
from tests.pipelines.four_bits import on_this_cpu

ROOT = Path(__file__).resolve().parents[2]
Ask = Callable[..., list[dict[str, Any]]]
STEPS = 20


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """Trains on some processes and gives what each returned; see tests/pipelines/rank_pool.py."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("rank_pool.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as pool:
        assert pool.stdin is not None and pool.stdout is not None
        writing, reading = pool.stdin, pool.stdout

        def asked(store: Path, world: int = 1, **more: Any) -> list[dict[str, Any]]:
            writing.write(json.dumps({"store": str(store), "world": world, "steps": STEPS} | more) + "\n")
            writing.flush()
            replies: list[dict[str, Any]] = json.loads(reading.readline())
            return replies

        yield asked
        writing.close()


def figures(replies: list[dict[str, Any]], kind: str, value: str) -> dict[int, float]:
    for reply in replies:
        assert "ok" in reply, reply.get("traceback", reply)
    return {each["step"]: each[value] for each in replies[0]["ok"]["records"] if each["kind"] == kind}


@pytest.fixture(scope="module")
def alone(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict[str, Any]]]:
    """The same run in one process, once for each architecture."""
    made: dict[str, list[dict[str, Any]]] = {}

    def run(architecture: str) -> list[dict[str, Any]]:
        if architecture not in made:
            made[architecture] = ask(tmp_path_factory.mktemp("alone"), architecture=architecture)
        return made[architecture]

    return run


LAYOUTS: list[Any] = [
    ("llama", 3, {}),
    ("llama", 2, {"parallel": {"shard": 2}, "recompute": "full", "micro_batch_sequences": 3}),
    ("llama", 2, {"parallel": {"tensor": 2}, "recompute": "selective"}),
    ("llama", 2, {"parallel": {"pipeline": 2}}),
    ("llama", 2, {"parallel": {"pipeline": 2, "schedule": "interleaved"}}),
    ("llama:lora", 2, {}),
    ("llama:lora", 2, {"parallel": {"shard": 2}}),
    pytest.param("llama:shaped", 2, {"parallel": {"shard": 2}}, marks=pytest.mark.slow),
    pytest.param("llama:adapter", 2, {"parallel": {"shard": 2}}, marks=pytest.mark.slow),
    pytest.param("llama:adapter", 2, {}, marks=pytest.mark.slow),
    pytest.param("llama:prefix", 2, {}, marks=pytest.mark.slow),
    pytest.param("gpt2:lora", 3, {}, marks=pytest.mark.slow),
    pytest.param("llama:qlora", 2, {}, marks=[pytest.mark.slow, on_this_cpu]),
    pytest.param("gpt2", 2, {"parallel": {"pipeline": 2}}, marks=pytest.mark.slow),
    pytest.param("llama", 4, {"parallel": {"shard": 2, "tensor": 2}}, marks=pytest.mark.slow),
    pytest.param("gpt2", 2, {"parallel": {"shard": 2}}, marks=pytest.mark.slow),
    pytest.param("llama", 4, {"parallel": {"data": 2, "shard": 2}}, marks=pytest.mark.slow),
    pytest.param("llama", 4, {"parallel": {"data": 2, "tensor": 2}}, marks=pytest.mark.slow),
    pytest.param("llama", 4, {"parallel": {"data": 2, "pipeline": 2}}, marks=pytest.mark.slow),
    pytest.param("llama", 4, {"parallel": {"shard": 2, "pipeline": 2}}, marks=pytest.mark.slow),
    pytest.param("llama", 4, {"parallel": {"tensor": 2, "pipeline": 2}}, marks=pytest.mark.slow),
    pytest.param("llama", 4, {"parallel": {"pipeline": 4}}, marks=pytest.mark.slow),
    pytest.param(
        "llama", 4, {"parallel": {"shard": 2, "pipeline": 2, "schedule": "interleaved"}}, marks=pytest.mark.slow
    ),
    pytest.param("llama", 8, {"parallel": {"shard": 2, "tensor": 2, "pipeline": 2}}, marks=pytest.mark.slow),
    pytest.param("lstm", 3, {}, marks=pytest.mark.slow),
    pytest.param("lstm", 2, {"parallel": {"shard": 2}}, marks=pytest.mark.slow),
    pytest.param("convolution", 2, {"parallel": {"shard": 2}, "recompute": "full"}, marks=pytest.mark.slow),
    pytest.param("llama", 1, {"compile": True}, marks=pytest.mark.slow),
    pytest.param(
        "llama", 2, {"compile": True, "parallel": {"shard": 2}, "recompute": "selective"}, marks=pytest.mark.slow
    ),
    pytest.param("llama", 2, {"compile": True, "parallel": {"pipeline": 2}}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("architecture", "world", "config"), LAYOUTS)
def test_a_layout_gives_the_losses_of_one_process(
    ask: Ask, alone: Any, tmp_path: Path, architecture: str, world: int, config: dict[str, Any]
) -> None:
    together = ask(tmp_path, world, architecture=architecture, config=config)
    for kind, value in (("train", "loss"), ("train", "gradient_norm"), ("validation", "loss")):
        expected = figures(alone(architecture), kind, value)
        assert len(expected) >= 10
        assert figures(together, kind, value) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("world", "parallel"),
    [
        (4, {"shard": 2, "pipeline": 2}),
        pytest.param(2, {"tensor": 2}, marks=pytest.mark.slow),
        pytest.param(2, {"pipeline": 2}, marks=pytest.mark.slow),
    ],
)
def test_bf16_follows_fp32_in_a_layout(
    ask: Ask, alone: Any, tmp_path: Path, world: int, parallel: dict[str, Any]
) -> None:
    """What GPUs compute in by default: other figures, close to those of one process in fp32."""
    together = ask(tmp_path, world, config={"precision": "bf16", "parallel": parallel})
    for kind, value, within in (("train", "loss", 0.02), ("validation", "loss", 0.02), ("train", "gradient_norm", 0.1)):
        expected, found = figures(alone("llama"), kind, value), figures(together, kind, value)
        assert found == pytest.approx(expected, abs=within) and found != pytest.approx(expected, abs=1e-5)


def test_losses_fall_and_differ_from_step_to_step(alone: Any) -> None:
    """The comparison above would be worth nothing if nothing was learned."""
    losses = figures(alone("llama"), "train", "loss")
    assert sorted(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1] - 0.05
    assert len(set(losses.values())) == STEPS


@pytest.mark.parametrize(
    ("architecture", "world", "config"),
    [
        ("llama", 2, {"parallel": {"shard": 2}}),
        ("llama", 3, {}),
        pytest.param("llama", 2, {}, marks=pytest.mark.slow),
        pytest.param("llama", 2, {"parallel": {"tensor": 2}}, marks=pytest.mark.slow),
        pytest.param("llama", 2, {"parallel": {"pipeline": 2}}, marks=pytest.mark.slow),
        pytest.param("llama", 2, {"optimizer": "muon"}, marks=pytest.mark.slow),
        pytest.param("llama:lora", 2, {}, marks=pytest.mark.slow),
        pytest.param("llama:shaped", 2, {"parallel": {"shard": 2}}, marks=pytest.mark.slow),
        pytest.param("llama", 4, {"micro_batch_sequences": 1}, marks=pytest.mark.slow),
        pytest.param("llama", 4, {"parallel": {"shard": 4}}, marks=pytest.mark.slow),
        pytest.param("llama", 4, {"parallel": {"data": 2, "shard": 2}}, marks=pytest.mark.slow),
        pytest.param("gpt2", 3, {}, marks=pytest.mark.slow),
        pytest.param("llama:lora", 3, {}, marks=pytest.mark.slow),
        pytest.param("llama:shaped", 3, {}, marks=pytest.mark.slow),
    ],
)
def test_a_killed_rank_changes_no_bit(
    ask: Ask, tmp_path: Path, architecture: str, world: int, config: dict[str, Any]
) -> None:
    config = config | {"checkpoint_every_steps": 4}
    undisturbed = ask(tmp_path / "whole", world, architecture=architecture, config=config)
    killed = ask(tmp_path / "cut", world, architecture=architecture, config=config, kill={"rank": 1, "step": 13})
    assert any("killed" in reply for reply in killed)
    # Fresh weights would be others: they are not used. What fine-tuning starts from is the same each time.
    seed = 0 if ":" in architecture else 99
    again = ask(tmp_path / "cut", world, architecture=architecture, config=config, seed=seed)
    start = again[0]["ok"]["finished"]["resumed_at"]
    assert start in (8, 12)
    for kind, value in (("train", "loss"), ("train", "gradient_norm"), ("validation", "loss")):
        assert figures(again, kind, value) == figures(undisturbed, kind, value)
    assert [reply["ok"]["weights"] for reply in again] == [reply["ok"]["weights"] for reply in undisturbed]


def test_a_run_goes_on_under_another_layout(ask: Ask, alone: Any, tmp_path: Path) -> None:
    """Two shards, then a pipeline of two, then one process: each from the other's checkpoint."""
    every = {"checkpoint_every_steps": 4, "validation_every_steps": 2}
    first = ask(tmp_path, 2, config=every | {"parallel": {"shard": 2}}, kill={"rank": 0, "step": 7})
    assert any("killed" in reply for reply in first)
    second = ask(tmp_path, 2, config=every | {"parallel": {"pipeline": 2}}, kill={"rank": 0, "step": 15})
    assert any("killed" in reply for reply in second)
    last = ask(tmp_path, 1, config=every)
    starts = [each["step"] for each in last[0]["ok"]["records"] if each["kind"] == "start"]
    assert len(starts) == 3 and 0 < starts[1] < starts[2]
    assert figures(last, "train", "loss") == pytest.approx(figures(alone("llama"), "train", "loss"), abs=1e-5)


def test_a_checkpoint_of_another_shape_is_refused_on_every_rank(ask: Ask, tmp_path: Path) -> None:
    ask(tmp_path, 2, steps=2)
    replies = ask(tmp_path, 2, steps=4, shape={"intermediate": 64}, config={"parallel": {"shard": 2}})
    for reply in replies:
        assert "the checkpoint is of another model" in reply["error"]


@pytest.mark.parametrize(
    ("world", "parallel"), [(2, {"pipeline": 2}), pytest.param(2, {"shard": 2}, marks=pytest.mark.slow)]
)
def test_a_worker_writes_the_whole_model_whatever_the_layout(
    ask: Ask, tmp_path: Path, world: int, parallel: dict[str, int]
) -> None:
    import torch

    replies = {}
    for name, count, config in (("alone", 1, {}), ("together", world, {"parallel": parallel})):
        replies[name] = ask(tmp_path / name, count, work=True, config=config)
        assert all("ok" in reply for reply in replies[name]), replies[name]
    first, second = (torch.load(tmp_path / name / "try" / "weights.pt") for name in ("alone", "together"))
    assert first.keys() == second.keys() and len(first) > 30
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-4), name
    again = ask(tmp_path / "alone", 1, work=True)[0]["ok"]["summary"]  # complete before it begins
    assert again["resumed_at"] == STEPS and list(again["start_seconds"]) == ["import", "inputs", "model"]
    summary = replies["together"][0]["ok"]["summary"]
    assert summary["steps"] == summary["chosen_step"] == STEPS
    assert summary["trained_parameters"] == sum(each.numel() for each in first.values())
    assert list(summary["start_seconds"]) == ["import", "inputs", "model", "first step"]
    assert replies["together"][1]["ok"]["summary"] is None


def test_early_stopping_gives_the_best_weights_and_says_so(ask: Ask, tmp_path: Path) -> None:
    """Learning at this rate makes validation worse from the first validations on."""
    config = {"validation_every_steps": 1, "early_stopping": 3, "learning_rate": 3e-2, "checkpoint_every_steps": 50}
    (reply,) = ask(tmp_path, 1, work=True, steps=60, config=config)
    summary = reply["ok"]["summary"]
    assert summary["steps"] == summary["chosen_step"] + 3 < 60
    from cluster.store import open_store
    from pipelines.train.journal import Follower

    records = Follower(open_store(tmp_path), "try/resume/journal").poll()
    validation = {each["step"]: each["loss"] for each in records if each["kind"] == "validation"}
    del validation[0]  # before the first step there is nothing to keep
    assert summary["validation_loss"] == min(validation.values()) == validation[summary["chosen_step"]]
    assert "stopped early" in " ".join(each["text"] for each in records if each["kind"] == "event")


@pytest.mark.parametrize("failures", [1, 2])
def test_the_best_checkpoint_that_fails_is_written_again_or_the_next_best_is_the_result(
    ask: Ask, tmp_path: Path, failures: int
) -> None:
    import torch

    config = {"validation_every_steps": 1, "early_stopping": 3, "learning_rate": 3e-2, "checkpoint_every_steps": 1}
    config["keep_checkpoints"] = 50
    whole = ask(tmp_path / "whole", 1, work=True, steps=60, config=config)[0]["ok"]["summary"]
    best = whole["chosen_step"]
    assert 0 < best < whole["steps"]
    refuse = {"step": best, "times": failures}
    fields = {"work": True, "steps": 60, "config": config}
    summary = ask(tmp_path / "cut", 1, refuse=refuse, **fields)[0]["ok"]["summary"]
    again = ask(tmp_path / "cut", 1, **fields)[0]["ok"]["summary"]  # complete before it begins
    assert again["chosen_step"] == summary["chosen_step"]
    from cluster.store import open_store
    from pipelines.train.journal import Follower

    records = Follower(open_store(tmp_path / "cut"), "try/resume/journal").poll()
    texts = " ".join(each["text"] for each in records if each["kind"] == "event")
    weights = [torch.load(tmp_path / name / "try" / "weights.pt") for name in ("whole", "cut")]
    same = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert f"the checkpoint at step {best} could not be written" in texts
    if failures == 1:
        assert summary["chosen_step"] == best and same
        return
    validation = {each["step"]: each["loss"] for each in records if each["kind"] == "validation"}
    del validation[0], validation[best]
    assert summary["validation_loss"] == min(validation.values()) == validation[summary["chosen_step"]]
    assert f"the best checkpoint, at step {best}" in texts and not same


ALIGNED: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo", "rank": 4, "alpha": 8, "micro_batch_sequences": 3},
    "grpo": {
        "method": "grpo",
        "rank": 4,
        "alpha": 8,
        "reward": "pipelines.align.simple_rewards:brief",
        "answers_per_prompt": 3,
        "answer_tokens": 6,
        "updates_per_rollout": 2,
    },
}
ALIGNED["ppo"] = {name: value for name, value in ALIGNED["grpo"].items() if name != "answers_per_prompt"}
ALIGNED["ppo"] |= {"method": "ppo", "weights": "full"}
SHARDED = {"parallel": {"shard": 2}}


@pytest.fixture
def aligned(
    ask: Ask, chat_model: Path, publish_model: Any, preference_rows: dict[str, str]
) -> Callable[..., list[dict[str, Any]]]:
    """Aligns a tiny model in a folder's store, on some processes."""

    def run(
        folder: Path, method: str, world: int = 1, settings: dict[str, Any] | None = None, **more: Any
    ) -> list[dict[str, Any]]:
        store = open_store(folder)
        model = publish_model(store, chat_model, "Model", "pretrain")
        rows = {split: f"rows/{split}.jsonl" for split in preference_rows}
        for split, key in rows.items():
            store.write(key, preference_rows[split].encode())
        config = ALIGNED[method] | {"checkpoint_every_steps": 2} | (settings or {})
        inputs = {"model": model.id, "rows": rows}
        return ask(folder, world, work=True, steps=6, align=inputs, config=config, **more)

    return run


@pytest.mark.parametrize(
    ("method", "layout"),
    [
        ("dpo", {}),
        ("grpo", {}),
        pytest.param("ppo", {}, marks=pytest.mark.slow),
        pytest.param("dpo", SHARDED, marks=pytest.mark.slow),
        pytest.param("dpo", SHARDED | {"weights": "full"}, marks=pytest.mark.slow),
    ],
)
def test_alignment_on_two_processes_is_that_of_one(
    aligned: Any, tmp_path: Path, method: str, layout: dict[str, Any]
) -> None:
    whole = {name: value for name, value in layout.items() if name != "parallel"}
    alone, together = aligned(tmp_path / "one", method, 1, whole), aligned(tmp_path / "two", method, 2, layout)
    names = ["loss", "gradient_norm", "entropy"]
    names += ["accuracy", "margin"] if method == "dpo" else ["reward", "length", "distinct", "kl"]
    for name in names:
        expected = figures(alone, "train", name)
        assert len(set(expected.values())) > 1 or name in ("accuracy", "distinct")
        assert figures(together, "train", name) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "layout"),
    [
        ("lora", {}),
        pytest.param("full", {}, marks=pytest.mark.slow),
        pytest.param("full", SHARDED, marks=pytest.mark.slow),
        pytest.param("lora", SHARDED, marks=pytest.mark.slow),
        pytest.param("lora", {"class_weights": {"x": 3.0}, "micro_batch_sequences": 3}, marks=pytest.mark.slow),
        pytest.param("prefix", {}, marks=pytest.mark.slow),
    ],
)
def test_a_classifier_on_two_processes_is_that_of_one(
    ask: Ask, chat_model: Path, publish_model: Any, tmp_path: Path, method: str, layout: dict[str, Any]
) -> None:
    """Weights of classes: the sums that a batch is divided by differ between the two shares."""
    from pipelines.finetune.examples.records import Labelled, to_jsonl

    rows = [Labelled(f"a text {'y' * (n % 3)} {n}", None, "xy"[n % 3 > 0], f"r:{n}") for n in range(40)]

    def train(folder: Path, world: int, config: dict[str, Any]) -> list[dict[str, Any]]:
        store = open_store(folder)
        model = publish_model(store, chat_model, "Model", "base")
        keys = {"train": "rows/train.jsonl", "validation": "rows/validation.jsonl"}
        for key, part in zip(keys.values(), (rows[:31], rows[31:]), strict=True):
            store.write(key, to_jsonl(part).encode())
        inputs = {"model": model.id, "rows": keys, "labels": ["x", "y"]}
        values = {"method": method, "class_weights": "balanced", "learning_rate": 1e-2} | config
        return ask(folder, world, work=True, steps=6, classify=inputs, config=values)

    whole = {name: value for name, value in layout.items() if name != "parallel"}
    alone, together = train(tmp_path / "one", 1, whole), train(tmp_path / "two", 2, layout)
    for kind, name in (("train", "loss"), ("train", "gradient_norm"), ("train", "accuracy"), ("validation", "loss")):
        expected = figures(alone, kind, name)
        assert len(set(expected.values())) > 1 or name == "accuracy"
        assert figures(together, kind, name) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "layout"), [("full", {}), ("lora", {}), ("full", SHARDED)])
def test_an_encoder_decoder_on_two_processes_is_that_of_one(
    ask: Ask, chat_model: Path, publish_model: Any, tmp_path: Path, method: str, layout: dict[str, Any]
) -> None:
    """Targets of different lengths: the two shares have neither as many tokens nor tensors of one shape."""
    import torch

    from pipelines.finetune.examples.records import dialogue, to_jsonl
    from pipelines.models.export import export_model
    from pipelines.models.shapes import Shape
    from pipelines.models.t5 import build_t5

    torch.manual_seed(0)
    shape = Shape(hidden=32, layers=2, heads=1, kv_heads=1, intermediate=48)
    model = build_t5(shape, vocab_size=300, bos_id=0, eos_id=1, pad_id=2)
    probe = torch.randint(0, 300, (1, 8))
    export_model(model, chat_model, tmp_path / "t5", probe, {"decoder_input_ids": probe})
    rows = [dialogue(f"red {'old ' * (n % 4)}{n}", "green " * (1 + n % 3), f"r:{n}") for n in range(40)]

    def train(folder: Path, world: int, config: dict[str, Any]) -> list[dict[str, Any]]:
        store = open_store(folder)
        base = publish_model(store, tmp_path / "t5", "Model", "base")
        keys = {"train": "rows/train.jsonl", "validation": "rows/validation.jsonl"}
        for key, part in zip(keys.values(), (rows[:31], rows[31:]), strict=True):
            store.write(key, to_jsonl(part).encode())
        inputs = {"model": base.id, "rows": keys}
        values = {"method": method, "learning_rate": 1e-2} | config
        return ask(folder, world, work=True, steps=6, pairs=inputs, config=values)

    whole = {name: value for name, value in layout.items() if name != "parallel"}
    alone, together = train(tmp_path / "one", 1, whole), train(tmp_path / "two", 2, layout)
    for kind, name in (("train", "loss"), ("train", "gradient_norm"), ("validation", "loss")):
        expected = figures(alone, kind, name)
        assert len(set(expected.values())) > 1
        assert figures(together, kind, name) == pytest.approx(expected, abs=1e-5)


def test_an_alignment_that_is_killed_between_two_updates_gives_the_same_bytes(aligned: Any, tmp_path: Path) -> None:
    """Step 5 is the first of two updates on one drawing of answers, which must be drawn again from step 4's weights."""
    aligned(tmp_path / "whole", "grpo")
    (reply,) = aligned(tmp_path / "cut", "grpo", kill={"rank": 0, "step": 5})
    assert "killed" in reply
    (reply,) = aligned(tmp_path / "cut", "grpo")
    assert reply["ok"]["summary"]["resumed_at"] in (2, 4)  # the last checkpoint may have been in writing
    whole, cut = (open_store(tmp_path / name).read("try/model.safetensors") for name in ("whole", "cut"))
    assert whole == cut
