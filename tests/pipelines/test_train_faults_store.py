"""What a run does when the S3 server of its store refuses what is written: it waits, and loses nothing."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import verify_artifact
from cluster.store import Store, open_store
from tests.pipelines.train_driver import (
    GENTLE,
    LIMIT_S,
    Uninterrupted,
    copy_inputs,
    driver,
    end_well,
    list_models,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(4 * LIMIT_S)]


class RefusingServer:
    """An S3 server that takes nothing while it ``refuses``; reading goes on.

    Attributes:
        refused: requests that it did not take.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.refuses = False
        self.refused = 0
        app = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start_response: Any) -> Any:
            if self.refuses and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
                self.refused += 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"]
            return app(environ, start_response)

        self._server = make_server("127.0.0.1", 0, answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingServer]:
    made = RefusingServer()
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    settings["AWS_MAX_ATTEMPTS"] = "5"  # fewer than usual, so that it refuses for longer than one request waits
    for name, value in (settings | {"AWS_ENDPOINT_URL": made.url, "HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)  # copies of inputs are cached below HOME
    yield made
    made.close()


@pytest.fixture
def store(server: RefusingServer, uninterrupted: Uninterrupted) -> Store:
    """A store at that server, with the inputs."""
    import boto3

    bucket = f"refusing-{uuid.uuid4().hex}"
    boto3.client("s3", endpoint_url=server.url).create_bucket(Bucket=bucket)
    made = open_store(f"s3://{bucket}/store")
    copy_inputs(uninterrupted.inputs, made)
    return made


def has_checkpoint(store: Store) -> bool:
    return any(item.key.endswith("/complete.json") for item in store.files("Model/"))


def test_a_server_that_refuses_for_a_minute_costs_checkpoints_only(
    server: RefusingServer, store: Store, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with driver(store, uninterrupted.inputs, GENTLE, log) as process:
        wait_until(lambda: has_checkpoint(store), process, log)
        server.refuses = True
        time.sleep(60)  # not for something to happen: for so long it refuses
        wait_until(lambda: server.refused > 10, process, log)
        server.refuses = False
        said = end_well(process, log)
    assert "could not be written" in said and "training goes on" in said
    uninterrupted.assert_same(store)


def test_a_server_that_goes_on_refusing_ends_the_run_and_the_next_one_finishes_it(
    server: RefusingServer, store: Store, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    log = tmp_path / "first.log"
    with driver(store, uninterrupted.inputs, GENTLE, log) as process:
        wait_until(lambda: has_checkpoint(store), process, log)
        server.refuses = True
        assert process.wait(timeout=LIMIT_S) == 3, log.read_text()[-3000:]
    said = log.read_text()
    assert said.count("error: ") == 1 and "Traceback" not in said
    assert "checkpoint" in said.partition("error: ")[2]
    assert "free space or restore the store, then repeat the command" in said
    assert list_models(store) == []
    for artifact in (uninterrupted.inputs.tokens, uninterrupted.inputs.tokenizer):
        assert verify_artifact(store, artifact) == []
    server.refuses = False
    with driver(store, uninterrupted.inputs, GENTLE, tmp_path / "second.log") as process:
        assert "continues at step" in end_well(process, tmp_path / "second.log")
    uninterrupted.assert_same(store)
