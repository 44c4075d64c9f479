"""What is rendered is what was looked at: golden files, kustomize's folders, and YAML that means the same.

Golden files are written by ``RAYMILL_GOLDEN=write pytest tests/k8s/test_renders.py``; read what changed in them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.jobs import Submission
from k8s.cluster_profile import Profile, load_profile, shipped
from k8s.kustomize import ROOT, files
from k8s.rayjob import job_manifests
from k8s.rayservice import service_manifests
from k8s.render import platform, to_yaml

Manifest = dict[str, Any]
GOLDEN = Path(__file__).with_name("golden")
RECIPE = "name: docs-assistant\nserving:\n  variants:\n  - name: base\n    model: '@pretrain'\n"


@pytest.mark.parametrize("what", ["job", "service"])
@pytest.mark.parametrize("name", shipped())
def test_renders_are_the_golden_ones(name: str, what: str, submitted: Submission) -> None:
    profile = load_profile(name)
    job = what == "job"
    found = job_manifests(profile, submitted) if job else service_manifests(profile, "raymill-docs", RECIPE)
    path, text = GOLDEN / f"{name}-{what}.yaml", to_yaml(found)
    if os.environ.get("RAYMILL_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_kustomize_folders_are_the_rendered_ones() -> None:
    """The platform's golden files: change a profile, and `python -m k8s.kustomize` writes them anew."""
    wanted = files()
    there = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("base", "overlays")
        for path in (ROOT / folder).rglob("*.yaml")
    }
    assert there == wanted


@pytest.mark.parametrize("name", shipped())
def test_kustomize_builds_what_we_render(name: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl, whose kustomize would build them")
    command = ["kubectl", "kustomize", str(ROOT / "overlays" / name)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert by_key(yaml.safe_load_all(built)) == by_key(platform(load_profile(name)))


def by_key(manifests: Any) -> dict[tuple[str, str], Manifest]:
    return {(each["kind"], each["metadata"]["name"]): each for each in manifests}


def test_the_yaml_means_what_was_rendered(
    sample: list[tuple[str, Profile]], render: Callable[[Profile], list[Manifest]]
) -> None:
    for _, profile in sample[:5]:
        manifests = render(profile)
        text = to_yaml(manifests)
        assert list(yaml.safe_load_all(text)) == manifests
        assert "&id" not in text


def test_rendering_twice_gives_the_same_bytes(submitted: Submission) -> None:
    profile = load_profile("gpu")
    assert to_yaml(job_manifests(profile, submitted)) == to_yaml(job_manifests(profile, submitted))
