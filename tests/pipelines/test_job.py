"""A job's supervisor: whatever becomes of the run below it is in the store, without its secrets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import InfraError
from cluster.job_record import FencedOff, Holding, JobRecord, read_job, read_log
from cluster.store_local import LocalStore
from pipelines import job

RUN = "raymill-demo-0123456789ab"
SUPERVISOR = (
    "import sys\n"
    "from cluster.job_record import Holding\n"
    "from cluster.store import open_store\n"
    "from pipelines import job\n"
    "from pipelines.job import supervise\n"
    "job.DRAIN_SECONDS = float(sys.argv[3])\n"
    f"holding = Holding.take(open_store(sys.argv[1]), {RUN!r}, 'demo')\n"
    "sys.exit(supervise(holding, [sys.executable, '-c', sys.argv[2]]))\n"
)


def start(store: LocalStore, code: str, drain_s: float = 60.0, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, store.url, code, str(drain_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
        cwd=Path(__file__).resolve().parents[2],
    )


def recorded(store: LocalStore) -> JobRecord:
    record = read_job(store, RUN)
    assert record is not None
    return record


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_log_state_and_run_are_in_the_store(store: LocalStore) -> None:
    code = (
        "import sys, os\n"
        "print('[corpus] reading …', file=sys.stderr)\n"
        "print('token', os.environ['HF_TOKEN'], file=sys.stderr)\n"
        'print(\'{"id": "demo-1"}\')\n'
    )
    process = start(store, code, HF_TOKEN="a-secret-value-1")
    said, _ = process.communicate(timeout=60)
    record = recorded(store)
    log, _ = read_log(store, RUN, 1)
    assert process.returncode == 0, said
    assert (record.state, record.exit_code, record.stage) == ("succeeded", 0, "corpus")
    assert record.run == "runs/demo-1/run.json"
    assert "token [HF_TOKEN]" in log
    assert "a-secret-value-1" not in log + said
    assert log == said


def test_no_line_is_lost_where_the_answer_to_a_write_is(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The piece arrived, nobody said so, and the run has said more since."""
    supervised = job._Supervised(Holding.take(store, RUN, "demo"), [])
    real = LocalStore.put_if_absent

    def lost(self: LocalStore, key: str, data: bytes) -> bool:
        real(self, key, data)
        raise InfraError("the answer got lost")

    supervised._say("one\n")
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put_if_absent", lost)
        with pytest.raises(InfraError):
            supervised._flush()
    supervised._say("two\n")
    supervised._flush()
    assert read_log(store, RUN, 1) == ("one\ntwo\n", 3)


def test_a_failure_is_explained_in_the_record(store: LocalStore) -> None:
    code = "import sys\nprint('error: here: no room to write\\n  free space', file=sys.stderr)\nsys.exit(3)\n"
    process = start(store, code)
    process.communicate(timeout=60)
    assert process.returncode == 3
    assert recorded(store).message == "here: no room to write"
    again = start(store, "pass")
    said, _ = again.communicate(timeout=60)
    record = recorded(store)
    assert (record.attempt, record.state) == (2, "succeeded")
    assert [(each.state, each.exit_code) for each in record.earlier] == [("failed", 3)]
    assert "the one before failed (here: no room to write)" in said


def test_a_run_that_is_killed_outright_is_told(store: LocalStore) -> None:
    process = start(store, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "SIGKILL" in recorded(store).message


def test_a_process_that_the_run_left_behind_does_not_keep_the_job(store: LocalStore) -> None:
    code = (
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])\n"
        "print('left', left.pid, file=sys.stderr)\n"
    )
    process = start(store, code, drain_s=0.3)
    said, _ = process.communicate(timeout=60)
    left = int(said.split("left ")[1].split()[0])
    try:
        assert process.returncode == 0, said
        assert recorded(store).state == "succeeded"
    finally:
        os.kill(left, signal.SIGKILL)


def test_stopping_reaches_the_run_and_is_told(store: LocalStore) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\n"
        "print('[corpus] at work', file=sys.stderr, flush=True)\n"
        "time.sleep(100)\n"
    )
    process = start(store, code)
    wait_for(lambda: read_log(store, RUN, 1)[0].endswith("at work\n"), "the run's first line")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert recorded(store).state == "stopped"


def test_a_run_that_another_attempt_took_over_ends_at_once(store: LocalStore, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    code = (
        "import pathlib, sys, time\n"
        f"for turn in range(1000):\n    pathlib.Path({str(alive)!r}).write_text(str(turn))\n"
        "    print('[corpus] turn', turn, file=sys.stderr, flush=True)\n    time.sleep(0.1)\n"
    )
    process = start(store, code)
    wait_for(alive.exists, "the run's first turn")
    newer = Holding.take(store, RUN, "demo")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "another attempt has taken this run" in said
    last = alive.read_text()
    newer.write(state="succeeded", exit_code=0)
    assert alive.read_text() == last
    record = recorded(store)
    assert (record.attempt, record.state, record.holder) == (2, "succeeded", newer.record.holder)


@pytest.mark.parametrize(
    ("code", "submission", "runs"),
    [(2, RUN, False), (1, RUN, False), (3, RUN, True), (137, RUN, True), (None, RUN, True), (1, f"{RUN}-2", True)],
)
def test_what_kuberay_begins_again_is_run_only_where_the_infrastructure_failed(
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: int | None,
    submission: str,
    runs: bool,
) -> None:
    """It starts a job that failed anew under its name; a user who submits again gets another name."""
    Holding.take(store, RUN, "demo", submission=RUN).write(state="failed", exit_code=code, message="no such folder")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: demo\nstore: {store.url}\ncorpus: {{sources: [{{kind: text, path: none}}]}}\n")
    monkeypatch.setenv(job.RAY_JOB, json.dumps({"metadata": {"job_submission_id": submission}}))
    monkeypatch.setattr(job, "supervise", lambda holding, words: 0)
    ended = job.main([str(recipe), "--id", RUN])
    said = capsys.readouterr().err
    if runs:
        assert (ended, recorded(store).attempt, said) == (0, 2, "")
    else:
        assert (ended, recorded(store).attempt) == (code, 1)
        assert "attempt 1 failed: no such folder" in said
        assert "submit it again" in said


def test_a_fenced_attempt_cannot_be_held_again(store: LocalStore) -> None:
    first = Holding.take(store, RUN, "demo")
    Holding.take(store, RUN, "demo")
    with pytest.raises(FencedOff):
        first.write(state="failed")
