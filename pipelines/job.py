"""What a submitted job runs: the recipe, as `raymill run` does, and a record of it in the store.

The run is a process of its own below this one, so that even its sudden end is written down: log, status and the error
are in the store when the cluster goes away. `python -m pipelines.job RECIPE --id ID [--until …]` is the entrypoint
that `raymill submit` gives to a cluster; nobody types it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

from cluster.diagnosis import diagnose, last_stage
from cluster.errors import RaymillError
from cluster.job_record import BEAT_SECONDS, FencedOff, Holding, JobRecord, read_job, write_log
from cluster.secrecy import Mask
from cluster.stage import provenance
from cluster.store import open_store
from pipelines.recipe import load_recipe
from pipelines.runs import RUNS

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
PIECE_LETTERS = 1 << 20
FLUSH_SECONDS = 3.0
DRAIN_SECONDS = 10.0
"""For what a run said last; a process that it left behind may hold its output open for ever."""
KEPT_LINES = 2_000
INFRASTRUCTURE = 3
THE_RUNS_OWN = (1, 2)
"""Exit codes of a run that failed by itself, or by a mistake of who wrote it."""
FINAL_TRIES = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Run a recipe as a job; the exit code is the run's."""
    parser = argparse.ArgumentParser(prog="pipelines.job")
    parser.add_argument("recipe")
    parser.add_argument("--id", required=True)
    arguments, rest = parser.parse_known_args(argv)
    try:
        recipe = load_recipe(arguments.recipe)
        store, submission = open_store(recipe.store), _submission()
        last = read_job(store, arguments.id)
        if last is not None and last.exit_code and _failed_by_itself(last, submission):
            print(f"error: {last.id}: attempt {last.attempt} failed: {last.message}", file=sys.stderr)
            print("  it is not tried again by itself: correct it, then submit it again", file=sys.stderr)
            return last.exit_code
        holding = Holding.take(
            store,
            arguments.id,
            recipe.name,
            submission=submission,
            host=socket.gethostname(),
            versions=provenance(time.time())["versions"],
        )
    except RaymillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    words = [sys.executable, "-m", "pipelines.cli", "run", arguments.recipe, "--json", *rest]
    return supervise(holding, words)


def supervise(holding: Holding, words: list[str]) -> int:
    """Run a command below this process and keep its log, state and end in the store; its exit code.

    A command that a signal ended gives 128 and the signal's number, as shells do; one that was fenced off gives 3.
    """
    return _Supervised(holding, words).run()


def _failed_by_itself(last: JobRecord, submission: str) -> bool:
    """Whether this is a job that failed by its own fault, begun again under its name.

    KubeRay does that, on a new cluster, whatever failed; the same recipe would fail the same way.
    """
    same = submission != "" and last.submission == submission
    return same and last.state == "failed" and last.exit_code in THE_RUNS_OWN


def _submission() -> str:
    """What the cluster calls this job; empty outside one."""
    metadata = json.loads(os.environ.get(RAY_JOB, "{}")).get("metadata") or {}
    return str(metadata.get("job_submission_id", ""))


