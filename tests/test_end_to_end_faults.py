"""The demo, shrunken, whole, on an S3 server behind a network that harms requests: the bytes of an undisturbed run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.artifact import Artifact, find_artifact, list_artifacts, verify_artifact
from cluster.store import Store, open_store
from cluster.store_local import LocalStore
from tests.fault_proxy import ORDINARY, FaultProxy, seeded
from tests.test_end_to_end import Run

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1200)]
SHARE = 0.15
"""Of all requests that are harmed: one in seven."""
MADE = {"corpus", "curate", "tokenizer", "tokens", "pretrain", "finetune", "evals-pretrain", "evals-finetune"}
SAME = {"corpus", "curate", "tokenizer", "tokens", "pretrain"}
"""Stages whose files are the same bytes in every run."""
VARIES = {"report.html", "metrics.jsonl"}
"""Files that say how long things took."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an S3 server in a process of its own."""
    code = (
        "import sys\n"
        "from moto.server import ThreadedMotoServer\n"
        "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)\n"
        "server.start()\n"
        "print(server.get_host_and_port()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL  # it writes a line for each request
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=nowhere) as process:
        assert process.stdin is not None and process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def undisturbed(folder: Path) -> LocalStore:
    """A local store with what the stages before serving make of the same recipe."""
    store = LocalStore(folder / "local")
    code, _, err = Run.start(store.url, "--until", "pretrain").finish()
    assert code == 0, err[-6000:]
    return store


def published(store: Store) -> dict[str, Artifact]:
    found = {artifact.name: artifact for artifact in list_artifacts(store)}
    for artifact in found.values():
        assert verify_artifact(store, artifact) == []
    return found


def checksums(artifact: Artifact) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in artifact.files if entry.path not in VARIES}


def test_the_whole_demo_behind_a_bad_network(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    local = undisturbed(tmp_path)
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (settings | {"RAYMILL_CACHE": str(tmp_path / "cache"), "AWS_ENDPOINT_URL": server}).items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket="demo")
    direct = open_store("s3://demo/store")
    with FaultProxy(server, seeded(7, SHARE)).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        run = Run.start("s3://demo/store", "--json")
        code, out, err = run.finish(900)
        assert code == 0, err[-6000:]
        assert run.wait_until_gone(10) == []
        harmed, requests = dict(proxy.done), proxy.requests
    print(f"{requests} requests, harmed: " + ", ".join(f"{fault.name} {n}" for fault, n in sorted(harmed.items())))
    assert set(harmed) == set(ORDINARY), harmed
    record = json.loads(out)
    assert [stage["state"] for stage in record["stages"]] == ["made"] * 8 + ["ran"]
    assert set(record["serving"].values()) == {True}, record["serving"]
    made = published(direct)
    assert set(made) == MADE
    for name in sorted(SAME):
        assert checksums(made[name]) == checksums(find_artifact(local, made[name].id)), name
    named = {artifact.data_prefix for artifact in made.values()}
    kinds = {artifact.kind for artifact in made.values()}
    strays = [
        item.key
        for item in direct.files()
        if item.key.split("/")[0] in kinds
        and not item.key.endswith("/artifact.json")
        and "/".join(item.key.split("/")[:3]) not in named
    ]
    assert strays == []
