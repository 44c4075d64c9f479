"""Real processes die, come and go under load; nobody who asked without a stream notices. Engines do no inference.

One deployment with two variants of two replicas each and two gateways goes through all of it, in the order of the
file; each test leaves it whole.
"""

import contextlib
import io
import itertools
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import pytest

from cluster.progress import Progress
from cluster.store import open_store
from serving.config import ServingConfig
from serving.control import operations, status
from serving.control.deploy import deploy
from serving.control.journal import Journal
from serving.control.redeploy import first_state, intend
from serving.control.state import ModelSource
from serving.engines.plan import VariantSource
from serving.rollout.config import GuardrailConfig, RolloutConfig

pytestmark = pytest.mark.ray

FAKE = [sys.executable, str(Path(__file__).parents[1] / "fake_engine.py")]
COMMANDS = {
    "*": FAKE,
    # An engine that comes later is named after its variant and the version that brings it.
    **{f"refused-v{version}": ["env", "FAKE_ENGINE_REFUSES=1", *FAKE] for version in range(100)},
    **{f"failing-v{version}": ["env", "FAKE_ENGINE_FAILS=0.6", *FAKE] for version in range(100)},
}
BY = {"by": "a test", "reason": "to see"}


class Site:
    """The deployment, and what the tests do to it and ask of it."""

    def __init__(self, folder):
        self.folder = folder
        self.store = open_store(folder / "store")
        self.journal = Journal(self.store, "faults")
        self.deployment = None
        self.assignments = Counter()

    def source(self, name):
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "config.json").write_text("{}")
        return VariantSource(ModelSource(folder=str(self.folder / name)))

    def recipe(self, weights=(("base", 50), ("tuned", 50)), replicas=2, idle=(), **section):
        """A recipe's section and its sources; variants in ``idle`` have no users and one replica each."""
        variants = [{"name": name, "model": "given", "weight": weight} for name, weight in dict(weights).items()]
        variants += [{"name": name, "model": "given", "weight": 0, "engine": {"replicas": 1}} for name in idle]
        config = ServingConfig(
            port=0,
            admin_port=0,
            variants=variants,
            engine={"cpus": 0.1, "replicas": replicas, "startup_timeout_seconds": 60, "idle_seconds": 0.5},
            limits={"drain_seconds": 10, "try_seconds": 20},
            **section,
        )
        return config, {each["name"]: self.source(each["name"]) for each in variants}

    def change_recipe(self, idle=()):
        """What serving the recipe again with other idle variants writes, as a process elsewhere does."""
        config, sources = self.recipe(idle=idle)
        return intend(self.journal, first_state(config, sources, name="faults", by=BY["by"], now=time.time()))

    def serve(self, *arguments, **options):
        config, sources = self.recipe(*arguments, **options)
        with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
            options = {"store": self.store, "name": "faults", "logs": self.folder, "commands": COMMANDS}
            self.deployment = deploy(config, sources, tracker, **options)

    def replicas(self, variant):
        return next(each.replicas for each in self.deployment.status() if each.name == variant)

    def pids(self):
        return {each.name: {replica.pid for replica in each.replicas} for each in self.deployment.status()}

    def status(self):
        return status.read(self.store, "faults")

    def variant(self, name):
        return next((each for each in self.status().variants if each.name == name), None)

    def applied(self, state):
        return status.wait_applied(self.store, "faults", state.version, 30)

    def whole(self):
        """Both replicas of both variants answer and nobody else is announced."""
        known = self.pids()
        return set(map(len, known.values())) == {2} and all(runs(pid) for pids in known.values() for pid in pids)

    def ask(self, user="someone", prompt="x", stream=False, timeout=30):
        body = json.dumps({"model": "faults", "prompt": prompt, "user": user, "stream": stream}).encode()
        request = urllib.request.Request(self.deployment.url + "/completions", body)
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            self.assignments[reply.headers["X-Raymill-Assignment"]] += 1
            return reply.headers["X-Raymill-Variant"], reply.read().decode()


def runs(pid):
    """Whether a process runs; one that was killed exists until its parent has looked."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Load:
    """A bounded number of requests from several threads while the body of the with statement runs."""

    def __init__(self, site, *, prompts=("x", "slow"), streams=False, most=600, threads=6):
        self.site, self.prompts, self.streams, self.most = site, prompts, streams, most
        self.failures, self.answers, self.texts = [], [], []
        self._stop, self._numbers = threading.Event(), itertools.count()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        wait_for(lambda: len(self.answers) >= 10)
        return self

    def __exit__(self, *error):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, count=30):
        """Wait until so many more requests have been answered."""
        wanted = len(self.answers) + count
        wait_for(lambda: len(self.answers) + len(self.failures) >= wanted)

    def _run(self):
        while not self._stop.is_set() and (number := next(self._numbers)) < self.most:
            prompt = self.prompts[number % len(self.prompts)]
            try:
                variant, text = self.site.ask(f"user-{number % 40}", prompt, self.streams)
                self.answers.append(variant)
                self.texts.append(text)
            except (OSError, urllib.error.HTTPError) as error:
                detail = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
                self.failures.append(f"{error} {detail}")


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def actor(name):
    """The process of a Ray actor class of this test run."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            if process.cmdline()[0].startswith(f"ray::{name}"):
                return process
    return None


