"""`raymill submit --kubernetes` and `raymill jobs … --kubernetes`, with a stand-in for kubectl (fake_kubectl.py)."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.errors import InfraError, UserError
from cluster.kubectl import Kubectl
from pipelines.cli import run_command

RECIPE = """
name: docs-assistant
corpus: {sources: [{kind: python-docs}]}
tokenizer: {vocab_size: 512}
"""
SUCCEEDED = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
FAILED = {
    "jobDeploymentStatus": "Failed",
    "jobStatus": "FAILED",
    "reason": "AppFailed",
    "message": "Job entrypoint command failed with exit code 3, last available logs (truncated to 20,000 chars):",
}


@pytest.fixture(autouse=True)
def _recipe(kubernetes: Any) -> None:
    Path("recipe.yaml").write_text(RECIPE)


def submit(*more: str) -> int:
    return run_command(["submit", "recipe.yaml", "--kubernetes", "dev", "--yes", *more])


def test_a_dry_run_prints_what_would_be_applied_and_asks_nobody(
    kubernetes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit("--dry-run", "--until", "tokenizer") == 0
    config, job = yaml.safe_load_all(capsys.readouterr().out)
    assert (config["kind"], job["kind"]) == ("ConfigMap", "RayJob")
    recipe = yaml.safe_load(config["data"]["recipe.yaml"])
    assert recipe["store"] == "/store"
    assert recipe["cluster"] == {"address": "auto"}
    assert job["spec"]["entrypoint"].endswith(f"recipe.yaml --id {job['metadata']['name']} --until tokenizer")
    assert kubernetes.calls() == []


def test_submitting_again_attaches(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit() == 0
    assert submit("--json") == 0
    told = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert told["new"] is False
    (job,) = kubernetes.objects("rayjobs")
    assert told["job"] == job["metadata"]["name"]
    applied = [call for call in kubernetes.calls() if "apply" in call]
    assert len(applied) == 1
    assert "--server-side" in applied[0]
    assert "--namespace=raymill-dev" in applied[0]


def test_attaching_to_a_job_with_other_variables_says_so(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--env", "A=1") == 0
    assert submit("--env", "A=1") == 0
    assert "other variables" not in capsys.readouterr().err
    assert submit("--env", "A=2") == 0
    assert "other variables than asked for now: A; to change them, stop it first" in capsys.readouterr().err
    assert len(kubernetes.objects("rayjobs")) == 1


class Person(io.StringIO):
    """Somebody at a terminal who types this."""

    def isatty(self) -> bool:
        return True


def test_a_person_is_shown_the_plan_and_asked_before_anything_is_applied(
    kubernetes: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["submit", "recipe.yaml", "--kubernetes", "dev", "--json"]
    for answer in ("n\n", "\n", "", "yess\n"):
        monkeypatch.setattr(sys, "stdin", Person(answer))
        assert run_command(words) == 2
        said = capsys.readouterr().err
        assert said.index("raymill-docs-assistant-") < said.index("submit it? [y/N]") < said.index("not submitted")
    assert not any("apply" in call for call in kubernetes.calls())
    monkeypatch.setattr(sys, "stdin", Person("y\n"))
    assert run_command(words) == 0
    assert len(kubernetes.objects("rayjobs")) == 1


def test_a_run_that_failed_is_tried_again_under_the_next_name(kubernetes: Any) -> None:
    assert submit() == 0
    (job,) = kubernetes.objects("rayjobs")
    job["status"] = FAILED
    kubernetes.put("rayjobs", job)
    assert submit() == 0
    first, second = sorted(each["metadata"]["name"] for each in kubernetes.objects("rayjobs"))
    assert second == f"{first}-2"
    entrypoints = {each["spec"]["entrypoint"] for each in kubernetes.objects("rayjobs")}
    assert len(entrypoints) == 1  # it is the same run


def test_a_job_that_is_being_deleted_is_not_attached_to(kubernetes: Any) -> None:
    """KubeRay holds a deleted job until it has told its cluster; what is submitted meanwhile is a new attempt."""
    assert submit() == 0
    (job,) = kubernetes.objects("rayjobs")
    job["metadata"]["deletionTimestamp"] = "2026-11-21T21:00:00Z"
    job["status"] = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    kubernetes.put("rayjobs", job)
    assert submit() == 0
    names = sorted(each["metadata"]["name"] for each in kubernetes.objects("rayjobs"))
    assert names == [job["metadata"]["name"], f"{job['metadata']['name']}-2"]
    from k8s.look import job_of

    assert (job_of(job).status, job_of(job).code) == ("STOPPED", 130)
    assert job_of(job | {"status": SUCCEEDED}).status == "SUCCEEDED"


LOST = {"jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "JobStatusCheckTimeoutExceeded"}


@pytest.mark.parametrize(
    ("profile", "status", "retries", "attempts", "code"),
    [
        ("dev", LOST, 2, 3, 3),
        ("dev", LOST, 0, 1, 3),
        ("dev", LOST | {"reason": "PreRunningDeadlineExceeded"}, 2, 1, 3),
        ("dev", FAILED | {"message": "Job entrypoint command failed with exit code 1, last"}, 2, 1, 1),
        ("gpu", LOST, 2, 1, 3),  # KubeRay has tried a cluster of its own again
    ],
)
def test_on_a_shared_cluster_the_infrastructures_failure_is_followed_by_another_attempt(
    kubernetes: Any, profile: str, status: dict[str, str], retries: int, attempts: int, code: int
) -> None:
    (kubernetes.root / "becomes.json").write_text(json.dumps(status))
    words = ["submit", "recipe.yaml", "--kubernetes", profile, "--yes", "--follow", f"--retries={retries}"]
    assert run_command(words) == code
    assert len(kubernetes.objects("rayjobs")) == attempts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--until", "tokenzer"], "no stage 'tokenzer' in this recipe; did you mean tokenizer?"),
        (["--only", "evals"], "no stage 'evals'"),
        (["--force", "corpora"], "no stage 'corpora'"),
        (["--store", "s3://bucket/prefix"], "a store in a bucket needs the section `s3`"),
        (["--set", "store=/tmp/x"], "the claim is mounted at /store"),
    ],
)
def test_what_would_fail_on_the_cluster_is_refused_before(
    kubernetes: Any, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert submit(*words) == 2
    assert message in capsys.readouterr().err
    assert kubernetes.calls() == []
    assert submit("--store", "/store/mine", "--dry-run") == 0


def test_a_shared_cluster_that_is_not_there_is_told_at_once(
    kubernetes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """KubeRay would leave the job without a word for as long as it may wait to start."""
    assert submit() == 0
    (kubernetes.root / "rayclusters" / "raymill.json").unlink()
    capsys.readouterr()
    assert run_command(["jobs", "why", "docs-assistant", "--kubernetes", "dev"]) == 0
    assert "RayCluster raymill, which it is for, is not there" in capsys.readouterr().out
    assert submit("--until", "corpus") == 2
    assert "have `raymill manifests dev` applied" in capsys.readouterr().err
    assert len(kubernetes.objects("rayjobs")) == 1


def test_files_that_stay_behind_are_told(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (Path("code") / "words").mkdir(parents=True)
    (Path("code") / "words" / "a.txt").write_text("some words\n")
    text = RECIPE.replace("{kind: python-docs}", "{kind: text, path: words, licence: MIT}")
    Path("code", "recipe.yaml").write_text(text)
    os.chdir("code")
    words = ["submit", "recipe.yaml", "--kubernetes", "dev", "--yes"]
    assert run_command(words) == 0
    assert "note: corpus.sources.0.path: words is on this machine" in capsys.readouterr().err
    assert run_command([*words, "--dry-run"]) == 0
    assert "note: corpus.sources.0.path: words is on this machine" in capsys.readouterr().err
    assert run_command([*words, "--working-dir", "."]) == 0
    assert "is on this machine" not in capsys.readouterr().err


def test_a_queue_that_a_job_does_not_wait_in_is_told(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--profile-set", "queue={name: team}") == 0
    assert "note: it does not wait in queue team" in capsys.readouterr().err


def test_following_survives_a_lost_connection_and_returns_the_jobs_code(
    kubernetes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit() == 0
    (job,) = kubernetes.objects("rayjobs")
    name = job["metadata"]["name"]
    lines = [f"2026-11-21T21:00:0{index}.000000000Z [corpus] line {index}" for index in range(6)]
    (kubernetes.root / "log.txt").write_text("\n".join(lines) + "\n")
    running = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
    kubernetes.becomes(name, {}, running, running, FAILED)
    capsys.readouterr()
    assert submit("--follow", "--retries=0") == 3
    said = capsys.readouterr().err
    assert [said.count(f"line {index}\n") for index in range(6)] == [1] * 6
    assert said.index("PENDING") < said.index("RUNNING") < said.index("FAILED")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (SUCCEEDED, 0),
        (FAILED, 3),
        (FAILED | {"message": "Job entrypoint command failed with exit code 1, last"}, 1),
        (FAILED | {"message": "the driver died"}, 1),
        (FAILED | {"reason": "DeadlineExceeded", "message": "over activeDeadlineSeconds"}, 1),
        (FAILED | {"reason": "SubmissionFailed", "message": "submitter job has reached backoff limit"}, 3),
        (FAILED | {"reason": "PreRunningDeadlineExceeded", "message": "not running"}, 3),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 130),
    ],
)
def test_the_exit_code_is_the_runs_or_says_whose_fault_it_was(status: dict[str, str], code: int) -> None:
    from k8s.look import job_of

    assert job_of({"metadata": {"name": "x"}, "status": status}).code == code


def test_a_job_without_a_log_yet_says_where_to_ask(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit() == 0
    assert run_command(["jobs", "logs", "docs-assistant", "--kubernetes", "dev"]) == 0
    said = capsys.readouterr().err
    assert "raymill jobs why raymill-docs-assistant-" in said
    assert "--kubernetes dev`" in said


def test_following_waits_while_the_api_server_is_away(kubernetes: Any) -> None:
    assert submit() == 0
    (job,) = kubernetes.objects("rayjobs")
    kubernetes.becomes(job["metadata"]["name"], SUCCEEDED)
    (kubernetes.root / "refuse.txt").write_text("Unable to connect to the server: dial tcp: i/o timeout (once)\n")
    assert run_command(["jobs", "list", "--kubernetes", "dev"]) == 3
    from k8s import look
    from k8s.cluster_profile import load_profile
    from pipelines.commands.kubernetes import follow

    (kubernetes.root / "refuse.txt").write_text("Unable to connect to the server: dial tcp: i/o timeout (once)\n")
    kubectl = look.kubectl_of(load_profile("dev"))
    assert follow(kubectl, look.job_of(job)).status == "SUCCEEDED"


def test_list_logs_and_stop(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit() == 0
    (kubernetes.root / "log.txt").write_text("a line\n")
    capsys.readouterr()
    assert run_command(["jobs", "list", "--kubernetes", "dev", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["status"], row["recipe"], row["store"]) == ("PENDING", "docs-assistant", "/store")
    assert run_command(["jobs", "logs", "docs-assistant", "--kubernetes", "dev"]) == 0
    assert capsys.readouterr().out == "a line\n"
    assert run_command(["jobs", "stop", row["job"], "--kubernetes", "dev"]) == 0
    assert kubernetes.objects("rayjobs") == []
    assert kubernetes.objects("configmaps") == []
    assert run_command(["jobs", "stop", row["job"], "--kubernetes", "dev"]) == 2


@pytest.mark.parametrize("other", ["--address=http://127.0.0.1:9", "--store=s3://bucket/prefix"])
def test_one_place_is_asked_at_a_time(kubernetes: Any, capsys: pytest.CaptureFixture[str], other: str) -> None:
    for words in (["list"], ["logs", "x"], ["why", "x"]):
        assert run_command(["jobs", *words, "--kubernetes", "dev", other]) == 2
        assert "is another place than a profile" in capsys.readouterr().err
    assert kubernetes.calls() == []


def test_code_may_travel_as_a_package(kubernetes: Any, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "own.py").write_text("VALUE = 1\n")
    assert submit("--working-dir", str(code)) == 0
    (config,), (job,) = kubernetes.objects("configmaps"), kubernetes.objects("rayjobs")
    assert job["spec"]["entrypoint"].startswith("python -m pipelines.job .raymill/recipe.yaml --id ")
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["working_dir"] == "/etc/raymill/package.zip"
    import base64
    import zipfile

    data = base64.b64decode(config["binaryData"]["package.zip"])
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == [".raymill/recipe.yaml", "own.py"]
    (code / "large.bin").write_bytes(os.urandom(1 << 20))
    assert submit("--working-dir", str(code)) == 2


def test_a_secret_is_refused(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit("--env", "HF_TOKEN=hunter2hunter2") == 2
    said = capsys.readouterr().err
    assert "hunter2" not in said
    assert "Kubernetes Secret" in said
    assert kubernetes.calls() == []


def test_without_kubectl_the_way_out_is_named(kubernetes: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert submit() == 2
    said = capsys.readouterr().err
    assert "the command kubectl is not there" in said
    assert "--dry-run" in said


@pytest.mark.parametrize(
    ("says", "error", "advice"),
    [
        ("Unable to connect to the server: dial tcp 10.0.0.1:443: i/o timeout", InfraError, "check the network"),
        ("The connection to the server 10.0.0.1:443 was refused - did you?", InfraError, "check the network"),
        ("Error from server (ServiceUnavailable): the server is currently unable to handle", InfraError, "then repeat"),
        ("Error from server (TooManyRequests): please try again later", InfraError, "then repeat"),
        ("Error from server: etcdserver: leader changed", InfraError, "then repeat"),
        ('Get "https://10.0.0.1/api": http2: client connection lost', InfraError, "then repeat"),
        ("read tcp 10.0.0.2:5->10.0.0.1:443: read: connection reset by peer", InfraError, "then repeat"),
        ("Unable to connect to the server: context deadline exceeded", InfraError, "then repeat"),
        ('Error from server (Forbidden): rayjobs.ray.io is forbidden: User "x" cannot', UserError, "raymill-submitter"),
        ('error: resource mapping not found: no matches for kind "RayJob"', UserError, "install KubeRay"),
        ('Error from server (NotFound): namespaces "raymill" not found', UserError, "raymill manifests"),
        ('E1121 21:11:37.1 memcache.go:265] noise\nerror: context "x" does not exist', UserError, "profile's context"),
    ],
)
def test_what_kubectl_says_is_told_with_a_next_step(
    kubernetes: Any, says: str, error: type[Exception], advice: str
) -> None:
    (kubernetes.root / "refuse.txt").write_text(says + "\n")
    with pytest.raises(error) as raised:
        Kubectl("raymill", context="x").apply("kind: Namespace")
    assert advice in str(raised.value)
    assert "memcache" not in str(raised.value)
    assert "--context=x" in kubernetes.calls()[0]


def test_the_package_that_ray_makes_of_a_mounted_recipe_holds_the_recipe_alone(tmp_path: Path) -> None:
    """A ConfigMap is mounted as links into hidden folders; Ray's own packing is asked what it would send."""
    from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

    from cluster.jobs import Submission
    from k8s.cluster_profile import load_profile
    from k8s.rayjob import job_manifests

    mounted = tmp_path / "mounted"
    (mounted / "..2026_11_21").mkdir(parents=True)
    (mounted / "..2026_11_21" / "recipe.yaml").write_text("name: x\n")
    (mounted / "..data").symlink_to("..2026_11_21")
    (mounted / "recipe.yaml").symlink_to("..data/recipe.yaml")
    job = job_manifests(load_profile("dev"), Submission("x", "name: x\n", "/store", ("raymill",)))[1]
    excludes = yaml.safe_load(job["spec"]["runtimeEnvYAML"])["excludes"]
    import zipfile

    create_package(str(mounted), tmp_path / "sent.zip", include_gitignore=False, excludes=excludes)
    with zipfile.ZipFile(tmp_path / "sent.zip") as archive:
        assert archive.namelist() == ["recipe.yaml"]
        assert archive.read("recipe.yaml") == b"name: x\n"
    assert get_uri_for_directory(str(mounted), include_gitignore=False, excludes=excludes).startswith("gcs://")


