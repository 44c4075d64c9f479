"""The sections of a profile (``k8s/cluster_profile.py``): sizes of pods, the store, the queue, the network, …"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel
from k8s.values import Address, Cidr, DnsLabel, Gib, GroupName, Image, Port, port_of


class Toleration(StrictModel):
    """A taint of nodes that a group may run on in spite of it."""

    key: str = Field(description="the taint's key")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="whether the taint's value matters")
    value: str | None = Field(None, description="the taint's value, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(None, description="by default all")

    @model_validator(mode="after")
    def _value_counts(self) -> Toleration:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("a `value` belongs to `operator: Equal`")
        return self


class PodSize(StrictModel):
    """What one pod gets. Requests equal limits for memory and GPUs; a CPU that nobody needs may be borrowed."""

    cpus: float = Field(2, ge=0.1, le=4096, description="CPU cores requested; Ray schedules by whole ones")
    memory_gib: Gib = Field(8, description="memory, GiB; shared memory counts in it")
    shared_memory_gib: Gib = Field(2, description="/dev/shm for Ray's object store, GiB, part of the memory")
    scratch_gib: Gib = Field(20, description="local disk for logs, spilled objects and caches, GiB")
    node_selector: dict[str, str] = Field(default={}, description="labels that a node must have")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="taints that do not keep it away")

    @model_validator(mode="after")
    def _shared_memory_fits(self) -> PodSize:
        if self.shared_memory_gib >= self.memory_gib:
            raise ValueError("shared_memory_gib must be less than memory_gib, which it is part of")
        return self


class WorkerGroup(PodSize):
    """Workers of one kind, from a minimum to a maximum of pods."""

    name: GroupName = Field(description="lower-case name, 20 letters at most")
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

    endpoint_url: Address | None = Field(
        None, description="another server than AWS, for example http://minio.minio:9000"
    )
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

    @property
    def port(self) -> int:
        """Of the bucket's server."""
        return port_of(self.endpoint_url) if self.endpoint_url else 443


class Claim(StrictModel):
    """A volume that all nodes see (ReadWriteMany), with the store in it."""

    name: DnsLabel = Field("raymill-store", description="the PersistentVolumeClaim")
    size_gib: int | None = Field(None, ge=1, description="made with this size, GiB; by default it exists already")
    storage_class: str | None = Field(None, description="StorageClass of a claim that is made")

    @model_validator(mode="after")
    def _is_made(self) -> Claim:
        if self.storage_class and not self.size_gib:
            raise ValueError("a `storage_class` belongs to a claim that is made: give its `size_gib`")
        return self


class Queue(StrictModel):
    """Kueue: jobs wait until their quota is free."""

    name: DnsLabel = Field(description="the LocalQueue in the namespace")
    cluster_queue: DnsLabel | None = Field(None, description="ClusterQueue of a LocalQueue that is rendered, too")
    priority: DnsLabel | None = Field(None, description="WorkloadPriorityClass of the jobs")


class FaultTolerance(StrictModel):
    """Redis keeps what a head node knows, so that a new head goes on where the old one died."""

    redis: Literal["none", "own", "address"] = Field("none", description="none, one in the namespace, or a given one")
    address: str | None = Field(None, description="host:port of a given Redis")
    cidrs: tuple[Cidr, ...] = Field(default=(), description="where a given Redis is, for the network policy")
    secret: DnsLabel = Field("raymill-redis", description="Secret with the key `password`")
    image: Image = Field("docker.io/library/redis:7.2.11-alpine", description="image of an own Redis")
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
    dns_cidrs: tuple[Cidr, ...] = Field(default=("169.254.20.10/32",), description="caches of DNS on the nodes")
    api_server_cidrs: tuple[Cidr, ...] = Field(
        default=("0.0.0.0/0",), description="where the API server is; narrow it: the autoscaler calls it"
    )
    api_server_ports: tuple[Port, ...] = Field(default=(443, 6443), description="ports of the API server")
    store_cidrs: tuple[Cidr, ...] = Field(default=("0.0.0.0/0",), description="where the store's server is; narrow it")
    store_namespaces: tuple[DnsLabel, ...] = Field(
        default=(), description="namespaces of this cluster where it runs; some plugins count no pod as an address"
    )
    store_ports: tuple[Port, ...] = Field(default=(443,), description="ports of the store's server")


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
    port: Port = Field(8000, description="the gateways' port on every pod")
