"""RayJob: one submission, with a cluster of its own or on the profile's shared one."""

from __future__ import annotations

import base64
from typing import Any

import yaml

from cluster.errors import UserError
from cluster.jobs import RECIPE_FILE as PACKED_RECIPE
from cluster.jobs import Submission, attempt_id
from cluster.jobs_api import variables_of
from k8s.cluster_profile import Profile
from k8s.names import RECIPE_FILE, RECIPE_FOLDER, SUBMITTER, Manifest, labels, metadata
from k8s.pods import submitter_pod
from k8s.raycluster import cluster_spec

QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"
PACKAGE_FILE = "package.zip"
MAX_PACKAGE_BYTES = 900 << 10
"""A ConfigMap holds a mebibyte."""


def job_manifests(profile: Profile, submission: Submission, attempt: int = 1) -> list[Manifest]:
    """The ConfigMap with the recipe, or with the package that holds it, and the RayJob.

    The submitter sends what is mounted along as the job's working directory, which is the same on a cluster of its
    own and on a shared one.

    Raises:
        UserError: the package is too large to travel so.
    """
    name = attempt_id(submission.id, attempt)
    held: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(f"{name}-recipe", profile.namespace, labels=labels(SUBMITTER, name)),
        "immutable": True,
        "data": {RECIPE_FILE: submission.recipe},
    }
    if submission.package is not None:
        size = len(submission.package.data)
        if size > MAX_PACKAGE_BYTES:
            raise UserError(
                f"the package has {size >> 10} KiB; on Kubernetes {MAX_PACKAGE_BYTES >> 10} KiB may travel with a job",
                where=submission.id,
                next_step="build the code into the profile's image, or name what is not needed in .raymillignore",
            )
        held |= {"data": {}, "binaryData": {PACKAGE_FILE: base64.b64encode(submission.package.data).decode("ascii")}}
    return [held, _job(profile, submission, name, held["metadata"]["name"])]


def _job(profile: Profile, submission: Submission, name: str, held: str) -> Manifest:
    own = profile.jobs.cluster == "own"
    queue = profile.queue if own else None
    marks = {QUEUE_LABEL: queue.name} if queue else {}
    if queue and queue.priority:
        marks[PRIORITY_LABEL] = queue.priority
    spec: Manifest = {
        "jobId": name,
        "entrypoint": submission.entrypoint_text(PACKED_RECIPE if submission.package else RECIPE_FILE),
        "runtimeEnvYAML": _runtime_environment(submission),
        "metadata": submission.metadata(),
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": submitter_pod(profile, name, held),
        "submitterConfig": {"backoffLimit": 3},
        "preRunningDeadlineSeconds": profile.jobs.start_seconds,
        **_driver(submission),
    }
    if profile.jobs.deadline_seconds:
        spec["activeDeadlineSeconds"] = profile.jobs.deadline_seconds
    if own:
        spec |= {
            "rayClusterSpec": cluster_spec(profile, name, queued=queue is not None),
            "backoffLimit": profile.jobs.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": profile.jobs.keep_seconds,
        }
        if queue:
            spec["suspend"] = True  # Kueue lets it go when its quota is free
    else:
        spec["clusterSelector"] = {"ray.io/cluster": profile.cluster}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(name, profile.namespace, labels=marks),
        "spec": spec,
    }


def _runtime_environment(submission: Submission) -> str:
    """The job's runtime environment as YAML; the submitter replaces the folder or file by its content's address."""
    if submission.package is not None:
        found: dict[str, Any] = {"working_dir": f"{RECIPE_FOLDER}/{PACKAGE_FILE}"}
    else:
        found = {"working_dir": RECIPE_FOLDER, "excludes": ["..*"]}  # a mounted ConfigMap has folders of its own
    found["env_vars"] = variables_of(submission)
    return yaml.safe_dump(found, sort_keys=True)


def _driver(submission: Submission) -> Manifest:
    """What the job's own process reserves."""
    names = {"CPU": "entrypointNumCpus", "GPU": "entrypointNumGpus"}
    return {names[kind]: amount for kind, amount in submission.driver.items() if kind in names}
