"""Sources of several kinds on a real Ray: the same bytes for any number of workers, and when a worker is killed."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.progress import Progress
from cluster.session import ClusterConfig, connect
from cluster.stage import execute, identify
from cluster.store_local import LocalStore
from pipelines.corpus.config import STAGE, CorpusConfig

pytestmark = pytest.mark.ray

MODULE = """
import os, signal
from pathlib import Path

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
    keys = {"sources": sources, "workers": workers, "part_bytes": 1 << 16}
    config = CorpusConfig.model_validate(keys)
    with Progress(io.StringIO(), live=False).track("test") as tracker:
        return execute(STAGE, identify(STAGE, config, {}), config, {}, LocalStore(root), tracker).artifact


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
