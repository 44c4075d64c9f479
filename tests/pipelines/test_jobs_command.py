"""`raymill jobs` from the store alone, and what following does when jobs and clusters die."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import InfraError, UserError
from cluster.job_record import LOST_AFTER_SECONDS, Holding, key_of, write_log
from cluster.jobs import Submission
from cluster.jobs_api import JobDetails, variables_of
from cluster.pending import ClusterView, NodeResources
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from pipelines.commands import cluster as cluster_commands
from pipelines.commands import following, submit
from pipelines.commands import jobs as jobs_commands
from pipelines.commands.following import follow_job

RUN = "raymill-demo-0123456789ab"
JOB = JobDetails(RUN, "RUNNING", "", "", 1.0, None, None, "", "n", {"raymill_run": RUN})


def failed_run(store: LocalStore) -> Holding:
    holding = Holding.take(store, RUN, "demo", submission=RUN)
    write_log(store, holding.record, 1, "[curate] gates …\nerror: s3://b: no room to write\n  free space\n")
    holding.write(state="failed", exit_code=3, message="no room", log_pieces=1, finished_s=time.time())
    return holding


def test_a_run_is_explained_when_its_cluster_is_long_gone(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    failed_run(store)
    assert run_command(["jobs", "list", "--store", store.url, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["job"], row["status"], row["exit"]) == (RUN, "FAILED", "3")
    for name in (RUN, "demo", RUN[:14]):
        assert run_command(["jobs", "why", name, "--store", store.url]) == 0
        said = capsys.readouterr().out
        assert "s3://b: no room to write" in said
        assert "last stage: curate" in said
        assert "next: free space" in said
    assert run_command(["jobs", "logs", "demo", "--store", store.url]) == 0
    assert capsys.readouterr().out.startswith("[curate]")
    assert run_command(["jobs", "why", "other", "--store", store.url]) == 2
    assert f"there are: {RUN}" in capsys.readouterr().err


def test_a_run_that_fell_silent_is_lost(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    holding = Holding.take(store, RUN, "demo")
    silent = holding.record.model_copy(update={"updated_s": time.time() - LOST_AFTER_SECONDS - 60, "stage": "tokens"})
    store.write(key_of(RUN), silent.model_dump_json().encode())
    assert run_command(["jobs", "why", RUN, "--store", store.url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "LOST"
    assert "no sign of life" in found["reasons"][0]


def test_a_run_is_followed_in_its_store(
    store: LocalStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over what is said meanwhile, over an attempt that takes it up, to its end and its code."""
    holding = Holding.take(store, RUN, "demo")
    write_log(store, holding.record, 1, "first words\n")
    newer: list[Holding] = []

    def goes_on(seconds: float) -> None:
        if not newer:
            newer.append(Holding.take(store, RUN, "demo"))
            write_log(store, newer[0].record, 1, "again\n")
        elif newer[0].record.log_pieces:
            newer[0].write(state="failed", exit_code=7)
        else:
            write_log(store, newer[0].record, 2, "and more\n")
            newer[0].write(log_pieces=2)

    monkeypatch.setattr(following.time, "sleep", goes_on)
    assert run_command(["jobs", "logs", RUN, "--store", store.url, "--follow"]) == 7
    said = capsys.readouterr().err
    assert said == "first words\n-- attempt 2 has taken the run over\nagain\nand more\n"
    assert run_command(["jobs", "logs", RUN, "--store", store.url, "--follow"]) == 7
    assert capsys.readouterr().err == "again\nand more\n"


