"""The corpus and curate stages as `raymill run` runs them, on a Ray of their own: seconds, CPU time, peak memory.

Used by the scripts beside it. A run is a process of its own. What starts Ray, and a small corpus that is curated first,
so that every worker has its imports and its compiled code, are not measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEED = 10
WARM_DOCUMENTS = 400
LONG_WORD = re.compile(r"\b[a-z]{5,}\b")

RULES = {"language": ["en"]}
"""What is switched on beside the defaults: normalise, Gopher, C4, redaction, deduplication."""


@dataclass(frozen=True)
class Run:
    """What one run of both stages took.

    Attributes:
        seconds: by the clock, from the first stage's beginning to the second one's end.
        cpu_seconds: of the driver and all of Ray's processes, in that time.
        worker_peak_mb: the most resident memory of any worker.
        driver_peak_mb: the most resident memory of the driver.
        digest: of all files of both artifacts but the reports.
    """

    seconds: float
    stage_seconds: dict[str, float]
    cpu_seconds: float
    worker_peak_mb: float
    driver_peak_mb: float
    documents: int
    kept: int
    megabytes: float
    digest: str


def vary(documents: Sequence[str], times: int) -> Iterator[str]:
    """The documents, and copies of them with other long words, so that each copy is a text of its own.

    A word becomes another one of the same length, by a rule that differs from copy to copy: lengths, lines, short words
    and how often words occur stay as they are; the 5-grams do not.
    """
    by_length: dict[int, list[str]] = {}
    for word in sorted({word for text in documents for word in LONG_WORD.findall(text)}):
        by_length.setdefault(len(word), []).append(word)
    for number in range(times):
        becomes: dict[str, str] = {}
        for length, words in sorted(by_length.items()):
            others = list(words)
            if number:
                random.Random(SEED + 1000 * number + length).shuffle(others)
            becomes.update(zip(words, others, strict=True))
        for text in documents:
            yield _replace(text, becomes) if number else text


def _replace(text: str, becomes: Mapping[str, str]) -> str:
    return LONG_WORD.sub(lambda match: becomes[match[0]], text)


def write_sources(documents: Sequence[str], folder: Path, files: int) -> None:
    """The documents as JSON Lines files, of about the same number each."""
    folder.mkdir(parents=True)
    for number in range(files):
        lines = (json.dumps({"text": text}) + "\n" for text in documents[number::files])
        (folder / f"{number:04d}.jsonl").write_text("".join(lines), encoding="utf-8")


def run_stages(folder: Path, workers: int, cores: int = 2, part_bytes: int | None = None) -> Run:
    """Both stages over a folder of JSON Lines in a new process, which has these many cores; parts as by default."""
    asked = [str(folder), str(workers), "--cores", str(cores)]
    if part_bytes:
        asked += ["--part-bytes", str(part_bytes)]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *asked],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(f"curation of {folder} failed:\n{done.stderr[-4000:]}")
    return Run(**json.loads(done.stdout.splitlines()[-1]))


class Watch:
    """Resident memory and CPU time of this process and its descendants, looked at ten times a second."""

    def __init__(self) -> None:
        self.peaks_mb: dict[int, float] = {}
        self.workers: set[int] = set()
        self._cpu: dict[int, float] = {}
        self._stop = threading.Event()
        self._look()
        self._before = dict(self._cpu)
        self._thread = threading.Thread(target=self._look_on, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look for the last time."""
        self._stop.set()
        self._thread.join()
        self._look()

    @property
    def cpu_seconds(self) -> float:
        """CPU time since the watch began."""
        return sum(seconds - self._before.get(pid, 0.0) for pid, seconds in self._cpu.items())

    def _look_on(self) -> None:
        while not self._stop.wait(0.1):
            self._look()

    def _look(self) -> None:
        import psutil

        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                times = process.cpu_times()
                resident_mb = process.memory_info().rss / 1e6
                command = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            self._cpu[process.pid] = times.user + times.system
            self.peaks_mb[process.pid] = max(resident_mb, self.peaks_mb.get(process.pid, 0.0))
            if command and command[0].startswith("ray::"):
                self.workers.add(process.pid)


def run_here(folder: Path, workers: int, cores: int, part_bytes: int | None) -> Run:
    """Both stages in this process, on an embedded Ray. Driver, Ray and workers share the cores."""
    from cluster.session import ClusterConfig, connect

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    with tempfile.TemporaryDirectory(prefix="raymill-benchmark-") as place, connect(ClusterConfig()):
        lines = (folder / "0000.jsonl").read_text(encoding="utf-8").splitlines()
        few = [json.loads(line)["text"] for line in lines[:WARM_DOCUMENTS]]
        write_sources(few, Path(place) / "few", 2 * workers)
        _both_stages(Path(place) / "few", Path(place) / "warm", workers, part_bytes=1 << 16)
        watch = Watch()
        began = time.perf_counter()
        corpus, curated, seconds = _both_stages(folder, Path(place) / "store", workers, part_bytes)
        took = time.perf_counter() - began
        watch.stop()
    files = [(each.path, each.sha256) for made in (corpus, curated) for each in made.files]
    digest = hashlib.sha256(repr([each for each in files if each[0] != "report.html"]).encode()).hexdigest()
    return Run(
        seconds=took,
        stage_seconds=seconds,
        cpu_seconds=watch.cpu_seconds,
        worker_peak_mb=max(watch.peaks_mb[pid] for pid in watch.workers),
        driver_peak_mb=watch.peaks_mb[os.getpid()],
        documents=corpus.counts["documents"],
        kept=curated.counts["documents"],
        megabytes=corpus.counts["bytes"] / 1e6,
        digest=digest,
    )


def _both_stages(folder: Path, place: Path, workers: int, part_bytes: int | None) -> tuple[Any, Any, dict[str, float]]:
    from cluster.progress import Progress
    from cluster.stage import execute, identify
    from cluster.store_local import LocalStore
    from pipelines.corpus.config import STAGE as CORPUS
    from pipelines.corpus.config import CorpusConfig
    from pipelines.curate.config import STAGE as CURATE
    from pipelines.curate.config import CurateConfig

    store = LocalStore(place)
    source = {"kind": "jsonl", "path": str(folder), "licence": "PSF-2.0"}
    parts = {"part_bytes": part_bytes} if part_bytes else {}
    corpus_config = CorpusConfig.model_validate({"sources": [source], "workers": workers} | parts)
    curate_config = CurateConfig.model_validate({"workers": workers} | RULES)
    with Progress(sys.stderr, live=False).track("benchmark") as tracker:
        made = execute(CORPUS, identify(CORPUS, corpus_config, {}), corpus_config, {}, store, tracker)
        inputs = {"corpus": made.artifact}
        identity = identify(CURATE, curate_config, {"corpus": made.artifact.fingerprint})
        curated = execute(CURATE, identity, curate_config, inputs, store, tracker)
    return made.artifact, curated.artifact, {"corpus": made.seconds, "curate": curated.seconds}


def versions() -> dict[str, str]:
    """What the figures depend on."""
    return {name: version(name) for name in ("ray", "pyarrow", "spacy", "numba")} | {
        "python": platform.python_version()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder of .jsonl files with the field text")
    parser.add_argument("workers", type=int)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--part-bytes", type=int)
    options = parser.parse_args()
    print(json.dumps(vars(run_here(options.folder, options.workers, options.cores, options.part_bytes))))
    return 0


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    sys.exit(main())
