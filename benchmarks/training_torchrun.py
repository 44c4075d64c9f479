"""What Ray Train costs: tokens a second of the same loop on Ray's workers and under torchrun, two gloo processes each.

Both sides run the same worker function on the same model and data, each process with one thread; a round is one run of
each, and the two take turns at being first. Steady state leaves out the first fifth of the steps of both. The start is
counted apart: from the command (torchrun) or from asking a running Ray for workers, to the end of the first step.

    python benchmarks/training_torchrun.py [--rounds N] [--steps N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BLOCK, BATCH, VOCABULARY, WORKERS = 64, 24, 4096, 2


class Sequences:
    """Random ids; every position predicts the next."""

    def __init__(self) -> None:
        import torch

        self.ids = torch.randint(0, VOCABULARY, (4096, BLOCK + 1), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Any) -> Any:
        """Blocks of these numbers."""
        from pipelines.train.task import Batch

        rows = self.ids[indices % len(self)]
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    def targets(self, indices: Any) -> int:
        """All positions."""
        return BLOCK * len(indices)


class Task:
    """A Llama of 1.3 million parameters on random ids."""

    where = "benchmark"

    def __init__(self, config: Any) -> None:
        self.config = config

    def prepare(self, store: Any) -> None:
        """Nothing to fetch."""

    def model(self) -> Any:
        """The preset nano."""
        from pipelines.models.llama import build_llama
        from pipelines.models.shapes import PRESETS

        shape = PRESETS["llama"]["nano"]
        return build_llama(shape, vocab_size=VOCABULARY, max_positions=BLOCK, bos_id=0, eos_id=1, pad_id=2)

    def samples(self) -> tuple[Any, Any]:
        """The same ids twice."""
        return Sequences(), Sequences()

    def finish(self, model: Any, folder: Path, probe: Any) -> dict[str, Any]:
        """Nothing is kept."""
        return {}


def task(steps: int) -> Task:
    """Settings without validations and checkpoints on the way."""
    from pipelines.train.config import TrainConfig

    config = TrainConfig(
        steps=steps,
        batch_sequences=BATCH,
        workers=WORKERS,
        validation_sequences=BATCH,
        validation_every_steps=steps,
        checkpoint_every_steps=steps,
    )
    return Task(config)


def on_ray(store_url: str, number: int, steps: int) -> dict[str, Any]:
    """One run on the Ray that is connected to; the first worker's summary."""
    from cluster.attempt import Attempt
    from cluster.progress import Progress
    from cluster.stage import StageContext
    from cluster.store import open_store
    from pipelines.train.launch import run_training

    store = open_store(store_url)
    with Attempt(store, f"Model/ray-{number}") as attempt, Progress().track("ray") as tracker:
        training = run_training(task(steps), StageContext(store, attempt, tracker))
    parts = training.summary["start_seconds"]
    begun = next(iter(parts.values()))  # until the first worker said that it starts
    return {"start_seconds": parts, "start": begun + parts["first step"], "steady": steady(training.records)}


def steady(records: list[Any]) -> float:
    """Tokens a second without the first fifth of the steps."""
    steps = [each for each in records if each["kind"] == "train"]
    counted = steps[len(steps) // 5 :]
    seconds = [each["tokens"] / each["tokens_per_second"] for each in counted]
    return float(sum(each["tokens"] for each in counted) / sum(seconds))


def under_torchrun(store_url: str, number: int, steps: int) -> dict[str, Any]:
    """One run under torchrun; the first rank's summary."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"]
    began = time.time()
    arguments = [__file__, "--rank-of", f"{store_url}/torchrun-{number}", "--steps", str(steps)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "BENCHMARK_BEGAN": str(began)}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        sys.exit(f"torchrun failed:\n{done.stderr[-2000:]}")
    summary: dict[str, Any] = json.loads(lines[-1])
    return summary


def rank(store_url: str, steps: int) -> None:
    """A process of torchrun's."""
    import torch
    import torch.distributed as dist

    from cluster.store import open_store
    from pipelines.train.journal import Follower
    from pipelines.train.worker import JOURNAL, Job, train_job

    dist.init_process_group("gloo")
    store = open_store(store_url)
    job = Job(task(steps), store, "run/resume", "run")
    waited = time.time() - float(os.environ["BENCHMARK_BEGAN"])
    summary = train_job(job, dist.get_rank(), dist.get_world_size(), torch.device("cpu"), time.monotonic())
    if summary:
        speed = steady(Follower(store, f"{job.resume}/{JOURNAL}").written())
        print(json.dumps({"start": waited + sum(summary["start_seconds"].values()), "steady": speed}), flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Measure, print a table, end with a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it runs")
    parser.add_argument("--rank-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank_of:
        rank(arguments.rank_of, arguments.steps)
        return
    from cluster.session import ClusterConfig, connect

    rounds, steps = (1, 30) if arguments.quick else (arguments.rounds, arguments.steps)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, connect(ClusterConfig()):
        for number in range(rounds):
            sides = [(ours, on_ray), (theirs, under_torchrun)]
            for results_of, run in sides if number % 2 == 0 else reversed(sides):
                results_of.append(run(folder, number, steps))
    ratios = [a["steady"] / b["steady"] for a, b in zip(ours, theirs, strict=True)]
    speed = [statistics.median(each["steady"] for each in side) for side in (ours, theirs)]
    start = [statistics.median(each["start"] for each in side) for side in (ours, theirs)]
    print(
        f"torchrun   Ray Train {speed[0]:8,.0f} tokens/s   torchrun {speed[1]:8,.0f}   {statistics.median(ratios):.3f}"
    )
    print(f"start      Ray Train {start[0]:8.1f} s          torchrun {start[1]:8.1f}")
    print(f"           {', '.join(f'{name} {value:.1f} s' for name, value in ours[-1]['start_seconds'].items())}")
    results = [
        {
            "name": "torchrun", "ours": speed[0], "peer": "the same loop under torchrun", "peer_value": speed[1],
            "unit": "tokens/s", "ratio": statistics.median(ratios), "rounds": ratios,
        },
        {
            "name": "start", "ours": start[0], "peer": "the same loop under torchrun", "peer_value": start[1],
            "unit": "s", "ratio": start[1] / start[0], "breakdown": ours[-1]["start_seconds"],
        },
    ]  # fmt: skip
    versions = {name: version(name) for name in ("torch", "ray")}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "training_torchrun", "results": results, "machine": machine, "versions": versions}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[0] = str(ROOT)
    main()
