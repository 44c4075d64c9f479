"""tinyshakespeare, character by character, in nanoGPT's documented CPU shape: how well the loop learns.

Block 64, batch 12, 4 layers, 4 heads, 128 wide, 2,000 steps; learning rate 1e-3 with 100 steps of warm-up and a cosine
to 1e-4, betas 0.9 and 0.99, weight decay 0.1, clipping at 1. As in nanoGPT, training draws its blocks at any offset of
the text, and there are no biases: GPT-2's stay 0. The loss is over the whole validation split (the last tenth), mean of
several seeds. nanoGPT itself gave 1.8857 on a machine of ours; this is the peer's value.

    python benchmarks/training_quality.py [--data FOLDER] [--seeds 1 2 3] [--architecture gpt2|llama] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NANOGPT_LOSS = 1.8857
BLOCK = 64
SHAPE: dict[str, Any] = {"hidden": 128, "layers": 4, "heads": 4, "kv_heads": 4}


class Characters:
    """A text's characters in blocks of 64; every character but the first is predicted once."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return -(-(len(self._ids) - 1) // BLOCK)

    def batch(self, indices: Any) -> Any:
        """Blocks as tensors; the last one is filled up without loss."""
        import numpy as np
        import torch

        from pipelines.train.task import IGNORED, Batch

        places = (indices % len(self))[:, None] * BLOCK + np.arange(BLOCK + 1)
        rows = self._ids[np.minimum(places, len(self._ids) - 1)]
        labels = np.where(places[:, 1:] < len(self._ids), rows[:, 1:], IGNORED)
        return Batch(torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(labels))

    def targets(self, indices: Any) -> int:
        """Characters predicted in these blocks."""
        import numpy as np

        left = len(self._ids) - 1 - (indices % len(self)) * BLOCK
        return int(np.clip(left, 0, BLOCK).sum())


class Crops:
    """A text's characters in blocks of 64 that begin anywhere, as nanoGPT draws them; each offset is a sample."""

    def __init__(self, ids: Any) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids) - BLOCK

    def batch(self, indices: Any) -> Any:
        """Blocks as tensors."""
        import numpy as np
        import torch

        from pipelines.train.task import Batch

        rows = self._ids[(indices % len(self))[:, None] + np.arange(BLOCK + 1)]
        return Batch(torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy()))

    def targets(self, indices: Any) -> int:
        """Characters predicted in these blocks."""
        return BLOCK * len(indices)


def read_text(data: Path) -> str:
    """The text, from a file or the parts of one, in the order of their names."""
    found = sorted(path for path in data.rglob("*.txt") if "shakespeare" in str(path).lower())
    if not found:
        sys.exit(f"no tinyshakespeare text below {data}: name its folder with --data")
    return "".join(path.read_text(encoding="utf-8") for path in found)


def train_seed(text: str, seed: int, architecture: str, steps: int, optimizer: str) -> tuple[float, float]:
    """The validation loss of one seed, and tokens a second."""
    import numpy as np
    import torch

    from cluster.store import open_store
    from pipelines.models.gpt2 import build_gpt2
    from pipelines.models.llama import build_llama
    from pipelines.models.shapes import Shape
    from pipelines.train.config import TrainConfig
    from pipelines.train.group import Group
    from pipelines.train.keeper import Keeper
    from pipelines.train.loop import train

    letters = sorted(set(text))
    ids = np.asarray([letters.index(letter) for letter in text], np.int64)
    border = int(0.9 * len(ids))
    training, validation = Crops(ids[:border]), Characters(ids[border:])
    config = TrainConfig(
        steps=steps,
        batch_sequences=12,
        learning_rate=1e-3,
        warmup_fraction=100 / 2000,
        betas=(0.9, 0.99),
        optimizer=optimizer,
        seed=seed,
        workers=1,
        validation_sequences=len(validation),
        validation_every_steps=steps,
        checkpoint_every_steps=steps,
    )
    torch.manual_seed(seed)
    inner = 512 if architecture == "gpt2" else 352
    build = build_gpt2 if architecture == "gpt2" else build_llama
    shape = Shape(**SHAPE, intermediate=inner)
    model = build(shape, vocab_size=len(letters), max_positions=BLOCK, bos_id=0, eos_id=0, pad_id=None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.endswith(".bias"))
    with tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(open_store(folder), "checkpoints", (), Group(), None, 2)
        finished, _ = train(model, training, validation, steps, config, Group(), keeper, "quality")
    return finished.validation_loss, finished.tokens_per_second


def main() -> None:
    """Train, print a table, end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "corpora" / "tinyshakespeare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--architecture", choices=("gpt2", "llama"), default="gpt2")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="adamw")
    parser.add_argument("--quick", action="store_true", help="60 steps of one seed: shows that it runs")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    steps, seeds = (60, arguments.seeds[:1]) if arguments.quick else (2000, arguments.seeds)
    text = read_text(arguments.data)
    losses = []
    for seed in seeds:
        began = time.monotonic()
        loss, rate = train_seed(text, seed, arguments.architecture, steps, arguments.optimizer)
        losses.append(loss)
        seconds = time.monotonic() - began
        print(
            f"{arguments.architecture} seed {seed}: validation loss {loss:.4f}, {rate:,.0f} tokens/s, {seconds:.0f} s"
        )
    mean = statistics.fmean(losses)
    result = {
        "name": f"tinyshakespeare_{arguments.architecture}",
        "ours": mean,
        "peer": "nanoGPT",
        "peer_value": NANOGPT_LOSS,
        "unit": "nats",
        "ratio": NANOGPT_LOSS / mean,
        "losses": losses,
        "steps": steps,
        "optimizer": arguments.optimizer,
    }
    versions = {name: version(name) for name in ("torch", "transformers")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "training_quality", "results": [result], "machine": machine, "versions": versions}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[0] = str(ROOT)
    main()
