"""Shared fixtures: a store in a temporary folder, and an S3 server that is real but local."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from cluster.store import Store, open_store
from cluster.store_local import LocalStore

# The network is not there in tests; without these, libraries wait for it.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: each with threads for all of them, numerical libraries would wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes says how busy the machine is; the time limit of a whole test is in pyproject.toml.
settings.register_profile("raymill", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("raymill")


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An empty local store."""
    return LocalStore(tmp_path / "store")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server on a free port of this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    """An empty store in a bucket of its own."""
    import hashlib

    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    bucket = "b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=bucket)
    return open_store(f"s3://{bucket}/some/prefix")


@pytest.fixture(params=["local", "s3"])
def any_store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store in turn."""
    found: Store = request.getfixturevalue("store" if request.param == "local" else "s3_store")
    return found


@pytest.fixture(scope="session")
def anchors() -> Path:
    """The folder of real data sets and models, or a skip that says where it was looked for."""
    place = Path(os.environ.get("RAYMILL_ANCHORS") or Path(__file__).resolve().parents[1] / ".." / "shared") / "data"
    if not place.is_dir():
        pytest.skip(f"no real data at {place} (set RAYMILL_ANCHORS to the folder above it)")
    return place.resolve()
