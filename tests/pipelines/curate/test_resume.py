"""Sudden death in every step, by a real SIGKILL: the same command gives the same bytes and does nothing finished again.

The stage runs in a process of its own with a loop in place of Ray Data; test_resume_on_ray.py kills Ray's processes.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.artifact import Artifact, read_json, verify_artifact
from cluster.attempt import Attempt
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from cluster.store_local import LocalStore
from pipelines.corpus.table import decode
from pipelines.curate import stage
from pipelines.curate.config import STAGE, CurateConfig
from pipelines.curate.finished import Finished, encode
from pipelines.curate.finished import decode as decode_result

MakeCorpus = Callable[..., Artifact]

NOTICE = "All rights to everything that was ever said here are reserved for whoever said it before anybody else did."
TAG = "tag_part"
STEPS = (
    TAG,
    "match_range",
    "large_star",
    "small_star",
    "member_part",
    "keep_range",
    "passage_part",
    "repeat_range",
    "write_part",
    "_measure_part",
    "_mix_part",
)


def story(seed: int, more: str = "") -> str:
    source = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in "nrst"]
    return " ".join(source.choice(words) for _ in range(120)) + more


@pytest.fixture
def corpus(make_corpus: MakeCorpus) -> Artifact:
    """A chain of near-duplicates (joined in rounds), an exact one, a shared notice and two that rules drop."""
    named = {f"own{i:02d}": story(i) for i in range(8)}
    long = f"{story(20)} {story(21)} {story(22)}".split()
    named |= {f"near{i}": " ".join(long[7 * i : 7 * i + 120]) for i in range(8)} | {"exact": story(1).upper()}
    named |= {name: f"{named[name]}\n\n{NOTICE}" for name in ("own02", "own03", "own04")} | {"notice": NOTICE}
    return make_corpus(named | {"short": "Too short.", "void": "  "}, 3)


@pytest.fixture
def examples(tmp_path: Path) -> dict[str, str]:
    places = {}
    for number, side in enumerate(("good", "bad")):
        place = tmp_path / side
        place.mkdir()
        for each in range(10):
            (place / f"{each}.txt").write_text(story(1000 * (number + 1) + each))
        places[side] = str(place)
    return places


@pytest.fixture
def settings(examples: dict[str, str]) -> dict[str, Any]:
    return {
        "language": [],
        "repetition": None,
        "quality": ["gopher"],
        "gopher_quality": {"min_words": 5, "min_stop_words": 0},
        "classifier": examples | {"threshold": None},
        "audit": True,
        "dedup": {"minhash": {"words": "fast"}, "repeated_text": {"min_characters": 50}, "memory_bytes": 4096},
        "mix": {"sources": {"notes": {"max_documents": 6}}},
        "validation_fraction": 0.2,
    }


def curate(store: Store, corpus: Artifact, settings: dict[str, Any], stream: io.StringIO | None = None) -> Artifact:
    config = CurateConfig.model_validate(settings)
    identity = identify(STAGE, config, {"corpus": corpus.fingerprint})
    with Progress(stream or io.StringIO(), live=False).track("curate") as tracker:
        return execute(STAGE, identity, config, {"corpus": corpus}, store, tracker).artifact


def name_of(function: Any) -> str:
    """The name of the function at the bottom of the partials that the stage makes of it."""
    while hasattr(function, "func"):
        function = function.keywords.get("function", function.func)
    return str(function.__name__)


def loop(log: Path, dies_in: str = "") -> Callable[..., Iterator[Any]]:
    """A loop over parts that notes what it does; with a step, its process is killed in the middle of that."""

    def run(function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
        name = name_of(function)
        for number, part in enumerate(parts):
            result = function(part)
            if name != "explain_part":  # is done each time, for the few documents that the report shows
                with log.open("a") as file:
                    folder = function.keywords["folder"]  # type: ignore[attr-defined]
                    file.write(f"{name} {folder.partition('/results/')[2]} {part.number}\n")
            if name == dies_in and number == len(parts) // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield result

    return run


def in_child(work: Callable[[], Any]) -> int:
    """Exit code of a process that does the work; negative where a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(store: Store, made: Artifact) -> dict[str, bytes]:
    assert verify_artifact(store, made) == []  # what workers said of the files, this try's or an earlier one's
    return {file.path: store.read(made.key(file.path)) for file in made.files}


