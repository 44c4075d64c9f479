"""`raymill keys`, `scale`, `limits`, `shadow` and `undeploy` against a store; a thread plays the controller."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.errors import UserError
from cluster.store_local import LocalStore
from pipelines.cli import run_command
from serving.access.keys import KeyRing
from serving.config import ServingConfig
from serving.control import operations, status
from serving.control.endpoint import Endpoint, read_endpoint, remove_endpoint, write_endpoint
from serving.control.journal import Journal
from serving.control.state import ModelSource, ServingState
from serving.control.status import DeploymentStatus, EngineStatus, GatewayStatus, ReplicaStatus, VariantStatus
from serving.engines.plan import VariantSource, initial_state


@pytest.fixture
def journal(store: LocalStore) -> Journal:
    """A deployment that nobody serves."""
    source = VariantSource(ModelSource(folder="/models/base"))
    made = Journal(store, "docs")
    made.create(
        initial_state(ServingConfig(), {"base": source, "tuned": source}, name="docs", by="me", now=1.0).model_copy(
            update={"limits": ServingConfig().limits.model_copy(update={"drain_seconds": 1.0})}
        )
    )
    return made


class Controller(threading.Thread):
    """Follows the journal with two gateways, one a little later than the other, until the deployment is stopped."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__()
        self.store, self.ended = store, threading.Event()
        endpoint = Endpoint(
            name="docs",
            url="http://127.0.0.1:8000",
            admin_url="http://127.0.0.1:8001",
            ray_address="",
            started_at=1.0,
            started_by="me",
        )
        write_endpoint(store, endpoint)

    def run(self) -> None:
        journal, last = Journal(self.store, "docs"), 0
        while not self.ended.wait(0.02):
            state = journal.current()
            gateways = tuple(
                GatewayStatus(name=f"g{n}", version=version) for n, version in enumerate((state.version, last))
            )
            engine = EngineStatus(name="base", target=1)
            status.write(
                self.store, "docs", DeploymentStatus(version=state.version, gateways=gateways, engines=(engine,))
            )
            last = state.version
            if state.stopped:
                remove_endpoint(self.store, "docs")
                return


@pytest.fixture
def served(journal: Journal) -> Iterator[Journal]:
    assert isinstance(journal.store, LocalStore)
    controller = Controller(journal.store)
    controller.start()
    yield journal
    controller.ended.set()
    controller.join()


def raymill(journal: Journal, *words: str) -> int:
    return run_command([*words, "--store", journal.store.url])


def test_a_new_key_is_alone_on_stdout(served: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "9000", "--concurrency", "4"]
    assert raymill(served, "keys", "create", "search", *limits, "--scope", "call", "--model", "docs") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"rmk-[\w-]{43}\n", out)
    assert out.strip() not in err
    assert re.search(r"version 2, on 2 of 2 gateways after \d+\.\d s", err)
    key = KeyRing(served.current().keys).find(out.strip())
    assert key is not None
    assert (key.name, key.scopes, key.models) == ("search", ("call",), ("docs",))
    assert key.limits.model_dump() == {"requests_per_minute": 60, "tokens_per_minute": 9000, "concurrency": 4}
    assert served.current().reason == "key for search"