def test_a_run_that_fell_silent_is_not_followed_for_ever(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    holding = Holding.take(store, RUN, "demo")
    silent = holding.record.model_copy(update={"updated_s": time.time() - LOST_AFTER_SECONDS - 60})
    store.write(key_of(RUN), silent.model_dump_json().encode())
    assert run_command(["jobs", "logs", RUN, "--store", store.url, "--follow"]) == 3
    assert "attempt 1 gave no sign of life" in capsys.readouterr().err


class GoneClient:
    """A cluster that goes away while it is followed."""

    address = "http://gone"

    def follow(self, job_id: str, say: Any) -> Iterator[str]:
        yield "some text\n"
        raise InfraError("no answer for 600 s")


def test_the_end_is_read_from_the_store_where_the_cluster_went_away(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    client: Any = GoneClient()
    with pytest.raises(InfraError, match="no answer"):
        follow_job(client, JOB, store.url)
    holding = failed_run(store)
    ended = follow_job(client, JOB, store.url)
    assert (ended.status, ended.code) == ("FAILED", 3)
    assert f"the whole log: raymill jobs logs {RUN} --store {store.url}\n" in capsys.readouterr().err
    other = replace(JOB, id=f"{RUN}-2")
    with pytest.raises(InfraError):  # the record is of another attempt
        follow_job(client, other, store.url)
    assert holding.record.attempt == 1


class DeadNode(GoneClient):
    """A cluster whose node is gone that ran the job and had its log."""

    def __init__(self, store: str, job_id: str = RUN) -> None:
        metadata = {"raymill_run": RUN, "raymill_store": store}
        self.job = replace(
            JOB, id=job_id, status="FAILED", message="The node with node id: 5f has died", metadata=metadata
        )

    def jobs(self) -> list[JobDetails]:
        return [self.job]

    def logs(self, job_id: str) -> str:
        raise InfraError("it answered 500: ConnectionRefusedError")


def test_a_job_whose_node_died_is_explained_all_the_same(
    store: LocalStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the store's log where that is this attempt's; otherwise by the cluster's own word."""
    failed_run(store)
    there = ["--address", "http://gone"]
    monkeypatch.setattr(jobs_commands.JobsClient, "open", lambda address: DeadNode(store.url))
    assert run_command(["jobs", "logs", RUN, *there]) == 0
    assert capsys.readouterr().out.startswith("[curate] gates")
    assert run_command(["jobs", "why", RUN, *there]) == 0
    assert "last stage: curate" in capsys.readouterr().out
    for other in (DeadNode(store.url, f"{RUN}-2"), DeadNode(""), DeadNode("s3://")):
        monkeypatch.setattr(jobs_commands.JobsClient, "open", lambda address, other=other: other)
        assert run_command(["jobs", "logs", RUN, *there]) == 3
        assert "it answered 500" in capsys.readouterr().err
        assert run_command(["jobs", "why", RUN, *there]) == 0
        assert "a node died and the work could not be done elsewhere" in capsys.readouterr().out


def test_a_job_that_runs_with_other_variables_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """They are no part of a run's id."""
    wanted = Submission("demo", "name: demo\n", "s3://b/p", ("python",), environment={"A": "1", "B": "2"})
    assert wanted.id == replace(wanted, environment={}).id
    plan: Any = SimpleNamespace(submission=wanted)
    submit.say_differing(plan, variables_of(wanted))
    assert capsys.readouterr().err == ""
    submit.say_differing(plan, variables_of(wanted) | {"A": "0", "C": "3"})
    assert "other variables than asked for now: A, C; to change them, stop it" in capsys.readouterr().err


def followed(monkeypatch: pytest.MonkeyPatch, ends: list[tuple[str, int | None]], retries: int) -> tuple[int, int]:
    """(exit code, attempts) of `submit --follow` on jobs that end so."""
    started = [JOB]

    def follow(client: Any, job: JobDetails, store: str) -> JobDetails:
        status, code = ends[len(started) - 1]
        return replace(job, status=status, exit_code=code, message="died")

    def again(submission: Any) -> tuple[JobDetails, bool]:
        started.append(replace(JOB, id=f"{RUN}-{len(started) + 1}"))
        return started[-1], True

    monkeypatch.setattr(submit, "follow_job", follow)
    client: Any = SimpleNamespace(submit=again, address="http://head")
    plan: Any = SimpleNamespace(submission=SimpleNamespace(store="s"))
    return submit._follow(client, plan, JOB, retries).code, len(started)


def test_what_the_infrastructure_ended_is_tried_again_and_what_the_run_ended_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert followed(monkeypatch, [("FAILED", None), ("FAILED", 137), ("SUCCEEDED", 0)], 2) == (0, 3)
    assert followed(monkeypatch, [("FAILED", 3), ("FAILED", 3)], 1) == (3, 2)
    assert followed(monkeypatch, [("FAILED", 1)], 2) == (1, 1)
    assert followed(monkeypatch, [("FAILED", 2)], 2) == (2, 1)
    assert followed(monkeypatch, [("STOPPED", None)], 2) == (130, 1)
    assert followed(monkeypatch, [("FAILED", None)], 0) == (3, 1)


@pytest.mark.parametrize("text", ["x", "3:1", "1:", ":2", "-1"])
def test_bounds_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_commands, "find_cluster", lambda name: SimpleNamespace(name="local", workers=[]))
    with pytest.raises(UserError, match="reads N or MIN:MAX"):
        cluster_commands.scale(Namespace(name=None, group="workers", bounds=text))


class Serving:
    """A client of a cluster that serves."""

    address = "http://head:8265"

    def get(self, path: str) -> Any:
        if path.startswith("/api/serve"):
            return {"applications": {"gateway": {"status": "RUNNING"}, "base": {"status": "DEPLOYING"}}}
        return {"data": {"rayVersion": "2.1.0", "pythonVersion": "3.9.1"}}

    def jobs(self) -> list[JobDetails]:
        return [replace(JOB, metadata={"raymill_recipe": "demo"})]


def test_status_shows_what_is_served_what_waits_and_versions_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = NodeResources("worker-1", {"CPU": 4.0, "GPU": 2.0, "memory": 2.0 * 2**30}, {"CPU": 3.0, "GPU": 2.0})
    monkeypatch.setattr(cluster_commands, "view_of", lambda client: ClusterView([node], [({"GPU": 1.0}, 4)]))
    monkeypatch.setattr(cluster_commands.JobsClient, "open", lambda address: Serving())
    assert run_command(["cluster", "status", "--address", "http://head:8265"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Ray 2.1.0 (here " in said
    assert "worker-1 3/4 2/2 2.0" in said
    assert "waits for a place: 4 × 1 GPU" in said
    assert f"{RUN} RUNNING demo" in said
    assert "gateway RUNNING base DEPLOYING" in said


def test_a_cluster_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYMILL_CLUSTERS", str(tmp_path))
    for words in (["status"], ["down"], ["scale", "workers", "1"]):
        assert run_command(["cluster", *words]) == 2
        assert "no local cluster runs" in capsys.readouterr().err
    assert run_command(["cluster", "up", "--nodes", "0"]) == 2
    assert run_command(["jobs", "list"]) == 2


def test_a_change_of_no_profile_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["jobs", "list"], ["jobs", "why", "x"], ["submit", "demo"], ["doctor"]):
        assert run_command([*words, "--profile-set", "namespace=mine"]) == 2
        assert "--profile-set namespace=mine: changes no profile" in capsys.readouterr().err