@pytest.mark.parametrize(
    "steps",
    [
        ("tag_part", "large_star", "write_part", "_mix_part"),
        pytest.param(STEPS, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_killed_in_a_step_and_run_again(
    steps: tuple[str, ...],
    corpus: Artifact,
    settings: dict[str, Any],
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(stage, "map_parts", loop(log))
    calm = curate(store, corpus, settings)
    expected = contents(store, calm)
    everything = sorted(log.read_text().splitlines())
    assert {line.split()[0] for line in everything} == set(STEPS)
    for step in steps:
        store.delete_all(calm.id)
        log.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(stage, "map_parts", loop(log, step))
            assert in_child(lambda: curate(store, corpus, settings)) == -signal.SIGKILL, step
        before = log.read_text().splitlines()
        said = io.StringIO()
        again = curate(store, corpus, settings, said)
        assert contents(store, again) == expected, step
        assert again.files == calm.files
        # Each part of each step was done once, by one or the other.
        assert sorted(log.read_text().splitlines()) == everything, step
        assert (
            "an earlier try had finished these parts, which were not done again: classifier 1, tag" in said.getvalue()
        )
        assert len(before) < len(everything) or step == STEPS[-1]
        funnel = read_json(store, again, "funnel.json")
        assert funnel["documents_in"] == funnel["kept"] + sum(funnel["dropped"].values()) == 20
        assert funnel["dropped"] == Counter(row["drop_reason"] for row in dropped_rows(store, again))
        left = {file.key for file in store.files(calm.id)}
        assert left == {again.key(each) for each in expected} | {f"{calm.id}/artifact.json"}


def dropped_rows(store: Store, made: Artifact) -> list[dict[str, Any]]:
    names = [each.path for each in made.files if each.path.startswith("dropped/")]
    return [row for name in names for row in decode(store.read(made.key(name))).to_pylist()]


class Deadly(LocalStore):
    """A store whose process is killed just before, or just after, one of its writes."""

    def __init__(self, root: Path, at: int, after: bool) -> None:
        super().__init__(root)
        self.left, self.after = at, after

    def write(self, key: str, data: bytes) -> None:
        self._die(not self.after)
        super().write(key, data)
        self._die(self.after)

    def copy(self, source: str, target: str) -> None:
        self._die(not self.after)
        super().copy(source, target)
        self._die(self.after)

    def _die(self, now: bool) -> None:
        if now:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def killed_at_writes(writes: Sequence[int], corpus: Artifact, settings: dict[str, Any], store: LocalStore) -> None:
    calm = curate(store, corpus, settings)
    expected = contents(store, calm)
    for number, at in enumerate(writes):
        store.delete_all(calm.id)
        deadly = Deadly(store.root, at, after=number % 2 == 1)
        code = in_child(lambda deadly=deadly: curate(deadly, corpus, settings))  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL)
        # Killed once more while it takes over what the first has left, and continues.
        code = in_child(lambda at=at: curate(Deadly(store.root, max(1, at // 2), True), corpus, settings))  # type: ignore[misc]
        assert code in (0, -signal.SIGKILL)
        assert contents(store, curate(store, corpus, settings)) == expected, at


def test_killed_between_any_two_files(
    corpus: Artifact, settings: dict[str, Any], store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "map_parts", loop(tmp_path / "log"))
    killed_at_writes([17, 90, 130], corpus, settings, store)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1, 9))
def test_killed_at_every_file(
    first: int,
    corpus: Artifact,
    settings: dict[str, Any],
    store: LocalStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage, "map_parts", loop(tmp_path / "log"))
    counting = Deadly(store.root, 0, after=True)
    store.delete_all(curate(counting, corpus, settings).id)
    assert -counting.left > 100  # files written or copied, one by one
    killed_at_writes(range(first, 1 - counting.left, 8), corpus, settings, store)


def test_other_memory_begins_anew_since_its_files_between_steps_are_others(
    corpus: Artifact, settings: dict[str, Any], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(stage, "map_parts", loop(log, "keep_range"))
    assert in_child(lambda: curate(store, corpus, settings)) == -signal.SIGKILL
    other = settings | {"dedup": settings["dedup"] | {"memory_bytes": 1 << 20}}
    monkeypatch.setattr(stage, "map_parts", loop(log))
    said = io.StringIO()
    made = curate(store, corpus, other, said)
    assert "an earlier try" not in said.getvalue()
    again = contents(store, made)
    store.delete_all(made.id)
    assert contents(store, curate(store, corpus, settings)) == again


def test_a_refusal_keeps_what_was_finished(
    corpus: Artifact, settings: dict[str, Any], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(stage, "map_parts", loop(log))

    def full(self: Attempt, written: object) -> list[Any]:
        raise UserError("the disk is full", where="here", next_step="make room")

    with monkeypatch.context() as patch:
        patch.setattr(Attempt, "seal", full)
        with pytest.raises(UserError, match="the disk is full"):
            curate(store, corpus, settings)
    done = log.read_text()
    curate(store, corpus, settings)
    assert log.read_text() == done


def test_other_code_continues_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = stage._conditions(CurateConfig(), [])
    assert stage._conditions(CurateConfig(), []) == ours
    monkeypatch.setattr(stage, "code_digest", lambda *_: "other")
    assert stage._conditions(CurateConfig(), []) != ours


@dataclass(frozen=True)
class Part:
    number: int


def double(part: Part) -> int:
    return 2 * part.number


def test_a_try_that_seems_alive_is_copied_and_may_vanish_meanwhile(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Part(number) for number in range(3)]
    with Attempt(store, "Corpus/curate-1") as slow, Attempt(store, "Corpus/curate-1") as later:
        first = Finished(slow, {}, map)
        assert list(first.map("step", double, parts[:2])) == [0, 2]
        store.write(first.key("file"), b"of a part")
        second = Finished(later, {}, map)
        assert (list(second.map("step", double, parts)), second.taken_over) == ([0, 2, 4], {"step": 2})
        assert store.read(second.key("file")) == store.read(first.key("file"))
        assert list(Finished(later, {"memory_bytes": 1}, map).map("step", double, parts)) == [0, 2, 4]
    copy = store.copy

    def gone(source: str, target: str) -> None:
        if source.endswith("00001"):
            raise FileNotFoundError(source)
        copy(source, target)

    monkeypatch.setattr(store, "copy", gone)
    with Attempt(store, "Corpus/curate-1") as last:
        third = Finished(last, {}, map)
        assert sorted(third.map("step", double, parts)) == [0, 2, 4]


def test_what_a_later_try_has_deleted_stays_deleted(store: LocalStore) -> None:
    parts = [Part(number) for number in range(3)]
    with Attempt(store, "Corpus/curate-1") as first:
        older = Finished(first, {}, map)
        assert list(older.map("write", double, parts)) == [0, 2, 4]
        for name in ("moved", "stays"):
            store.write(older.key(name), b"of a part")
    time.sleep(1.1)  # tries are told apart by the second they began in
    with Attempt(store, "Corpus/curate-1") as second:
        newer = Finished(second, {}, map)
        store.delete(newer.key("moved"))
        assert list(newer.map("moves", double, parts)) == [0, 2, 4]
    with Attempt(store, "Corpus/curate-1") as third:
        last = Finished(third, {}, map)
        assert list(last.map("write", double, parts)) == list(last.map("moves", double, parts)) == [0, 2, 4]
        assert last.taken_over == {"write": 3, "moves": 3}
        assert (store.exists(last.key("moved")), store.exists(last.key("stays"))) == (False, True)


def test_a_try_that_died_while_it_took_over_is_not_the_last_that_is_asked(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [Part(number) for number in range(3)]
    with Attempt(store, "Corpus/curate-1") as first:
        assert list(Finished(first, {}, map).map("step", double, parts)) == [0, 2, 4]
    time.sleep(1.1)
    copy = store.copy

    def dies(source: str, target: str) -> None:
        if source.endswith("00001"):
            raise ConnectionError(source)
        copy(source, target)

    with monkeypatch.context() as patch, Attempt(store, "Corpus/curate-1") as second:
        patch.setattr(store, "copy", dies)
        with pytest.raises(ConnectionError):
            Finished(second, {}, map)
    with Attempt(store, "Corpus/curate-1") as third:
        last = Finished(third, {}, map)
        assert list(last.map("step", double, parts)) == [0, 2, 4]
        assert last.taken_over == {"step": 3}


def test_a_result_holds_records_and_no_code() -> None:
    kept = {"x": Counter("aab"), "key": "folder/a/b", "other": "elsewhere/a", "numbers": np.arange(3)}
    again = decode_result(encode(kept, "folder"), "moved")
    assert (again["x"], again["key"], again["other"]) == (Counter("aab"), "moved/a/b", "elsewhere/a")
    assert again["numbers"].tolist() == [0, 1, 2]
    with pytest.raises(pickle.UnpicklingError, match="is no part of a result"):
        decode_result(encode(os.system, "folder"), "folder")
