"""Profiles of every kind, what is rendered from them, and the schemas to hold it against."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.jobs import Submission
from k8s.cluster_profile import Profile, load_profile, shipped
from k8s.rayjob import job_manifests
from k8s.rayservice import service_manifests
from k8s.render import platform

Manifest = dict[str, Any]
RECIPE = "name: docs-assistant\nstore: s3://raymill/store\ncluster:\n  address: auto\n"
GPU = {
    "name": "gpu",
    "gpus": 8,
    "memory_gib": 240.5,
    "tolerations": [{"key": "nvidia.com/gpu"}, {"key": "spot", "operator": "Equal", "value": "yes"}],
    "node_selector": {"cloud.google.com/gke-spot": "true"},
    "runtime_class": "nvidia",
    "spread": "zones",
}
OPTIONS: dict[str, list[Manifest]] = {
    "size": [{}, {"autoscale": False}],
    "store": [
        {"store": "/store", "claim": {"size_gib": 50, "storage_class": "nfs"}},
        {
            "store": "s3://b/p",
            "s3": {"secret": "keys", "endpoint_url": "http://minio.minio:9000"},
            "network": {"store_ports": [9000], "store_namespaces": ["minio"]},
        },
        {"store": "s3://b/p", "s3": {"identity": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/raymill"}}},
    ],
    "head": [
        {},
        {"fault_tolerance": {"redis": "own"}},
        {"fault_tolerance": {"redis": "address", "address": "redis.example:6380", "cidrs": ["10.9.0.0/16"]}},
    ],
    "tls": [{}, {"tls": True, "feature_gates": ["RayClusterMTLS"]}],
    "queue": [{}, {"queue": {"name": "team", "cluster_queue": "all", "priority": "low"}}],
    "jobs": [{}, {"jobs": {"cluster": "shared"}}, {"jobs": {"deadline_seconds": 9, "retries": 0, "keep_seconds": 0}}],
    "workers": [{}, {"workers": [{"name": "cpu", "minimum": 3, "maximum": 5, "spread": "none"}, GPU]}],
    "extras": [
        {},
        {
            "pull_secrets": ["registry"],
            "environment_secrets": ["hub"],
            "submitters": ["engineers"],
            "monitoring": {"enabled": False},
            "network": {"policies": False},
        },
    ],
}


def everything(profile: Profile) -> list[Manifest]:
    """All that a profile can render."""
    return [*platform(profile), *job_manifests(profile, submission()), *service_manifests(profile, "docs", RECIPE)]


def submission() -> Submission:
    return Submission(
        "docs-assistant",
        RECIPE,
        "s3://raymill/store",
        ("python", "-m", "pipelines.cli", "run"),
        arguments=("--until", "tokens"),
        environment={"OMP_NUM_THREADS": "1"},
        image="raymill:0.1.0",
    )


def combinations() -> Iterator[tuple[str, Profile]]:
    """Every combination of options, named by their indices."""
    for indices in itertools.product(*(range(len(each)) for each in OPTIONS.values())):
        parts = [choices[index] for choices, index in zip(OPTIONS.values(), indices, strict=True)]
        document = {key: value for part in parts for key, value in part.items()}
        yield "".join(map(str, indices)), Profile.model_validate(document)


@pytest.fixture(scope="session")
def matrix() -> list[tuple[str, Profile]]:
    """All combinations."""
    return list(combinations())


@pytest.fixture(scope="session")
def sample(matrix: list[tuple[str, Profile]]) -> list[tuple[str, Profile]]:
    """The shipped profiles and some combinations in which every option and every pair of options occurs."""
    chosen = [(name, load_profile(name)) for name in shipped()]
    pairs: set[tuple[int, str, int, str]] = set()
    for name, profile in random.Random(8).sample(matrix, len(matrix)):
        own = {(i, name[i], j, name[j]) for i, j in itertools.combinations(range(len(name)), 2)}
        if not own <= pairs:
            pairs |= own
            chosen.append((name, profile))
    return chosen


@pytest.fixture(scope="session")
def render() -> Callable[[Profile], list[Manifest]]:
    return everything


@pytest.fixture(scope="session")
def submitted() -> Submission:
    return submission()


@pytest.fixture(scope="session")
def schema_errors(anchors: Path) -> Callable[[Manifest], list[str]]:
    """What the strict schema of a manifest's kind finds."""
    folder = anchors.parent / "schemas"
    if not folder.is_dir():
        pytest.skip(f"no schemas at {folder}")
    files = {path.stem: path for path in folder.rglob("*.json")}

    @cache
    def validator(kind: str) -> jsonschema.Draft7Validator:
        return jsonschema.Draft7Validator(json.loads(files[kind].read_text(encoding="utf-8")))

    def errors(manifest: Manifest) -> list[str]:
        group, _, version = str(manifest["apiVersion"]).rpartition("/")
        found = validator(f"{group or 'core'}_{manifest['kind'].lower()}_{version}").iter_errors(manifest)
        return [f"{'.'.join(map(str, each.absolute_path))}: {each.message}" for each in found]

    return errors


class Cluster:
    """The stand-in's files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, kind: str, manifest: dict[str, Any]) -> None:
        (self.root / kind).mkdir(exist_ok=True)
        (self.root / kind / f"{manifest['metadata']['name']}.json").write_text(json.dumps(manifest))

    def objects(self, kind: str) -> list[dict[str, Any]]:
        paths = [path for path in sorted((self.root / kind).glob("*.json")) if not path.name.endswith(".next.json")]
        return [json.loads(path.read_text()) for path in paths]

    def becomes(self, name: str, *states: dict[str, Any]) -> None:
        """The statuses of a job, one for each look at it."""
        (self.root / "rayjobs").mkdir(exist_ok=True)
        (self.root / "rayjobs" / f"{name}.next.json").write_text(json.dumps(states))

    def calls(self) -> list[list[str]]:
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster with its platform and nothing else, with the stand-in as the only kubectl."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    fake = Path(__file__).with_name("fake_kubectl.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fake} "$@"\n')
    program.chmod(0o755)
    root = tmp_path / "kube"
    root.mkdir()
    monkeypatch.setenv("FAKE_KUBE", str(root))
    monkeypatch.setenv("FAKE_KUBE_PACKAGES", str(Path(yaml.__file__).parents[1]))
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("pipelines.commands.kubernetes.POLL_SECONDS", 0.0)
    monkeypatch.chdir(tmp_path)
    cluster = Cluster(root)
    cluster.put("rayclusters", {"metadata": {"name": "raymill"}})  # the shared one of the profile dev
    return cluster