def kill(pid):
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def site(serve_session, tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("faults"))
    site.serve()
    yield site
    if site.deployment is not None:
        site.deployment.shutdown(drain_seconds=0)


@pytest.mark.parametrize("victim", ["engine", "replica"])
def test_a_killed_engine_or_replica_costs_no_request_and_comes_back(site, victim):
    wait_for(site.whole)
    before = site.replicas("base")[0].pid
    server = psutil.Process(before)
    family = [server.parent(), server, *server.children(recursive=True)]
    site.assignments.clear()
    with Load(site) as load:
        kill(before if victim == "engine" else server.parent().ppid())
        load.more()
    assert load.failures == []
    assert set(site.assignments) == {"sticky"}  # the other replica answered, no other variant
    assert set(load.answers) == {"base", "tuned"}
    wait_for(lambda: site.whole() and before not in site.pids()["base"])
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_stream_that_is_cut_ends_with_an_error_event(site):
    wait_for(site.whole)
    victim = site.replicas("base")[0].pid
    with Load(site, prompts=("drip",), streams=True, threads=8) as load:
        kill(victim)
        load.more(16)
    assert load.failures == []
    whole = [text for text in load.texts if text.rstrip().endswith("data: [DONE]") and '"error"' not in text]
    cut = [text for text in load.texts if text not in whole]
    assert cut and whole
    assert all('"error"' in text for text in cut)
    wait_for(lambda: victim not in site.pids()["base"])


def test_the_controller_is_killed_under_load_and_weights_still_change_everywhere(site):
    wait_for(site.whole)
    before = site.pids()
    old = actor("Controller")
    with Load(site) as load:
        kill(old.pid)
        state = operations.set_weights(site.journal, {"base": 0, "tuned": 1}, **BY)  # while it is dead
        load.more(20)
        wait_for(lambda: actor("Controller") is not None and actor("Controller").pid != old.pid)
        site.applied(state)
        answers = {site.ask(f"user-{number}")[0] for number in range(20)}
        back = operations.set_weights(site.journal, {"base": 50, "tuned": 50}, **BY)
        site.applied(back)
        load.more(10)
    assert answers == {"tuned"}
    assert load.failures == []
    wait_for(lambda: site.pids() == before)  # no engine went, and each tells the new controller, every other second


