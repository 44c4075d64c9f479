"""`raymill run --only corpus` killed again and again, driver or worker: the same command ends with the same bytes."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.artifact import Artifact, find_artifact, verify_artifact
from cluster.store_local import LocalStore

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]  # five runs of the command

RECIPE = """
name: killed
store: {store}
corpus:
  part_bytes: 65536
  workers: 2
  sources:
    - {{kind: jsonl, path: {sources}/jsonl, licence: MIT}}
    - {{kind: warc, path: {sources}/warc, max_bytes: 400000}}
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Compressed lines in 30 files, one of them cut off, and an archive of 600 pages with damage inside."""
    folder = tmp_path / "sources"
    (folder / "jsonl").mkdir(parents=True)
    (folder / "warc").mkdir()
    generator = random.Random(1)
    for number in range(30):
        texts = (" ".join(f"{generator.getrandbits(30):x}" for _ in range(60)) for _ in range(400))
        data = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode(), 1)
        (folder / "jsonl" / f"{number}.jsonl.gz").write_bytes(data[:-500] if number == 7 else data)
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>Page %d " + b"and its words " * 60
    for part in range(6):
        with (folder / "warc" / f"{part}.warc.gz").open("wb") as file:
            for number in range(100):
                body = page % (100 * part + number)
                head = (
                    f"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(body)}"
                )
                member = gzip.compress(head.encode() + b"\r\n\r\n" + body + b"\r\n\r\n")
                file.write(member[:60] if number == 50 else member)
    return folder


def start(folder: Path, sources: Path, name: str) -> subprocess.Popen[bytes]:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.format(store=folder / name, sources=sources))
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe), "--only", "corpus"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_workers(run: subprocess.Popen[bytes]) -> int:
    """Kill what reads parts, and not Ray's own agents, without which a node ends; the number killed."""
    count = 0
    for process in psutil.Process(run.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::MapBatch"):
                process.kill()
                count += 1
    return count


def committed(store: LocalStore) -> int:
    return sum(file.key.endswith("/done.json") for file in store.files("Corpus"))


def finish(run: subprocess.Popen[bytes]) -> None:
    _, said = run.communicate(timeout=200)
    assert run.returncode == 0, said.decode()


def made(folder: Path, name: str) -> Artifact:
    store = LocalStore(folder / name)
    artifact = find_artifact(store, "corpus")
    assert verify_artifact(store, artifact) == []
    return artifact


def test_killed_at_three_moments_and_once_a_worker(tmp_path: Path, sources: Path) -> None:
    finish(start(tmp_path, sources, "clean"))
    store = LocalStore(tmp_path / "killed")
    known = 0
    for more in (1, 5, 9):
        run = start(tmp_path, sources, "killed")
        deadline = time.monotonic() + 120
        while committed(store) < known + more and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL
        assert committed(store) >= known + more
        known = committed(store)
    run = start(tmp_path, sources, "killed")
    while not kill_workers(run) and run.poll() is None:
        time.sleep(0.01)
    finish(run)
    clean, killed = made(tmp_path, "clean"), made(tmp_path, "killed")
    assert killed.files == clean.files
    assert (killed.counts, killed.details) == (clean.counts, clean.details)
    assert killed.details["sources"]["jsonl"]["quarantined"] == {"truncated": 1}
    assert store.folders(killed.id) == [killed.attempt]
