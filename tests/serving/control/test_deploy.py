"""The whole deployment on a real Ray and Ray Serve, with engines that do no inference."""

import io
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from cluster.errors import UserError
from cluster.progress import Progress
from cluster.store import open_store
from serving.config import ServingConfig
from serving.control.deploy import deploy
from serving.control.state import ModelSource
from serving.engines.plan import VariantSource

pytestmark = pytest.mark.ray

FAKE = [sys.executable, str(Path(__file__).parents[1] / "fake_engine.py")]
REFUSING = ["env", "FAKE_ENGINE_REFUSES=1", *FAKE]


@pytest.fixture
def two_models(tmp_path):
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return {name: VariantSource(ModelSource(folder=str(tmp_path / name))) for name in ("base", "tuned")}


@pytest.fixture
def start(serve_session, two_models, tmp_path):
    """Deploy fakes; whatever a test leaves running is taken down and checked to be gone."""
    running = []

    def go(commands=None, port=0, **engine):
        engine = {"cpus": 0.5, "startup_timeout_seconds": 60, **engine}
        config = ServingConfig(port=port, admin_port=0, gateways=1, engine=engine)
        store = open_store(tmp_path / "store")
        with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
            commands = commands or {"base": FAKE, "tuned": FAKE}
            options = {"store": store, "name": "test", "logs": tmp_path, "commands": commands}
            running.append(deploy(config, two_models, tracker, **options))
        return running[-1]

    yield go
    for deployment in running:
        deployment.shutdown()


def ask(deployment, user, **body):
    body = json.dumps({"model": "test", "prompt": "x", "user": user, **body}).encode()
    request = urllib.request.Request(deployment.url + "/completions", body)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.headers["X-Raymill-Variant"]


def engine_processes():
    """Fake engines and their children, wherever below this test run."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "fake_engine.py" in " ".join(process.cmdline()):
                found += [process, *process.children()]
        except psutil.NoSuchProcess:
            continue
    return list({process.pid: process for process in found}.values())


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def test_weights_change_under_load_and_the_shutdown_leaves_no_process(start):
    deployment = start()
    with pytest.raises(UserError, match="nobody"):
        deployment.set_weights({"base": 1, "nobody": 1})
    before = deployment.status()
    assert [(status.name, status.weight, len(status.replicas)) for status in before] == [
        ("base", 90.0, 1),
        ("tuned", 10.0, 1),
    ]
    users = [f"user-{index}" for index in range(50)]
    assigned = deployment.variants_of(users)
    failures, answers, stop = [], [], threading.Event()

    def load(offset):
        turn = offset
        while not stop.is_set():
            try:
                answers.append(ask(deployment, users[turn % len(users)]))
            except OSError as error:
                failures.append(str(error))
            turn += 1

    assert {user: ask(deployment, user) for user in users} == assigned
    threads = [threading.Thread(target=load, args=(index * 7,)) for index in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(answers) > 50)
    assert deployment.set_weights({"base": 0, "tuned": 1}) == pytest.approx(0.9)
    assert {ask(deployment, user) for user in users} == {"tuned"}  # the call returned: every gateway has it
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    after = deployment.status()
    assert [status.replicas for status in after] == [status.replicas for status in before]
    processes = engine_processes()
    assert len(processes) >= 4
    deployment.shutdown()
    deployment.shutdown()
    assert psutil.wait_procs(processes, timeout=0)[1] == []
    with pytest.raises(urllib.error.URLError):
        ask(deployment, "anyone")


@pytest.mark.parametrize(
    # Slow beside test_faults, which kills a replica, too, of two.
    "victim",
    [pytest.param("replica", marks=pytest.mark.slow), "engine"],
)
def test_a_killed_replica_or_engine_leaves_no_orphan_and_comes_back(start, victim):
    deployment = start()
    (before,) = deployment.status()[0].replicas
    server = psutil.Process(before.pid)
    family = [server.parent(), server, *server.children(recursive=True)]
    os.kill(before.pid if victim == "engine" else family[0].ppid(), signal.SIGKILL)
    assert psutil.wait_procs(family, timeout=20)[1] == []
    wait_for(lambda: [r.pid for r in deployment.status()[0].replicas if r.pid != before.pid])

    def answered():
        try:
            return ask(deployment, "someone-on-base") or True
        except urllib.error.HTTPError as error:
            assert error.code == 503 and b"service_unavailable" in error.read()
            return False

    wait_for(answered)


def test_a_port_in_use_is_named_before_any_engine_starts(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as caught:
            start(port=port)
    assert str(port) in caught.value.what and "serving.port" in caught.value.where
    assert "serving.port=" in caught.value.next_step
    assert engine_processes() == []


def test_a_refused_model_is_one_error_with_the_engines_reason_and_nothing_left(start):
    with pytest.raises(UserError) as caught:
        start(commands={"base": FAKE, "tuned": REFUSING})
    error = caught.value
    assert "this model is not to my taste" in error.what
    assert "variant tuned" in error.where
    log = Path(error.next_step.split()[-1])
    assert "not to my taste" in log.read_text()
    wait_for(lambda: engine_processes() == [], 20)


def test_an_interrupt_while_engines_start_leaves_nothing(start, monkeypatch):
    def interrupt(self):
        wait_for(engine_processes)
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.control.deploy.Deployment._wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start()
    wait_for(lambda: engine_processes() == [], 20)


def test_an_engine_that_never_answers_is_an_infrastructure_error(start):
    from cluster.errors import InfraError

    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(InfraError, match="not ready within 1 s"):
        start(commands={"base": sleeper, "tuned": FAKE}, startup_timeout_seconds=1)