def test_why_asks_after_queue_pods_and_events(kubernetes: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything that is asked for is found by the labels that Kueue, KubeRay and Kubernetes give."""
    assert run_command(["submit", "recipe.yaml", "--kubernetes", "gpu", "--yes"]) == 0
    (job,) = kubernetes.objects("rayjobs")
    name = job["metadata"]["name"]
    job["metadata"]["uid"] = "u-1"
    kubernetes.put("rayjobs", job)
    waits = {"type": "QuotaReserved", "status": "False", "message": "couldn't assign flavors: 8 more needed"}
    labels = {"kueue.x-k8s.io/job-uid": "u-1"}
    kubernetes.put("workloads", {"metadata": {"name": "w", "labels": labels}, "status": {"conditions": [waits]}})
    path = "apis_visibility.kueue.x-k8s.io_v1beta1_namespaces_raymill_localqueues_raymill_pendingworkloads"
    (kubernetes.root / "raw").mkdir()
    items = [{"metadata": {"name": each}, "positionInLocalQueue": at} for at, each in enumerate(("other", "w"))]
    (kubernetes.root / "raw" / path).write_text(json.dumps({"items": items}))
    capsys.readouterr()
    assert run_command(["jobs", "why", name, "--kubernetes", "gpu"]) == 0
    said = capsys.readouterr().out
    assert f"{name}: QUEUED" in said
    assert "it waits in queue raymill, 1 before it: couldn't assign flavors: 8 more needed" in said

    (kubernetes.root / "raw" / path).rename((kubernetes.root / "raw" / path).with_suffix(".away"))
    assert run_command(["jobs", "why", name, "--kubernetes", "gpu"]) == 0
    assert "it waits in queue raymill: couldn't assign flavors" in capsys.readouterr().out

    job["spec"]["suspend"] = False
    job["status"] = {"jobDeploymentStatus": "Initializing", "rayClusterName": "c-1"}
    kubernetes.put("rayjobs", job)
    head = {"name": "c-1-head", "labels": {"ray.io/cluster": "c-1"}}
    pulling = {"name": "ray", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}
    kubernetes.put("pods", {"metadata": head, "status": {"containerStatuses": [pulling]}})
    mount = {"type": "Warning", "reason": "FailedMount", "message": "no volume", "involvedObject": {"name": "c-1-head"}}
    other = {**mount, "message": "elsewhere", "involvedObject": {"name": "another"}}
    kubernetes.put("events", {"metadata": {"name": "e1"}, **mount})
    kubernetes.put("events", {"metadata": {"name": "e2"}, **other})
    assert run_command(["jobs", "why", name, "--kubernetes", "gpu", "--json"]) == 0
    reasons = " ".join(each["what"] for each in json.loads(capsys.readouterr().out)["reasons"])
    assert "ErrImagePull: no such image" in reasons
    assert "FailedMount: no volume" in reasons
    assert "elsewhere" not in reasons

    ended = {"name": "ray-job-submitter", "state": {"terminated": {"exitCode": 1}}}
    submitter = {"name": f"{name}-abcde", "labels": {"job-name": name}}
    kubernetes.put("pods", {"metadata": submitter, "status": {"containerStatuses": [ended]}})
    (kubernetes.root / "log.txt").write_text("Traceback (most recent call last):\nConnectionError: no head answers\n")
    assert run_command(["jobs", "why", name, "--kubernetes", "gpu"]) == 0
    said = capsys.readouterr().out
    assert f"pod {name}-abcde, container ray-job-submitter ended with 1" in said
    assert "error: ConnectionError: no head answers" in said

    job["status"] = FAILED | {"rayClusterName": "c-1"}
    kubernetes.put("rayjobs", job)
    (kubernetes.root / "log.txt").write_text("[tokens] 3 of 9\nerror: s3://x: no such bucket\n  make it\n")
    assert run_command(["jobs", "why", name, "--kubernetes", "gpu"]) == 0
    said = capsys.readouterr().out
    assert "AppFailed" in said
    assert "stage: tokens" in said
    assert "error: s3://x: no such bucket" in said
