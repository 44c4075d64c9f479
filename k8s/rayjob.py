"""RayJob: one submission, with a cluster of its own or on the profile's shared one."""

from __future__ import annotations

import json
from collections.abc import Mapping

import yaml

from cluster.jobs import Submission, attempt_id
from k8s.names import RECIPE_FILE, RECIPE_FOLDER, SUBMITTER, Manifest, labels, metadata
from k8s.pods import submitter_pod
from k8s.profile import Profile
from k8s.raycluster import cluster_spec

QUEUE_LABEL, PRIORITY_LABEL = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"


def job_manifests(profile: Profile, submission: Submission, attempt: int = 1) -> list[Manifest]:
    """The ConfigMap with the recipe, and the RayJob.

    The submitter sends the mounted recipe along as the job's working directory, which is the same on a cluster of
    its own and on a shared one. Raymill itself is in the image.
    """
    name = attempt_id(submission.id, attempt)
    recipe: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(f"{name}-recipe", profile.namespace, labels=labels(SUBMITTER, name)),
        "immutable": True,
        "data": {RECIPE_FILE: submission.recipe},
    }
    return [recipe, _job(profile, submission, name, recipe["metadata"]["name"])]


def _job(profile: Profile, submission: Submission, name: str, recipe: str) -> Manifest:
    own = profile.jobs.cluster == "own"
    queue = profile.queue if own else None
    marks = {QUEUE_LABEL: queue.name} if queue else {}
    if queue and queue.priority:
        marks[PRIORITY_LABEL] = queue.priority
    spec: Manifest = {
        "jobId": name,
        "entrypoint": submission.entrypoint_text(RECIPE_FILE),
        "runtimeEnvYAML": runtime_environment(submission.environment),
        "metadata": submission.metadata(),
        "submissionMode": "K8sJobMode",
        "submitterPodTemplate": submitter_pod(profile, name, recipe),
        "submitterConfig": {"backoffLimit": 3},
        "preRunningDeadlineSeconds": profile.jobs.start_seconds,
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


def runtime_environment(variables: Mapping[str, str]) -> str:
    """The job's runtime environment as YAML; the submitter replaces the folder by its content's address."""
    found: Manifest = {"working_dir": RECIPE_FOLDER, "excludes": ["..*"]}
    if variables:
        found["env_vars"] = dict(variables)
    return yaml.safe_dump(json.loads(json.dumps(found)), sort_keys=True)
