"""The Jobs API's client: against a server that answers as Ray 2.60 was seen to, and loses connections on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSCloseCode, web

from cluster import dashboard, jobs_api
from cluster.errors import InfraError
from cluster.jobs import Submission
from cluster.jobs_api import JobDetails, JobsClient, request_of
from cluster.package import pack

TOKEN = "0123456789abcdef"
SUBMISSION = Submission("demo", "name: demo\n", "s3://b/p", ("python", "-m", "pipelines.job"))


@dataclass
class FakeHead:
    """What a cluster remembers.

    Attributes:
        cut_after: lengths after which connections that follow a log are cut, one a connection.
        stays_open: followers wait after the log, as while a job runs.
        mute: so many connections say no more after their part of the log, answer no ping and do not end.
        hide: jobs that listing does not show yet, as when two submit at the same moment.
    """

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    packages: dict[str, bytes] = field(default_factory=dict)
    uploads: int = 0
    log: str = ""
    cut_after: list[int] = field(default_factory=list)
    connections: int = 0
    hide: set[str] = field(default_factory=set)
    stays_open: bool = False
    mute: int = 0
    stops: int = 0
    url: str = ""

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self.authenticate])
        application.add_routes(
            [
                web.get("/api/version", self.version),
                web.get("/api/jobs/", self.listing),
                web.post("/api/jobs/", self.submit),
                web.get("/api/jobs/{id}", self.one),
                web.get("/api/jobs/{id}/logs/tail", self.tail),
                web.post("/api/jobs/{id}/stop", self.stop),
                web.get("/api/packages/gcs/{name}", self.package),
                web.put("/api/packages/gcs/{name}", self.upload),
                web.get("/elsewhere/api/version", self.redirect),
            ]
        )
        return application

    @web.middleware
    async def authenticate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        if given != f"Bearer {TOKEN}":
            return web.Response(status=403 if given else 401, text="no")
        response: web.StreamResponse = await handler(request)
        return response

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"ray_version": "2.60.0"})

    async def redirect(self, request: web.Request) -> web.Response:
        raise web.HTTPFound("http://127.0.0.1:9/steal")

    async def listing(self, request: web.Request) -> web.Response:
        shown = [job for name, job in self.jobs.items() if name not in self.hide]
        self.hide = set()
        return web.json_response(shown)

    async def submit(self, request: web.Request) -> web.Response:
        sent = await request.json()
        name = sent["submission_id"]
        if name in self.jobs:
            text = f"Traceback …\nValueError: Job with submission_id {name} already exists. Please use a different one."
            return web.Response(status=500, text=text)
        self.jobs[name] = {
            "type": "SUBMISSION",
            "submission_id": name,
            "status": "PENDING",
            "entrypoint": sent["entrypoint"],
            "metadata": sent["metadata"],
            "runtime_env": sent["runtime_env"],
            "start_time": 1_000 * (len(self.jobs) + 1),
        }
        return web.json_response({"submission_id": name})

    async def one(self, request: web.Request) -> web.Response:
        job = self.jobs.get(request.match_info["id"])
        return web.json_response(job) if job else web.Response(status=404, text="does not exist")

    async def stop(self, request: web.Request) -> web.Response:
        self.stops += 1
        return web.json_response({"stopped": True})

    async def package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def upload(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = await request.read()
        self.uploads += 1
        return web.Response()

    async def tail(self, request: web.Request) -> web.StreamResponse:
        self.connections += 1
        if request.match_info["id"] not in self.jobs:
            raise web.HTTPNotFound(text="does not exist")
        link = web.WebSocketResponse()
        await link.prepare(request)
        limit = self.cut_after.pop(0) if self.cut_after else None
        text = self.log if limit is None else self.log[:limit]
        for start in range(0, len(text), 7):
            await link.send_str(text[start : start + 7])
        if self.mute:
            self.mute -= 1
            while request.transport is not None:  # until the follower goes
                await asyncio.sleep(0.01)
            return link
        if self.stays_open:
            await link.receive()  # until the follower goes
        if limit is not None:
            assert request.transport is not None
            request.transport.abort()
        else:
            await link.close(code=WSCloseCode.OK)
        return link


@pytest.fixture
def head() -> Iterator[FakeHead]:
    fake = FakeHead()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(fake.application(), shutdown_timeout=1.0)

    async def begin() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    loop.run_until_complete(begin())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield fake
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAYMILL_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.setattr(dashboard, "RAY_TOKEN_FILE", tmp_path / "none")


def test_submitting_again_attaches(head: FakeHead) -> None:
    client = JobsClient(head.url, TOKEN)
    first, new = client.submit(SUBMISSION)
    assert new
    assert first.id == SUBMISSION.id
    for status in ("PENDING", "RUNNING", "SUCCEEDED"):
        head.jobs[first.id]["status"] = status
        again, new = client.submit(SUBMISSION)
        assert (again.id, again.status, new) == (first.id, status, False)
    assert len(head.jobs) == 1


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_after_a_failure_the_next_attempt_starts(head: FakeHead, status: str) -> None:
    client = JobsClient(head.url, TOKEN)
    first, _ = client.submit(SUBMISSION)
    head.jobs[first.id]["status"] = status
    second, new = client.submit(SUBMISSION)
    assert (second.id, new) == (f"{SUBMISSION.id}-2", True)
    assert [number for number, _ in client.attempts(SUBMISSION.id)] == [1, 2]
    assert "--id " + SUBMISSION.id in second.entrypoint


def test_two_that_submit_at_once_share_one_job(head: FakeHead) -> None:
    client = JobsClient(head.url, TOKEN)
    client.submit(SUBMISSION)
    head.hide = {SUBMISSION.id}
    job, new = client.submit(SUBMISSION)
    assert (job.id, new) == (SUBMISSION.id, False)
    assert len(head.jobs) == 1


def test_a_package_is_uploaded_once(head: FakeHead, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    package = pack(tmp_path)
    client = JobsClient(head.url, TOKEN)
    submission = replace(SUBMISSION, package=package)
    job, _ = client.submit(submission)
    sent = head.jobs[job.id]["runtime_env"]["working_dir"]
    assert head.packages == {sent.removeprefix("gcs://"): package.data}
    client.upload(package)
    assert head.uploads == 1


@pytest.mark.parametrize("cuts", [[], [10, 3, 40], [0, 0, 41, 20]])
def test_following_survives_lost_connections(head: FakeHead, cuts: list[int]) -> None:
    head.log = "".join(f"line {number}\n" for number in range(12))
    head.cut_after = list(cuts)
    head.jobs["x"] = {"type": "SUBMISSION", "submission_id": "x", "status": "SUCCEEDED", "driver_exit_code": 0}
    if cuts:
        head.jobs["x"]["status"] = "RUNNING"
    notices: list[str] = []

    def say(text: str) -> None:
        notices.append(text)
        if not head.cut_after:
            head.jobs["x"]["status"] = "SUCCEEDED"

    client = JobsClient(head.url, TOKEN)
    got = ""
    for text in client.follow("x", say):
        got += text
        if not head.cut_after:
            head.jobs["x"]["status"] = "SUCCEEDED"
    assert got == head.log
    assert head.connections == len(cuts) + 1
    assert any("the job goes on" in text for text in notices) is bool(cuts)


def test_a_job_that_is_silent_for_long_is_not_taken_for_lost(head: FakeHead, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that ended meanwhile left without the rest of its log."""
    monkeypatch.setattr(jobs_api, "SILENT_SECONDS", 0.2)
    head.log = "".join(f"line {number}\n" for number in range(12))
    head.cut_after, head.mute = [14, 30], 2
    head.jobs["x"] = {"type": "SUBMISSION", "submission_id": "x", "status": "SUCCEEDED", "driver_exit_code": 0}
    notices: list[str] = []
    assert "".join(JobsClient(head.url, TOKEN).follow("x", notices.append)) == head.log
    assert (head.connections, notices) == (3, [])