def test_keys_are_listed_without_secrets_and_revoked(served: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert raymill(served, "keys", "list") == 0
    assert "no keys yet" in capsys.readouterr().out
    raymill(served, "keys", "create", "search", "--scope", "admin", "--scope", "call", "--reason", "ticket 12")
    secret = capsys.readouterr().out.strip()
    (key,) = served.current().keys
    assert served.current().reason == "ticket 12"
    assert raymill(served, "keys", "list") == 0
    shown = capsys.readouterr().out
    assert key.id in shown
    assert "admin and call" in shown
    assert raymill(served, "keys", "list", "--json") == 0
    text = capsys.readouterr().out
    assert json.loads(text)["keys"][0]["id"] == key.id
    assert secret not in text + shown
    assert key.sha256 not in text + shown
    assert raymill(served, "keys", "limit", "search", "--concurrency", "2", "--requests-per-minute", "5") == 0
    assert "5 requests/min, 2 at a time: version 3, on 2 of 2" in capsys.readouterr().out
    assert raymill(served, "keys", "limit", key.id, "--requests-per-minute", "0") == 0
    assert served.current().keys[0].limits.model_dump(exclude_none=True) == {"concurrency": 2}
    assert raymill(served, "keys", "require", "on") == 0
    assert "callers need a key: version 5" in capsys.readouterr().out
    assert raymill(served, "keys", "revoke", key.id) == 0
    assert f"{key.id} (search) is revoked: version 6, on 2 of 2 gateways" in capsys.readouterr().out
    assert raymill(served, "keys", "revoke", key.id) == 0
    assert "nothing to change: version 6 says so already" in capsys.readouterr().out
    assert KeyRing(served.current().keys).find(secret) is None


def test_scale_says_who_shares_the_servers(served: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert raymill(served, "scale", "tuned", "--replicas", "1:3") == 0
    out = capsys.readouterr().out
    assert "tuned has 1:3 replicas (its servers also answer for base): version 2, on 2 of 2" in out
    assert "engine base: 0 of 1 ready, 1 is starting" in out
    assert served.current().engines["base"].config.replicas == "1:3"


def test_limits_and_shadow(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert raymill(journal, "limits", "--set", "max_tokens=64", "--set", "queue_seconds=2.5") == 0
    assert capsys.readouterr().out.strip().endswith("version 2 written; takes effect when it is served")
    assert raymill(journal, "limits", "--json") == 0
    assert json.loads(capsys.readouterr().out)["max_tokens"] == 64
    assert raymill(journal, "limits") == 0
    assert re.search(r"queue_seconds\s+2\.5", capsys.readouterr().out)
    assert raymill(journal, "shadow", "tuned", "--share", "0.25") == 0
    assert "copies of 25% of the requests go to tuned" in capsys.readouterr().out
    assert raymill(journal, "shadow") == 0
    assert capsys.readouterr().out == "copies of 25% of the requests go to tuned\n"
    assert raymill(journal, "shadow", "--off") == 0
    assert journal.current().shadow is None
    capsys.readouterr()
    assert raymill(journal, "shadow") == 0
    assert capsys.readouterr().out == "no copies\n"


def test_limits_that_somebody_else_sets_meanwhile_stay(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    key, _ = operations.create_key(journal, "search", by="me", reason="")
    append, others = Journal._append, [("concurrency", 2), ("requests_per_minute", 5)]

    def late(self: Journal, state: ServingState) -> ServingState | None:
        if others:
            name, number = others.pop(0)
            operations.set_key_limits(Journal(self.store, "docs"), key.id, {name: number}, by="ann", reason="")
        return append(self, state)

    monkeypatch.setattr(Journal, "_append", late)
    assert raymill(journal, "keys", "limit", key.id, "--tokens-per-minute", "7") == 0
    expected = {"concurrency": 2, "requests_per_minute": 5, "tokens_per_minute": 7}
    assert journal.current().keys[0].limits.model_dump() == expected


def test_status_shows_what_is_and_who_changed_it(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert raymill(journal, "status") == 0
    assert "docs: not serving yet, or not served; version 1 is wanted" in capsys.readouterr().out
    assert raymill(journal, "scale", "base", "--replicas", "2", "--reason", "more traffic") == 0
    assert isinstance(journal.store, LocalStore)
    Controller(journal.store)  # writes the endpoint's record, and never runs
    replica = ReplicaStatus(pid=77, address="http://127.0.0.1:4001", node="n1", log="/logs/base.log", ongoing=3)
    now = DeploymentStatus(
        version=2,
        gateways=(
            GatewayStatus(name="g0", node="n1", pid=5, port=8000, version=2, dropped=12),
            GatewayStatus(name="g1"),
        ),
        engines=(
            EngineStatus(name="base", wanted="2", target=2, replicas=(replica,)),
            EngineStatus(name="big", wanted="1", target=1, refusal="out of memory"),
        ),
        variants=(VariantStatus(name="tuned", weight=10, share=0.1, state="failed", reason="no such adapter"),),
        problems=("the store answers slowly",),
        written_at=time.time(),
    )
    status.write(journal.store, "docs", now)
    capsys.readouterr()
    assert raymill(journal, "status") == 0
    out = capsys.readouterr().out
    for text in (
        "docs at http://127.0.0.1:8000",
        "version 2 by ",
        "more traffic",
        "1 of 2 gateways work by it",
        "http://127.0.0.1:4001",
        "/logs/base.log",
        "1 of 2 ready, 1 is starting",
        "0 of 1 ready, 1 does not come up",
        "problem: engine big: out of memory",
        "problem: variant tuned: no such adapter",
        "problem: gateway g0: 12 observations of the rollout are lost",
        "problem: the store answers slowly",
    ):
        assert text in out
    assert raymill(journal, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["status"]["engines"][0]["replicas"][0]["pid"] == 77
    assert raymill(journal, "status", "--history") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "more traffic" in lines[2]
    assert "deployed" in lines[3]
    assert raymill(journal, "status", "--history", "1", "--json") == 0
    (last,) = json.loads(capsys.readouterr().out)["changes"]
    assert (last["version"], last["why"]) == (2, "more traffic")


@pytest.mark.parametrize(
    ("ready", "target", "wanted", "refusal", "words"),
    [
        (2, 2, "2", "", "2 of 2 ready"),
        (1, 2, "2", "", "1 of 2 ready, 1 is starting"),
        (0, 3, "3", "", "0 of 3 ready, 3 are starting"),
        (1, 2, "2", "out of memory", "1 of 2 ready, 1 does not come up"),
        (0, 0, "1:4", "", "0 of 1 ready, 1 is starting"),  # it has no application yet
        (0, 0, "0:4", "", "asleep"),
        (3, 2, "1:4", "", "3 ready, 2 wanted"),
    ],
)
def test_missing_servers_are_said(ready: int, target: int, wanted: str, refusal: str, words: str) -> None:
    replicas = tuple(ReplicaStatus(pid=n, address=f"http://127.0.0.1:{n}") for n in range(ready))
    engine = EngineStatus(name="base", wanted=wanted, target=target, replicas=replicas, refusal=refusal)
    assert engine.standing == words


def test_a_reason_is_said_once_with_everything_that_it_holds_for(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(journal.store, LocalStore)
    Controller(journal.store)  # writes the endpoint's record, and never runs
    bad = VariantStatus(name="bad", weight=0, share=0, state="failed", reason="no config.json")
    now = DeploymentStatus(
        version=1,
        engines=(EngineStatus(name="bad-v9", target=1, refusal="no config.json"),),
        variants=(bad, bad.model_copy(update={"name": "worse", "reason": "no adapter"})),
        written_at=time.time(),
    )
    status.write(journal.store, "docs", now)
    assert raymill(journal, "status") == 0
    out = capsys.readouterr().out
    assert "\n\nproblem: variant bad, engine bad-v9: no config.json\nproblem: variant worse: no adapter\n" in out
    assert out.count("no config.json") == 1


def test_status_says_what_does_not_answer_any_more(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(journal.store, LocalStore)
    Controller(journal.store)  # writes the endpoint's record, and never runs
    replica = ReplicaStatus(pid=77, address="http://127.0.0.1:4001")
    now = DeploymentStatus(
        version=1,
        engines=(EngineStatus(name="base", wanted="1", target=1, replicas=(replica,)),),
        variants=(VariantStatus(name="base", weight=1, share=1, state="ready"),),
        written_at=time.time() - 53,
    )
    status.write(journal.store, "docs", now)
    assert raymill(journal, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("IT DOES NOT ANSWER ANY MORE: its controller wrote nothing for 53s")
    assert next(line for line in lines if line.startswith("base")).split()[-1] == "unknown"
    assert not any("ready" in line for line in lines)
    assert raymill(journal, "status", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"] is False
    status.write(journal.store, "docs", now.model_copy(update={"written_at": time.time()}))
    assert raymill(journal, "status") == 0
    out = capsys.readouterr().out
    assert "ANY MORE" not in out and "ready" in out


def test_status_says_why_nobody_serves_it(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    store = journal.store
    assert isinstance(store, LocalStore)

    def said() -> str:
        assert raymill(journal, "status") == 0
        return capsys.readouterr().out

    assert "written" in said() and "not serving yet, or not served" in said()
    status.write(store, "docs", DeploymentStatus(version=1, written_at=time.time()))
    assert "docs: starting: its controller works by version 1" in said()
    status.write(store, "docs", DeploymentStatus(version=1, written_at=time.time() - 100))
    assert "not serving yet, or not served" in said()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    Controller(store)  # writes the record, and never runs
    endpoint = read_endpoint(store, "docs")
    assert endpoint is not None
    write_endpoint(store, endpoint.model_copy(update={"pid": process.pid, "host": socket.gethostname()}))
    assert f"docs: process {process.pid}, which served it at http://127.0.0.1:8000, is gone" in said()
    remove_endpoint(store, "docs")
    operations.stop(journal, by="ann", reason="moved away")
    assert re.search(r"nobody serves it; version 2 is wanted .*ann stopped it .* ago: moved away", said())


def test_a_long_reason_does_not_fill_the_history(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert raymill(journal, "scale", "base", "--replicas", "2", "--reason", "more traffic " * 40) == 0
    capsys.readouterr()
    assert raymill(journal, "status", "--history") == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 5 and max(map(len, out.splitlines())) < 150
    assert raymill(journal, "status", "--history", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["why"] == "more traffic " * 40


def test_serve_passes_its_reason_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def deploy(*_: object, **settings: object) -> None:
        given.append(settings["reason"])
        raise UserError("enough", where="test", next_step="none")

    monkeypatch.setattr("serving.control.deploy.deploy", deploy)
    monkeypatch.setattr("pipelines.lifecycle.served_models", lambda *_: {})
    monkeypatch.setattr("pipelines.lifecycle.Lifecycle.need_ray", lambda self: None)
    words = ["serve", "/models/a", "--port", "0", "--store", str(tmp_path / "store"), "--reason", "a new node"]
    assert run_command(words) == 2
    assert given == ["a new node"]


def test_undeploy_waits_until_it_is_gone(served: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert raymill(served, "undeploy") == 0
    assert "docs is gone after" in capsys.readouterr().out
    assert served.current().stopped
    assert read_endpoint(served.store, "docs") is None
    assert raymill(served, "undeploy") == 0
    assert "docs is stopped (version 2); nobody serves it" in capsys.readouterr().out


def test_a_killed_foreground_process_leaves_nothing_to_wait_for(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(journal.store, LocalStore)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    Controller(journal.store)  # writes the record, and never runs
    endpoint = read_endpoint(journal.store, "docs")
    assert endpoint is not None
    write_endpoint(journal.store, endpoint.model_copy(update={"pid": process.pid, "host": socket.gethostname()}))
    assert raymill(journal, "scale", "base", "--replicas", "2") == 0
    assert "takes effect when it is served" in capsys.readouterr().out
    assert raymill(journal, "undeploy") == 0
    assert read_endpoint(journal.store, "docs") is None


def test_undeploy_by_force_removes_what_is_left(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = []
    monkeypatch.setattr(
        "serving.control.takedown.remove", lambda store, name, endpoint: removed.append((name, endpoint.url))
    )
    assert isinstance(journal.store, LocalStore)
    Controller(journal.store)  # dead
    status.write(journal.store, "docs", DeploymentStatus(version=1))
    assert raymill(journal, "undeploy", "--force") == 0
    assert "what was left of it is removed" in capsys.readouterr().out
    assert removed == [("docs", "http://127.0.0.1:8000")]
    assert list(journal.store.files("deployments/docs.json")) == []
    assert status.read(journal.store, "docs") is None
    assert journal.current().stopped


def test_undeploy_by_force_forgets_a_deployment_whose_cluster_is_gone(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(journal.store, LocalStore)
    Controller(journal.store)  # dead
    endpoint = read_endpoint(journal.store, "docs")
    assert endpoint is not None
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        write_endpoint(journal.store, endpoint.model_copy(update={"ray_address": address}))
        assert raymill(journal, "undeploy", "--force") == 0
    out, err = capsys.readouterr()
    assert "docs is stopped (version 2); its cluster cannot be joined" in out
    assert f"cluster.address: {address}: nothing answers there" in err
    assert read_endpoint(journal.store, "docs") is None


@pytest.mark.parametrize(("age_seconds", "code"), [(3.0, 2), (300.0, 0)])
def test_undeploy_by_force_leaves_a_foreground_process_of_another_machine_alone_while_it_lives(
    journal: Journal, capsys: pytest.CaptureFixture[str], age_seconds: float, code: int
) -> None:
    assert isinstance(journal.store, LocalStore)
    Controller(journal.store)  # writes the record, and never runs
    endpoint = read_endpoint(journal.store, "docs")
    assert endpoint is not None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    write_endpoint(journal.store, endpoint.model_copy(update={"pid": process.pid, "host": "elsewhere"}))
    status.write(journal.store, "docs", DeploymentStatus(version=1, written_at=time.time() - age_seconds))
    assert raymill(journal, "undeploy", "--force") == code
    assert (f"by process {process.pid} on elsewhere" in capsys.readouterr().err) == bool(code)
    assert (read_endpoint(journal.store, "docs") is not None) == bool(code)


def test_a_damaged_endpoint_record_can_be_removed(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.store.write("deployments/docs.json", b"{}")
    assert raymill(journal, "undeploy") == 2
    assert "undeploy --deployment docs --force" in capsys.readouterr().err
    assert raymill(journal, "undeploy", "--force") == 0
    assert read_endpoint(journal.store, "docs") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keys", "revoke", "nobody"], "no key 'nobody'"),
        (["keys", "create", " "], "printable characters"),
        (["keys", "create", "x\ny"], "printable characters"),
        (["keys", "create", "x", "--model", "dcs"], "did you mean docs?"),
        (["keys", "create", "x", "--concurrency", "-1"], "argument --concurrency"),
        (["keys", "create", "x", "--scope", "all"], "invalid choice: 'all'"),
        (["keys", "limit", "x"], "no key 'x'"),
        (["keys", "require", "on"], "nobody could call"),
        (["scale", "tund", "--replicas", "2"], "did you mean tuned?"),
        (["scale", "tuned", "--replicas", "two"], "is no number of replicas"),
        (["limits", "--set", "max_token=1"], "did you mean max_tokens?"),
        (["limits", "--set", "max_tokens=0"], "greater than or equal to 1"),
        (["shadow", "tuned", "--off"], "name a variant, or --off"),
        (["shadow", "tuned", "--share", "2"], "at most 1"),
        (["undeploy", "--deployment", "dosc"], "did you mean docs?"),
    ],
)
def test_mistakes(journal: Journal, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert raymill(journal, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert journal.current().version == 1


def test_several_deployments_must_be_told_apart(journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    Journal(journal.store, "chat").create(journal.current())
    assert raymill(journal, "keys", "list") == 2
    assert "2 deployments: chat, docs" in capsys.readouterr().err
    assert raymill(journal, "keys", "list", "--deployment", "chat") == 0


def test_a_dead_controller_is_an_infrastructure_error(
    journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(journal.store, LocalStore)
    Controller(journal.store)  # never started
    monkeypatch.setattr("pipelines.commands.deployment.WAIT_SECONDS", 0.2)
    assert raymill(journal, "keys", "create", "search") == 3
    out, err = capsys.readouterr()
    assert out.startswith("rmk-")  # the key is made, and its secret must not be lost
    assert "version 2 is written, but not everywhere" in err


def test_as_a_process_in_a_pipe(journal: Journal, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "keys", "create", "piped", "--store", journal.store.url],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert KeyRing(journal.current().keys).find(result.stdout.strip()) is not None
    assert "takes effect when it is served" in result.stderr
