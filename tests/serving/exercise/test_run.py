"""The exercise against a stand-in for the deployment and the client: what fails reaches the caller, nothing hangs."""

import io
import threading
from types import SimpleNamespace

import httpx
import pytest

from cluster.errors import InfraError
from cluster.progress import Progress
from serving.control.deploy import ServedReplica, ServedVariant
from serving.exercise import run as exercise
from serving.exercise.run import run_exercise


class FakeDeployment:
    """Two variants on one engine; users go to the variant with the most weight."""

    url, model = "http://nowhere/v1", "demo"

    def __init__(self):
        self.weights = {"base": 90.0, "tuned": 10.0}
        self.history = []
        self.problem = None

    def status(self):
        replica = ServedReplica(7, 1.0, "http://nowhere", "node", "log")
        return [ServedVariant(name, weight, "m", "engine", (replica,)) for name, weight in self.weights.items()]

    def variants_of(self, keys):
        return dict.fromkeys(keys, max(self.weights, key=self.weights.get))

    def set_weights(self, weights):
        if self.problem is not None:
            raise self.problem
        self.weights = dict(weights)
        self.history.append(self.weights)
        return 0.9


class FakeClient:
    """Answers at once as the deployment's weights say; ``act`` is called first in every request."""

    def __init__(self, deployment, act=lambda: None, breaking=None):
        self._deployment, self._act, self._breaking = deployment, act, breaking
        self.asked = 0
        raw = SimpleNamespace(create=self._create)
        self.completions = SimpleNamespace(with_raw_response=raw)
        self.chat = SimpleNamespace(completions=self.completions)

    def _create(self, *, user, stream, **_):
        self.asked += 1
        self._act()
        variant = self._deployment.variants_of([user])[user]
        answer = self._pieces() if stream else SimpleNamespace(usage=SimpleNamespace(completion_tokens=3))
        return SimpleNamespace(headers={"X-Raymill-Variant": variant}, parse=lambda: answer)

    def _pieces(self):
        yield "a"
        if self._breaking is not None:
            raise self._breaking
        yield "b"

    def close(self):
        pass


@pytest.fixture
def deployment():
    return FakeDeployment()


@pytest.fixture
def run(deployment, monkeypatch):
    def go(client=None, **options):
        monkeypatch.setattr(exercise, "_client", lambda _: client or FakeClient(deployment))
        with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
            return run_exercise(deployment, tracker, requests=16, requests_after=12, concurrency=2, **options)

    return go


def test_requests_before_during_and_after_a_change_of_weights_are_all_recorded(run, deployment):
    record = run()
    assert deployment.history == [{"base": 0.0, "tuned": 100.0}]
    assert set(record.assigned_before.values()) == {"base"}
    assert set(record.assigned_after.values()) == {"tuned"}
    assert {call.variant for call in record.phase("after")} == {"tuned"}
    assert len(record.calls) == 40 and not record.failures


def test_an_error_of_the_change_of_weights_reaches_the_caller(run, deployment):
    deployment.problem = InfraError("no gateway took them", where="serving", next_step="look")
    with pytest.raises(InfraError, match="no gateway took them"):
        run()


def test_a_stream_that_breaks_is_a_failed_call_and_the_others_go_on(run, deployment):
    record = run(FakeClient(deployment, breaking=httpx.RemoteProtocolError("peer closed connection")))
    assert len(record.calls) == 40
    assert {call.kind for call in record.failures} == {"completion stream", "chat stream"}
    assert {call.error for call in record.failures} == {"RemoteProtocolError: peer closed connection"}
    assert not record.checks()["every request was answered"]


def test_a_change_that_waits_too_long_for_answers_is_an_error(run, deployment, monkeypatch):
    monkeypatch.setattr(exercise, "SWITCH_WAIT_S", 0.05)
    late = threading.Event()
    client = FakeClient(deployment)
    client._act = lambda: late.wait(0.5) if client.asked > 16 else None
    with pytest.raises(InfraError, match=r"of 4 requests were answered within 0\.05 s"):
        run(client)


@pytest.mark.parametrize("asked_before", [0, 16])
def test_an_interrupt_starts_nothing_more_and_does_not_wait_for_what_hangs(run, deployment, monkeypatch, asked_before):
    """While the first or the second phase's requests hang, and with the change of weights waiting for them."""
    release, hanging = threading.Event(), threading.Semaphore(0)
    client = FakeClient(deployment)

    def hang():
        if client.asked > asked_before:
            hanging.release()
            release.wait()

    client._act = hang

    class Interrupted(exercise.ThreadPoolExecutor):
        """Ctrl-C in the main thread, once both threads are at work and the rest is queued."""

        def submit(self, function, *arguments):
            future = super().submit(function, *arguments)
            plan = arguments[0]
            phase = "during" if asked_before else "before"
            if getattr(plan, "phase", "") == phase and self._work_queue.qsize() >= 5:
                hanging.acquire()
                hanging.acquire()
                raise KeyboardInterrupt
            return future

    monkeypatch.setattr(exercise, "ThreadPoolExecutor", Interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(client)  # returns though two requests still hang
        assert not release.is_set()
    finally:
        release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("exercise"):
            thread.join(20)
            assert not thread.is_alive()
    assert client.asked == asked_before + 2
    assert deployment.history == []
