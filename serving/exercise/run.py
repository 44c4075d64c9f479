"""Real traffic against a deployment, to show what it does: the split, stickiness, latency, and a change of weights.

Three phases, all through the ``openai`` client: requests under the configured weights; requests while the weights
change; requests after it. Each request is a completion, a chat, or a streamed one of either, for one of many users.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.errors import InfraError
from serving.exercise.traffic import KINDS, Call, TrafficReport

if TYPE_CHECKING:
    from cluster.progress import Tracker
    from serving.control.deploy import Deployment, ServedVariant

PROMPTS = (
    "Return the path of",
    "What does this function do?",
    "How do I read a file line by line?",
    "The following options are",
    "Explain this in one sentence: a list of",
    "Once upon a time",
)
REQUESTS_PER_USER = 2
TIMEOUT_S = 60.0
SWITCH_WAIT_S = 300.0


@dataclass(frozen=True)
class Plan:
    """One request to make."""

    phase: str
    user: str
    kind: str
    prompt: str
    max_tokens: int


def run_exercise(
    deployment: Deployment,
    tracker: Tracker,
    *,
    requests: int = 200,
    requests_after: int = 60,
    concurrency: int = 8,
    max_tokens: int = 16,
    weights_after: Mapping[str, float] | None = None,
    prompts: Sequence[str] = PROMPTS,
) -> TrafficReport:
    """Send requests, change the weights while more are under way, and send some again.

    Args:
        requests: how many under the configured weights.
        requests_after: how many during the change, and again after it.
        weights_after: the weights to change to; by default everything to the last variant.

    Returns:
        The record; failed requests are in it, not raised.

    Raises:
        UserError: the weights to change to are not a split.
        InfraError: the weights could not be changed, or the requests before the change were not answered in time.
    """
    weights = {status.name: status.weight for status in deployment.status()}
    last = list(weights)[-1]
    after = dict(weights_after or {name: 100.0 if name == last else 0.0 for name in weights})
    users = [f"user-{index:04d}" for index in range(max(1, requests // REQUESTS_PER_USER))]
    report = TrafficReport(model=deployment.model, weights_before=weights, weights_after=after)
    report.engines_before = _engines(deployment.status())
    report.assigned_before = deployment.variants_of(users)
    client = _client(deployment)
    with tracker.step("send requests", total=requests + 2 * requests_after, unit="requests"):
        caller = _Caller(client, deployment.model, report, tracker)
        caller.run(_plans("before", requests, users, prompts, max_tokens), concurrency)
        with _threads(1) as beside:
            switch = beside.submit(_switch, deployment, after, report, caller, requests_after // 3)
            caller.run(_plans("during", requests_after, users, prompts, max_tokens), concurrency)
            switch.result()
        caller.run(_plans("after", requests_after, users, prompts, max_tokens), concurrency)
    client.close()
    report.assigned_after = deployment.variants_of(users)
    report.engines_after = _engines(deployment.status())
    return report


def _client(deployment: Deployment) -> Any:
    import openai

    # No retries of the client's own: every failure is to be seen.
    return openai.OpenAI(base_url=deployment.url, api_key="not-needed", max_retries=0, timeout=TIMEOUT_S)


def _plans(phase: str, count: int, users: Sequence[str], prompts: Sequence[str], max_tokens: int) -> Iterator[Plan]:
    """Every user in turn, every kind of request in turn; the two cycles are shifted against each other."""
    for index in range(count):
        kind = KINDS[(index + index // len(users)) % len(KINDS)]
        yield Plan(phase, users[index % len(users)], kind, prompts[index % len(prompts)], max_tokens)


def _switch(
    deployment: Deployment, weights: Mapping[str, float], report: TrafficReport, caller: _Caller, once_sent: int
) -> None:
    """Change the weights when some requests of the phase have been answered and others are under way."""
    if not caller.wait_for("during", once_sent):
        return  # the exercise was given up
    began = time.perf_counter()
    report.moved_share = deployment.set_weights(weights)
    report.switch_seconds = time.perf_counter() - began


def _engines(statuses: Sequence[ServedVariant]) -> dict[str, tuple[tuple[int, float], ...]]:
    """Variant -> (process id, start time) of each of its engines."""
    return {status.name: tuple(sorted((each.pid, each.started) for each in status.replicas)) for status in statuses}


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose end waits for its work; on an error or an interrupt nothing queued starts, and nobody waits."""
    pool = ThreadPoolExecutor(count, thread_name_prefix="exercise")
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class _Caller:
    """Makes requests from several threads and collects what came of them."""

    def __init__(self, client: Any, model: str, report: TrafficReport, tracker: Tracker) -> None:
        self._client, self._model, self._report, self._tracker = client, model, report, tracker
        self._done: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._given_up = False

    def run(self, plans: Iterator[Plan], concurrency: int) -> None:
        """Make every planned request; returns when all are answered."""
        try:
            with _threads(concurrency) as pool:
                for future in [pool.submit(self._one, plan) for plan in plans]:
                    future.result()
        except BaseException:
            with self._changed:
                self._given_up = True
                self._changed.notify_all()
            raise

    def wait_for(self, phase: str, count: int) -> bool:
        """Return once so many requests of a phase have come to an end; False where the requests were given up.

        Raises:
            InfraError: it takes longer than SWITCH_WAIT_S.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._given_up or self._done[phase] >= count, SWITCH_WAIT_S):
                raise InfraError(
                    f"{self._done[phase]} of {count} requests were answered within {SWITCH_WAIT_S:g} s",
                    where="serving: the exercise",
                    next_step="see the engines' logs, or give them more CPUs (serving.engine.cpus)",
                )
            return not self._given_up

    def _one(self, plan: Plan) -> None:
        began = time.perf_counter()
        try:
            variant, first, tokens = self._ask(plan)
            call = Call(plan.phase, plan.user, plan.kind, variant, time.perf_counter() - began, first, tokens, "")
        # A stream that breaks raises the transport's errors, not the client's.
        except Exception as error:  # noqa: BLE001 - whatever ended a call makes it a failed one in the record
            call = Call(plan.phase, plan.user, plan.kind, "", time.perf_counter() - began, None, 0, _describe(error))
        with self._changed:
            if self._given_up:
                return
            self._report.calls.append(call)
            self._done[plan.phase] += 1
            self._changed.notify_all()
            failed = sum(1 for each in self._report.calls if each.error)
            self._tracker.update(len(self._report.calls), failed=failed)

    def _ask(self, plan: Plan) -> tuple[str, float | None, int]:
        """(variant, seconds to the first token of a stream, tokens or pieces in the answer)."""
        stream = plan.kind.endswith("stream")
        common = {"model": self._model, "user": plan.user, "max_tokens": plan.max_tokens, "stream": stream}
        began = time.perf_counter()
        if plan.kind.startswith("chat"):
            messages = [{"role": "user", "content": plan.prompt}]
            raw = self._client.chat.completions.with_raw_response.create(messages=messages, **common)
        else:
            raw = self._client.completions.with_raw_response.create(prompt=plan.prompt, **common)
        variant = raw.headers.get("X-Raymill-Variant", "")
        answer = raw.parse()
        if not stream:
            return variant, None, answer.usage.completion_tokens if answer.usage else 0
        first, pieces = None, 0
        for _ in answer:
            first = first if first is not None else time.perf_counter() - began
            pieces += 1
        return variant, first, pieces


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
