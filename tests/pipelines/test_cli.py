"""The command line as a user meets it: real processes, their exit codes and their one message."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.store_local import LocalStore
from pipelines.runs import StageLine, new_run, publish_run

RAYMILL = [sys.executable, "-m", "pipelines.cli"]


def raymill(*arguments: str, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYMILL_")}
    return subprocess.run(
        [*RAYMILL, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout, env=environment
    )


def refused(*arguments: str, cwd: Path, code: int = 2) -> str:
    """Run a command that must fail with one message and no traceback; the message."""
    result = raymill(*arguments, cwd=cwd)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1
    return result.stderr.partition("error: ")[2]


def make_artifact(store: LocalStore) -> Artifact:
    """A corpus of one file, as a stage would publish it."""
    identity = Identity("Corpus", "corpus", 1, {"sources": [{"kind": "text", "path": "books"}]}, {})
    with Attempt(store, identity.id) as attempt:
        attempt.write_text("data.txt", "hello")
        record = Artifact(
            kind="Corpus",
            name="corpus",
            fingerprint=identity.fingerprint,
            identity=identity.fields(),
            attempt=attempt.name,
            files=attempt.seal(),
            licences={"MIT": 1},
        )
        return attempt.publish(record)


def test_help_lists_every_command(tmp_path: Path) -> None:
    result = raymill("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in ("new", "plan", "run", "serve", "show", "verify", "gc", "doctor"):
        assert f"\n    {command}" in result.stdout
        assert raymill(command, "--help", cwd=tmp_path).returncode == 0


def test_version(tmp_path: Path) -> None:
    assert raymill("--version", cwd=tmp_path).stdout.startswith("raymill ")


def test_new_plan_and_a_second_new(tmp_path: Path) -> None:
    assert "wrote mine.yaml" in raymill("new", "mine", cwd=tmp_path).stdout
    plan = raymill("plan", "mine.yaml", cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "evals-finetune" in plan.stdout
    assert "is there already" in refused("new", "mine", cwd=tmp_path)
    assert "not a recipe name" in refused("new", "Mine!", cwd=tmp_path)
    as_json = json.loads(raymill("plan", "mine.yaml", "--json", cwd=tmp_path).stdout)
    assert [stage["state"] for stage in as_json["stages"]] == ["new"] * 8
    assert as_json["recipe"]["name"] == "mine"


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    assert "did you mean plan?" in refused("plam", cwd=tmp_path)
    assert "unrecognized arguments: --forse" in refused("run", "demo.yaml", "--forse", cwd=tmp_path)
    assert "none.yaml: no such file" in refused("plan", "none.yaml", cwd=tmp_path)
    assert "--until: no stage 'tokns'" in refused("run", "demo.yaml", "--until", "tokns", cwd=tmp_path)
    assert "--force: no stage 'x'" in refused("run", "demo.yaml", "--force", "x", cwd=tmp_path)
    assert "not published: curate" in refused("run", "demo.yaml", "--only", "tokenizer", cwd=tmp_path)


def test_mistakes_in_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\npretrain:\n  learning_rat: 1\n", encoding="utf-8")
    message = refused("run", "r.yaml", cwd=tmp_path)
    assert message.startswith("r.yaml:3: pretrain.learning_rat: unknown key; did you mean learning_rate?")
    (tmp_path / "r.yaml").write_text("pretrain:\n  workers: many\n", encoding="utf-8")
    assert refused("run", "r.yaml", cwd=tmp_path).startswith("r.yaml:2: pretrain.workers: ")


def test_missing_source_is_found_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("corpus: {sources: [{kind: text, path: nowhere/*.txt}]}\n", encoding="utf-8")
    for command in ("plan", "run"):
        assert "nowhere/*.txt" in refused(command, "r.yaml", cwd=tmp_path)


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    message = refused("run", "demo.yaml", "--store", "file/store", cwd=tmp_path)
    assert "cannot be written" in message
    assert "unknown kind of store" in refused("run", "demo.yaml", "--store", "gs://x/y", cwd=tmp_path)


def test_port_in_use_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused("run", "demo.yaml", "--set", f"serving.port={port}", cwd=tmp_path)
        assert f"port {port} is in use" in message
        assert f"port {port} is in use" in refused("serve", "demo.yaml", "--port", str(port), cwd=tmp_path)
    assert not (tmp_path / "raymill-store").exists()


def test_ray_address_where_nothing_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    message = refused("run", "demo.yaml", "--address", address, "--until", "corpus", cwd=tmp_path, code=3)
    assert f"cluster.address: {address}: nothing answers there" in message
    assert "is not an address" in refused(
        "run", "demo.yaml", "--address", "nonsense", "--until", "corpus", cwd=tmp_path
    )


# As `raymill`, but it does not wait as long for a cluster.
IMPATIENT = """
import sys
from cluster import session
from pipelines.cli import main
session.CONNECT_TIMEOUT_S = 1.5
sys.exit(main())
"""


@pytest.mark.ray
def test_ray_address_that_accepts_and_never_answers(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-c", IMPATIENT, "run", "demo.yaml", "--address", address, "--until", "corpus"]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert result.returncode == 3, result.stderr
    assert "Traceback" not in result.stderr
    assert f"cluster.address: {address}: the Ray there cannot be joined: no answer within" in result.stderr


def test_a_lost_node_is_no_defect_and_worth_another_try(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever stage it was, and however many errors are around Ray's: exit code 3, by which a follower tries again."""
    from ray.exceptions import NodeDiedError

    from pipelines import cli

    def run(argv: list[str]) -> int:
        try:
            raise NodeDiedError("the node of this task is dead")
        except NodeDiedError as error:
            raise RuntimeError("the dataset cannot be made") from error

    monkeypatch.setattr(cli, "_dispatch", run)
    assert cli.run_command(["run"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("error: a process of the cluster was lost: the node of this task is dead\n")
    assert "Traceback" not in said


def test_show_verify_and_gc(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "raymill-store")
    assert "no artifacts yet" in raymill("show", cwd=tmp_path).stdout
    artifact = make_artifact(store)
    assert artifact.id in raymill("show", cwd=tmp_path).stdout
    one = raymill("show", "corpus", cwd=tmp_path).stdout
    assert "MIT" in one
    assert "kind text" in one
    assert json.loads(raymill("show", "corpus", "--json", cwd=tmp_path).stdout)["artifact"]["name"] == "corpus"
    assert raymill("verify", cwd=tmp_path).returncode == 0
    path = store.local_path(artifact.key("data.txt"))
    path.write_bytes(path.read_bytes().replace(b"h", b"H"))
    damaged = raymill("verify", "corpus", cwd=tmp_path)
    assert damaged.returncode == 1
    assert artifact.key("data.txt") in damaged.stdout
    assert "freed 0 bytes" in raymill("gc", cwd=tmp_path).stdout
    assert "no such artifact: nothing" in refused("show", "nothing", cwd=tmp_path)
    assert "nothing in this store" in refused("verify", "--store", "elsewhere", cwd=tmp_path)


def test_show_of_a_run_lists_its_stages(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "raymill-store")
    record = new_run("demo")
    record.stages.append(StageLine("corpus", "made", 1.0, "12 documents", "Corpus/corpus-0123456789ab"))
    publish_run(store, record)
    shown = raymill("show", record.id, cwd=tmp_path).stdout
    assert "12 documents" in shown and "Corpus/corpus-0123456789ab" in shown and "index.html" in shown
    assert json.loads(raymill("show", record.id, "--json", cwd=tmp_path).stdout)["run"]["recipe"] == "demo"


def test_doctor_names_every_need(tmp_path: Path) -> None:
    result = raymill("doctor", "--json", cwd=tmp_path)
    findings = {finding["check"]: finding for finding in json.loads(result.stdout)}
    assert findings["ray"]["state"] == "ok"
    assert findings["store"]["state"] == "ok"
    assert result.returncode == 0
    assert "vllm" in " ".join(findings)
    (tmp_path / "file").touch()
    broken = raymill("doctor", "--store", "file/x", cwd=tmp_path)
    assert broken.returncode == 1
    assert "cannot be written" in broken.stdout
