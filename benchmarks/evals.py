"""Evaluation against the stock `lm_eval` command: the same model, tasks, questions, batch size and cores, equal scores.

Every measurement is a fresh process; the sides take turns. `startup` ends when the tasks of ARC, MMLU and TruthfulQA
are loaded, imports included, on a machine whose cache of prepared datasets is empty (`startup_warm`: it is full);
`build` is making the requests of MMLU 5-shot and ARC-Challenge 25-shot; of these also the ratio of CPU times is given,
which a busy machine changes least. `arc_easy` and `mmlu` are whole commands, from
start to exit, with both sides on the same two cores; scores have to be equal, and log-probabilities within 1e-4. They
run with --share-prefixes, `arc_easy_exact` and `mmlu_exact` without. For MMLU 5-shot both sides read one copy of the
model whose context is --context tokens, so that the worked examples fit. `two_workers` is the scoring of arc_easy by
two workers against one, each on a core of its own (the peer is Raymill itself).

    python benchmarks/evals.py [--model FOLDER] [--data FOLDER] [--rounds N] [--only NAME]... [--limit N] [--context N]
        [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
SUITES = ("arc_easy", "arc_challenge", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2")
PARTS = ("startup", "startup_warm", "build", "arc_easy", "arc_easy_exact", "mmlu", "mmlu_exact", "two_workers")
SHOTS = {"mmlu": 5, "arc_challenge": 25, "arc_easy": 0}
BATCH_SIZE = 8
CORES = 2
NEAR = 1e-4
"""How far two log-probabilities of the same answer may be apart."""

Answers = dict[tuple[str, int], list[float]]
"""(hash of the question, its number) -> log-probabilities of its choices."""


def stock_overlay(root: Path, folder: Path) -> Path:
    """The official task files with only the place of their rows changed, for the peer's --include_path."""
    from evals.catalogue import task_files
    from evals.official import official_tasks

    places = {task.file: (task.name, root / task.dataset) for task in official_tasks(SUITES)}
    folder.mkdir(parents=True)
    for suite, path in task_files(SUITES):
        lines = [f"include: {path}"]
        if path in places:
            lines += [f"task: {places[path][0]}", f"dataset_path: {places[path][1]}"]
        (folder / f"{suite}-{path.stem}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def ours_load(data: str, suites: tuple[str, ...]) -> Any:
    """Load tasks as `raymill eval` does."""
    from evals import tasks
    from evals.benchmarks import open_benchmarks
    from evals.config import EvalsConfig

    tasks.evaluator()  # as `raymill eval` needs it, and the stock command
    shots = {suite: SHOTS[suite] for suite in suites if suite in SHOTS}
    config = EvalsConfig(benchmarks=data, suites=suites, num_fewshot=shots)
    return tasks.load_tasks(open_benchmarks(config), config)["tasks"]


def stock_load(overlay: str, suites: tuple[str, ...]) -> Any:
    """Load tasks as the `lm_eval` command does, without any of Raymill's code."""
    import lm_eval.evaluator  # noqa: F401 - the command imports it before anything else
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=overlay).load(list(suites))["tasks"]
    for name, task in tasks.items():
        shots = SHOTS.get(name, SHOTS["mmlu"] if name.startswith("mmlu") else 0)
        if task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=shots)
        task.set_fewshot_seed(seed=1234)
    return tasks


def side(arguments: argparse.Namespace) -> None:
    """One measurement of `startup` or `build` in this process; prints seconds and a hash of what was made."""
    from contextlib import nullcontext

    began, cpu = time.perf_counter(), time.process_time()
    suites = SUITES if arguments.part == "startup" else ("mmlu", "arc_challenge")
    if arguments.side == "ours":
        from evals.tasks import quick_and_quiet

        quick: Any = quick_and_quiet()
        load: Callable[..., Any] = ours_load
    else:
        quick, load = nullcontext(), stock_load
    with quick:
        tasks = load(arguments.place, suites)
        if arguments.part == "build":
            began, cpu = time.perf_counter(), time.process_time()
            for task in tasks.values():
                task.build_all_requests(limit=arguments.limit)
        seconds = time.perf_counter() - began
        own_cpu = {"cpu_seconds": time.process_time() - cpu} if arguments.part == "build" else {}
    import hashlib

    made = [request.args for task in tasks.values() for request in task.instances] if arguments.part == "build" else []
    counted = [(name, len(task.eval_docs)) for name, task in sorted(tasks.items())]
    digest = hashlib.sha256(json.dumps([counted, made]).encode()).hexdigest()
    print(json.dumps({"seconds": seconds, "sha256": digest} | own_cpu))


