"""Sources of several kinds on a real Ray: the same bytes for any number of workers, and when a worker is killed."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.artifact import Artifact
from cluster.progress import Progress
from cluster.session import ClusterConfig, connect
from cluster.stage import execute, identify
from cluster.store_local import LocalStore
from pipelines.corpus.config import STAGE, CorpusConfig

pytestmark = pytest.mark.ray

MODULE = """
import os, signal, time
from pathlib import Path

import psutil

def pages(shard, shards, marker):
    for number in range(200):
        if number == 150 and shard == 1:
            try:
                Path(marker).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        yield f"page {number} of {shard} " + "x" * 1000

def logged(shard, shards, folder):
    folder = Path(folder)
    with (folder / "reads").open("a") as reads:
        print(shard, file=reads, flush=True)
    for number in range(200):
        yield f"page {number} of {shard} " + "x" * 100
    driver = folder / "driver"
    if shard >= 4 and driver.exists():
        beside = [each for each in psutil.Process().parent().children() if "Agent" not in each.cmdline()[0]]
        (folder / "workers").write_text(" ".join(str(each.pid) for each in beside))
        os.kill(int(driver.read_text()), signal.SIGKILL)
        time.sleep(600)  # until what the driver started is ended
"""

DRIVER = """
import os, sys
from pathlib import Path
from cluster.session import ClusterConfig, connect
from tests.pipelines.corpus.test_corpus_on_ray import make_logged

folder = Path(sys.argv[1])
with connect(ClusterConfig(object_store_bytes=100 << 20)):
    (folder / "driver").write_text(str(os.getpid()))
    make_logged(folder / "store", folder)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several kinds, some of them broken, and a module of the user's."""
    folder = tmp_path_factory.mktemp("sources")
    lines = [json.dumps({"text": f"line {number} " + "y" * 200}) + "\n" for number in range(5000)]
    (folder / "plain.jsonl").write_text("".join(lines))
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode())[:-50])
    for number in range(20):
        page = f"<title>Page {number}</title><nav>menu</nav><p>The words of page {number}, which are its content.</p>"
        (folder / f"{number}.html").write_text("<div>" * 5 * number + page)
    (folder / "deep.html").write_text("<div>" * 400_000)
    (folder / "my_killed_source.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module", autouse=True)
def session(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).parents[3]}")
        with connect(ClusterConfig(object_store_bytes=100 << 20)):
            yield


def make(root: Path, folder: Path, workers: int, marker: Path) -> Artifact:
    custom = {"kind": "custom", "function": "my_killed_source:pages", "shards": 2}
    sources: list[dict[str, Any]] = [
        {"kind": "jsonl", "path": f"{folder}/*.jsonl*"},
        {"kind": "html", "path": str(folder), "max_cpu_seconds": 1},
        custom | {"arguments": {"marker": str(marker)}},
    ]
    return publish(root, {"sources": sources, "workers": workers, "part_bytes": 1 << 16})


def make_logged(root: Path, folder: Path) -> Artifact:
    """A corpus of eight shards, each of which says in ``reads`` that it is read."""
    custom = {"kind": "custom", "function": "my_killed_source:logged", "shards": 8}
    return publish(root, {"sources": [custom | {"arguments": {"folder": str(folder)}}], "workers": 2})


def publish(root: Path, keys: dict[str, Any]) -> Artifact:
    config = CorpusConfig.model_validate(keys)
    with Progress(io.StringIO(), live=False).track("test") as tracker:
        return execute(STAGE, identify(STAGE, config, {}), config, {}, LocalStore(root), tracker).artifact


def wait_gone(pid: int) -> None:
    """Return when a process has ended, whether or not anybody has looked."""
    deadline = time.monotonic() + 60
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} is still there"
            time.sleep(0.05)


def test_neither_workers_nor_their_deaths_change_the_corpus(tmp_path: Path, folder: Path) -> None:
    marker = tmp_path / "killed"
    killed = make(tmp_path / "one", folder, 2, marker)
    assert marker.exists()
    clean = make(tmp_path / "other", folder, 1, marker)
    assert [file for file in killed.files if file.path != "report.html"] == [
        file for file in clean.files if file.path != "report.html"
    ]
    assert killed.counts == clean.counts
    assert killed.details["sources"]["jsonl"]["quarantined"] == {"truncated": 1}
    assert killed.details["sources"]["html"]["quarantined"] == {"takes_too_long": 1}
    assert killed.details["sources"]["html"]["documents"] == 20
    assert killed.details["sources"]["custom"]["documents"] == 400


def test_a_killed_driver_loses_no_shard_that_was_read(tmp_path: Path, folder: Path) -> None:
    """SIGKILL takes the driver and all workers; the same command reads only what had not been committed."""
    done = subprocess.run([sys.executable, "-c", DRIVER, str(tmp_path)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    (tmp_path / "driver").unlink()
    for pid in map(int, (tmp_path / "workers").read_text().split()):
        wait_gone(pid)  # a worker that had only just started would read its shard beside the next run
    store = LocalStore(tmp_path / "store")
    committed = {
        json.loads(store.read(file.key))["number"] for file in store.files("Corpus") if file.key.endswith("/done.json")
    }
    assert 2 <= len(committed) < 8
    assert not any(file.key.endswith("/artifact.json") for file in store.files("Corpus"))
    (tmp_path / "reads").unlink()
    resumed = make_logged(tmp_path / "store", tmp_path)
    assert sorted(map(int, (tmp_path / "reads").read_text().split())) == sorted(set(range(8)) - committed)
    clean = make_logged(tmp_path / "clean", tmp_path)
    assert resumed.files == clean.files
    assert resumed.counts == clean.counts == {"documents": 1600, "bytes": clean.counts["bytes"]}
    assert {file.key.split("/")[2] for file in store.files(resumed.id)} == {"artifact.json", resumed.attempt}
