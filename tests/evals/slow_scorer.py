"""`raymill eval` with workers that are slow and write down which batches they are asked, for tests that kill it.

python slow_scorer.py LOG SECONDS_A_CALL eval …
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from evals.answers import AnswerBook
from evals.pool import ScorerPool
from evals.scorer import Scorer

CHUNK_TOKENS = 200


class SlowScorer(Scorer):
    """Notes a call before it answers it."""

    def answer(self, method: str, batches: list[Any], keys: list[str], book: AnswerBook | None) -> list[Any]:
        with Path(os.environ["SLOW_LOG"]).open("a") as log:  # one short write: lines of two workers do not mix
            log.write(json.dumps({"worker": os.getpid(), "keys": keys}) + "\n")
        time.sleep(float(os.environ["SLOW_SECONDS"]))
        return super().answer(method, batches, keys, book)


class OwnProcess:
    """Stands for an actor: what is asked of it is done at once, here."""

    def __init__(self, source: Any) -> None:
        scorer = SlowScorer(source)
        scorer.load()
        self.answer = SimpleNamespace(remote=scorer.answer)


@contextmanager
def own_process(source: Any, workers: int, backend: str, book: AnswerBook | None) -> Iterator[ScorerPool]:
    """In place of :func:`evals.pool.scorers`."""
    pool = ScorerPool([], book)
    actor = OwnProcess(source)
    pool._stream = lambda work, on_done: [call(actor) for call in work]  # type: ignore[method-assign]
    yield pool


def main() -> None:
    import slow_scorer  # by its own name, which workers can import

    import evals.pool
    import evals.stage
    import pipelines.commands.eval
    from pipelines.cli import main as raymill

    os.environ["SLOW_LOG"], os.environ["SLOW_SECONDS"], *words = sys.argv[1:]
    evals.pool.CHUNK_TOKENS = CHUNK_TOKENS
    evals.pool._actor = lambda backend: slow_scorer.SlowScorer
    if words[0] == "--without-ray":
        words = words[1:]
        evals.pool.scorers = own_process
        pipelines.commands.eval.connect = lambda *_arguments: nullcontext()
        evals.stage._gpus = lambda: 0.0
    raymill(words)


if __name__ == "__main__":
    main()
