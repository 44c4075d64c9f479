"""Pods may do as little as Kubernetes' restricted standard says, and get what they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from k8s.cluster_profile import Profile, load_profile, shipped

Manifest = dict[str, Any]
Render = Callable[[Profile], list[Manifest]]
Matrix = list[tuple[str, Profile]]


def pods(value: Any) -> Iterator[Manifest]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for item in value.values():
            yield from pods(item)
    elif isinstance(value, list):
        for item in value:
            yield from pods(item)


def not_restricted(pod: Manifest) -> Iterator[str]:
    """Violations of the Pod Security Standard `restricted`, v1.32, by the table of its documentation."""
    security = pod.get("securityContext", {})
    yield from (f"pod: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod.get("volumes", []):
        if not volume.keys() - {"name"} <= allowed:
            yield f"volume {volume}"
    for each in [*pod["containers"], *pod.get("initContainers", [])]:
        own = each.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation"
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add", []):
            yield "capabilities"
        if own.get("privileged") or own.get("procMount", "Default") != "Default":
            yield "privileged"
        if own.get("runAsNonRoot", security.get("runAsNonRoot")) is not True:
            yield "runAsNonRoot"
        if 0 in (own.get("runAsUser"), security.get("runAsUser")):
            yield "runAsUser"
        profile = own.get("seccompProfile", security.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccomp"
        if any("hostPort" in port for port in each.get("ports", [])):
            yield "hostPort"


def test_the_standard_is_checked() -> None:
    assert len(set(not_restricted({"hostNetwork": True, "containers": [{"name": "x"}]}))) == 5


def test_every_pod_is_restricted_and_reads_its_root_only(sample: Matrix, render: Render) -> None:
    for name, profile in sample:
        found = list(pods(render(profile)))
        assert len(found) >= 5
        for pod in found:
            assert list(not_restricted(pod)) == [], name
            for container in pod["containers"]:
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
                writable = {mount["mountPath"] for mount in container["volumeMounts"]}
                assert "/tmp" in writable


def test_the_autoscaler_is_no_exception(sample: Matrix, render: Render) -> None:
    for _, profile in sample:
        for options in values(render(profile), "autoscalerOptions"):
            assert options["securityContext"]["readOnlyRootFilesystem"] is True
            assert options["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert options["resources"]["requests"]["memory"] == options["resources"]["limits"]["memory"]


def values(value: Any, key: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for item in value.values():
            yield from values(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from values(item, key)


def test_memory_is_promised_and_bounded_alike(sample: Matrix, render: Render) -> None:
    for _, profile in sample:
        for pod in pods(render(profile)):
            for container in pod["containers"]:
                asked, most = container["resources"]["requests"], container["resources"]["limits"]
                assert asked["memory"] == most["memory"]
                assert {key: asked[key] for key in asked if key != "cpu"} == most


def test_shared_memory_is_part_of_the_memory() -> None:
    with pytest.raises(ValueError, match="shared_memory_gib must be less"):
        Profile.model_validate({"head": {"memory_gib": 2, "shared_memory_gib": 2}, "s3": {"secret": "a"}})


@pytest.mark.parametrize("name", shipped())
@pytest.mark.parametrize("more", [(), ("head={memory_gib: 64, shared_memory_gib: 2}",)])
def test_rays_object_store_is_in_memory(name: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray is asked where it would put the store: by default on disk, where /dev/shm is under 0.3 of the memory."""
    from ray._private import services, utils

    from k8s.raycluster import cluster_spec

    profile = load_profile(name, more)
    spec = cluster_spec(profile, "x")
    sizes = [(profile.head, spec["headGroupSpec"]), *zip(profile.workers, spec["workerGroupSpecs"], strict=True)]
    for size, group in sizes:
        pod = group["template"]["spec"]
        (shared,) = [each["emptyDir"] for each in pod["volumes"] if each["name"] == "shared-memory"]
        assert shared["sizeLimit"] == f"{size.shared_memory_gib:g}Gi"
        monkeypatch.setattr(utils, "get_shared_memory_bytes", lambda size=size: int(size.shared_memory_gib * 2**30))
        monkeypatch.setattr("ray._common.utils.get_system_memory", lambda size=size: int(size.memory_gib * 2**30))
        wanted = int(group["rayStartParams"]["object-store-memory"])
        place, _, got = services.determine_plasma_store_config(wanted, "/tmp", None, None)
        assert (place, got) == ("/dev/shm", wanted)
        assert got > 0.9 * size.shared_memory_gib * 2**30


