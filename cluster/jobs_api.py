"""The Ray Jobs API over HTTP: submit or attach, list, follow, stop. No Ray is imported or started here.

Follows the API's behaviour as measured: a submission id that exists already answers 500 with a traceback; a job that
cannot be scheduled stays PENDING even after it is stopped; the exit code of a job's driver is reliable.
"""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cluster.blocking import CLOSE_SECONDS, iterate
from cluster.dashboard import normalise, token_for
from cluster.errors import InfraError
from cluster.jobs import Submission, attempt_id, attempt_of
from cluster.package import Package
from cluster.web import is_loopback, opener, proxy_for

TIMEOUT_SECONDS = 30.0
LOST_SECONDS = 600.0
"""How long following goes on without hearing from the cluster."""
SILENT_SECONDS = 30.0
"""After so long without a word a job's log is asked for anew: the job may be silent, or the connection dead. It cannot
be asked itself: Ray's dashboard answers no ping while it passes on a log."""
STOP_WAIT_SECONDS = "20"
"""What Ray waits between SIGTERM and SIGKILL; its own 3 are too few for a run to unwind."""
TERMINAL = ("SUCCEEDED", "FAILED", "STOPPED")
_PIECE = "/api/packages/gcs/"


@dataclass(frozen=True)
class JobDetails:
    """One job as the cluster tells of it.

    Attributes:
        id: its submission id.
        status: PENDING, RUNNING, or one of TERMINAL.
        environment: the variables that it was given.
    """

    id: str
    status: str
    message: str
    error_type: str
    started_s: float | None
    finished_s: float | None
    exit_code: int | None
    entrypoint: str
    node_id: str
    metadata: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in TERMINAL

    @property
    def code(self) -> int:
        """The exit code to give for a job that is over: its driver's, or what its end amounts to."""
        if self.exit_code is not None:
            return self.exit_code
        return {"SUCCEEDED": 0, "STOPPED": 130}.get(self.status, 3)


