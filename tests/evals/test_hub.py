"""Models and benchmarks from the Hub, through its own client, from a server on loopback that plays the Hub's part."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evals.mirror import read_manifest
from evals.official import HUB_REVISIONS

from .conftest import write_benchmarks

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("hub_server", ROOT / "tests" / "pipelines" / "corpus" / "hub_server.py")
assert _SPEC is not None
assert _SPEC.loader is not None
hub_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(hub_server)

DATASET = "allenai/ai2_arc"
MODEL = {
    "README.md": b"about it",
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "original/consolidated.00.pth": b"the same weights again",
}
ADAPTER = {"adapter_config.json": b'{"base_model_name_or_path": "team/base"}', "adapter_model.safetensors": b"change"}

ASK = """
import json, sys
from cluster.errors import RaymillError
from cluster.store import open_store
from evals.sources import find_model
from pipelines.cli import run_command

store = open_store(sys.argv[1])
told = []
for words in json.loads(sys.argv[2]):
    try:
        found = find_model(store, *words)
        files = {str(part and part.name): sorted(p.relative_to(part).as_posix() for p in part.rglob("*") if p.is_file())
                 for part in found.folders() if part}
        told.append([found.name, [*files.values()]])
    except RaymillError as error:
        told.append([type(error).__name__, str(error)])
code = run_command(["benchmarks", "mirror", sys.argv[3], "--suite", "arc_easy"])
from evals.benchmarks import open_benchmarks
from evals.config import EvalsConfig
from evals.tasks import load_tasks

config = EvalsConfig(benchmarks="hub", suites=("arc_easy",))
loaded = load_tasks(open_benchmarks(config), config)["tasks"]["arc_easy"]
print(json.dumps([told, code, [dict(row) for row in loaded.eval_docs]]))
"""


class Hub(hub_server.Hub):  # type: ignore[misc,name-defined]
    """With models as well, and each dataset at the commit that Raymill asks for."""

    def commit(self, name: str) -> str:
        return HUB_REVISIONS.get(name) or str(super().commit(name))

    def answer(self, path: str, body: bytes, headers: Any) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/api/models/"):
            path = path.replace("models", "datasets", 1)
        elif not path.startswith(("/api/", "/datasets/")):
            path = f"/datasets{path}"
        found: tuple[int, bytes, dict[str, str]] = super().answer(path, body, headers)
        return found


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    source = write_benchmarks(tmp_path / "source", ("arc_easy", "arc_challenge")) / DATASET
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    names = {DATASET: files, "team/base": MODEL, "team/tuned": ADAPTER, "gated/name": MODEL}
    server = Hub(names, ("main", HUB_REVISIONS[DATASET]))
    yield server
    server.close()


def test_models_adapters_and_benchmarks_are_fetched_by_name(hub: Any, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment |= {"HF_HUB_ETAG_TIMEOUT": "60", "HF_HUB_DOWNLOAD_TIMEOUT": "60"}  # a busy machine is no absent Hub
    asked = [["team/base"], ["hf://team/tuned"], ["team/none"], ["gated/name"]]
    words = [str(tmp_path / "store"), json.dumps(asked), str(tmp_path / "mirror")]
    done = subprocess.run(
        [sys.executable, "-c", ASK, *words], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (model, adapter, unknown, gated), code, rows = json.loads(done.stdout.splitlines()[-1])
    needed = ["config.json", "model.safetensors", "tokenizer.json"]
    assert model == ["base", [needed]]
    assert adapter == ["tuned", [needed, sorted(ADAPTER)]]  # its base by the name that it was trained on
    assert (unknown[0], gated[0]) == ("UserError", "UserError")
    assert "team/none: cannot be had from the Hub" in unknown[1]
    assert "for a gated model set HF_TOKEN" in gated[1]

    assert code == 0
    manifest = read_manifest((tmp_path / "mirror" / "manifest.json").read_bytes(), "")
    expected = {"README.md", *(path for path in hub.repositories[DATASET] if path.startswith("ARC-Easy/"))}
    assert {path.removeprefix(f"{DATASET}/") for path in manifest} == expected
    for path in expected:
        assert (tmp_path / "mirror" / DATASET / path).read_bytes() == hub.repositories[DATASET][path]
    test = hub.repositories[DATASET]["ARC-Easy/test-00000.jsonl"].decode()
    assert rows == [json.loads(line) for line in test.splitlines()]
    of_dataset = [path for _, path, _ in hub.requests if path.startswith(f"/datasets/{DATASET}/resolve/")]
    assert of_dataset
    assert all(f"/resolve/{HUB_REVISIONS[DATASET]}/" in path for path in of_dataset)
