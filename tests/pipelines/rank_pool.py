"""Trains small models on several gloo processes, for the tests of parallel layouts. Run as a program.

It imports torch and transformers once. For every line of JSON on standard input it forks a process for each rank, and
answers with a line: what each rank returned, or how it ended. Nothing of Ray takes part.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCABULARY = 52
LENGTH = 12
CONFIG = {"batch_sequences": 8, "learning_rate": 3e-3, "seed": 5, "validation_sequences": 7}
STRICT = {"gradient_clip": 0.1, "z_loss": 1e-2}
"""What every layout must do as well: clip each gradient, and weigh the logits' normaliser."""


METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "rank": 4, "dropout": 0.0},
    "shaped": {"method": "full", "l2_sp": 0.1, "layer_decay": 0.7, "unfreeze_every_steps": 6},
    "adapter": {"method": "adapter", "bottleneck": 4},
    "prefix": {"method": "prefix", "virtual_tokens": 3, "encoder_hidden": 8},
    "qlora": {"method": "lora", "rank": 4, "base_bits": 4, "gpus_per_worker": 1, "precision": "fp32"},
}
"""What fine-tuning adds to a tiny model: ``llama:lora``."""


class FixedSamples:
    """Random sequences of which some carry less loss, as padded ones do."""

    def __init__(self, count: int, seed: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, VOCABULARY, (count, LENGTH + 1), generator=generator)
        self.labels = self.tokens[:, 1:].clone()
        for row in range(count):
            self.labels[row, : row % LENGTH] = -100

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Any) -> Any:
        from pipelines.train.task import Batch

        indices = indices % len(self)
        return Batch(self.tokens[indices, :-1], self.labels[indices])

    def targets(self, indices: Any) -> int:
        return int((self.labels[indices % len(self)] != -100).sum())


OWN = {
    "lstm": "pipelines.models.recurrent:LSTMModel",
    "convolution": "pipelines.models.convolutional:ConvolutionalModel",
}


def tiny(architecture: str, seed: int = 0, **fields: Any) -> Any:
    """A model of four layers, or of two where it is none of transformers'."""
    import torch

    from pipelines.models.gpt2 import build_gpt2
    from pipelines.models.llama import build_llama
    from pipelines.models.own import build_own
    from pipelines.models.shapes import Shape

    torch.manual_seed(seed)
    if architecture in OWN:
        return build_own(OWN[architecture], {"hidden": 32, "layers": 2}, vocab_size=VOCABULARY, max_positions=16)
    values = {"hidden": 32, "layers": 4, "heads": 4, "kv_heads": 2, "intermediate": 48} | fields
    build = build_llama if architecture == "llama" else build_gpt2
    return build(Shape(**values), vocab_size=VOCABULARY, max_positions=16, bos_id=0, eos_id=1, pad_id=2)


def train_once(rank: int, world: int, ask: dict[str, Any]) -> dict[str, Any]:
    """Train as ``ask`` says; losses by step, and the final weights' checksum where this rank has them whole."""
    import hashlib

    from cluster.store import open_store
    from pipelines.train.config import TrainConfig
    from pipelines.train.group import Group
    from pipelines.train.journal import Follower, Journal
    from pipelines.train.keeper import Keeper
    from pipelines.train.layout import plan_layout
    from pipelines.train.loop import train

    architecture, _, method = ask.get("architecture", "llama").partition(":")
    values = CONFIG | STRICT | {"workers": world} | ask.get("config", {})
    config: Any = TrainConfig(**values)
    if method:
        from pipelines.finetune.config import FinetuneConfig

        config = FinetuneConfig(**values, **METHODS[method])
    group = Group(rank, world, None, plan_layout(config.parallel, world))
    store = open_store(ask["store"])
    journal = Journal(store, "journal") if rank == 0 else None
    keeper = Keeper(store, "checkpoints", (), group, journal, config.keep_checkpoints)
    if ask.get("kill", {}).get("rank") == rank:
        end_at(keeper, ask["kill"]["step"])
    model = tiny(architecture, ask.get("seed", 0), **ask.get("shape", {}))
    if method:
        from pipelines.finetune.methods import adapt

        if config.base_bits:
            model = in_four_bits(model)
        model = adapt(model, config)
    finished, run = train(
        model, FixedSamples(40, 1), FixedSamples(9, 2), ask.get("steps", 20), config, group, keeper, "here"
    )
    weights = hashlib.sha256()
    for name in sorted(run.runner.parameters):
        part = run.runner.parameters[name]
        weights.update(getattr(part, "_local_tensor", part).detach().numpy().tobytes())
    result = {"finished": vars(finished), "weights": weights.hexdigest()}
    if journal:
        journal.close()
        result["records"] = Follower(store, "journal").poll()
    return result


def in_four_bits(model: Any) -> Any:
    """The same model with its layers' matrices packed."""
    import torch
    from safetensors.torch import save_file

    from pipelines.finetune import quantised

    quantised.base_device = lambda: torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:  # by hand: save_pretrained writes on the first rank only
        model.config.to_json_file(f"{folder}/config.json")
        weights = {name: each.detach().contiguous() for name, each in model.named_parameters()}
        save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
        return quantised.load_quantised(Path(folder), "fp32")


class TinyTask:
    """A kind of training whose result is one file with the weights."""

    where = "here"

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self, store: Any) -> None:
        pass

    def model(self) -> Any:
        return tiny("llama")

    def samples(self) -> tuple[Any, Any]:
        return FixedSamples(40, 1), FixedSamples(9, 2)

    def finish(self, model: Any, folder: Path, probe: Any) -> dict[str, Any]:
        import torch

        torch.save({name: each.detach() for name, each in model.named_parameters()}, folder / "weights.pt")
        return {"probed": list(probe.inputs.shape)}