class JobsClient:
    """Talks to one cluster's Jobs API.

    Args:
        address: the dashboard's URL, or ``host:port`` of it.
        token: what the cluster wants to be shown; None for a cluster without authentication.
    """

    def __init__(self, address: str, token: str | None) -> None:
        self.address = normalise(address)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._proxy = proxy_for(self.address)
        self._opener = opener(self._proxy)

    @classmethod
    def open(cls, address: str) -> JobsClient:
        """A client with the token that this machine has for the address.

        Raises:
            UserError, InfraError: nothing answers there, it is no Ray dashboard, or it refuses the token.
        """
        client = cls(address, token_for(address))
        client.version()
        return client

    @property
    def sends_token_in_the_clear(self) -> bool:
        """Whether a token leaves this machine without encryption."""
        parts = urlsplit(self.address)
        return bool(self._headers) and parts.scheme == "http" and not is_loopback(parts.hostname)

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        try:
            return json.loads(self._request("GET", path))
        except ValueError:
            raise self._no_dashboard() from None

    def version(self) -> str:
        """The cluster's Ray version."""
        answer = self.get("/api/version")
        if not isinstance(answer, dict) or "ray_version" not in answer:
            raise self._no_dashboard()
        return str(answer["ray_version"])

    def jobs(self) -> list[JobDetails]:
        """Every submitted job that the cluster remembers, oldest first."""
        found = [_details(item) for item in self.get("/api/jobs/") if item.get("type") == "SUBMISSION"]
        return sorted(found, key=lambda job: job.started_s or 0.0)

    def job(self, job_id: str) -> JobDetails | None:
        """One job, or None where the cluster knows none of that id."""
        try:
            return _details(self.get(f"/api/jobs/{job_id}"))
        except _Refused as error:
            if error.status == 404:
                return None
            raise

    def attempts(self, run_id: str) -> list[tuple[int, JobDetails]]:
        """The attempts at a run, oldest first."""
        found = [(attempt_of(run_id, job.id), job) for job in self.jobs()]
        return sorted(((n, job) for n, job in found if n is not None), key=lambda item: item[0])

    def submit(self, submission: Submission) -> tuple[JobDetails, bool]:
        """Run a submission, or find the run that is there.

        An attempt that is pending, runs or has succeeded is given back; after one that failed or was stopped the
        next attempt is started.

        Returns:
            the job, and whether it is new.
        """
        while True:
            tried = self.attempts(submission.id)
            number = 1
            if tried:
                number, last = tried[-1]
                if last.status not in ("FAILED", "STOPPED"):
                    return last, False
                number += 1
            if submission.package is not None:
                self.upload(submission.package)
            job_id = attempt_id(submission.id, number)
            try:
                self._request("POST", "/api/jobs/", json.dumps(request_of(submission, job_id)).encode("utf-8"))
            except _Refused as error:
                if f"{job_id} already exists" not in error.body:
                    raise
                continue  # somebody else submitted the same at this moment: find theirs
            job = self.job(job_id)
            if job is not None:
                return job, True

    def upload(self, package: Package) -> str:
        """Put a package where the cluster's nodes find it; its address there."""
        name = f"_ray_pkg_{package.digest[:32]}.zip"
        try:
            self._request("GET", _PIECE + name)
        except _Refused as error:
            if error.status != 404:
                raise
            self._request("PUT", _PIECE + name, package.data)
        return f"gcs://{name}"

    def stop(self, job_id: str) -> bool:
        """Ask a job to end; False where it does not run (a job that is only pending stays so)."""
        return bool(json.loads(self._request("POST", f"/api/jobs/{job_id}/stop", b""))["stopped"])

    def logs(self, job_id: str) -> str:
        """All that a job has said so far."""
        return str(self.get(f"/api/jobs/{job_id}/logs")["logs"])

    def follow(self, job_id: str, say: Callable[[str], None], *, lost_s: float = LOST_SECONDS) -> Iterator[str]:
        """What a job says, to its end, through any number of lost connections; nothing is given twice.

        Of a job that is over and whose log cannot be had, since its node is gone, nothing is waited for.

        Args:
            say: takes notices about the connection.
            lost_s: seconds without an answer after which this gives up; the job is not touched.

        Raises:
            InfraError: given up.
        """
        seen, pause, silent_since, told = 0, 0.5, time.monotonic(), False
        over = False
        while True:
            try:
                position, whole, before = 0, True, seen
                for text in iterate(self._tail(job_id)):
                    if text is None:
                        whole = False
                        continue
                    fresh = text[max(0, seen - position) :]
                    position += len(text)
                    pause, silent_since = 0.5, time.monotonic()
                    if told:
                        say("connected again")
                        told = False
                    if fresh:
                        seen = position
                        yield fresh
                job = self.job(job_id)
                silent_since = time.monotonic()
                if job is None or (job.over and (whole or (over and seen == before))):
                    return
                over = job.over
            except (TimeoutError, OSError, InfraError) as error:
                if isinstance(error, _Refused) and error.status in (401, 403):
                    raise
                if not told:
                    reason = error.what if isinstance(error, InfraError) else error
                    say(f"the connection is lost, the job goes on ({reason}); trying again …")
                    told = True
            if time.monotonic() - silent_since > lost_s:
                raise InfraError(
                    f"no answer for {lost_s:.0f} s",
                    where=self.address,
                    next_step=f"the job is not touched; `raymill jobs logs {job_id} --follow` follows it again",
                )
            time.sleep(pause * (0.5 + random.random()))
            pause = min(pause * 2, 10.0)

    async def _tail(self, job_id: str) -> AsyncGenerator[str | None, None]:
        """The log from its beginning; ends with the job. None, at the end, where nothing came for a while."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS)
        patience = aiohttp.ClientWSTimeout(ws_receive=SILENT_SECONDS, ws_close=CLOSE_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.ws_connect(
                    f"{self.address}/api/jobs/{job_id}/logs/tail", timeout=patience, proxy=self._proxy
                ) as socket,
            ):
                try:
                    async for message in socket:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            yield message.data
                except TimeoutError:
                    yield None
                    return
                if socket.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
                    raise ConnectionError("cut off")
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.WSServerHandshakeError) and error.status == 404:
                return  # the cluster, started anew perhaps, knows no such job: nothing to wait for
            raise ConnectionError(str(error) or type(error).__name__) from None

    def _request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        kind = "application/json" if path.startswith("/api/jobs") else "application/octet-stream"
        request = urllib.request.Request(
            self.address + path, data=data, method=method, headers=self._headers | {"Content-Type": kind}
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            raise _refused(self.address, error.code, error.read().decode("utf-8", errors="replace")) from None
        except (OSError, http.client.HTTPException) as error:  # the second: an answer that breaks off
            raise self._no_dashboard(str(getattr(error, "reason", error))) from None

    def _no_dashboard(self, reason: str = "something else does") -> InfraError:
        return InfraError(
            f"no Ray dashboard answers there: {reason}",
            where=self.address,
            next_step="check the address (the dashboard's, usually port 8265) and that the cluster runs",
        )


class _Refused(InfraError):
    """An answer that is not 200."""

    def __init__(self, what: str, *, where: str = "", next_step: str = "", status: int = 0, body: str = "") -> None:
        super().__init__(what, where=where, next_step=next_step)
        self.status = status
        self.body = body


def _refused(address: str, status: int, body: str) -> _Refused:
    if status in (401, 403):
        what = "the cluster wants a token" if status == 401 else "the cluster does not accept this token"
        advice = "name the file with the cluster's token (mode 0600) in RAY_AUTH_TOKEN_PATH"
    else:
        lines = [line for line in body.strip().splitlines() if line.strip()]
        what = f"it answered {status}: {lines[-1] if lines else 'nothing'}"
        advice = "`raymill doctor --address …` looks at the cluster"
    return _Refused(what, where=address, next_step=advice, status=status, body=body)


def variables_of(submission: Submission) -> dict[str, str]:
    """The variables that a job gets; one that is stopped gets time to write down how it ended."""
    return {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_SECONDS, **submission.environment}


def request_of(submission: Submission, job_id: str) -> dict[str, Any]:
    """What is sent to the cluster for one attempt at a submission."""
    runtime_env: dict[str, Any] = {"env_vars": variables_of(submission)}
    if submission.package is not None:
        runtime_env["working_dir"] = f"gcs://_ray_pkg_{submission.package.digest[:32]}.zip"
    request: dict[str, Any] = {
        "entrypoint": submission.entrypoint_text(),
        "submission_id": job_id,
        "runtime_env": runtime_env,
        "metadata": submission.metadata(),
    }
    if submission.driver:
        rest = dict(submission.driver)
        request["entrypoint_num_cpus"] = rest.pop("CPU", 0)
        request["entrypoint_num_gpus"] = rest.pop("GPU", 0)
        request["entrypoint_resources"] = rest
    return request


def _details(item: dict[str, Any]) -> JobDetails:
    def seconds(name: str) -> float | None:
        return item[name] / 1000 if item.get(name) else None

    return JobDetails(
        id=str(item.get("submission_id") or ""),
        status=str(item["status"]),
        message=str(item.get("message") or ""),
        error_type=str(item.get("error_type") or ""),
        started_s=seconds("start_time"),
        finished_s=seconds("end_time"),
        exit_code=item.get("driver_exit_code"),
        entrypoint=str(item.get("entrypoint") or ""),
        node_id=str(item.get("driver_node_id") or ""),
        metadata={str(key): str(value) for key, value in (item.get("metadata") or {}).items()},
        environment=dict((item.get("runtime_env") or {}).get("env_vars") or {}),
    )
