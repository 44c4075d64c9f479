"""A Ray of three nodes on this machine that runs before and after what is deployed on it; engines do no inference.

The nodes share one address, so all their gateways share one port. A node dies with every process that it has: its
raylet, the deployment's controller, gateways, replicas and engines.
"""

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from cluster.store import open_store
from serving.control import operations, status
from serving.control.endpoint import read_endpoint
from serving.control.journal import Journal

pytestmark = pytest.mark.ray

FAKE = ["env", "FAKE_ENGINE_HOST=0.0.0.0", sys.executable, str(Path(__file__).parents[1] / "fake_engine.py")]
BY = {"by": "a test", "reason": "to see"}

CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 4, "num_gpus": 0, "object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
nodes = [cluster.head_node, cluster.add_node(**node), cluster.add_node(**node)]
raylets = {each.node_id: each.all_processes["raylet"][0].process.pid for each in nodes}
print(json.dumps([cluster.address, raylets]), flush=True)
sys.stdin.read()
cluster.shutdown()
"""

# What `raymill serve --address` does, from a node that is not the head: the controller starts where it is called.
SERVE_FROM_A_NODE = """
import json, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from cluster.session import ClusterConfig, connect
address, node, folder, port, fake = json.loads(sys.argv[1])

def serve():
    import io
    from cluster.progress import Progress
    from cluster.store import open_store
    from serving.config import ServingConfig
    from serving.control.deploy import deploy
    from serving.control.state import ModelSource
    from serving.engines.plan import VariantSource

    config = ServingConfig(
        host="0.0.0.0",
        port=port,
        admin_port=0,
        gateways=1,
        variants=[{"name": name, "model": "given", "weight": 50} for name in ("base", "tuned")],
        engine={"cpus": 0.1, "replicas": 2, "startup_timeout_seconds": 60},
        limits={"drain_seconds": 5, "try_seconds": 10},
    )
    sources = {name: VariantSource(ModelSource(folder=f"{folder}/{name}")) for name in ("base", "tuned")}
    with Progress(stream=io.StringIO(), live=False).track("serving") as tracker:
        store = open_store(f"{folder}/store")
        options = {"store": store, "name": "nodes", "commands": {"*": fake}, "detached": True}
        return deploy(config, sources, tracker, **options).url

with connect(ClusterConfig(address=address)):
    there = ray.remote(serve).options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
    print(ray.get(there.remote()))
"""

RAYMILL = """
import functools, json, sys
from serving.control import deploy
deploy.deploy = functools.partial(deploy.deploy, commands={"*": json.loads(sys.argv[1])})
from pipelines.cli import main
main(sys.argv[2:])
"""

KILL_FOR_GOOD = """
import sys
import ray
from cluster.session import ClusterConfig, connect
with connect(ClusterConfig(address=sys.argv[1])):
    ray.kill(ray.get_actor("raymill-cli", namespace="raymill"))
