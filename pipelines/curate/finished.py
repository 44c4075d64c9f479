"""What is finished stays finished: each part's result is kept below the try's ``resume/``, and the next try has it.

A worker writes a part's files first and its result last, each atomically, so a result that is there speaks of files
that are whole. Keys of those files are kept relative to the folder: a later try takes the folder over (links on a local
disk, copies inside a bucket) and reads them as its own. Whatever writes must write the same bytes each time.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from cluster.attempt import RESUME, Attempt
from cluster.store import Store

ResultT = TypeVar("ResultT")

_RESULTS = "results"
_TAKEN = "taken"
_AT_ONCE = 16
_CLASSES = {
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("cluster.store", "Written"),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
}
"""What a result may be made of besides the records of this package; a file in a store is not trusted with more."""


class Numbered(Protocol):
    """A part: what tells it from the others of its step."""

    @property
    def number(self) -> int: ...


class Finished:
    """The finished work of one try, and of the earlier ones that it continues.

    Args:
        output: the try.
        conditions: whatever, if it was another, would make other files between the steps; JSON.
        map_parts: runs a function over parts on workers.

    Attributes:
        taken_over: step -> results that an earlier try left.
    """

    def __init__(
        self,
        output: Attempt,
        conditions: Any,
        map_parts: Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]],
    ) -> None:
        self._store, self._map_parts = output.store, map_parts
        digest = hashlib.sha256(json.dumps(conditions, sort_keys=True).encode("utf-8")).hexdigest()
        folder = f"work-{digest[:12]}"
        self._prefix = output.resume_key(folder)
        self.taken_over: dict[str, int] = {}
        for prefix in output.earlier():
            source = f"{prefix}/{RESUME}/{folder}"
            _take_over(output.store, source, self._prefix)
            if output.store.exists(f"{source}/{_TAKEN}"):
                break  # it had what older tries left, and may have deleted some of that since
        output.store.write(self.key(_TAKEN), b"")  # before any work, hence before anything is deleted

    def key(self, path: str) -> str:
        """The store key of a file between steps, which the next try finds again."""
        return f"{self._prefix}/{path}"

    def map(self, step: str, function: Callable[[Any], ResultT], parts: Sequence[Numbered]) -> Iterator[ResultT]:
        """Results of a step's function over its parts: the finished ones first, then as workers finish them."""
        folder = self.key(f"{_RESULTS}/{step}")
        known = {file.key for file in self._store.files(f"{folder}/")}
        done = [part for part in parts if _result_key(folder, part.number) in known]
        if done:
            self.taken_over[step] = len(done)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(done), _AT_ONCE):  # so many are held at once, not all
                some = done[start : start + _AT_ONCE]
                yield from pool.map(lambda part: self._load(_result_key(folder, part.number)), some)
        left = [part for part in parts if _result_key(folder, part.number) not in known]
        yield from self._map_parts(
            functools.partial(_run, function=function, folder=folder, prefix=self._prefix, store=self._store), left
        )

    def once(self, step: str, function: Callable[[], ResultT]) -> ResultT:
        """The result of work in this process that is done once, whoever did it."""
        key = _result_key(self.key(f"{_RESULTS}/{step}"), 0)
        if self._store.exists(key):
            self.taken_over[step] = 1
            return self._load(key)
        result = function()
        self._store.write(key, encode(result, self._prefix))
        return result

    def summary(self) -> str:
        """What an earlier try left, in words."""
        steps = ", ".join(f"{step} {count:,}" for step, count in self.taken_over.items())
        return f"an earlier try had finished these parts, which were not done again: {steps}"

    def publish(self, folder: str, target: str) -> None:
        """Put everything below a folder of files between steps below a key."""
        _copy_all(
            self._store, [file.key for file in self._store.files(f"{self.key(folder)}/")], self.key(folder), target
        )

    def _load(self, key: str) -> Any:
        return decode(self._store.read(key), self._prefix)


def _result_key(folder: str, number: int) -> str:
    return f"{folder}/{number:05d}"


def _run(part: Numbered, *, function: Callable[[Any], ResultT], folder: str, prefix: str, store: Store) -> ResultT:
    """Run a function on a part and keep what it gave; a part that a dead worker has finished is not run again."""
    key = _result_key(folder, part.number)
    if store.exists(key):
        return decode(store.read(key), prefix)
    result = function(part)
    store.write(key, encode(result, prefix))
    return result


def _take_over(store: Store, source: str, target: str) -> None:
    """Copy what a folder holds and the other does not; results are listed first and copied last.

    The other try may be alive (a pod that was killed holds its lease for a while): copies take nothing from it. Where
    it publishes meanwhile, what is left of it vanishes, and this try does the rest itself.
    """
    results = [file.key for file in store.files(f"{source}/{_RESULTS}/")]
    kept = (f"{source}/{_RESULTS}/", f"{source}/{_TAKEN}")  # that the other has taken over says nothing of this one
    others = [file.key for file in store.files(f"{source}/") if not file.key.startswith(kept)]
    there = {file.key for file in store.files(f"{target}/")}
    try:
        for keys in (others, results):
            _copy_all(store, [key for key in keys if target + key[len(source) :] not in there], source, target)
    except FileNotFoundError:
        return


def _copy_all(store: Store, keys: Sequence[str], source: str, target: str) -> None:
    copy(store, [(key, target + key[len(source) :]) for key in keys])


def copy(store: Store, pairs: Sequence[tuple[str, str]]) -> None:
    """Put objects under second keys, several at a time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(lambda pair: store.copy(*pair), pairs):
            continue


def encode(result: Any, prefix: str) -> bytes:
    """A result as bytes, with keys below a prefix relative to it."""
    sink = io.BytesIO()
    _Pickler(sink, prefix).dump(result)
    return zlib.compress(sink.getvalue(), 1)  # the mix's bins are mostly zeros


def decode(data: bytes, prefix: str) -> Any:
    """The result that :func:`encode` was given, with keys below this prefix.

    Raises:
        pickle.UnpicklingError: it holds something else than records of this package.
    """
    return _Unpickler(io.BytesIO(zlib.decompress(data)), prefix).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, prefix: str) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._start = f"{prefix}/"

    def persistent_id(self, value: Any) -> str | None:
        if type(value) is str and value.startswith(self._start):
            return value[len(self._start) :]
        return None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, prefix: str) -> None:
        super().__init__(file)
        self._prefix = prefix

    def persistent_load(self, path: str) -> str:
        return f"{self._prefix}/{path}"

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CLASSES or (module.startswith("pipelines.curate.") and "." not in name):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a result")
