"""Steady-state tokens a second of Raymill's loop against transformers' GPT-2 of the same shape in a bare loop.

The peer is what one writes by hand: ``model(ids, labels=ids).loss``, backward, clip, fused AdamW. Ours is the whole
loop: data order, schedule, journal, guard. Both train in one process on one thread, a few steps of one, a few of the
other, so that whatever else the machine does meets both; the ratio is the median over those turns.

    python benchmarks/training_steps.py [--only gpt2_eager|gpt2_compiled] [--turns N] [--steps N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCK, BATCH, VOCABULARY = 64, 12, 65


class Sequences:
    """Random ids, the same for both sides."""

    def __init__(self) -> None:
        import torch

        self.ids = torch.randint(0, VOCABULARY, (4096, BLOCK + 1), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Any) -> Any:
        """Blocks that predict the next id."""
        from pipelines.train.task import Batch

        rows = self.ids[indices % len(self)]
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    def targets(self, indices: Any) -> int:
        """All of a block's positions."""
        return BLOCK * len(indices)


def peer_steps(compiled: bool) -> Callable[[int], float]:
    """The bare loop; a call takes so many steps and gives their seconds."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=BLOCK, n_embd=128, n_layer=4, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    step_model: Any = torch.compile(model) if compiled else model
    decayed = [each for each in model.parameters() if each.ndim >= 2]
    kept = [each for each in model.parameters() if each.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    ids = Sequences().ids
    place = 0

    def take(steps: int) -> float:
        nonlocal place
        began = time.perf_counter()
        for _ in range(steps):
            rows = ids[place : place + BATCH, :-1]
            place = (place + BATCH) % (len(ids) - BATCH)
            loss = step_model(input_ids=rows, labels=rows).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
        return time.perf_counter() - began

    return take


def measure(compiled: bool, turns: int, steps: int) -> dict[str, Any]:
    """Turns of both sides: tokens a second and the median ratio."""
    import torch

    from benchmarks.turns import SETTLE, Turns, compare, most_steps
    from cluster.store import open_store
    from pipelines.models.gpt2 import build_gpt2
    from pipelines.models.shapes import Shape
    from pipelines.train.config import TrainConfig
    from pipelines.train.group import Group
    from pipelines.train.loop import train

    peer = peer_steps(compiled)
    peer(SETTLE)
    most = most_steps(turns, steps)
    config = TrainConfig(
        steps=most, batch_sequences=BATCH, workers=1, validation_sequences=BATCH, compile=compiled,
        validation_every_steps=most, checkpoint_every_steps=most,
    )  # fmt: skip
    torch.manual_seed(0)
    shape = Shape(hidden=128, layers=4, heads=4, kv_heads=4, intermediate=512)
    model = build_gpt2(shape, vocab_size=VOCABULARY, max_positions=BLOCK, bos_id=0, eos_id=0, pad_id=None)
    with tempfile.TemporaryDirectory() as folder:
        keeper = Turns(open_store(folder), turns, steps, lambda: peer(steps))
        with keeper.until_enough():
            train(model, Sequences(), Sequences(), most, config, Group(), keeper, "steps")
    tokens = steps * BATCH * BLOCK
    return compare(
        "gpt2_compiled" if compiled else "gpt2_eager",
        [tokens / each for each in keeper.ours_s],
        "transformers GPT-2, bare loop" + (", torch.compile" if compiled else ""),
        [tokens / each for each in keeper.peers_s],
    )


def main() -> None:
    """Measure, print a table, end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("gpt2_eager", "gpt2_compiled"))
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--steps", type=int, default=6, help="steps of a turn")
    parser.add_argument("--quick", action="store_true", help="few turns, and eager only: shows that it runs")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    turns = 3 if arguments.quick else arguments.turns
    names = [arguments.only] if arguments.only else ["gpt2_eager"] + ([] if arguments.quick else ["gpt2_compiled"])
    results = []
    for name in names:
        results.append(measure(name == "gpt2_compiled", turns, arguments.steps))
        each = results[-1]
        print(
            f"{name:14} ours {each['ours']:8,.0f} tokens/s   {each['peer']} {each['peer_value']:8,.0f}   "
            f"ratio {each['ratio']:.3f} ({each['middle_half'][0]:.3f} … {each['middle_half'][1]:.3f})"
        )
    versions = {name: version(name) for name in ("torch", "transformers")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, 1 thread"
    print(json.dumps({"benchmark": "training_steps", "results": results, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[0] = str(ROOT)
    main()