"""


class Nodes:
    """The cluster: its address, and node id -> the process id of its raylet, the head's first."""

    def __init__(self, folder):
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(os.urandom(32).hex())
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            # Ray's word for a node that is gone comes within seconds.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "3000",
            "RAY_health_check_failure_threshold": "3",
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([sys.executable, "-c", CLUSTER], **pipes, env=self.environment, text=True)
        self.address, self.raylets = json.loads(self._process.stdout.readline())
        self.processes = psutil.Process(self._process.pid)

    def run(self, script, *arguments, timeout=100):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def raymill(self, *arguments):
        return self.run(RAYMILL, json.dumps(FAKE), *arguments)

    def family(self, node):
        raylet = psutil.Process(self.raylets[node])
        return [raylet, *raylet.children(recursive=True)]

    def actor(self, name):
        return next((each for each in self.processes.children(recursive=True) if _title(each).startswith(name)), None)

    def close(self):
        everything = self.processes.children(recursive=True)
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        _, left = psutil.wait_procs(everything, timeout=5)
        for each in [*left, self._process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait()


def _title(process):
    with contextlib.suppress(psutil.Error, IndexError):
        return process.cmdline()[0]
    return ""


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    yield nodes
    nodes.close()


def engines(store, name):
    """Engine -> its replicas that answer, by node."""
    return {each.name: sorted(replica.node for replica in each.replicas) for each in status.read(store, name).engines}


def recipe_of(folder, *variants):
    for name in variants:
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text("{}")
    recipe = {
        "name": "cli",
        "store": str(folder / "store"),
        "serving": {
            "port": 0,
            "admin_port": 0,
            "variants": [
                {"name": name, "model": str(folder / name), "weight": 50 if name != "third" else 0} for name in variants
            ],
            "engine": {"cpus": 0.1, "replicas": 1, "startup_timeout_seconds": 60},
            "limits": {"drain_seconds": 2},
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return str(folder / "recipe.yaml")


@pytest.mark.slow  # the same commands are tested without Ray in tests/pipelines/test_commands_deployment.py
def test_the_command_line_leaves_it_serving_changes_it_and_ends_it_even_without_a_controller(nodes, tmp_path):
    store, target = open_store(tmp_path / "store"), ("--store", str(tmp_path / "store"), "--deployment", "cli")

    def serve(*variants):
        return nodes.raymill("serve", recipe_of(tmp_path, *variants), "--address", nodes.address)

    def pids():
        return {each.name: [replica.pid for replica in each.replicas] for each in status.read(store, "cli").engines}

    def leftovers():
        return [each for each in nodes.processes.children(recursive=True) if "cli" in _title(each)] + [
            each for each in map(nodes.actor, ("ray::Controller", "ray::GatewayHost", "ray::ServeReplica")) if each
        ]

    def ask():
        request = urllib.request.Request(url + "/v1/completions", json.dumps({"model": "cli", "prompt": "x"}).encode())
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.headers["X-Raymill-Variant"]

    said = serve("base", "tuned")
    url = read_endpoint(store, "cli").url
    assert url in said and ask() in ("base", "tuned")
    before = pids()
    serve("base", "tuned", "third")
    added = wait_for(lambda: pids() if len(pids()) == 3 else None)
    serve("base", "tuned")
    wait_for(lambda: pids() == before)
    assert {name: added[name] for name in before} == before  # the others' engines were never touched
    assert "base" in nodes.raymill("status", *target)

    old = nodes.actor("ray::Controller")
    old.kill()
    wait_for(lambda: nodes.actor("ray::Controller") not in (None, old))
    state = operations.set_weights(Journal(store, "cli"), {"base": 0, "tuned": 1}, **BY)
    status.wait_applied(store, "cli", state.version, 30)
    assert ask() == "tuned"
    wait_for(lambda: pids() == before)  # every replica has told the new controller of itself
    nodes.raymill("undeploy", *target)
    assert read_endpoint(store, "cli") is None
    wait_for(lambda: not leftovers())

    serve("base", "tuned")
    servers = [psutil.Process(pid) for each in pids().values() for pid in each]
    nodes.run(KILL_FOR_GOOD, nodes.address)
    nodes.raymill("undeploy", "--force", *target)
    assert read_endpoint(store, "cli") is None
    wait_for(lambda: not leftovers())
    assert psutil.wait_procs(servers, timeout=20)[1] == []


def test_a_node_that_dies_with_the_controller_is_not_noticed_by_clients_that_retry(nodes, tmp_path):
    import openai

    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    store = open_store(tmp_path / "store")
    head, victim, other = nodes.raylets
    asked = [nodes.address, victim, str(tmp_path), free_port(), FAKE]
    url = nodes.run(SERVE_FROM_A_NODE, json.dumps(asked)).split()[-1]
    seen = status.read(store, "nodes")
    assert {each.node for each in seen.gateways} == {head, victim, other}
    assert len({each.port for each in seen.gateways}) == 1
    host = nodes.address.split(":")[0]
    assert {each.address.split("//")[1].split(":")[0] for engine in seen.engines for each in engine.replicas} == {host}
    assert all(len(set(each)) == 2 for each in engines(store, "nodes").values())  # two replicas, two nodes
    doomed = nodes.family(victim)
    assert nodes.actor("ray::Controller") in nodes.family(head)  # though another node asked for it

    journal = Journal(store, "nodes")
    _, secret = operations.create_key(journal, "somebody", **BY)  # off loopback nobody calls without
    status.wait_applied(store, "nodes", journal.current().version, 30)
    client = openai.OpenAI(base_url=url, api_key=secret, timeout=30)
    failures, answered, numbers, enough = [], [], itertools.count(), threading.Event()

    def call():
        while not enough.is_set() and (number := next(numbers)) < 3000:
            try:
                client.completions.create(model="nodes", prompt=("x", "slow")[number % 2], user=f"user-{number % 40}")
                answered.append(number)
            except openai.OpenAIError as error:
                failures.append(repr(error))

    callers = [threading.Thread(target=call) for _ in range(6)]
    for each in callers:
        each.start()
    wait_for(lambda: len(answered) + len(failures) >= 20)
    began = time.monotonic()
    for each in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()

    def whole():
        now = status.read(store, "nodes")
        gateways = {each.node for each in now.gateways if each.version > 0}
        placed = engines(store, "nodes")
        left = all(len(each) == 2 and victim not in each for each in placed.values())
        return now.written_at > seen.written_at and gateways == {head, other} and left

    try:
        wait_for(whole)
        print(f"whole after {time.monotonic() - began:.1f} s, {len(answered)} requests answered")
        state = operations.set_weights(journal, {"base": 0, "tuned": 1}, **BY)
        status.wait_applied(store, "nodes", state.version, 30)
    finally:
        enough.set()
        for each in callers:
            each.join()
        client.close()
    assert failures == []
    nodes.raymill("undeploy", "--store", str(tmp_path / "store"), "--deployment", "nodes")
    assert read_endpoint(store, "nodes") is None