def test_gpus_are_counted_whatever_their_resource_is_called() -> None:
    from k8s.raycluster import cluster_spec

    profile = load_profile("gpu", ["workers.1.gpu_resource=nvidia.com/mig-1g.10gb", "workers.1.gpus=4"])
    groups = {each["groupName"]: each for each in cluster_spec(profile, "x")["workerGroupSpecs"]}
    (container,) = groups["gpu"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/mig-1g.10gb"] == "4"
    assert [groups[name]["rayStartParams"]["num-gpus"] for name in ("cpu", "gpu")] == ["0", "4"]


def test_only_a_head_with_the_autoscaler_has_a_token_of_the_api_server(sample: Matrix, render: Render) -> None:
    for _, profile in sample:
        for pod in pods(render(profile)):
            has = pod.get("automountServiceAccountToken")
            assert has in (True, False)  # said in so many words
            if has:
                assert pod["serviceAccountName"] == "raymill-head"
        for spec in values(render(profile), "rayClusterSpec"):
            head = spec["headGroupSpec"]["template"]["spec"]
            assert head["automountServiceAccountToken"] is bool(spec.get("enableInTreeAutoscaling"))


def test_no_secret_is_written_out(sample: Matrix, render: Render) -> None:
    """Secrets are named, never held: no variable with such a name has a value."""
    for _, profile in sample:
        manifests = render(profile)
        assert not any(manifest["kind"] == "Secret" for manifest in manifests)
        for entries in values(manifests, "env"):
            for entry in entries:
                if re.search(r"PASSWORD|SECRET|TOKEN|KEY", entry["name"]):
                    assert "value" not in entry
                    assert entry["valueFrom"].keys() == {"secretKeyRef"}


def test_every_cluster_wants_the_token(sample: Matrix, render: Render) -> None:
    for _, profile in sample:
        for manifest in render(profile):
            for key in ("rayClusterSpec", "rayClusterConfig"):
                for spec in values(manifest, key):
                    assert spec["authOptions"] == {"mode": "token", "secretName": "raymill-ray-token"}
            if manifest["kind"] == "RayCluster":
                assert manifest["spec"]["authOptions"]["mode"] == "token"


def test_a_job_sends_nothing_but_the_mounted_recipe(render: Render) -> None:
    (job,) = [each for each in render(load_profile("gpu")) if each["kind"] == "RayJob"]
    environment = job["spec"]["runtimeEnvYAML"]
    assert "working_dir: /etc/raymill" in environment
    assert job["spec"]["entrypoint"].startswith("python -m pipelines.cli run recipe.yaml --id raymill-docs-assistant-")
    assert job["spec"]["jobId"] == job["metadata"]["name"]
    assert len(job["metadata"]["name"]) <= 47


def test_a_queued_job_keeps_its_size_and_a_free_one_scales() -> None:
    from k8s.raycluster import cluster_spec

    profile = load_profile("gpu", ["workers.1.replicas=4"])
    queued, free = cluster_spec(profile, "x", queued=True), cluster_spec(profile, "x")
    assert [group["replicas"] for group in queued["workerGroupSpecs"]] == [1, 4]
    assert "enableInTreeAutoscaling" not in queued
    assert free["autoscalerOptions"]["version"] == "v2"
    assert [group["replicas"] for group in free["workerGroupSpecs"]] == [0, 0]
    assert [group["idleTimeoutSeconds"] for group in free["workerGroupSpecs"]] == [300, 900]


@pytest.mark.parametrize("name", shipped())
def test_the_ray_of_a_profile_is_the_locked_one(name: str) -> None:
    lock = (Path(__file__).resolve().parents[2] / "requirements" / "cpu.lock").read_text(encoding="utf-8")
    (version,) = [line.partition("==")[2] for line in lock.splitlines() if line.startswith("ray==")]
    assert load_profile(name).ray_version == version


def test_what_serves_is_probed_by_us_or_by_kuberay(sample: Matrix, render: Render) -> None:
    """KubeRay gives Ray's containers liveness and readiness where they have none of their own; see k8s/README.md."""
    kinds = {"livenessProbe", "readinessProbe", "startupProbe"}
    for _, profile in sample:
        for pod in pods(render(profile)):
            for container in pod["containers"]:
                wanted = kinds if container["name"] == "redis" else set()
                assert kinds & container.keys() == wanted, container["name"]


def test_ray_answers_kuberays_probes_without_a_token() -> None:
    """KubeRay 1.7 asks a node's agent for /api/healthz, and for the other two with wget in a served recipe's pods."""
    agent = Path(find_spec("ray").submodule_search_locations[0]) / "dashboard" / "http_server_agent.py"  # type: ignore[union-attr,index]
    public = re.search(r"PUBLIC_EXACT_PATHS = \[(.*?)\]", agent.read_text(encoding="utf-8"), re.DOTALL)
    assert public is not None
    assert {"/api/healthz", "/api/local_raylet_healthz"} <= set(re.findall(r'"([^"]+)"', public.group(1)))


def test_redis_gets_its_password_by_a_file() -> None:
    from k8s.storage import storage

    (redis,) = [each for each in storage(load_profile("gpu")) if each["kind"] == "StatefulSet"]
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    text = json.dumps([container["command"], container["livenessProbe"]])
    assert "exec redis-server /tmp/redis.conf" in text
    assert "--requirepass" not in text
    assert " -a " not in text
