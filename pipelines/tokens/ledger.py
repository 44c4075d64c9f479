"""What a killed encoding had done: a line for each batch that is packed, written after its tokens.

Ledger and scratch files lie in the try's ``resume`` folder. The next try at the same artifact takes the folder over,
counts what the ledger names as done, and encodes the rest. A line that was cut off names nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.attempt import RESUME, is_alive

if TYPE_CHECKING:
    from cluster.attempt import Attempt
    from cluster.store import Store
    from pipelines.tokens.encode import EncodedBatch

FILE = "ledger.jsonl"
FOLDER = "encode"
NAMES = ("splits", "ids", "sources", "languages")
NUMBERS = ("text_bytes", "words", "lengths")


class Ledger:
    """The batches that are packed.

    Args:
        folder: where the ledger is, or will be.
        around: marks that each document has around it.
    """

    def __init__(self, folder: Path, around: int) -> None:
        self._path = folder / FILE
        self._around = around

    def batches(self) -> Iterator[EncodedBatch]:
        """Every batch named, without its tokens; what follows the last whole line is cut off."""
        from pipelines.tokens.encode import EncodedBatch

        whole = 0
        if self._path.exists():
            with self._path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    columns: dict[str, Any] = json.loads(line)
                    columns |= {name: np.asarray(columns[name], np.int64) for name in NUMBERS}
                    yield EncodedBatch(around=self._around, tokens=np.empty(0, np.uint32), **columns)
                    whole += len(line)
            with self._path.open("ab") as file:
                file.truncate(whole)

    def write(self, batch: EncodedBatch) -> None:
        """Name a batch whose tokens are in the scratch files."""
        columns: dict[str, Any] = {name: getattr(batch, name) for name in NAMES}
        columns |= {name: getattr(batch, name).tolist() for name in NUMBERS}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(columns) + "\n")

    def forget(self) -> None:
        """Begin anew."""
        self._path.unlink(missing_ok=True)


def take_over(store: Store, output: Attempt) -> Path | None:
    """The folder for ledger and scratch files, with what the newest ended try left; None in a store without folders."""
    mine = store.local_path(output.resume_key(FOLDER))
    if mine is None:
        return None
    mine.parent.mkdir(parents=True, exist_ok=True)
    for prefix in output.earlier():
        left = store.local_path(f"{prefix}/{RESUME}/{FOLDER}")
        if left is not None and (left / FILE).exists() and not is_alive(store, prefix):
            try:
                left.rename(mine)
            except FileNotFoundError:
                continue  # another try took it
            return mine
    mine.mkdir()
    return mine
