"""Datasets of the Hub through its own libraries, from a server on loopback; in a process where the Hub is not off."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_SPEC = importlib.util.spec_from_file_location("hub_server", Path(__file__).with_name("hub_server.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
hub_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hub_server)

READ = """
import json, os, sys
from cluster.errors import RaymillError
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.readers import read_item
from pipelines.corpus.sources import SOURCES, resolve

for keys in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = keys.pop("token", "")
    config = CorpusConfig.model_validate({"sources": [{"kind": "hf"} | keys]})
    (source,) = config.sources
    try:
        (found,) = resolve(config)["sources"]
        items = SOURCES[type(source)].list_items(source, config.part_bytes)
        rows = [vars(row) for item in items for row in read_item(item, source)]
        print(json.dumps({"commit": found["commit"], "rows": rows}, default=repr))
    except RaymillError as error:
        print(json.dumps({"error": type(error).__name__, "said": str(error)}))
"""

CARD = b"""---
configs:
- config_name: first
  data_files:
  - {split: train, path: first/train-*.parquet}
  - {split: test, path: first/test.parquet}
- config_name: second
  data_files: second/*.parquet
---
"""


def parquet(*texts: str) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts), "terms": ["MIT"] * len(texts)}), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    files = {
        "README.md": CARD,
        "first/train-0.parquet": parquet("one", "two"),
        "first/train-1.parquet": parquet("three"),
        "first/test.parquet": parquet("held out"),
        "second/a.parquet": parquet("other"),
    }
    plain = {"train.jsonl": b'{"text": "row"}\nnonsense\n'}
    names = {"org/name": files, "org/plain": plain, "private/name": files, "gated/name": files}
    server = hub_server.Hub(names, ("main", "v1"))
    yield server
    server.close()


def read(url: str, folder: Path, sources: list[dict[str, Any]]) -> list[Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[3])}
    environment |= {"HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}  # a busy machine is no absent Hub
    done = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(sources)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_subset_split_revision_and_token(hub: Any, tmp_path: Path) -> None:
    first = {"path": "hf://org/name", "subset": "first"}
    closed = [{"path": f"hf://{name}", "subset": "second"} for name in ("private/name", "gated/name")]
    token = {"token": hub_server.TOKEN}
    trained, tested, second, absent, unnamed, unknown, private, gated, *allowed, plain = read(
        hub.url,
        tmp_path,
        [
            first | {"revision": "v1", "licence_field": "terms"},
            first | {"split": "test"},
            {"path": "hf://datasets/org/name", "subset": "second"},
            first | {"split": "validation"},
            {"path": "hf://org/name"},
            first | {"revision": "v2"},
            *closed,
            *(each | token for each in closed),
            {"path": "hf://org/plain"},
        ],
    )
    commit = hub.commit("org/name")
    assert "rows" in trained, trained
    assert [row["text"] for row in trained["rows"]] == ["one", "two", "three"]
    assert [row["path"] for row in trained["rows"]] == [
        "first/train/00000:1",
        "first/train/00000:2",
        "first/train/00001:1",
    ]
    assert {row["licence"] for row in trained["rows"]} == {"MIT"}
    about = {"kind": "hf", "dataset": "org/name", "commit": commit, "subset": "first", "terms": "MIT", "row": 1}
    assert trained["rows"][0]["metadata"] == about
    assert trained["commit"] == tested["commit"] == commit
    assert [row["text"] for each in (tested, second) for row in each["rows"]] == ["held out", "other"]
    assert {each["error"] for each in (absent, unnamed, unknown)} == {"UserError"}
    assert "Available splits: ['train', 'test']" in absent["said"]
    assert "['first', 'second']" in unnamed["said"]
    assert "no such dataset or revision" in unknown["said"]
    assert {each["error"] for each in (private, gated)} == {"UserError"}
    assert "no such dataset or revision" in private["said"]
    assert "HF_TOKEN" in private["said"]
    assert "needs access that you do not have" in gated["said"]
    assert [[row["text"] for row in each["rows"]] for each in allowed] == [["other"], ["other"]]
    assert plain["rows"][-1]["reason"] == "damaged"
    # Whatever a branch means by the time its files are read: they are those of the commit that it meant.
    resolved = [path for _, path, _ in hub.requests if path.startswith("/datasets/") and path.endswith(".parquet")]
    resolved = [path for path in resolved if "/org/" in path]
    assert len(resolved) > 3
    assert all(f"/resolve/{commit}/" in path for path in resolved)


def test_a_hub_that_does_not_answer_is_no_mistake_of_the_users(tmp_path: Path) -> None:
    (found,) = read("http://127.0.0.1:9", tmp_path, [{"path": "hf://org/name"}])
    assert found["error"] == "InfraError"
    assert "hf://org/name: the Hugging Face Hub cannot be reached: " in found["said"]