def test_the_log_of_a_job_that_is_over_is_not_waited_for_where_its_node_is_gone(
    head: FakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head waits for the node as for one that is slow, and says nothing."""
    monkeypatch.setattr(jobs_api, "SILENT_SECONDS", 0.2)
    head.log, head.mute = "the first line\n", 1_000
    head.jobs["x"] = {"type": "SUBMISSION", "submission_id": "x", "status": "FAILED"}
    assert "".join(JobsClient(head.url, TOKEN).follow("x", lambda text: None)) == head.log


def test_following_gives_up_where_nothing_answers_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    client = JobsClient("http://127.0.0.1:9", TOKEN)
    with pytest.raises(InfraError, match="no answer for 0 s") as failure:
        list(client.follow("x", lambda text: None, lost_s=0.0))
    assert "jobs logs x --follow" in failure.value.next_step


@pytest.mark.parametrize(("token", "text"), [(None, "wants a token"), ("wrong", "does not accept")])
def test_a_missing_or_wrong_token_is_told(head: FakeHead, token: str | None, text: str) -> None:
    with pytest.raises(InfraError, match=text):
        JobsClient(head.url, token).version()


def test_the_token_is_not_shown_to_whoever_an_answer_points_to(head: FakeHead) -> None:
    with pytest.raises(InfraError, match="302"):
        JobsClient(head.url + "/elsewhere", TOKEN).version()


@pytest.fixture(params=["200 OK", "200 half", "404 Not Found"])
def no_dashboard(request: pytest.FixtureRequest) -> Iterator[str]:
    """A web server of some other kind, or one whose answers break off."""
    body = b"<html>hello</html>"
    length = len(body) + (50 if "half" in request.param else 0)
    answer = f"HTTP/1.1 {request.param}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode() + body
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        client.recv(65536)
                        client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def test_something_else_than_a_dashboard_is_one_message(no_dashboard: str) -> None:
    with pytest.raises(InfraError, match=r"no Ray dashboard answers there|it answered 404"):
        JobsClient.open(no_dashboard)


def test_a_proxy_is_not_between_this_machine_and_itself(head: FakeHead, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    head.log = "at work\n"
    head.jobs["x"] = {"type": "SUBMISSION", "submission_id": "x", "status": "SUCCEEDED"}
    client = JobsClient(head.url, TOKEN)
    assert client.version() == "2.60.0"
    assert "".join(client.follow("x", lambda text: None)) == "at work\n"


def test_a_job_that_the_cluster_forgot_is_not_waited_for(head: FakeHead) -> None:
    """As where its head was started anew, without what it knew."""
    notices: list[str] = []
    assert list(JobsClient(head.url, TOKEN).follow("x", notices.append)) == []
    assert (head.connections, notices) == (1, [])


def test_nothing_there() -> None:
    with pytest.raises(InfraError, match="no Ray dashboard answers"):
        JobsClient.open("127.0.0.1:9")


def test_the_exit_code_of_a_job() -> None:
    def job(status: str, code: int | None) -> int:
        return JobDetails("x", status, "", "", None, None, code, "", "").code

    assert [job("SUCCEEDED", 0), job("FAILED", 7), job("FAILED", None), job("STOPPED", None)] == [0, 7, 3, 130]


def test_ctrl_c_detaches_and_stops_nothing(head: FakeHead) -> None:
    head.log, head.stays_open = "at work\n", True
    head.jobs["x"] = {"type": "SUBMISSION", "submission_id": "x", "status": "RUNNING", "start_time": 1}
    follower = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "jobs", "logs", "x", "--follow", "--address", head.url],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"RAY_AUTH_TOKEN": TOKEN},
        cwd=Path(__file__).resolve().parents[2],
    )
    assert follower.stderr is not None
    assert follower.stderr.readline() == "at work\n"
    follower.send_signal(signal.SIGINT)
    _, said = follower.communicate(timeout=60)
    assert follower.returncode == 130
    assert f"detached; x goes on: raymill jobs logs x --follow --address {head.url}\n" in said
    assert head.stops == 0


def test_a_token_in_the_clear_is_noticed() -> None:
    assert JobsClient("http://ray.example.org:8265", TOKEN).sends_token_in_the_clear
    assert not JobsClient("https://ray.example.org", TOKEN).sends_token_in_the_clear
    assert not JobsClient("http://127.0.0.1:8265", TOKEN).sends_token_in_the_clear
    assert not JobsClient("http://ray.example.org:8265", None).sends_token_in_the_clear


def test_what_is_sent_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    sent = json.dumps(request_of(replace(SUBMISSION, environment={"A": "b"}, driver={"CPU": 2}), "x"))
    assert "very-secret-value" not in sent
    assert json.loads(sent)["entrypoint_num_cpus"] == 2