class _Supervised:
    """A run below this process, its log and its end."""

    def __init__(self, holding: Holding, words: list[str]) -> None:
        self.holding = holding
        self.words = words
        self.mask = Mask.of_environment(os.environ)
        self.stage = ""
        self.stopping = False
        self.fenced = False
        self._lock = threading.Lock()
        self._unwritten: list[str] = []
        self._cut: list[str] = []
        self._kept: list[str] = []
        self._pieces = 0
        self._done = threading.Event()
        self._complained = False

    def run(self) -> int:
        attempt = self.holding.record.attempt
        self._say(f"attempt {attempt} of {self.holding.record.id}, store {self.holding.store.url}\n")
        if attempt > 1:
            before = self.holding.record.earlier[-1]
            self._say(f"the one before {before.state} ({before.message}); this one continues from what it left\n")
        child = subprocess.Popen(
            self.words,
            env=os.environ | self.holding.environment() | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._handle_signals(child)
        results: list[str] = []
        assert child.stdout is not None and child.stderr is not None
        readers = [
            threading.Thread(target=self._read, args=(child.stderr,), daemon=True),
            threading.Thread(target=lambda out: results.extend(out), args=(child.stdout,), daemon=True),
            threading.Thread(target=self._beat, args=(child,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        code = child.wait()
        for reader in readers[:2]:
            reader.join(DRAIN_SECONDS)
        self._done.set()
        readers[2].join()
        return self._finish(code if code >= 0 else 128 - code, "".join(results))

    def _handle_signals(self, child: subprocess.Popen[str]) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self.stopping = True
            # Ray sends its signal to every process of a job by itself; the run would take a second one for impatience.
            if RAY_JOB not in os.environ:
                child.send_signal(number)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    def _say(self, text: str) -> None:
        clean = self.mask.clean(text)
        print(clean, end="", flush=True)
        with self._lock:
            self._unwritten.append(clean)
            self._kept.append(clean)
            del self._kept[:-KEPT_LINES]

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self.stage = last_stage(line, self.stage)
            self._say(line)

    def _beat(self, child: subprocess.Popen[str]) -> None:
        """Write log and status every few seconds; where another attempt took over, end the run at once."""
        beaten = 0.0
        while not self._done.wait(FLUSH_SECONDS):
            due = time.monotonic() - beaten >= BEAT_SECONDS
            if not self._unwritten and not self._cut and not due:
                continue
            try:
                self._flush()
                self.holding.write(stage=self.stage, log_pieces=self._pieces)
                beaten = time.monotonic()
                self._complained = False
            except FencedOff as error:
                self.fenced = True
                print(f"error: {error}", file=sys.stderr, flush=True)
                child.kill()
                return
            except (RaymillError, OSError) as error:
                # The run itself fails if the store is really gone; until then the log waits here.
                if not self._complained:
                    self._say(f"the job's record cannot be written now: {error}\n")
                self._complained = True

    def _flush(self) -> None:
        """Write what was said since. A piece that failed is tried again as it was: it may be there all the same."""
        with self._lock:
            text, self._unwritten = "".join(self._unwritten), []
        self._cut += [text[start : start + PIECE_LETTERS] for start in range(0, len(text), PIECE_LETTERS)]
        while self._cut:
            write_log(self.holding.store, self.holding.record, self._pieces + 1, self._cut[0])
            self._pieces += 1
            del self._cut[0]

    def _finish(self, code: int, output: str) -> int:
        if self.fenced:
            return INFRASTRUCTURE
        run = _run_key(output)
        if run:
            self._say(f"everything about the run: {self.holding.store.uri(run)}\n")
        if self.stopping:
            state, message = "stopped", "somebody stopped it"
        elif code == 0:
            state, message = "succeeded", ""
        else:
            found = diagnose("".join(self._kept), code)
            state, message = "failed", found.error
        last: Exception | None = None
        for trial in range(FINAL_TRIES):
            try:
                self._flush()
                self.holding.write(
                    state=state,
                    message=message,
                    exit_code=code,
                    stage=self.stage,
                    run=run,
                    log_pieces=self._pieces,
                    finished_s=time.time(),
                )
                return code
            except FencedOff as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                return INFRASTRUCTURE
            except (RaymillError, OSError) as error:
                last = error
                time.sleep(2**trial)
        print(f"error: the job's record could not be written: {last}", file=sys.stderr, flush=True)
        return code or INFRASTRUCTURE


def _run_key(output: str) -> str:
    """The store key of the run's record, from what `raymill run --json` printed; empty where it printed none."""
    start = output.find("{")
    try:
        record = json.loads(output[start:]) if start >= 0 else {}
    except ValueError:
        return ""
    return f"{RUNS}/{record['id']}/run.json" if "id" in record else ""


if __name__ == "__main__":
    sys.exit(main())