def work_once(rank: int, world: int, ask: dict[str, Any]) -> dict[str, Any]:
    """What a Ray Train worker does, without Ray."""
    import time

    import torch

    from cluster.store import open_store
    from pipelines.train.config import TrainConfig
    from pipelines.train.journal import Follower
    from pipelines.train.keeper import Keeper
    from pipelines.train.worker import Job, train_job

    settings = CONFIG | {"workers": world, "steps": ask["steps"]} | ask.get("config", {})
    store = open_store(ask["store"])
    if "align" in ask:
        task = aligning(settings, store, ask["align"])
    elif "pairs" in ask:
        task = turning(settings, store, ask["pairs"])
    elif "classify" in ask:
        task = classifying(settings, store, ask["classify"])
    else:
        task = TinyTask(TrainConfig(**settings))
    if ask.get("kill", {}).get("rank") == rank:
        Keeper.tell = dying_at(Keeper.tell, ask["kill"]["step"])
    if ask.get("refuse"):
        refuse_writes(**ask["refuse"])
    summary = train_job(Job(task, store, "try/resume", "try"), rank, world, torch.device("cpu"), time.monotonic())
    return {"summary": summary, "records": Follower(store, "try/resume/journal").poll()}


def aligning(settings: dict[str, Any], store: Any, inputs: dict[str, Any]) -> Any:
    """The task of an alignment whose inputs are in the store."""
    from cluster.artifact import load_artifact
    from pipelines.align.config import AlignConfig
    from pipelines.align.sources import Base
    from pipelines.align.task import PairTask, RolloutTask

    config = AlignConfig(**settings)
    model = load_artifact(store, inputs["model"])
    return (RolloutTask if config.on_policy else PairTask)(config, Base(model), inputs["rows"])


def classifying(settings: dict[str, Any], store: Any, inputs: dict[str, Any]) -> Any:
    """The task of a classifier whose inputs are in the store."""
    from cluster.artifact import load_artifact
    from pipelines.finetune.classification.task import ClassificationTask
    from pipelines.finetune.config import FinetuneConfig

    config = FinetuneConfig(task="classification", data="rows.jsonl", **settings)
    return ClassificationTask(config, load_artifact(store, inputs["model"]), inputs["rows"], tuple(inputs["labels"]))


def turning(settings: dict[str, Any], store: Any, inputs: dict[str, Any]) -> Any:
    """The task of an encoder-decoder whose inputs are in the store."""
    from cluster.artifact import load_artifact
    from pipelines.finetune.config import FinetuneConfig
    from pipelines.finetune.seq2seq.task import Seq2SeqTask

    config = FinetuneConfig(task="seq2seq", data="rows.jsonl", sequence_length=32, answers_scored=0, **settings)
    return Seq2SeqTask(config, load_artifact(store, inputs["model"]), inputs["rows"])


def refuse_writes(step: int, times: int) -> None:
    """Make the first tries at one step's checkpoint fail, as a full disk does."""
    from pipelines.train import saver

    real, left = saver.damage, [times]

    def damage(store: Any, checkpoint: Any) -> list[str]:
        if checkpoint.step == step and left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        return real(store, checkpoint)

    saver.damage = damage


def end_at(keeper: Any, step: int) -> None:
    """Kill this process, without a word, when it has taken so many steps."""
    keeper.tell = dying_at(keeper.tell, step)


def dying_at(tell: Any, step: int) -> Any:
    """``tell`` that kills the process at a step."""

    def dying(*arguments: Any) -> None:
        tell(*arguments)
        if arguments[-1] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return dying


def run_rank(rank: int, world: int, ask: dict[str, Any], folder: Path) -> int:
    """One rank's life; what it returned is in a file of the folder."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        if world > 1:
            from datetime import timedelta

            store = dist.FileStore(str(folder / "meet"), world)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
        result = {"ok": (work_once if ask.get("work") else train_once)(rank, world, ask)}
    except BaseException as error:  # noqa: BLE001 - told to the test
        result = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    (folder / f"{rank}.json").write_text(json.dumps(result))
    return int("error" in result)


def run_ranks(ask: dict[str, Any]) -> list[dict[str, Any]]:
    """Fork the ranks and gather what they left. Where one is killed, the rest is killed too, as a launcher does."""
    world = ask.get("world", 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = {}
        for rank in range(world):
            child = os.fork()
            if child == 0:
                os._exit(run_rank(rank, world, ask, folder))
            children[child] = rank
        ended: dict[int, int] = {}
        while children:
            child, status = os.wait()
            ended[children.pop(child)] = status
            if status:
                for other in children:
                    os.kill(other, signal.SIGKILL)
        return [answer(folder / f"{rank}.json", ended[rank]) for rank in range(world)]


def answer(path: Path, status: int) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {"killed": status}


def requests() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.distributed.pipelining
    import torch.distributed.tensor.parallel  # noqa: F401

    import pipelines.finetune.methods
    import pipelines.models.gpt2
    import pipelines.models.llama
    import pipelines.train.keeper
    import pipelines.train.loop

    for each in requests():
        if "pairs" in each:
            import pipelines.finetune.seq2seq.export
            import pipelines.finetune.seq2seq.task
        if "classify" in each:
            import pipelines.finetune.classification.export
            import pipelines.finetune.classification.task
        if "align" in each:  # here, or every process would import it
            import peft  # noqa: F401
            from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification  # noqa: F401

            import pipelines.align.weights  # noqa: F401
        print(json.dumps(run_ranks(each)), file=replies, flush=True)
