"""A profile: where on Kubernetes the work goes, and with what. Shipped are ``dev`` and ``gpu``; a team writes its own.

It names secrets and never holds one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from cluster.config import StrictModel, apply_overrides, key_path, load_document, validate
from cluster.errors import UserError
from cluster.secrecy import kind_of_secret, leaves
from k8s.sections import (
    Claim,
    FaultTolerance,
    Jobs,
    Monitoring,
    Network,
    PodSize,
    Queue,
    S3Place,
    Serving,
    WorkerGroup,
)
from k8s.values import DnsLabel, Image

PROFILES = Path(__file__).parent / "profiles"
STORE_MOUNT = "/store"
"""Where a volume with the store is seen in every pod."""
ADVICE = "`raymill new NAME --profile` writes a commented profile with every key"


class Profile(StrictModel):
    """Everything about one place on Kubernetes; see k8s/README.md."""

    context: str | None = Field(None, description="kubectl's context; by default the current one")
    namespace: DnsLabel = Field("raymill", description="namespace of everything")
    cluster: DnsLabel = Field("raymill", description="name of the shared RayCluster, and of what goes with it")
    image: Image = Field("raymill:0.1.0-cpu", description="image of head, workers and jobs")
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

    @model_validator(mode="after")
    def _store_is_reached(self) -> Profile:
        network = self.network
        if self.s3 is None or not network.policies:
            return self
        if not network.store_cidrs and not network.store_namespaces:
            raise ValueError("nothing lets pods out to the bucket: name `network.store_cidrs` or `store_namespaces`")
        if self.s3.port not in network.store_ports:
            raise ValueError(
                f"the bucket's server is on port {self.s3.port}, which `network.store_ports` does not let pods out to"
            )
        return self

    def with_store(self, store: str) -> Profile:
        """The same place with another store; raises UserError where its pods could not reach it."""
        try:
            return Profile.model_validate(self.model_dump() | {"store": store})
        except ValidationError as error:
            raise UserError(
                str(error.errors()[0]["ctx"]["error"]),
                where=f"store {store}",
                next_step="leave --store out: the profile names the store that its pods reach",
            ) from None


def load_profile(name: str, overrides: Iterable[str] = (), option: str = "--set") -> Profile:
    """A shipped profile by its name, or a team's by its file.

    Args:
        overrides: ``key=value`` texts.
        option: what they were given with, for messages.

    Raises:
        UserError: there is none, or it holds a mistake; the message names the line.
    """
    path = Path(name)
    if os.sep not in name and path.suffix not in (".yaml", ".yml"):
        own, path = Path(f"{name}.yaml"), PROFILES / f"{name}.yaml"
        if not path.is_file():
            raise UserError(
                f"no profile of that name is shipped: {name}",
                next_step=f"a file is named with its ending: {own}"
                if own.is_file()
                else f"shipped are {', '.join(shipped())}; a profile of your own is named by its .yaml file",
            )
    document = apply_overrides(load_document(path), overrides, option)
    profile = validate(Profile, document, ADVICE)
    for key, text in leaves(document.data):
        if kind := kind_of_secret(text):
            raise UserError(
                f"{key}: looks like {kind}; a profile names Secrets and holds none",
                where=document.place(key_path(key)),
                next_step="put it into a Secret: docs/kubernetes.md",
            )
    return profile


def shipped() -> list[str]:
    """The names of the shipped profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))
