"""`raymill eval` with workers that are slow and write down which batches they are asked, for tests that kill it.

python slow_scorer.py LOG SECONDS_A_CALL eval …
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from evals.answers import AnswerBook
from evals.scorer import Scorer

CHUNK_TOKENS = 400


class SlowScorer(Scorer):
    """Notes a call before it answers it."""

    def answer(self, method: str, batches: list[Any], keys: list[str], book: AnswerBook | None) -> list[Any]:
        with Path(os.environ["SLOW_LOG"]).open("a") as log:  # one short write: lines of two workers do not mix
            log.write(json.dumps({"worker": os.getpid(), "keys": keys}) + "\n")
        time.sleep(float(os.environ["SLOW_SECONDS"]))
        return super().answer(method, batches, keys, book)


def main() -> None:
    import slow_scorer  # by its own name, which workers can import

    import evals.pool
    from pipelines.cli import main as raymill

    os.environ["SLOW_LOG"], os.environ["SLOW_SECONDS"] = sys.argv[1:3]
    evals.pool.CHUNK_TOKENS = CHUNK_TOKENS
    evals.pool._actor = lambda backend: slow_scorer.SlowScorer
    raymill(sys.argv[3:])


if __name__ == "__main__":
    main()
