"""Who may do what, who goes first, what stays and what is spread: said outright, beside the golden files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from k8s.cluster_profile import Profile, load_profile
from k8s.rayjob import job_manifests
from k8s.rayservice import service_manifests
from k8s.render import platform

Manifest = dict[str, Any]
Render = Callable[[Profile], list[Manifest]]
Matrix = list[tuple[str, Profile]]


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def rights(role: Manifest) -> Iterator[tuple[str, str, str]]:
    """(group, resource, verb)."""
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield from ((group, resource, verb) for verb in rule["verbs"])


def test_nobody_gets_more_than_is_needed(sample: Matrix, render: Render) -> None:
    for name, profile in sample:
        manifests = render(profile)
        assert not {"ClusterRole", "ClusterRoleBinding"} & {each["kind"] for each in manifests}
        for role in of_kind(manifests, "Role").values():
            for group, resource, verb in rights(role):
                assert "*" not in (group, resource, verb), name
                assert resource not in ("secrets", "pods/exec", "pods/attach", "serviceaccounts/token", "roles"), name
                assert (resource, verb) not in (("pods", "create"), ("rayclusters", "create")), name


def test_the_head_may_what_its_autoscaler_does_and_a_worker_nothing(sample: Matrix, render: Render) -> None:
    wanted = {("", "pods", verb) for verb in ("get", "list", "watch", "patch")}
    wanted |= {("", "pods/resize", "patch"), ("ray.io", "rayclusters", "get"), ("ray.io", "rayclusters", "patch")}
    for _, profile in sample:
        manifests = render(profile)
        roles, bindings = of_kind(manifests, "Role"), of_kind(manifests, "RoleBinding")
        given = {
            (subject["kind"], subject["name"], each["roleRef"]["name"])
            for each in bindings.values()
            for subject in each["subjects"]
        }
        people = {("Group", group, "raymill-submitter") for group in profile.submitters}
        assert given - people == ({("ServiceAccount", "raymill-head", "raymill-head")} if profile.autoscale else set())
        assert people <= given
        if profile.autoscale:
            assert set(rights(roles["raymill-head"])) == wanted
        assert {name for name in roles if name != "raymill-submitter"} == (
            {"raymill-head"} if profile.autoscale else set()
        )


def test_who_submits_can_do_what_our_commands_do(submitted: Any) -> None:
    """`submit`, `jobs list|logs|why|stop` and `follow`, by what `k8s/look.py` and the command ask for."""
    may = set(rights(of_kind(platform(load_profile("gpu")), "Role")["raymill-submitter"]))
    applied = {each["kind"] for each in job_manifests(load_profile("gpu"), submitted)}
    assert applied == {"ConfigMap", "RayJob"}
    for group, resource in (("", "configmaps"), ("ray.io", "rayjobs")):
        assert {(group, resource, verb) for verb in ("get", "create", "patch", "delete")} <= may
    asked = {("", "pods"), ("", "events"), ("ray.io", "rayjobs"), ("kueue.x-k8s.io", "workloads")}
    assert {(group, resource, "list") for group, resource in asked} <= may
    assert {("", "pods/log", "get"), ("", "pods/log", "watch")} <= may
    assert ("visibility.kueue.x-k8s.io", "localqueues/pendingworkloads", "get") in may


def test_the_namespace_admits_restricted_pods_only(sample: Matrix, render: Render) -> None:
    for _, profile in sample:
        (space,) = of_kind(render(profile), "Namespace").values()
        assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_served_models_go_before_training(submitted: Any) -> None:
    profile = load_profile("gpu")
    classes = of_kind(platform(profile), "PriorityClass")
    serving, training = classes["raymill-serving"], classes["raymill-training"]
    assert serving["value"] > training["value"]
    assert (serving["preemptionPolicy"], training["preemptionPolicy"]) == ("PreemptLowerPriority", "Never")
    assert not any(each["globalDefault"] for each in classes.values())
    job = job_manifests(profile, submitted)[1]["spec"]["rayClusterSpec"]
    service = service_manifests(profile, "served", "name: x\n")[1]["spec"]["rayClusterConfig"]
    for cluster, wanted in ((job, "raymill-training"), (service, "raymill-serving")):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["template"]["spec"]["priorityClassName"] == wanted


def test_a_job_waits_in_its_queue(submitted: Any) -> None:
    manifests = platform(load_profile("gpu"))
    job = job_manifests(load_profile("gpu"), submitted)[1]
    labels = job["metadata"]["labels"]
    assert of_kind(manifests, "LocalQueue")[labels["kueue.x-k8s.io/queue-name"]]["spec"]["clusterQueue"] == "raymill"
    assert labels["kueue.x-k8s.io/priority-class"] in of_kind(manifests, "WorkloadPriorityClass")
    assert job["spec"]["suspend"] is True
    shared = job_manifests(load_profile("gpu", ["jobs.cluster=shared"]), submitted)[1]
    assert "kueue.x-k8s.io/queue-name" not in shared["metadata"]["labels"]


def matches(budget: Manifest, template: Manifest) -> bool:
    wanted: Manifest = budget["spec"]["selector"]["matchLabels"]
    return bool(wanted.items() <= template["metadata"]["labels"].items())


def test_a_drain_leaves_heads_and_all_but_one_of_the_served_models_workers() -> None:
    profile = load_profile("gpu", ["workers.0.minimum=3"])
    manifests = service_manifests(profile, "served", "name: x\n")
    budgets, cluster = of_kind(manifests, "PodDisruptionBudget"), manifests[1]["spec"]["rayClusterConfig"]
    head, worker = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]
    assert [matches(budgets["served-head"], each) for each in (head, worker)] == [True, False]
    assert [matches(budgets["served-workers"], each) for each in (head, worker)] == [False, True]
    assert [budgets[name]["spec"]["minAvailable"] for name in ("served-head", "served-workers")] == [1, 2]
    shared = platform(load_profile("dev"))
    (cluster,) = of_kind(shared, "RayCluster").values()
    (budget,) = of_kind(shared, "PodDisruptionBudget").values()
    assert matches(budget, cluster["spec"]["headGroupSpec"]["template"])


@pytest.mark.parametrize(
    ("spread", "key"), [("nodes", "kubernetes.io/hostname"), ("zones", "topology.kubernetes.io/zone")]
)
def test_a_groups_own_pods_are_spread(spread: str, key: str) -> None:
    profile = load_profile("gpu", [f"workers.0.spread={spread}"])
    cluster = service_manifests(profile, "served", "name: x\n")[1]["spec"]["rayClusterConfig"]
    group = cluster["workerGroupSpecs"][0]
    (rule,) = group["template"]["spec"]["topologySpreadConstraints"]
    assert (rule["topologyKey"], rule["maxSkew"], rule["whenUnsatisfiable"]) == (key, 1, "ScheduleAnyway")
    # KubeRay labels its pods with their group beside the template's own labels.
    labels = group["template"]["metadata"]["labels"] | {"ray.io/group": group["groupName"]}
    assert rule["labelSelector"]["matchLabels"].items() <= labels.items()
    alone = load_profile("gpu", ["workers.0.spread=none"])
    cluster = service_manifests(alone, "served", "name: x\n")[1]["spec"]["rayClusterConfig"]
    assert "topologySpreadConstraints" not in cluster["workerGroupSpecs"][0]["template"]["spec"]


def test_pods_prove_themselves_to_the_bucket_by_a_secret_or_by_their_account() -> None:
    by_secret = load_profile("gpu")
    by_role = load_profile("gpu", ["s3={identity: {eks.amazonaws.com/role-arn: 'arn:aws:iam::1:role/x'}}"])
    for profile in (by_secret, by_role):
        accounts = of_kind(platform(profile), "ServiceAccount")
        cluster = service_manifests(profile, "served", "name: x\n")[1]["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            variables = {each["name"]: each for each in pod["containers"][0]["env"]}
            identity = accounts[pod["serviceAccountName"]]["metadata"].get("annotations", {})
            if profile is by_secret:
                reference = variables["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
                assert reference == {"name": "raymill-s3", "key": "AWS_SECRET_ACCESS_KEY"}
                assert identity == {}
            else:
                assert "AWS_SECRET_ACCESS_KEY" not in variables
                assert identity == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}
