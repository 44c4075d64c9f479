"""Shipped manifests satisfy KubeRay's schema and the rules its operator adds."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

K8S = Path(__file__).resolve().parents[2] / "k8s"
MANIFESTS = sorted(K8S.glob("*.yaml"))


@pytest.mark.anchor
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_satisfies_the_schema_of_its_kind(path: Path, anchors: Path) -> None:
    manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    schemas = anchors.parent / "schemas" / "kuberay"
    if not schemas.is_dir():
        pytest.skip(f"no KubeRay schemas at {schemas}")
    schema = json.loads((schemas / f"ray.io_{manifest['kind'].lower()}_v1.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema).validate(manifest)
    manifest["spec"]["workerGroupSpec"] = []  # the schema is strict: a slip of the pen is refused
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(manifest)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_run_without_root_and_privileges(path: Path) -> None:
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_ray_version_is_the_locked_one() -> None:
    lock = (K8S.parent / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    version = next(line.partition("==")[2] for line in lock.splitlines() if line.startswith("ray=="))
    for path in MANIFESTS:
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["rayVersion"] == version