def measure_side(name: str, part: str, place: Path, limit: int | None) -> dict[str, Any]:
    """A fresh process's measurement; `startup` counts from before the process begins."""
    words = [sys.executable, __file__, "--side", name, "--part", part, "--place", str(place)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = run([*words, *(["--limit", str(limit)] if limit else [])])
    measured: dict[str, Any] = json.loads(done.splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured.setdefault("cpu_seconds", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    if part == "startup":
        measured["seconds"] = time.perf_counter() - began
    return measured


def run(words: list[str]) -> str:
    """A command's output, on the same two cores for both sides."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {**os.environ, **dict.fromkeys(names, "1"), "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def whole_ours(
    suite: str, model: Path, data: Path, limit: int | None, share: bool
) -> tuple[float, dict[str, float], Answers]:
    """`raymill eval` into an empty store: seconds, its scores, and what it answered."""
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as store:
        words = [sys.executable, "-m", "pipelines.cli", "eval", str(model), "--suite", suite, "--store", store]
        words += ["--benchmarks", str(data), "--batch-size", str(BATCH_SIZE), "--workers", str(CORES), "--json"]
        words += ["--shots", str(SHOTS[suite])] + (["--limit", str(limit)] if limit else [])
        words += ["--share-prefixes"] if share else []
        began = time.perf_counter()
        output = run(words)
        seconds = time.perf_counter() - began
        rows = json_lines(Path(store).rglob(f"samples/{suite}.jsonl"))
    answers = {(row["doc_hash"], row["doc_id"]): [each["logprob"] for each in row["answers"]] for row in rows}
    scores = json.loads(output)["tasks"][suite]
    return seconds, {metric: figures["score"] for metric, figures in scores.items()}, answers


def whole_stock(suite: str, model: Path, overlay: Path, limit: int | None) -> tuple[float, dict[str, float], Answers]:
    """`lm_eval run`: seconds, its scores, and what it answered."""
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as folder:
        words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model}"]
        words += ["--tasks", suite, "--include_path", str(overlay), "--batch_size", str(BATCH_SIZE), "--device", "cpu"]
        words += ["--num_fewshot", str(SHOTS[suite]), "--output_path", folder, "--log_samples"]
        words += ["--limit", str(limit)] if limit else []
        began = time.perf_counter()
        run(words)
        seconds = time.perf_counter() - began
        results = json.loads(next(Path(folder).rglob("results_*.json")).read_text(encoding="utf-8"))
        rows = json_lines(Path(folder).rglob("samples_*.jsonl"))
    answers = {(row["doc_hash"], row["doc_id"]): [float(each[0]) for each in row["filtered_resps"]] for row in rows}
    row = results["results"][suite]
    scores = {
        key.partition(",")[0]: value for key, value in row.items() if key.endswith(",none") and "_stderr" not in key
    }
    return seconds, scores, answers


def json_lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of some files."""
    return [json.loads(line) for path in paths for line in path.open(encoding="utf-8")]


def largest_difference(own: Answers, other: Answers) -> float:
    """Between log-probabilities of the same answers; infinite where it is not the same questions."""
    if own.keys() != other.keys():
        return math.inf
    return max(abs(one - two) for key, each in own.items() for one, two in zip(each, other[key], strict=True))


def long_context(model: Path, folder: Path, tokens: int) -> Path:
    """A copy of a model's folder whose configuration allows so many tokens; rotary positions need no weights."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": tokens}), encoding="utf-8")
    return folder


def scoring_seconds(model: Path, data: Path, limit: int | None) -> Iterator[tuple[int, float]]:
    """(workers, seconds of scoring arc_easy) for one worker and for two, each pinned to a core; startup excluded."""
    import io

    import ray

    from cluster.progress import Progress, Tracker
    from cluster.session import ClusterConfig, connect
    from evals import tasks
    from evals.harness import ClusterLM
    from evals.pool import scorers
    from evals.sources import FolderSource

    def pin(_actor: Any, core: int) -> None:
        os.sched_setaffinity(0, {core})

    cores = sorted(os.sched_getaffinity(0))[:CORES]
    with tasks.quick_and_quiet():
        loaded = ours_load(str(data), ("arc_easy",))["arc_easy"]
        loaded.build_all_requests(limit=limit)
    with connect(ClusterConfig()):
        for workers in (1, CORES):
            with scorers(FolderSource(model), workers) as pool:
                ray.get(pool._loading)
                ray.get(
                    [actor.__ray_call__.remote(pin, core) for actor, core in zip(pool._actors, cores, strict=False)]
                )
                lm = ClusterLM(model, pool, BATCH_SIZE, Tracker(Progress(io.StringIO()), "benchmark"))
                from evals.encoding import encode_pairs

                pairs = [(None, *pair) for pair in encode_pairs(lm, [request.args for request in loaded.instances])]
                lm._loglikelihood_tokens(pairs[:64])
                began = time.perf_counter()
                lm._loglikelihood_tokens(pairs)
                yield workers, time.perf_counter() - began


def result(name: str, ours: list[float], peer: list[float], peer_name: str, **more: Any) -> dict[str, Any]:
    """One line of the result: medians, and the median of the rounds' own ratios."""
    ratios = [theirs / own for own, theirs in zip(ours, peer, strict=True)]
    return {
        "name": name,
        "ours": round(statistics.median(ours), 3),
        "peer": peer_name,
        "peer_value": round(statistics.median(peer), 3),
        "unit": "s",
        "ratio": round(statistics.median(ratios), 2),
        "rounds": [round(ratio, 2) for ratio in ratios],
        **more,
    }


def measure(part: str, arguments: argparse.Namespace, model: Path, data: Path, overlay: Path) -> dict[str, Any]:
    """All rounds of one part."""
    ours: list[float] = []
    peer: list[float] = []
    equal = True
    far = 0.0
    processor: list[float] = []
    for _ in range(arguments.rounds):
        if part == "two_workers":
            seconds = dict(scoring_seconds(model, data, arguments.limit))
            ours.append(seconds[CORES])
            peer.append(seconds[1])
        elif part in ("startup", "startup_warm", "build"):
            if part == "startup":
                shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
            kind = part.partition("_")[0]
            own = measure_side("ours", kind, data, arguments.limit)
            theirs = measure_side("stock", kind, overlay, arguments.limit)
            ours.append(own["seconds"])
            peer.append(theirs["seconds"])
            processor.append(theirs["cpu_seconds"] / own["cpu_seconds"])
            equal = equal and own["sha256"] == theirs["sha256"]
        else:
            suite = part.removesuffix("_exact")
            own_seconds, own_scores, own_answers = whole_ours(suite, model, data, arguments.limit, suite == part)
            peer_seconds, peer_scores, peer_answers = whole_stock(suite, model, overlay, arguments.limit)
            ours.append(own_seconds)
            peer.append(peer_seconds)
            far = max(far, largest_difference(own_answers, peer_answers))
            equal = equal and all(abs(peer_scores[metric] - score) < 1e-12 for metric, score in own_scores.items())
            equal = equal and far <= NEAR
    if part == "two_workers":
        return result(part, ours, peer, "raymill, one worker")
    more: dict[str, float] = {"cpu_ratio": round(statistics.median(processor), 2)} if processor else {}
    more |= {"largest_difference": far} if part.startswith(("arc_easy", "mmlu")) else {}
    return result(part, ours, peer, f"lm_eval {version('lm-eval')}", equal=equal, **more)


@contextmanager
def made_input(arguments: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """The model and the questions: as given, else the shared ones, else a small random model and the shipped sample."""
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as folder:
        data = arguments.data or (
            SHARED / "benchmarks" if (SHARED / "benchmarks").is_dir() else ROOT / "evals" / "sample"
        )
        model = arguments.model or SHARED / "models" / "stories260K-hd32"
        if arguments.model is None and not model.is_dir():
            from benchmarks.tiny_model import build

            model = build(Path(folder) / "model")
        yield Path(model).resolve(), Path(data).resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a causal language model's folder")
    parser.add_argument("--data", type=Path, help="the benchmarks in the Hub's layout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=PARTS, default=[])
    parser.add_argument("--limit", type=int, help="only the first N questions of each task")
    parser.add_argument("--context", type=int, default=8192, help="tokens, for mmlu and mmlu_exact")
    parser.add_argument("--quick", action="store_true", help="one round, few questions: a smoke test")
    parser.add_argument("--side", choices=("ours", "stock"), help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side(arguments)
        return
    if arguments.quick:
        arguments.rounds, arguments.limit = 1, arguments.limit or 4
        arguments.only = arguments.only or ["build", "two_workers"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:CORES]))
    results = []
    with made_input(arguments) as (model, data), tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as folder:
        overlay = stock_overlay(data, Path(folder) / "overlay")
        os.environ["HF_DATASETS_CACHE"] = str(Path(folder) / "cache")
        for part in arguments.only or PARTS:
            used = model
            if part.startswith("mmlu"):
                used = long_context(model, Path(folder) / f"{part}-model", arguments.context)
            measured = measure(part, arguments, used, data, overlay)
            results.append(measured)
            print(
                f"{part:12} {measured['ours']:9.2f} s  {measured['peer']}: {measured['peer_value']:9.2f} s"
                f"  ratio {measured['ratio']:.2f}  {measured['rounds']}"
                + (f"  CPU time {measured['cpu_ratio']}" if "cpu_ratio" in measured else "")
                + ("" if measured.get("equal", True) else "  RESULTS DIFFER"),
                file=sys.stderr,
                flush=True,
            )
    versions = {name: version(name) for name in ("lm-eval", "torch", "transformers", "ray")}
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}"
    print(json.dumps({"benchmark": "evals", "results": results, "machine": machine, "versions": versions}))
    if not all(each.get("equal", True) for each in results):
        sys.exit(1)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # as a script, benchmarks/ comes first, where evals.py would hide the package evals
    main()
