"""Tokens a second of fine-tuning, LoRA and full, against a bare loop over the same model and peft's own; and memory.

The peer is what one writes by hand: ``get_peft_model`` (for ``lora``), padded batches, the model's own loss, backward,
clip, fused AdamW. Ours is the whole loop with the examples' own batches. Both train in one process on one
thread, a few steps of one, a few of the other; the ratio is the median over those turns. ``lora_memory`` is the peak
memory of LoRA against that of full fine-tuning on a model of some size, each in a process of its own.

    python benchmarks/finetuning.py [--only lora|full|memory] [--turns N] [--steps N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH, VOCABULARY, CONTEXT = 8, 2048, 256
SMALL = {"hidden": 256, "layers": 6, "heads": 4, "kv_heads": 4, "intermediate": 688}
LARGE = {"hidden": 768, "layers": 8, "heads": 12, "kv_heads": 12, "intermediate": 2048}


def build(shape: dict[str, Any]) -> Any:
    """A llama with random weights."""
    import torch

    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape

    torch.manual_seed(0)
    return build_llama(Shape(**shape), vocab_size=VOCABULARY, max_positions=CONTEXT, bos_id=0, eos_id=1, pad_id=2)


def examples(count: int, shortest: int = 64, longest: int = 128) -> list[Any]:
    """Random examples of which the second half is the answer."""
    import numpy as np

    from pipelines.finetune.examples.encode import Encoded

    draw = np.random.default_rng(1)
    made = []
    for length in draw.integers(shortest, longest + 1, count):
        ids = tuple(int(each) for each in draw.integers(3, VOCABULARY, length))
        made.append(Encoded(ids, (False,) * (length // 2) + (True,) * (length - length // 2)))
    return made


def settings(fields: Mapping[str, Any], steps: int) -> Any:
    """The recipe's section."""
    from pipelines.finetune.config import FinetuneConfig

    common = {
        "steps": steps, "batch_sequences": BATCH, "workers": 1, "validation_sequences": BATCH,
        "validation_every_steps": steps, "checkpoint_every_steps": steps, "learning_rate": 1e-4,
    }  # fmt: skip
    return FinetuneConfig.model_validate(common | dict(fields))


def peer_steps(method: str, found: list[Any]) -> Callable[[int], tuple[float, int]]:
    """The bare loop; a call takes so many steps and gives their seconds and the tokens that were read."""
    import torch
    from peft import LoraConfig, get_peft_model

    model: Any = build(SMALL)
    if method == "lora":
        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=names, task_type="CAUSAL_LM"))
    model.train()
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    place = 0

    def take(steps: int) -> tuple[float, int]:
        nonlocal place
        began, tokens = time.perf_counter(), 0
        for _ in range(steps):
            rows = [found[(place + number) % len(found)] for number in range(BATCH)]
            place += BATCH
            longest = max(len(row) for row in rows)
            ids = torch.full((BATCH, longest), 2)
            labels = torch.full((BATCH, longest), -100)
            for number, row in enumerate(rows):
                ids[number, : len(row)] = torch.tensor(row.ids)
                half = len(row) // 2
                labels[number, half : len(row)] = torch.tensor(row.ids[half:])
                tokens += len(row)
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        return time.perf_counter() - began, tokens

    return take


