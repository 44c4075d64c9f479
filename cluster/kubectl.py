"""The official way to a Kubernetes cluster: ``kubectl``, with its own contexts and credentials."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.errors import InfraError, RaymillError, UserError

ANSWER_S = 60
MANAGER = "raymill"
_AWAY = (
    "connection refused",
    "the connection to the server",
    "no route to host",
    "i/o timeout",
    "unable to connect",
    "tls handshake timeout",
    "unexpected eof",
    "connection reset",
    "connection lost",
    "broken pipe",
    "network is unreachable",
    "no such host",
    "deadline exceeded",
    "timed out",
    "(serviceunavailable)",
    "(toomanyrequests)",
    "(timeout)",
    "(internalerror)",
    "currently unable to handle the request",
    "etcdserver",
)
"""What kubectl says, in small letters, where the API server does not answer or cannot now: it may pass."""
_LOG_LINE = re.compile(r"[EWI]\d{4} ")
"""kubectl repeats itself in its log's format before it says what is wrong."""


@dataclass(frozen=True)
class Kubectl:
    """One namespace of one cluster.

    Attributes:
        namespace: of everything that is asked for.
        context: kubectl's; None is the current one.
        program: the command.
    """

    namespace: str
    context: str | None = None
    program: str = "kubectl"

    def apply(self, manifests: str) -> list[str]:
        """Create or change objects (server-side apply); one line each, such as ``rayjob.ray.io/x serverside-applied``.

        Raises:
            UserError: the API server refuses one; nothing after it was applied.
            InfraError: it does not answer.
        """
        arguments = ["apply", "--server-side", f"--field-manager={MANAGER}", "--filename=-"]
        return self._run(arguments, given=manifests).splitlines()

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """One object; None where there is none."""
        text = self._run(["get", kind, name, "--output=json", "--ignore-not-found"])
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def all(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """Objects of a kind, by label selector or all; none where the cluster does not know the kind."""
        chosen = [f"--selector={selector}"] if selector else []
        try:
            text = self._run(["get", kind, "--output=json", *chosen])
        except UserError as error:
            if "doesn't have a resource type" in error.what:
                return []
            raise
        items: list[dict[str, Any]] = json.loads(text)["items"]
        return items

    def keys(self, kind: str, name: str) -> set[str] | None:
        """The names below an object's ``data``, without their values; None where there is no such object."""
        template = "--output=go-template={{range $key, $value := .data}}{{$key}}\n{{end}}"
        try:
            return set(self._run(["get", kind, name, template]).split())
        except UserError as error:
            if "notfound" in error.what.lower():
                return None
            raise

    def raw(self, path: str) -> dict[str, Any] | None:
        """What the API server answers at a path; None where nothing is there, or we may not ask."""
        try:
            found: dict[str, Any] = json.loads(self._run(["get", "--raw", path]))
        except UserError:
            return None
        return found

    def delete(self, kind: str, name: str) -> bool:
        """Delete one object without waiting; whether it was there."""
        text = self._run(["delete", kind, name, "--ignore-not-found", "--wait=false", "--output=name"])
        return bool(text.strip())

    def logs(self, selector: str, *, container: str, lines: int) -> str:
        """The last lines of pods chosen by label; empty where none has begun."""
        arguments = ["logs", f"--selector={selector}", f"--container={container}", f"--tail={lines}"]
        try:
            return self._run(arguments)
        except UserError:  # a pod that waits for its image has no log
            return ""

    def follow(self, selector: str, *, container: str, since: str = "") -> Iterator[str]:
        """Lines of a pod's log as they come, until it ends or the connection does.

        Args:
            since: from this time on (RFC 3339); lines begin with their time.
        """
        # With a selector the last ten lines alone would come by default.
        arguments = ["logs", "--follow", "--timestamps", "--tail=-1", f"--selector={selector}"]
        arguments += [f"--container={container}"] + ([f"--since-time={since}"] if since else [])
        with self._start(arguments) as process:
            assert process.stdout is not None
            try:
                yield from (line.rstrip("\n") for line in process.stdout)
            finally:
                process.kill()

    def _command(self, arguments: list[str]) -> list[str]:
        place = [f"--namespace={self.namespace}"] + ([f"--context={self.context}"] if self.context else [])
        return [self.program, *place, *arguments]

    def _run(self, arguments: list[str], given: str | None = None) -> str:
        command = self._command(arguments)
        try:
            # Without input kubectl may ask for a password, of nobody: it gets an empty answer and says so.
            done = subprocess.run(
                command, input=given or "", capture_output=True, text=True, check=False, timeout=ANSWER_S
            )
        except FileNotFoundError:
            raise self._missing() from None
        except subprocess.TimeoutExpired:
            raise self._silent(f"no answer within {ANSWER_S} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip() and not _LOG_LINE.match(line)]
            raise self._failed("\n".join(lines) or f"exit code {done.returncode}")
        return done.stdout

    def _start(self, arguments: list[str]) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self._command(arguments),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        except FileNotFoundError:
            raise self._missing() from None

    @property
    def _where(self) -> str:
        return f"Kubernetes, {f'context {self.context}' if self.context else 'current context'}, {self.namespace}"

    def _missing(self) -> UserError:
        return UserError(
            f"the command {self.program} is not there",
            where=self._where,
            next_step="install kubectl, or print the manifests with `--dry-run` and apply them elsewhere",
        )

    def _silent(self, what: str) -> InfraError:
        return InfraError(what, where=self._where, next_step="check the network and the context's server, then repeat")

    def _failed(self, text: str) -> RaymillError:
        lower = text.lower()
        if any(word in lower for word in _AWAY):
            return self._silent(text)
        step = "check the profile's context and namespace"
        if "forbidden" in lower or "unauthorized" in lower:
            step = "ask for the role raymill-submitter in this namespace (`submitters` of the profile)"
        elif "no matches for kind" in lower or "doesn't have a resource type" in lower:
            step = "install KubeRay 1.7 (and what else the profile uses: Kueue, Prometheus' operator)"
        elif "not found" in lower and "namespace" in lower:
            step = "render the platform with `raymill manifests` and have it applied first"
        return UserError(text, where=self._where, next_step=step)
