"""The benchmark's questions as n-grams to look for, and what of them a document holds.

A question is looked for in three forms: itself, followed by each right answer, and followed by all of its choices with
and without the letters before them. Each form gives its n-grams of ``ngram`` words; a form with fewer words, but at
least ``min_words``, is one phrase as a whole.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from cluster.artifact import Artifact
from cluster.store import Store
from pipelines.curate.decontaminate.config import DecontaminateConfig
from pipelines.curate.phrases import Hashes, Numbers, PhraseIndex, hash_grams, hash_words, pack_arrays, unpack_arrays

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Hits:
    """What one document holds of the benchmarks.

    Attributes:
        phrases: numbers of the n-grams, ascending, each once.
        position, length: the first occurrence, in words of the document (see :func:`pipelines.curate.phrases.quote`).
    """

    phrases: npt.NDArray[np.int32]
    position: int
    length: int


@dataclass(frozen=True)
class BenchmarkIndex:
    """All questions' n-grams.

    Attributes:
        phrases: the n-grams.
        starts: for each n-gram, where its forms begin in ``forms``; one more at the end.
        forms: form numbers.
        sizes: n-grams of each form; 0 where it cannot be looked for.
        questions: the question that each form is one of, ascending.
        tasks: each question's task, as a number into ``task_names``.
        task_names, task_suites: names of the tasks and of the suites that they belong to.
    """

    phrases: PhraseIndex
    starts: Numbers
    forms: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int32]
    questions: npt.NDArray[np.int32]
    tasks: npt.NDArray[np.int32]
    task_names: tuple[str, ...]
    task_suites: tuple[str, ...]

    def find(self, text: str) -> Hits | None:
        """The benchmarks' n-grams in a text, or None where there are none."""
        matches = self.phrases.find(text)
        if not len(matches.positions):
            return None
        first = int(np.lexsort((matches.lengths, matches.positions))[0])
        return Hits(
            np.unique(matches.phrases).astype(np.int32), int(matches.positions[first]), int(matches.lengths[first])
        )

    def questions_held(self, phrases: npt.NDArray[np.int32], min_share: float) -> Numbers:
        """The questions of which some form has at least that share (and one) of its n-grams among ``phrases``."""
        if not len(phrases):
            return np.empty(0, np.int64)
        parts = [self.forms[self.starts[each] : self.starts[each + 1]] for each in phrases]
        forms, counts = np.unique(np.concatenate(parts), return_counts=True)
        held = counts >= np.maximum(1, np.ceil(min_share * self.sizes[forms] - 1e-9))
        return np.unique(self.questions[forms[held]]).astype(np.int64)

    @property
    def checked(self) -> npt.NDArray[np.bool_]:
        """Whether each question can be looked for."""
        return np.bincount(self.questions, self.sizes, minlength=len(self.tasks)) > 0

    def to_bytes(self) -> bytes:
        """The index as one file."""
        index = self.phrases
        return pack_arrays(
            {
                "lengths": index.lengths,
                "hashes": index.hashes,
                "slots": index.slots,
                "bits": index.bits,
                "starts": self.starts,
                "forms": self.forms,
                "sizes": self.sizes,
                "questions": self.questions,
                "tasks": self.tasks,
                "task_names": np.array(self.task_names, np.str_),
                "task_suites": np.array(self.task_suites, np.str_),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> BenchmarkIndex:
        """The index that :meth:`to_bytes` gave."""
        arrays = unpack_arrays(data)
        phrases = PhraseIndex(*(arrays.pop(name) for name in ("lengths", "hashes", "slots", "bits")))
        names = {name: tuple(map(str, arrays.pop(name))) for name in ("task_names", "task_suites")}
        return cls(phrases, **arrays, **names)  # type: ignore[arg-type]


def build_index(rows: Iterable[Mapping[str, Any]], config: DecontaminateConfig) -> BenchmarkIndex:
    """The index of questions given as rows of a BenchmarkText artifact (suite, task, question, choices, right)."""
    tasks: dict[str, int] = {}
    suites: list[str] = []
    of_questions: list[int] = []
    of_forms: list[int] = []
    hashes: list[Hashes] = []
    lengths = {config.ngram}
    for number, row in enumerate(rows):
        if row["task"] not in tasks:
            tasks[row["task"]] = len(tasks)
            suites.append(row["suite"])
        of_questions.append(tasks[row["task"]])
        for form in forms(row):
            words = hash_words(form)
            length = min(len(words), config.ngram)
            hashes.append(np.unique(hash_grams(words, length)) if length >= config.min_words else words[:0])
            of_forms.append(number)
            lengths |= {length} if length >= config.min_words else set()
    questions = np.array(of_forms, np.int32)
    phrases, starts, numbers = _group(hashes, questions, config.max_questions)
    return BenchmarkIndex(
        PhraseIndex.of(phrases, lengths),
        starts,
        numbers,
        np.bincount(numbers, minlength=len(questions)).astype(np.int32),
        questions,
        np.array(of_questions, np.int32),
        tuple(tasks),
        tuple(suites),
    )


def forms(row: Mapping[str, Any]) -> list[str]:
    """The texts as which a question may stand in a document."""
    question, choices = row["question"], row["choices"]
    lettered = " ".join(f"{letter} {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    answered = [f"{question} {choices[right]}" for right in row["right"]]
    return [question, *answered, f"{question} {' '.join(choices)}", f"{question} {lettered}"]


def _group(
    hashes: list[Hashes], questions: npt.NDArray[np.int32], most: int | None
) -> tuple[Hashes, Numbers, npt.NDArray[np.int32]]:
    """Distinct n-grams, where the forms of each begin, and the forms; without n-grams of over ``most`` questions."""
    every = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    form = np.repeat(np.arange(len(hashes), dtype=np.int32), [len(each) for each in hashes])
    order = np.argsort(every, kind="stable")
    unique, counts = np.unique(every, return_counts=True)
    numbers = np.repeat(np.arange(len(unique)), counts)  # of the n-gram, for each sorted entry
    pairs = np.unique(np.stack([numbers, questions[form[order]]]), axis=1)
    kept = np.bincount(pairs[0], minlength=len(unique)) <= (most or len(questions))
    starts = np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64)
    return unique[kept], starts, form[order][kept[numbers]]


def read_questions(store: Store, benchmarks: Artifact) -> list[dict[str, Any]]:
    """The rows of a BenchmarkText artifact, by task and number."""
    names = sorted(file.path for file in benchmarks.files if file.path.endswith(".parquet"))
    return [row for name in names for row in pq.read_table(io.BytesIO(store.read(benchmarks.key(name)))).to_pylist()]


_LOADED: dict[str, BenchmarkIndex] = {}


def load_index(store: Store, key: str) -> BenchmarkIndex:
    """An index from the store, read once by each worker, which keeps only the latest."""
    place = store.uri(key)
    if place not in _LOADED:
        _LOADED.clear()
        _LOADED[place] = BenchmarkIndex.from_bytes(store.read(key))
    return _LOADED[place]