def measure(method: str, turns: int, steps: int) -> dict[str, Any]:
    """Turns of both sides: tokens a second and the median ratio."""
    import torch

    from benchmarks.turns import SETTLE, Turns, compare, most_steps
    from cluster.store import open_store
    from pipelines.finetune.examples.samples import ExampleSamples
    from pipelines.finetune.methods import adapt
    from pipelines.train.group import Group
    from pipelines.train.loop import train

    found = examples(BATCH * (SETTLE + (turns + 1) * steps))
    peer = peer_steps(method, found)
    peer(SETTLE)
    read = 0
    ours: list[int] = []
    theirs: list[int] = []

    class Counting(ExampleSamples):
        """Counts the tokens that were read."""

        def batch(self, indices: Any) -> Any:
            nonlocal read
            read += sum(len(found[int(each) % len(found)]) for each in indices)
            return super().batch(indices)

    def begins() -> None:
        nonlocal read
        read = 0

    def take_turn() -> float:
        ours.append(read)
        seconds, tokens = peer(steps)
        theirs.append(tokens)
        return seconds

    most = most_steps(turns, steps)
    config = settings({"method": method}, most)
    model = adapt(build(SMALL), config)
    with tempfile.TemporaryDirectory() as folder:
        keeper = Turns(open_store(folder), turns, steps, take_turn, begins)
        with keeper.until_enough():
            samples = Counting(found, 2)
            train(model, samples, ExampleSamples(found[:BATCH], 2), most, config, Group(), keeper, "finetune")
    torch.set_grad_enabled(True)
    return compare(
        method,
        [tokens / seconds for tokens, seconds in zip(ours, keeper.ours_s, strict=True)],
        "bare peft loop" if method == "lora" else "bare transformers loop",
        [tokens / seconds for tokens, seconds in zip(theirs, keeper.peers_s, strict=True)],
    )


def peak_bytes(fields: Mapping[str, Any]) -> int:
    """Peak memory of a process that takes three steps, without what it has before there is a model."""
    command = [sys.executable, __file__, "--child", json.dumps(fields)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return int(done.stdout.splitlines()[-1])


def train_a_little(fields: Mapping[str, Any]) -> int:
    """Three steps of the large model; the peak of this process above where it began, in bytes."""
    import torch

    from benchmarks.memory import memory_bytes
    from cluster.store import open_store
    from pipelines.finetune.examples.samples import ExampleSamples
    from pipelines.finetune.methods import adapt
    from pipelines.train.group import Group
    from pipelines.train.journal import Journal
    from pipelines.train.keeper import Keeper
    from pipelines.train.loop import train

    torch.set_num_threads(1)
    samples = ExampleSamples(examples(BATCH, 16, 32), 2)
    before = memory_bytes("VmRSS")
    config = settings(fields, 3)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        keeper = Keeper(store, "checkpoints", (), Group(), Journal(store, "journal"), 2)
        keeper.save = lambda *arguments: None  # type: ignore[method-assign] # a checkpoint's copy is not training's
        train(adapt(build(LARGE), config), samples, samples, 3, config, Group(), keeper, "finetune")
    return memory_bytes("VmHWM") - before


def measure_memory() -> dict[str, Any]:
    """LoRA's peak against full fine-tuning's."""
    lora, full = peak_bytes({"method": "lora"}), peak_bytes({"method": "full"})
    return {
        "name": "lora_memory",
        "ours": lora,
        "peer": "full fine-tuning of the same model",
        "peer_value": full,
        "unit": "bytes",
        "ratio": full / lora,
    }


def main() -> None:
    """Measure, print a table, end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("lora", "full", "memory"))
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--quick", action="store_true", help="few turns, and LoRA only: shows that it runs")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(train_a_little(arguments.child))
        return
    import torch

    torch.set_num_threads(1)
    turns = 2 if arguments.quick else arguments.turns
    names = [arguments.only] if arguments.only else ["lora"] if arguments.quick else ["lora", "full", "memory"]
    results = []
    for name in names:
        results.append(measure_memory() if name == "memory" else measure(name, turns, arguments.steps))
        each = results[-1]
        middle = each.get("middle_half")
        spread = f" ({middle[0]:.3f} … {middle[1]:.3f})" if middle else ""
        print(
            f"{each['name']:12} ours {each['ours']:14,.0f} {each['unit']:9} {each['peer']} "
            f"{each['peer_value']:14,.0f}   ratio {each['ratio']:.3f}{spread}"
        )
    versions = {name: version(name) for name in ("torch", "transformers", "peft")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread"
    print(json.dumps({"benchmark": "finetuning", "results": results, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[0] = str(ROOT)
    main()
