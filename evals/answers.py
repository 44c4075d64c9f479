"""A model's answers, kept as they come, so that an evaluation that was cut off goes on where it was.

An answer belongs to a whole batch of requests: how a batch is padded moves its log-probabilities in their last bits,
and a repeated evaluation has to give the same ones. So the key is a hash of the batch's requests (tokens, and each
task with its version); the folder's name is a hash of the model's content and of every setting that moves an answer.
How many workers there are is in neither. A worker writes a chunk of batches before it takes the next, so at most the
chunk it was at is asked again after kill -9.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.store import Store

ROOT = "answers"
READERS = 16


@dataclass(frozen=True)
class AnswerBook:
    """The answers of one model under one set of settings.

    Attributes:
        folder: where they are in the store.
    """

    store: Store
    folder: str

    @classmethod
    def of(cls, store: Store, model_sha256: str, settings: Mapping[str, Any]) -> AnswerBook:
        """The book of a model and of everything that moves its answers (backend, precision, batch size, versions)."""
        text = json.dumps({"model": model_sha256, **settings}, sort_keys=True)
        return cls(store, f"{ROOT}/{model_sha256[:12]}-{hashlib.sha256(text.encode()).hexdigest()[:20]}")

    def read(self) -> dict[str, Any]:
        """Key of a batch -> its answers, of everything kept so far."""
        keys = [file.key for file in self.store.files(f"{self.folder}/")]
        found: dict[str, Any] = {}
        with ThreadPoolExecutor(READERS) as pool:
            for part in pool.map(self._read_part, keys):
                found |= part
        return found

    def _read_part(self, key: str) -> dict[str, Any]:
        try:
            part: dict[str, Any] = json.loads(self.store.read(key))
        except FileNotFoundError:
            return {}  # another evaluation of this model has just bound its parts together
        return part

    def keep(self, answers: Mapping[str, Any]) -> None:
        """Write a chunk of batches' answers; it is there whole or not at all."""
        name = key_of(sorted(answers))
        self.store.write(f"{self.folder}/{name[:24]}.json", json.dumps(answers).encode())

    def forget(self) -> None:
        """Remove everything kept."""
        self.store.delete_all(self.folder)

    def bind(self) -> None:
        """Put all parts into one, so that the next evaluation reads one object."""
        parts = [file.key for file in self.store.files(f"{self.folder}/")]
        if len(parts) > 1:
            whole = self.read()
            name = f"{self.folder}/{key_of(sorted(whole))[:24]}.json"
            self.store.write(name, json.dumps(whole).encode())
            for key in parts:
                if key != name:
                    self.store.delete(key)


def key_of(content: Sequence[Any]) -> str:
    """SHA-256 of plain values in JSON."""
    return hashlib.sha256(json.dumps(content, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
