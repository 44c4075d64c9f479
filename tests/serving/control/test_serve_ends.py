"""`raymill serve` in the foreground is told to end: what it streams is finished, and no process is left."""

import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import ray

from cluster.store import open_store
from serving.config import ServingConfig
from serving.control.endpoint import read_endpoint
from serving.control.journal import Journal
from serving.control.redeploy import first_state, intend
from serving.control.state import ModelSource
from serving.engines.plan import VariantSource

pytestmark = pytest.mark.ray

FAKE = [sys.executable, str(Path(__file__).parents[1] / "fake_engine.py")]
RAYMILL = """
import functools, json, sys
from cluster import session
from serving.control import deploy
session._embedded = lambda config, say: session._joined(sys.argv[2], say)  # the session's Ray instead of its own
deploy.deploy = functools.partial(deploy.deploy, commands={"*": json.loads(sys.argv[1])})
from pipelines.cli import main
sys.exit(main(sys.argv[3:]))
"""


@pytest.fixture
def recipe(tmp_path):
    """One variant; it was served before, so that no traffic is sent to show what it does."""
    model = tmp_path / "base"
    model.mkdir()
    (model / "config.json").write_text("{}")
    serving = {
        "port": 0,
        "admin_port": 0,
        "variants": [{"name": "base", "model": str(model), "weight": 1}],
        "engine": {"cpus": 0.1, "startup_timeout_seconds": 60},
        "limits": {"drain_seconds": 10},
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({"name": "ends", "store": str(tmp_path / "store"), "serving": serving}))
    sources = {"base": VariantSource(ModelSource(folder=str(model)))}
    fresh = first_state(ServingConfig.model_validate(serving), sources, name="ends", by="a test", now=1.0)
    intend(Journal(open_store(tmp_path / "store"), "ends"), fresh)
    return file


def of_the_deployment():
    """Its processes, wherever below this test run: engines, their minders, and actors."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            line = " ".join(process.cmdline())
            if any(each in line for each in ("fake_engine.py", "ray::Controller", "ray::GatewayHost", "ray::ServeRep")):
                found += [process, *process.children()]
    return found


def test_a_stream_in_flight_is_finished_and_nothing_is_left(ray_session, recipe, tmp_path):
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-c", RAYMILL, json.dumps(FAKE), address, "serve", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline()
        assert said.startswith("serving ends at http"), process.communicate(timeout=60)[1]
        url = said.split()[3]
        body = json.dumps({"model": "ends", "prompt": "drip", "stream": True}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}/completions", body), timeout=30) as reply:
            assert reply.readline().startswith(b"data: ")
            family = of_the_deployment()
            assert len(family) >= 4
            process.send_signal(signal.SIGTERM)
            rest = reply.read().decode()
        assert rest.rstrip().endswith("data: [DONE]") and '"error"' not in rest
        errors = process.communicate(timeout=40)[1]
        assert process.returncode == 0 and "Traceback" not in errors, errors
    finally:
        process.kill()
        process.communicate()
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert of_the_deployment() == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/models", timeout=5)
    assert read_endpoint(open_store(tmp_path / "store"), "ends") is None
