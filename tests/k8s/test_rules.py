"""Each rule that a schema misses: a manifest that breaks it is refused with a message about it, and no other.

The left column says what is changed in a manifest that has no problem; the cases follow KubeRay v1.7.0's
``validation.go`` and ``XValidation`` marks, and Kueue's webhooks, one by one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import UserError
from cluster.jobs import Submission
from k8s.cluster_profile import Profile, load_profile
from k8s.rayjob import job_manifests
from k8s.rules import check, require_valid

Manifest = dict[str, Any]
DELETE = object()
CLUSTER, JOB, SERVICE = "RayCluster", "RayJob", "RayService"
RULE = {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 5}}
HEAD_POD = "spec.headGroupSpec.template.spec"
HEAD_ENV = f"{HEAD_POD}.containers.0.env"
GROUP = {
    "groupName": "cpu",
    "minReplicas": 0,
    "maxReplicas": 1,
    "template": {"spec": {"containers": [{"name": "ray"}]}},
}
AUTOSCALER = {"name": "RAY_enable_autoscaler_v2", "value": "1"}
NOT_SCALED = {
    "spec.enableInTreeAutoscaling": False,
    "spec.autoscalerOptions": DELETE,
    "spec.workerGroupSpecs.0.idleTimeoutSeconds": DELETE,
}
INCREMENTAL = {
    "type": "NewClusterWithIncrementalUpgrade",
    "clusterUpgradeOptions": {
        "gatewayClassName": "istio",
        "intervalSeconds": 5,
        "stepSizePercent": 10,
        "maxSurgePercent": 50,
    },
}


def incremental(**changes: Any) -> Manifest:
    options = {**INCREMENTAL["clusterUpgradeOptions"], **changes}  # type: ignore[dict-item]
    return {**INCREMENTAL, "clusterUpgradeOptions": {key: each for key, each in options.items() if each is not DELETE}}


def deletion(*rules: Manifest, **more: Any) -> Manifest:
    return {"deletionRules": list(rules), **more}


CASES: list[tuple[str, str, dict[str, Any], str]] = [
    # (name, kind, changes, what the message holds)
    ("long name", CLUSTER, {"metadata.name": "a" * 54}, "53 at most"),
    ("long job", JOB, {"metadata.name": "a" * 48}, "47 at most"),
    ("long service", SERVICE, {"metadata.name": "a" * 48}, "47 at most"),
    ("upper case", JOB, {"metadata.name": "Job"}, "no DNS label"),
    ("digit first", JOB, {"metadata.name": "1job"}, "no DNS label"),
    ("manager", JOB, {"spec.managedBy": "me"}, "must be one of ray.io/kuberay-operator"),
    ("manager of a cluster", CLUSTER, {"spec.managedBy": "me"}, "must be one of ray.io/kuberay-operator"),
    ("manager of a service", SERVICE, {"spec.managedBy": "me"}, "must be one of ray.io/kuberay-operator"),
    ("no container", CLUSTER, {"spec.headGroupSpec.template.spec.containers": []}, "the head has no container"),
    ("no worker", CLUSTER, {"spec.workerGroupSpecs.0.template.spec.containers": []}, "group cpu has no container"),
    ("min > max", CLUSTER, {"spec.workerGroupSpecs.0.minReplicas": 9}, "9 is greater than maxReplicas 3"),
    ("negative", CLUSTER, {"spec.workerGroupSpecs.0.minReplicas": -1}, "must not be negative"),
    (
        "bounds without autoscaler",
        CLUSTER,
        {
            "spec.enableInTreeAutoscaling": False,
            "spec.workerGroupSpecs.0.maxReplicas": DELETE,
            "spec.workerGroupSpecs.0.idleTimeoutSeconds": DELETE,
        },
        "both needed",
    ),
    ("resources twice", CLUSTER, {"spec.headGroupSpec.resources": {"CPU": "1"}}, "use one of the two"),
    ("labels", CLUSTER, {"spec.headGroupSpec.rayStartParams.labels": "a=b"}, "use `labels` of the group"),
    ("label", CLUSTER, {"spec.workerGroupSpecs.0.labels": {"a b": "c"}}, "is no label"),
    ("idle", CLUSTER, {"spec.workerGroupSpecs.0.idleTimeoutSeconds": -1}, "must not be negative"),
    ("idle v1", CLUSTER, {"spec.autoscalerOptions.version": "v1"}, "needs the autoscaler's version v2"),
    (
        "priority's Ray",
        CLUSTER,
        {"spec.workerGroupSpecs.0.priority": 2, "spec.rayVersion": "2.55.9"},
        "needs rayVersion 2.56.0",
    ),
    (
        "priority v1",
        CLUSTER,
        {
            "spec.workerGroupSpecs.0.priority": 2,
            "spec.autoscalerOptions.version": "v1",
            "spec.workerGroupSpecs.0.idleTimeoutSeconds": DELETE,
        },
        "needs the autoscaler's version v2",
    ),
    ("suspended group", CLUSTER, {"spec.workerGroupSpecs.0.suspend": True}, "not possible with the autoscaler"),
    (
        "FT twice",
        CLUSTER,
        {
            "metadata.annotations": {"ray.io/ft-enabled": "true"},
            "spec.gcsFaultToleranceOptions": {"redisAddress": "redis://r:6379"},
        },
        "together with the annotation ray.io/ft-enabled",
    ),
    (
        "storage namespace twice",
        CLUSTER,
        {
            "metadata.annotations": {"ray.io/external-storage-namespace": "x"},
            "spec.gcsFaultToleranceOptions": {"redisAddress": "redis://r:6379"},
        },
        "ray.io/external-storage-namespace",
    ),
    (
        "redis in the pod",
        CLUSTER,
        {HEAD_ENV: [{"name": "RAY_REDIS_ADDRESS", "value": "r"}]},
        "gcsFaultToleranceOptions",
    ),
    ("redis user", CLUSTER, {HEAD_ENV: [{"name": "REDIS_USERNAME", "value": "r"}]}, "redisUsername only"),
    (
        "redis password",
        CLUSTER,
        {
            "spec.gcsFaultToleranceOptions": {"redisAddress": "redis://r:6379"},
            "spec.headGroupSpec.rayStartParams.redis-password": "x",
        },
        "not in the head's pod",
    ),
    (
        "redis with a volume",
        CLUSTER,
        {"spec.gcsFaultToleranceOptions": {"storage": {"size": "1Gi"}}},
        "is for the backend rocksdb",
    ),
    ("rocksdb", CLUSTER, {"spec.gcsFaultToleranceOptions": {"backend": "rocksdb"}}, "GCSFaultToleranceEmbeddedStorage"),
    ("autoscaler twice", CLUSTER, {HEAD_ENV: [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]}, "says it, too"),
    ("restart", CLUSTER, {"spec.headGroupSpec.template.spec.restartPolicy": "Always"}, "of head must be Never"),
    (
        "worker's restart",
        CLUSTER,
        {"spec.workerGroupSpecs.0.template.spec.restartPolicy": "OnFailure"},
        "of cpu must be Never",
    ),
    ("idle of all", CLUSTER, {"spec.autoscalerOptions.idleTimeoutSeconds": -1}, "must not be negative"),
    (
        "start command",
        CLUSTER,
        {"spec.autoscalerOptions.env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}]},
        "KubeRay's own",
    ),
    ("token without a version", CLUSTER, {"spec.rayVersion": DELETE}, "2.52.0 or later, not none"),
    ("token and an old Ray", CLUSTER, {"spec.rayVersion": "2.51.2"}, "2.52.0 or later, not 2.51.2"),
    (
        "Kubernetes' tokens and a secret",
        CLUSTER,
        {"spec.authOptions.enableK8sTokenAuth": True},
        "excludes secretName",
    ),
    (
        "Kubernetes' tokens alone",
        CLUSTER,
        {"spec.authOptions": {"mode": "disabled", "enableK8sTokenAuth": True}},
        "needs mode: token",
    ),
    ("network gate", CLUSTER, {"spec.networkPolicy": {}}, "RayClusterNetworkPolicy"),
    ("TLS gate", CLUSTER, {"spec.tlsOptions": {"enabled": True}}, "RayClusterMTLS"),
    ("history gate", CLUSTER, {"spec.historyServerOptions": {}}, "RayClusterHistoryServer"),
    ("upgrade of a job's", JOB, {"spec.rayClusterSpec.upgradeStrategy": {"type": "Recreate"}}, "of its own only"),
    (
        "suspended",
        JOB,
        {
            "spec.suspend": True,
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": 0,
        },
        "cannot be suspended",
    ),
    ("ttl < 0", JOB, {"spec.ttlSecondsAfterFinished": -1}, "must not be negative"),
    ("ttl alone", JOB, {"spec.shutdownAfterJobFinishes": False}, "needs shutdownAfterJobFinishes"),
    ("mode", JOB, {"spec.submissionMode": "HttpMode"}, "must be one of K8sJobMode, HTTPMode"),
    ("no cluster", JOB, {"spec.rayClusterSpec": DELETE}, "needs rayClusterSpec or clusterSelector"),
    ("both clusters", JOB, {"spec.clusterSelector": {"ray.io/cluster": "a"}, "spec.backoffLimit": 0}, "one of the two"),
    ("tries < 0", JOB, {"spec.backoffLimit": -1}, "must not be negative"),
    ("tries of interactive", JOB, {"spec.submissionMode": "InteractiveMode"}, "not for InteractiveMode"),
    (
        "sidecar's template",
        JOB,
        {"spec.submissionMode": "SidecarMode", "spec.submitterConfig": DELETE},
        "not for SidecarMode",
    ),
    (
        "sidecar's settings",
        JOB,
        {"spec.submissionMode": "SidecarMode", "spec.submitterPodTemplate": DELETE},
        "not for SidecarMode",
    ),
    (
        "sidecar's head",
        JOB,
        {
            "spec.submissionMode": "SidecarMode",
            "spec.submitterPodTemplate": DELETE,
            "spec.submitterConfig": DELETE,
            "spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy": "Always",
            "spec.rayClusterSpec.enableInTreeAutoscaling": False,
            "spec.rayClusterSpec.autoscalerOptions": DELETE,
            "spec.rayClusterSpec.workerGroupSpecs.0.idleTimeoutSeconds": DELETE,
            "spec.rayClusterSpec.workerGroupSpecs.1.idleTimeoutSeconds": DELETE,
        },
        "must be Never in SidecarMode",
    ),
    ("name of a ConfigMap", "ConfigMap", {"metadata.name": "My_Recipe"}, "is no name of an object"),
    ("same groups", CLUSTER, {"spec.workerGroupSpecs": [GROUP, GROUP]}, "is the name of another group, too"),
    ("autoscaler by hand", CLUSTER, NOT_SCALED | {HEAD_ENV: [AUTOSCALER]}, "without enableInTreeAutoscaling"),
    (
        "Kubernetes' tokens and an old Ray",
        CLUSTER,
        {"spec.authOptions": {"mode": "token", "enableK8sTokenAuth": True}, "spec.rayVersion": "2.54.0"},
        "needs rayVersion 2.55.0",
    ),
    ("deadline", JOB, {"spec.activeDeadlineSeconds": 0}, "must be greater than 0"),
    ("start deadline", JOB, {"spec.preRunningDeadlineSeconds": 0}, "must be greater than 0"),
    ("environment", JOB, {"spec.runtimeEnvYAML": "a: [}"}, "is not YAML"),
    ("environment's kind", JOB, {"spec.runtimeEnvYAML": "[]"}, "must be a mapping"),
    ("shell in the environment", JOB, {"spec.runtimeEnvYAML": "env_vars: {A: $(id)}"}, "shell would replace"),
    ("shell in the metadata", JOB, {"spec.metadata": {"a": "`id`"}}, "shell would replace"),
    (
        "Kubernetes' tokens of a job",
        JOB,
        {
            "spec.rayClusterSpec.authOptions.enableK8sTokenAuth": True,
            "spec.rayClusterSpec.authOptions.secretName": DELETE,
        },
        "does not support it for a RayJob",
    ),
    ("style", JOB, {"spec.deletionStrategy": {}}, "needs both onSuccess and onFailure, or deletionRules"),
    ("half a style", JOB, {"spec.deletionStrategy": {"onSuccess": {"policy": "DeleteSelf"}}}, "needs both"),
    (
        "two styles",
        JOB,
        {
            "spec.deletionStrategy": deletion(RULE, onSuccess={"policy": "DeleteSelf"}),
            "spec.shutdownAfterJobFinishes": False,
            "spec.ttlSecondsAfterFinished": 0,
        },
        "holds either",
    ),
    ("rules and shutdown", JOB, {"spec.deletionStrategy": deletion(RULE)}, "not used together with"),
    (
        "nothing is deleted",
        JOB,
        {"spec.deletionStrategy": {"onSuccess": {"policy": "DeleteNone"}, "onFailure": {"policy": "DeleteSelf"}}},
        "contradicts shutdownAfterJobFinishes",
    ),
    (
        "no policy",
        JOB,
        {"spec.deletionStrategy": {"onSuccess": {}, "onFailure": {"policy": "DeleteSelf"}}},
        "names no policy",
    ),
    (
        "Kubernetes' tokens of a service",
        SERVICE,
        {
            "spec.rayClusterConfig.authOptions.enableK8sTokenAuth": True,
            "spec.rayClusterConfig.authOptions.secretName": DELETE,
        },
        "does not support it for a RayService",
    ),
    (
        "head's service",
        SERVICE,
        {"spec.rayClusterConfig.headGroupSpec.headService": {"metadata": {"name": "x"}}},
        "KubeRay gives it one",
    ),
    ("delay", SERVICE, {"spec.rayClusterDeletionDelaySeconds": -1}, "must not be negative"),
    ("upgrade", SERVICE, {"spec.upgradeStrategy": {"type": "Rolling"}}, "must be one of None, NewCluster"),
    ("no options", SERVICE, {"spec.upgradeStrategy": {"type": INCREMENTAL["type"]}}, "needed for an incremental"),
    ("surge", SERVICE, {"spec.upgradeStrategy": incremental(maxSurgePercent=101)}, "between 0 and 100"),
    ("step", SERVICE, {"spec.upgradeStrategy": incremental(stepSizePercent=60)}, "greater than maxSurgePercent"),
    ("no step", SERVICE, {"spec.upgradeStrategy": incremental(stepSizePercent=DELETE)}, "between 0 and 100"),
    ("interval", SERVICE, {"spec.upgradeStrategy": incremental(intervalSeconds=0)}, "greater than 0"),
    ("gateway", SERVICE, {"spec.upgradeStrategy": incremental(gatewayClassName="")}, "needed for an incremental"),
    (
        "incremental without autoscaler",
        SERVICE,
        {
            "spec.upgradeStrategy": incremental(),
            "spec.rayClusterConfig.enableInTreeAutoscaling": False,
            "spec.rayClusterConfig.autoscalerOptions": DELETE,
            "spec.rayClusterConfig.workerGroupSpecs.0.idleTimeoutSeconds": DELETE,
            "spec.rayClusterConfig.workerGroupSpecs.1.idleTimeoutSeconds": DELETE,
        },
        "needs the autoscaler",
    ),
    ("timeout", SERVICE, {"metadata.annotations": {"ray.io/initializing-timeout": "soon"}}, "must be like 30m"),
    ("no time", SERVICE, {"metadata.annotations": {"ray.io/initializing-timeout": "0s"}}, "must be like 30m"),
    ("large recipe", "ConfigMap", {"data": {"recipe.yaml": "#" * ((1 << 20) + 1)}}, "at most"),
    ("large package", "ConfigMap", {"binaryData": {"a.zip": "AAAA" * (1 << 19)}}, "1,048,576 at most"),
    ("label of a monitor", "PodMonitor", {"metadata.labels": {"release": "a b"}}, "release=a b is no label"),
    ("node's label", CLUSTER, {f"{HEAD_POD}.nodeSelector": {"a//b": "c"}}, "a//b=c is no label"),
    ("annotation", "ServiceAccount", {"metadata.annotations": {"a b": "c"}}, "a b is no annotation's name"),
]


@pytest.fixture(scope="module")
def good(render: Callable[[Profile], list[Manifest]]) -> dict[str, Manifest]:
    """One manifest of each kind, without a problem."""
    found = {each["kind"]: each for each in render(load_profile("gpu"))}
    free = render(load_profile("gpu", ["queue=null"]))
    found[JOB] = next(each for each in free if each["kind"] == JOB)
    found[CLUSTER] = next(each for each in render(load_profile("dev")) if each["kind"] == CLUSTER)
    assert check(found.values()) == []
    return found


def changed(manifest: Manifest, changes: dict[str, Any]) -> Manifest:
    """A copy with other values at dotted paths."""
    found = copy.deepcopy(manifest)
    for path, value in changes.items():
        labels = ".labels." in path and path.startswith("metadata.")
        parts = ["metadata", "labels", path.partition(".labels.")[2]] if labels else path.split(".")
        target: Any = found
        for part in parts[:-1]:
            target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
        if value is DELETE:
            target.pop(parts[-1])
        else:
            target[parts[-1]] = value
    return found


@pytest.mark.parametrize(("kind", "changes", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_breaks_a_rule_is_refused(
    good: dict[str, Manifest], kind: str, changes: dict[str, Any], message: str
) -> None:
    problems = check([changed(good[kind], changes)])
    assert [each for each in problems if message not in each.why] == [], "one slip, one message"
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"policy": "DeleteSelf", "condition": {}}], "exactly one of"),
        (
            [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}],
            "exactly one",
        ),
        ([RULE, RULE], "a second rule"),
        ([{**RULE, "condition": {"jobStatus": "FAILED", "ttlSeconds": -1}}], "must not be negative"),
        ([{"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED"}}], "not for a cluster with the autoscaler"),
        ([RULE, {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 9}}], "comes before"),
        ([RULE, {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 9}}], ""),
        ([RULE, {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 5}}], ""),
    ],
)
def test_rules_of_deletion(good: dict[str, Manifest], rules: list[Manifest], message: str) -> None:
    keeps = {"spec.shutdownAfterJobFinishes": DELETE, "spec.ttlSecondsAfterFinished": DELETE}
    job = changed(good[JOB], {**keeps, "spec.deletionStrategy": {"deletionRules": rules}})
    problems = check([job])
    assert len(problems) == bool(message)
    assert all(message in each.why for each in problems)


def test_a_job_on_a_shared_cluster_may_not_what_its_own_may(submitted: Submission) -> None:
    profile = load_profile("dev")
    job = job_manifests(profile, submitted)[1]
    assert check([job]) == []
    for changes, message in (
        ({"spec.backoffLimit": 1}, "not tried again"),
        ({"spec.clusterSelector": {"other": "x"}}, "names no cluster"),
        ({"spec.suspend": True, "spec.shutdownAfterJobFinishes": True}, "cannot be suspended"),
        ({"spec.submissionMode": "SidecarMode", "spec.submitterPodTemplate": DELETE}, "is not for SidecarMode"),
        (
            {
                "spec.deletionStrategy": {
                    "onSuccess": {"policy": "DeleteCluster"},
                    "onFailure": {"policy": "DeleteSelf"},
                }
            },
            "DeleteCluster is not for a job on an existing cluster",
        ),
    ):
        assert [each.why for each in check([changed(job, changes)]) if message in each.why]


def test_a_queued_job_follows_kueues_rules(submitted: Submission) -> None:
    job = job_manifests(load_profile("gpu"), submitted)[1]
    assert check([job]) == []
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    many = [{**groups[0], "groupName": f"group-{index}"} for index in range(17)]
    assert check([changed(job, {"spec.rayClusterSpec.workerGroupSpecs": many[:16]})]) == []
    for changes, message in (
        ({"spec.rayClusterSpec.enableInTreeAutoscaling": True}, "one in a queue keeps its size"),
        ({"spec.rayClusterSpec.workerGroupSpecs.0.groupName": "head"}, "keeps the name head"),
        ({"spec.rayClusterSpec.workerGroupSpecs.0.groupName": "submitter"}, "keeps the name submitter"),
        ({"spec.rayClusterSpec.workerGroupSpecs": many}, "16 groups at most"),
        ({"spec.shutdownAfterJobFinishes": False}, "Kueue wants a queued job's cluster to go"),
    ):
        assert [each.why for each in check([changed(job, changes)]) if message in each.why], message


def test_gates_that_are_on_are_believed(good: dict[str, Manifest]) -> None:
    wants = changed(good[CLUSTER], {"spec.tlsOptions": {"enabled": True}})
    assert check([wants], ["RayClusterMTLS"]) == []
    by_hand = changed(wants, {HEAD_ENV: [{"name": "RAY_USE_TLS", "value": "1"}]})
    assert "headGroupSpec does it, too" in check([by_hand], ["RayClusterMTLS"])[0].why
    mounted = changed(wants, {"spec.autoscalerOptions.volumeMounts": [{"name": "ray-tls", "mountPath": "/x"}]})
    assert "autoscalerOptions does it, too" in check([mounted], ["RayClusterMTLS"])[0].why


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storage": {"claimName": "a"}}, ""),
        ({"redisAddress": "redis://r:6379"}, "is for the backend redis"),
        ({"storage": {"claimName": "a", "size": "1Gi"}}, "excludes size"),
        ({HEAD_ENV: [{"name": "RAY_gcs_storage", "value": "x"}]}, "are KubeRay's own"),
        ({f"{HEAD_POD}.volumes": [{"name": "gcs-storage", "emptyDir": {}}]}, "at /data/gcs is KubeRay's own"),
        (
            {f"{HEAD_POD}.containers.0.volumeMounts": [{"name": "scratch", "mountPath": "/data/gcs"}]},
            "at /data/gcs is KubeRay's own",
        ),
    ],
)
def test_a_head_that_remembers_on_a_volume(good: dict[str, Manifest], options: Manifest, message: str) -> None:
    elsewhere = {path: value for path, value in options.items() if "." in path}
    own = {name: value for name, value in options.items() if name not in elsewhere}
    changes = {"spec.gcsFaultToleranceOptions": {"backend": "rocksdb", **own}, **elsewhere}
    cluster = changed(good[CLUSTER], changes)
    problems = check([cluster], ["GCSFaultToleranceEmbeddedStorage"])
    assert len(problems) == bool(message)
    assert all(message in each.why for each in problems)


def test_a_shared_cluster_in_a_queue_keeps_its_size(good: dict[str, Manifest]) -> None:
    (problem,) = check([changed(good[CLUSTER], {"metadata.labels.kueue.x-k8s.io/queue-name": "team"})])
    assert "one in a queue keeps its size" in problem.why


def test_a_cron_job_needs_its_gate_and_follows_the_rules_of_jobs(good: dict[str, Manifest]) -> None:
    cron = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCronJob",
        "metadata": {"name": "a" * 37},
        "spec": {"schedule": "TZ=UTC 0 0 * * *", "timeZone": "", "jobTemplate": {"ttlSecondsAfterFinished": -1}},
    }
    fields = [each.field for each in check([cron])]
    assert fields == [
        "metadata.name",
        "kind",
        "spec.schedule",
        "spec.timeZone",
        "spec.jobTemplate.ttlSecondsAfterFinished",
        "spec.jobTemplate",
    ]


@pytest.mark.parametrize(
    ("schedule", "zone", "fields"),
    [
        ("0 4 * * 1", "Europe/Berlin", []),
        ("@daily", None, []),
        ("0 4 * *", None, ["spec.schedule"]),
        ("0 4 * * 1", "Europe/Berln", ["spec.timeZone"]),
    ],
)
def test_when_a_cron_job_runs(good: dict[str, Manifest], schedule: str, zone: str | None, fields: list[str]) -> None:
    spec = {"schedule": schedule, "jobTemplate": good[JOB]["spec"]} | ({"timeZone": zone} if zone else {})
    cron = {"apiVersion": "ray.io/v1", "kind": "RayCronJob", "metadata": {"name": "nightly"}, "spec": spec}
    assert [each.field for each in check([cron], ["RayCronJob"])] == fields


NETWORK, HISTORY = "spec.networkPolicy", "spec.historyServerOptions"
COLLECTS = {"image": "x", "env": [{"name": "STORAGE_BACKEND", "value": "S3"}, {"name": "S3_REGION", "value": "eu"}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({NETWORK: {}}, ""),
        ({NETWORK: {"mode": "DenyAllIngress", "head": {"ingressRules": [{}]}}}, ""),
        ({NETWORK: {"mode": "DenyAllEgress", "head": {"ingressRules": [{}]}}}, "restricts no ingress"),
        ({NETWORK: {"mode": "DenyAllIngress", "worker": {"egressRules": [{}]}}}, "restricts no egress"),
        (
            {NETWORK: {"mode": "DenyAllIngress", "workerGroups": [{"groupName": "cpu", "egressRules": [{}]}]}},
            "restricts no egress",
        ),
        ({NETWORK: {"workerGroups": [{"groupName": "gpu"}]}}, "there is no group gpu"),
        ({NETWORK: {}, "spec.workerGroupSpecs.0.groupName": "Cpu"}, "becomes part of a policy's"),
        ({HISTORY: {}}, "is needed"),
        ({HISTORY: {"collectorOptions": COLLECTS}}, ""),
        ({HISTORY: {"collectorOptions": {**COLLECTS, "image": ""}}}, "is needed"),
        ({HISTORY: {"collectorOptions": {"image": "x"}}}, "STORAGE_BACKEND is needed"),
        ({HISTORY: {"collectorOptions": {"image": "x", "env": COLLECTS["env"][:1]}}}, "S3_REGION is needed"),  # type: ignore[index]
        (
            {HISTORY: {"collectorOptions": {"image": "x", "env": [*COLLECTS["env"], {"name": "POD_IP"}]}}},  # type: ignore[misc]
            "POD_IP is KubeRay's own",
        ),
        (
            {
                HISTORY: {"collectorOptions": COLLECTS},
                "spec.workerGroupSpecs.0.template.spec.containers.0.name": "ray-history-collector",
            },
            "that name is KubeRay's",
        ),
    ],
)
def test_fields_whose_gate_is_on_have_rules_of_their_own(
    good: dict[str, Manifest], changes: dict[str, Any], message: str
) -> None:
    gates = ["RayClusterNetworkPolicy", "RayClusterHistoryServer"]
    problems = check([changed(good[CLUSTER], changes)], gates)
    assert len(problems) == bool(message)
    assert all(message in each.why for each in problems)


def test_every_problem_is_said_at_once(good: dict[str, Manifest]) -> None:
    bad = changed(good[JOB], {"metadata.name": "Job", "spec.backoffLimit": -1})
    with pytest.raises(UserError) as raised:
        require_valid([bad], (), "profile gpu")
    assert "RayJob Job: metadata.name" in str(raised.value)
    assert "RayJob Job: spec.backoffLimit" in str(raised.value)
    assert "nothing was applied" in str(raised.value)


def test_a_profile_that_cannot_work_is_refused_before_anything_is_applied() -> None:
    profile = load_profile("gpu", ["tls=true"])
    from k8s.render import platform

    assert check(platform(profile), profile.feature_gates) == []  # this profile has no shared cluster
    submission = Submission("x", "name: x\n", profile.store, ("raymill", "run"))
    (problem,) = check(job_manifests(profile, submission), profile.feature_gates)
    assert "RayClusterMTLS" in problem.why