def test_a_killed_gateway_is_not_noticed_by_a_client_that_retries(site):
    import openai

    client = openai.OpenAI(base_url=site.deployment.url, api_key="none")
    wait_for(lambda: len(site.status().gateways) == 2 and all(each.version > 0 for each in site.status().gateways))
    victim = site.status().gateways[0].pid
    failures, done = [], []

    def call(offset):
        for number in range(25):
            try:
                client.completions.create(model="faults", prompt="x", user=f"user-{offset + number}")
                done.append(number)
            except openai.OpenAIError as error:
                failures.append(repr(error))
            if offset == 0 and number == 5:
                kill(victim)

    threads = [threading.Thread(target=call, args=(100 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    assert failures == [] and len(done) == 100
    wait_for(lambda: len({each.pid for each in site.status().gateways if each.version > 0} - {victim}) == 2)


def test_variants_come_and_go_and_one_that_never_starts_gets_no_traffic(site):
    wait_for(site.whole)
    before = site.pids()
    with Load(site, prompts=("drip",), streams=True) as streams, Load(site) as load:
        site.applied(site.change_recipe(idle=["refused"]))
        site.applied(site.change_recipe(idle=["refused", "third"]))
        wait_for(lambda: site.variant("third").state == "ready")
        wait_for(lambda: site.variant("refused").state == "failed")
        assert "not to my taste" in site.variant("refused").reason
        site.applied(operations.set_weights(site.journal, {"base": 40, "tuned": 40, "third": 20}, **BY))
        load.more()
        assert "third" in load.answers and "refused" not in load.answers
        site.assignments.clear()
        site.applied(operations.set_weights(site.journal, {"base": 40, "tuned": 40, "refused": 20, "third": 0}, **BY))
        load.more(60)
        assert "refused" not in load.answers and site.assignments["fallback"]  # its users are answered, and marked
        site.applied(operations.set_weights(site.journal, {"base": 50, "tuned": 50, "refused": 0}, **BY))
        site.applied(site.change_recipe())
        load.more()
        streams.more(12)
    assert load.failures == [] and streams.failures == []
    assert all(text.rstrip().endswith("data: [DONE]") and '"error"' not in text for text in streams.texts)
    assert site.pids() == before
    late = [each for each in psutil.Process().children(recursive=True) if each.name() == "env"]
    assert late == []


def test_fewer_and_more_replicas_lose_nothing(site):
    wait_for(site.whole)
    with Load(site, prompts=("drip",), streams=True) as streams, Load(site) as load:
        kept = site.pids()
        site.applied(operations.scale(site.journal, "base", 1, **BY))
        wait_for(lambda: len(site.pids()["base"]) == 1)
        streams.more(12)
        site.applied(operations.scale(site.journal, "base", 2, **BY))
        wait_for(lambda: len(site.pids()["base"]) == 2)
        load.more(10)
    assert load.failures == [] and streams.failures == []
    assert all(text.rstrip().endswith("data: [DONE]") and '"error"' not in text for text in streams.texts)
    assert site.pids()["tuned"] == kept["tuned"]
    assert site.pids()["base"] & kept["base"]  # one of them was never restarted


def test_an_engine_falls_asleep_and_a_request_wakes_it(site):
    user = "somebody"
    variant = site.deployment.variants_of([user])[user]
    site.applied(operations.scale(site.journal, variant, "0:2", **BY))
    wait_for(lambda: site.variant(variant).state == "asleep")
    wait_for(lambda: site.replicas(variant) == ())
    assert site.ask(user, timeout=40)[0] == variant
    site.applied(operations.scale(site.journal, variant, 2, **BY))
    wait_for(site.whole)


def test_a_shutdown_finishes_streams_and_the_next_start_goes_on_from_the_store(site):
    wait_for(site.whole)
    key, _ = operations.create_key(site.journal, "somebody", **BY)
    state = operations.set_weights(site.journal, {"base": 10, "tuned": 30}, **BY)
    site.applied(state)
    users = [f"user-{number}" for number in range(100)]
    assigned = site.deployment.variants_of(users)
    texts, began = [], threading.Event()

    def read():
        request = {"model": "faults", "prompt": "drip", "stream": True, "user": "u"}
        url = urllib.request.Request(site.deployment.url + "/completions", json.dumps(request).encode())
        with urllib.request.urlopen(url, timeout=30) as reply:
            texts.append(reply.readline().decode())
            began.set()
            texts.append(reply.read().decode())

    reader = threading.Thread(target=read)
    reader.start()
    assert began.wait(20)
    site.deployment.shutdown()
    reader.join()
    assert texts[-1].rstrip().endswith("data: [DONE]") and '"error"' not in texts[-1]
    with pytest.raises(urllib.error.URLError):
        site.ask()
    site.serve()
    again = site.journal.current()
    assert (again.version, again.reason) == (state.version + 1, "served again")
    assert again.weights == {"base": 10, "tuned": 30} and [each.id for each in again.keys] == [key.id]
    assert site.deployment.variants_of(users) == assigned
    assert {user: site.ask(user)[0] for user in users[:20]} == {user: assigned[user] for user in users[:20]}


@pytest.mark.parametrize("candidate", ["good", "failing"])
def test_a_rollout_promotes_the_good_and_rolls_back_the_bad_though_its_controller_is_killed(site, candidate):
    site.deployment.shutdown(drain_seconds=0)
    rollout = RolloutConfig(
        candidate=candidate,
        baseline="base",
        steps=(10, 50),
        minimum_seconds=1,
        minimum_units=5,
        window_seconds=0.5,
        bake_seconds=1,
        guardrails=[GuardrailConfig(metric="error_rate", margin=0.5)],
        gate="none",
    )
    site.serve({"base": 100, candidate: 0}, replicas=1, rollout=rollout)
    ended = {"promoted", "rolled_back"}
    killed = actor("Controller").pid
    deadline, number = time.monotonic() + 120, 0
    while time.monotonic() < deadline and site.journal.current().rollout.status not in ended:
        number += 1
        with contextlib.suppress(urllib.error.HTTPError):
            site.ask(f"user-{number}")
        if number == 60:
            kill(killed)
    state = site.journal.current()
    assert state.rollout.status == ("promoted" if candidate == "good" else "rolled_back"), state.reason
    assert state.weights[candidate] == (100 if candidate == "good" else 0)
    assert state.changed_by == f"rollout {state.rollout.id}"
    assert actor("Controller").pid != killed
