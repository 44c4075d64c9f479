"""`raymill doctor --kubernetes`: what a place lacks, one line and one fix each; with a stand-in for kubectl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from k8s.checkup import examine, gates_of
from k8s.cluster_profile import Profile, load_profile
from k8s.look import kubectl_of
from pipelines.cli import run_command

KINDS = {
    "ray.io/v1": ["RayCluster", "RayJob", "RayService"],
    "kueue.x-k8s.io/v1beta2": ["LocalQueue", "WorkloadPriorityClass"],
    "monitoring.coreos.com/v1": ["PodMonitor", "PrometheusRule"],
}
SECRETS = {
    "raymill-ray-token": ["auth_token"],
    "raymill-s3": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "raymill-redis": ["password"],
}


@pytest.fixture
def place(kubernetes: Any) -> Any:
    """A cluster that has all that the gpu profile needs."""
    raw = kubernetes.root / "raw"
    raw.mkdir()
    for version, kinds in KINDS.items():
        (raw / f"apis_{version.replace('/', '_')}").write_text(json.dumps({"resources": [{"kind": k} for k in kinds]}))
    container = {"image": "quay.io/kuberay/operator:v1.7.0", "args": ["--feature-gates=RayClusterMTLS=true"]}
    operator = {
        "metadata": {"name": "kuberay-operator", "labels": {"app.kubernetes.io/name": "kuberay-operator"}},
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"availableReplicas": 1},
    }
    kubernetes.put("deployments", operator)
    kubernetes.put("namespace", {"metadata": {"name": "raymill"}})
    for name, keys in SECRETS.items():
        kubernetes.put("secret", {"metadata": {"name": name}, "data": dict.fromkeys(keys, "aHVudGVyMg==")})
    kubernetes.put("localqueues", {"metadata": {"name": "raymill"}, "status": {"pendingWorkloads": 2}})
    return kubernetes


def findings(profile: Profile) -> dict[str, tuple[str, str, str]]:
    return {each.check: (each.state, each.found, each.fix) for each in examine(profile, kubectl_of(profile))}


def test_where_everything_is_there_all_is_well(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(load_profile("gpu"))
    assert {state for state, _, _ in found.values()} == {"ok"}
    assert found["LocalQueue raymill"][1] == "2 wait in it"
    assert len(found) == 3 + 1 + 1 + 3 + 1
    assert run_command(["doctor", "--kubernetes", "gpu"]) == 0
    said = capsys.readouterr().out
    assert "hunter2" not in said and "aHVudGVyMg" not in said
    assert not any("json" in word for call in place.calls() if "secret" in call for word in call)


@pytest.mark.parametrize(
    ("break_it", "check", "says"),
    [
        (
            lambda root: (root / "raw/apis_ray.io_v1").unlink(),
            "ray.io/v1",
            "no RayJob, RayService: install KubeRay",
        ),
        (
            lambda root: (root / "raw/apis_kueue.x-k8s.io_v1beta2").unlink(),
            "kueue.x-k8s.io/v1beta2",
            "leave `queue` out",
        ),
        (
            lambda root: (root / "raw/apis_monitoring.coreos.com_v1").unlink(),
            "monitoring.coreos.com/v1",
            "enabled: false",
        ),
        (lambda root: (root / "namespace/raymill.json").unlink(), "namespace raymill", "raymill manifests"),
        (lambda root: (root / "secret/raymill-s3.json").unlink(), "Secret raymill-s3", "not there: make it"),
        (
            lambda root: (root / "secret/raymill-redis.json").write_text('{"data": {"pass": "x"}}'),
            "Secret raymill-redis",
            "without password",
        ),
        (lambda root: (root / "localqueues/raymill.json").unlink(), "LocalQueue raymill", "have it made"),
    ],
)
def test_what_is_missing_is_named_with_its_fix(place: Any, break_it: Any, check: str, says: str) -> None:
    break_it(place.root)
    found = findings(load_profile("gpu"))
    state, _, fix = found[check]
    assert state == "missing"
    assert says in fix
    assert [name for name, each in found.items() if each[0] != "ok"] == [check]
    assert run_command(["doctor", "--kubernetes", "gpu"]) == 1


def test_gates_that_are_off_are_found_before_the_operator_refuses(place: Any) -> None:
    name = "KubeRay's operator in kuberay-system"
    assert findings(load_profile("gpu", ["feature_gates=[RayClusterMTLS]"]))[name][0] == "ok"
    state, found, _ = findings(load_profile("gpu", ["feature_gates=[RayClusterNetworkPolicy]"]))[name]
    assert state == "missing"
    assert "off: RayClusterNetworkPolicy" in found


def test_tls_needs_cert_manager(place: Any) -> None:
    profile = load_profile("gpu", ["tls=true", "feature_gates=[RayClusterMTLS]"])
    state, _, fix = findings(profile)["cert-manager.io/v1"]
    assert (state, fix) == ("missing", "no Certificate, Issuer: install cert-manager, or set `tls: false`")
    kinds = {"resources": [{"kind": "Certificate"}, {"kind": "Issuer"}, {"kind": "CertificateRequest"}]}
    (place.root / "raw" / "apis_cert-manager.io_v1").write_text(json.dumps(kinds))
    assert findings(profile)["cert-manager.io/v1"][0] == "ok"
    assert "cert-manager.io/v1" not in findings(load_profile("gpu"))


def test_an_operator_of_another_version_is_a_warning(place: Any) -> None:
    (operator,) = place.objects("deployments")
    operator["spec"]["template"]["spec"]["containers"][0]["image"] = "mirror:5000/operator:v1.8.1@sha256:ab"
    place.put("deployments", operator)
    state, _, fix = findings(load_profile("gpu"))["KubeRay's operator in kuberay-system"]
    assert (state, fix) == ("warning", "the checks know v1.7")


def test_gates_are_read_from_the_operators_arguments() -> None:
    gates = gates_of({"command": ["/manager"], "args": ["-feature-gates=A=true,RayJobDeletionPolicy=false"]})
    assert "A" in gates
    assert "RayJobDeletionPolicy" not in gates
    assert "RayMultiHostIndexing" in gates


def test_a_claim_that_waits_is_named(place: Any) -> None:
    place.put("namespace", {"metadata": {"name": "raymill-dev"}})
    place.put("persistentvolumeclaim", {"metadata": {"name": "raymill-store"}, "status": {"phase": "Pending"}})
    state, found, fix = findings(load_profile("dev"))["claim raymill-store"]
    assert (state, found) == ("missing", "Pending")
    assert "ReadWriteMany" in fix


def test_what_we_may_not_ask_is_a_warning(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.errors import UserError
    from cluster.kubectl import Kubectl

    def forbidden(self: Kubectl, kind: str, name: str) -> set[str]:
        raise UserError('secrets "x" is forbidden', where="", next_step="")

    monkeypatch.setattr(Kubectl, "keys", forbidden)
    found = findings(load_profile("gpu"))
    assert {found[f"Secret {name}"][0] for name in SECRETS} == {"warning"}


def test_it_names_the_profiles_own_file(place: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("namespace: raymill\ns3: {secret: raymill-s3}\nmonitoring: {enabled: false}\n")
    assert run_command(["doctor", "--kubernetes", str(own), "--json"]) == 0


@pytest.mark.parametrize(
    ("status", "state", "says"),
    [
        ({"state": "ready"}, "ok", "ready"),
        ({"state": "failed", "reason": "no quota"}, "missing", "failed: no quota"),
        ({}, "missing", "not ready"),
        (None, "missing", "not there"),
    ],
)
def test_the_shared_cluster_is_there_and_ready(place: Any, status: Any, state: str, says: str) -> None:
    shared = load_profile("gpu", ["jobs.cluster=shared"])
    if status is None:
        (place.root / "rayclusters" / "raymill.json").unlink()
    else:
        place.put("rayclusters", {"metadata": {"name": "raymill"}, "status": status})
    assert findings(shared)["RayCluster raymill"][:2] == (state, says)
    assert "RayCluster raymill" not in findings(load_profile("gpu"))
