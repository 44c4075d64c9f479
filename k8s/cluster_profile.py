"""A profile: where on Kubernetes the work goes, and with what. Shipped are ``dev`` and ``gpu``; a team writes its own.

It names secrets and never holds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from cluster.config import StrictModel, apply_overrides, load_document, validate
from cluster.errors import UserError

PROFILES = Path(__file__).parent / "profiles"
LABEL = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"
STORE_MOUNT = "/store"
"""Where a volume with the store is seen in every pod."""

DnsLabel = Annotated[str, StringConstraints(pattern=LABEL)]


class Toleration(StrictModel):
    """A taint of nodes that a group may run on in spite of it."""

    key: str = Field(description="the taint's key")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="whether the taint's value matters")
    value: str | None = Field(None, description="the taint's value, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="by default all")


class PodSize(StrictModel):
    """What one pod gets. Requests equal limits for memory and GPUs; a CPU that nobody needs may be borrowed."""

    cpus: float = Field(2, gt=0, description="CPU cores requested; Ray schedules by whole ones")
    memory_gib: float = Field(8, gt=0, description="memory, GiB; shared memory counts in it")
    shared_memory_gib: float = Field(
        2, ge=0.125, description="/dev/shm for Ray's object store, GiB, part of the memory"
    )
    scratch_gib: float = Field(20, gt=0, description="local disk for logs, spilled objects and caches, GiB")
    node_selector: dict[str, str] = Field(default={}, description="labels that a node must have")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="taints that do not keep it away")

    @model_validator(mode="after")
    def _shared_memory_fits(self) -> PodSize:
        if self.shared_memory_gib >= self.memory_gib:
            raise ValueError("shared_memory_gib must be less than memory_gib, which it is part of")
        return self


class WorkerGroup(PodSize):
    """Workers of one kind, from a minimum to a maximum of pods."""

    name: str = Field(pattern=r"^[a-z]([-a-z0-9]{0,18}[a-z0-9])?$", description="lower-case name, 20 letters at most")
    minimum: int = Field(0, ge=0, description="pods that are always there")
    maximum: int = Field(4, ge=1, description="pods at most")
    replicas: int | None = Field(
        None,
        ge=0,
        description="pods of a cluster that keeps its size (in a queue, or without `autoscale`); by default the"
        " minimum, and at least 1",
    )
    idle_seconds: int = Field(300, ge=1, description="an idle pod beyond the minimum is given up after it")
    gpus: int = Field(0, ge=0, description="GPUs of each pod")
    gpu_resource: str = Field("nvidia.com/gpu", description="the name that the device plugin gives its GPUs")
    runtime_class: str | None = Field(None, description="RuntimeClass of the pods, where GPUs need one")
    spread: Literal["nodes", "zones", "none"] = Field(
        "nodes", description="over what the pods are spread, as far as there is room"
    )

    @model_validator(mode="after")
    def _bounds(self) -> WorkerGroup:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is greater than maximum {self.maximum}")
        if self.replicas is not None and not self.minimum <= self.replicas <= self.maximum:
            raise ValueError(f"replicas {self.replicas} must lie between minimum and maximum")
        return self

    @property
    def fixed(self) -> int:
        """Pods where nothing scales."""
        return max(self.minimum, 1) if self.replicas is None else self.replicas


class S3Place(StrictModel):
    """How pods reach the bucket that the store names."""

    endpoint_url: str | None = Field(None, description="another server than AWS, for example http://minio.minio:9000")
    region: str = Field("us-east-1", description="region of the bucket")
    secret: DnsLabel | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; none with a workload identity"
    )
    identity: dict[str, str] = Field(
        default={},
        description="annotations of the service accounts that stand for a cloud role: eks.amazonaws.com/role-arn, …",
    )

    @model_validator(mode="after")
    def _one_way(self) -> S3Place:
        if (self.secret is None) == (not self.identity):
            raise ValueError("name either `secret` or `identity`: how pods prove who they are to the bucket")
        return self


class Claim(StrictModel):
    """A volume that all nodes see (ReadWriteMany), with the store in it."""

    name: DnsLabel = Field("raymill-store", description="the PersistentVolumeClaim")
    size_gib: int | None = Field(None, ge=1, description="made with this size, GiB; by default it exists already")
    storage_class: str | None = Field(None, description="StorageClass of a claim that is made")


class Queue(StrictModel):
    """Kueue: jobs wait until their quota is free."""

    name: DnsLabel = Field(description="the LocalQueue in the namespace")
    cluster_queue: DnsLabel | None = Field(None, description="ClusterQueue of a LocalQueue that is rendered, too")
    priority: DnsLabel | None = Field(None, description="WorkloadPriorityClass of the jobs")


class FaultTolerance(StrictModel):
    """Redis keeps what a head node knows, so that a new head goes on where the old one died."""

    redis: Literal["none", "own", "address"] = Field("none", description="none, one in the namespace, or a given one")
    address: str | None = Field(None, description="host:port of a given Redis")
    cidrs: tuple[str, ...] = Field(default=(), description="where a given Redis is, for the network policy")
    secret: DnsLabel = Field("raymill-redis", description="Secret with the key `password`")
    image: str = Field("docker.io/library/redis:7.4.2-alpine3.21", description="image of an own Redis")
    storage_gib: int = Field(8, ge=1, description="volume of an own Redis, GiB")

    @model_validator(mode="after")
    def _address_given(self) -> FaultTolerance:
        if (self.redis == "address") != (self.address is not None):
            raise ValueError("`address` belongs to `redis: address`, and only to it")
        if self.address is not None and not re.match(r"^[A-Za-z0-9.-]+:\d{1,5}$", self.address):
            raise ValueError("the address reads host:port")
        return self


class Network(StrictModel):
    """Who may talk to whom; everything else is denied."""

    policies: bool = Field(True, description="render NetworkPolicies; off only where another tool does")
    operator_namespace: DnsLabel = Field("kuberay-system", description="where KubeRay's operator runs")
    prometheus_namespace: DnsLabel = Field("monitoring", description="where Prometheus runs")
    caller_namespaces: tuple[DnsLabel, ...] = Field(
        default=("ingress-nginx",), description="namespaces whose pods may call served models"
    )
    dns_namespace: DnsLabel = Field("kube-system", description="where the cluster's DNS runs")
    dns_cidrs: tuple[str, ...] = Field(default=("169.254.20.10/32",), description="caches of DNS on the nodes")
    api_server_cidrs: tuple[str, ...] = Field(
        default=("0.0.0.0/0",), description="where the API server is; narrow it: the autoscaler calls it"
    )
    api_server_ports: tuple[int, ...] = Field(default=(443, 6443), description="ports of the API server")
    store_cidrs: tuple[str, ...] = Field(default=("0.0.0.0/0",), description="where the store's server is; narrow it")
    store_ports: tuple[int, ...] = Field(default=(443,), description="ports of the store's server")

    @field_validator("dns_cidrs", "api_server_cidrs", "store_cidrs")
    @classmethod
    def _are_networks(cls, cidrs: tuple[str, ...]) -> tuple[str, ...]:
        from ipaddress import ip_network

        for each in cidrs:
            ip_network(each)
        return cidrs


class Monitoring(StrictModel):
    """What Prometheus and Grafana pick up."""

    enabled: bool = Field(True, description="render PodMonitor, PrometheusRule and dashboards; needs their CRDs")
    labels: dict[str, str] = Field(
        default={"release": "prometheus"}, description="labels by which the Prometheus operator chooses"
    )
    first_token_seconds: float = Field(2.0, gt=0, description="95 of 100 streams begin within it, or an alert fires")
    errors_share: float = Field(0.01, gt=0, lt=1, description="share of failed requests above which an alert fires")


class Jobs(StrictModel):
    """How a submitted recipe runs."""

    cluster: Literal["own", "shared"] = Field(
        "own", description="own: a cluster for each job, gone afterwards; shared: the profile's RayCluster"
    )
    retries: int = Field(2, ge=0, description="a job that failed is tried again on a new cluster so often")
    start_seconds: int = Field(3600, ge=1, description="a job that does not run after so long has failed")
    deadline_seconds: int | None = Field(None, ge=1, description="a job may take so long; by default for ever")
    keep_seconds: int = Field(600, ge=0, description="a finished job's cluster stays so long, for a look at it")


class Serving(StrictModel):
    """How a served recipe is placed."""

    deletion_delay_seconds: int = Field(
        120, ge=0, description="an old cluster stays so long after an upgrade, for answers in flight"
    )
    port: int = Field(8000, ge=1, le=65535, description="the gateways' port on every pod")


class Profile(StrictModel):
    """Everything about one place on Kubernetes; see k8s/README.md."""

    context: str | None = Field(None, description="kubectl's context; by default the current one")
    namespace: DnsLabel = Field("raymill", description="namespace of everything")
    cluster: DnsLabel = Field("raymill", description="name of the shared RayCluster, and of what goes with it")
    image: str = Field("raymill:0.1.0", min_length=1, description="image of head, workers and jobs")
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="when it is pulled")
    pull_secrets: tuple[DnsLabel, ...] = Field(default=(), description="Secrets for the image's registry")
    ray_version: str = Field("2.60.0", pattern=r"^\d+\.\d+\.\d+$", description="Ray in the image")
    autoscale: bool = Field(True, description="pods follow the work between each group's minimum and maximum")
    head: PodSize = Field(default=PodSize(), description="the pod that coordinates and runs no tasks")
    workers: tuple[WorkerGroup, ...] = Field(
        default=(WorkerGroup(name="cpu"),), min_length=1, description="the pods that work"
    )
    store: str = Field("s3://raymill/store", description="s3://bucket/prefix, or a folder below /store with a claim")
    s3: S3Place | None = Field(None, description="how pods reach the bucket")
    claim: Claim | None = Field(None, description="a volume in place of a bucket")
    token_secret: DnsLabel = Field("raymill-ray-token", description="Secret with Ray's token under `auth_token`")
    environment_secrets: tuple[DnsLabel, ...] = Field(
        default=(), description="Secrets whose keys become environment variables of head and workers, such as HF_TOKEN"
    )
    queue: Queue | None = Field(None, description="Kueue's queue for jobs; by default none")
    fault_tolerance: FaultTolerance = Field(default=FaultTolerance(), description="of the head")
    tls: bool = Field(False, description="mutual TLS between Ray's processes, by KubeRay and cert-manager")
    feature_gates: tuple[str, ...] = Field(
        default=(), description="gates of KubeRay that are switched on beyond its defaults, such as RayClusterMTLS"
    )
    submitters: tuple[str, ...] = Field(
        default=(), description="groups of people and machines that may submit into the namespace"
    )
    network: Network = Field(default=Network(), description="who may talk to whom")
    monitoring: Monitoring = Field(default=Monitoring(), description="metrics, alerts, dashboards")
    jobs: Jobs = Field(default=Jobs(), description="how a submitted recipe runs")
    serving: Serving = Field(default=Serving(), description="how a served recipe is placed")

    @model_validator(mode="after")
    def _fits(self) -> Profile:
        names = [group.name for group in self.workers]
        if len(set(names)) < len(names):
            raise ValueError("worker groups have different names")
        if self.store.startswith("s3://"):
            if self.s3 is None or self.claim is not None:
                raise ValueError("a store in a bucket needs the section `s3`, and no `claim`")
        elif self.claim is None or self.s3 is not None:
            raise ValueError("a store that is a folder needs the section `claim`, and no `s3`")
        elif self.store != STORE_MOUNT and not self.store.startswith(f"{STORE_MOUNT}/"):
            raise ValueError(f"the claim is mounted at {STORE_MOUNT}: name a folder there")
        return self


def load_profile(name: str, overrides: Iterable[str] = ()) -> Profile:
    """A shipped profile by its name, or a team's by its file.

    Raises:
        UserError: there is none, or it holds a mistake; the message names the line.
    """
    path = Path(name)
    if os.sep not in name and path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{name}.yaml"
        if not path.is_file():
            raise UserError(
                f"no profile of that name is shipped: {name}",
                next_step=f"shipped are {', '.join(shipped())}; a profile of your own is named by its .yaml file",
            )
    return validate(Profile, apply_overrides(load_document(path), overrides))


def shipped() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))
