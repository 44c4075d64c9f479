"""What one try has read the next one takes over: no shard is read twice, and the corpus is the same byte for byte."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.artifact import Artifact
from cluster.errors import InfraError
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store, Written
from pipelines.corpus import finished, stage
from pipelines.corpus.code import code_digest
from pipelines.corpus.config import STAGE, CorpusConfig
from pipelines.corpus.documents import Item, Problem
from pipelines.corpus.part import Part
from pipelines.corpus.quarantine import Bad
from pipelines.corpus.summary import Chunk, PartSummary
from pipelines.corpus.tally import Tally

MODULE = """
from pathlib import Path

from cluster.errors import InfraError

def pages(shard, shards, folder):
    with (Path(folder) / "reads").open("a") as reads:
        print(shard, file=reads)
    for number in range(50):
        yield f"page {number} of {shard}"
    if shard % 3 == 1:
        yield 7
    if shard == 5 and (Path(folder) / "down").exists():
        raise InfraError("the system that the pages are in does not answer")
"""


class Corpus:
    """A source of eight shards whose sixth cannot be read while a file ``down`` is there."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.store, self.said = folder, store, io.StringIO()
        (folder / "my_resumed_source.py").write_text(MODULE)

    def make(self, *, force: bool = False, **keys: Any) -> Artifact:
        custom = {"kind": "custom", "function": "my_resumed_source:pages", "shards": 8}
        source = custom | {"arguments": {"folder": str(self.folder)}} | keys
        config = CorpusConfig.model_validate({"sources": [source], "part_bytes": 1 << 16})
        with Progress(self.said, live=False).track("corpus") as tracker:
            identity = identify(STAGE, config, {})
            return execute(STAGE, identity, config, {}, self.store, tracker, force=force).artifact

    def fail(self, **keys: Any) -> None:
        (self.folder / "down").touch()
        with pytest.raises(InfraError, match="does not answer"):
            self.make(**keys)
        (self.folder / "down").unlink()

    def reads(self) -> Counter[int]:
        path = self.folder / "reads"
        found = Counter(map(int, path.read_text().split()))
        path.unlink()
        return found


@pytest.fixture
def corpus(tmp_path: Path, any_store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Corpus]:
    def plain(function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
        return map(function, parts)

    monkeypatch.setattr(stage, "map_parts", plain)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Corpus(tmp_path, any_store)
    sys.modules.pop("my_resumed_source", None)


def files(artifact: Artifact) -> list[Any]:
    return [file for file in artifact.files if file.path != "report.html"]


def test_what_is_read_is_not_read_again(corpus: Corpus) -> None:
    clean = corpus.make()
    corpus.reads()
    corpus.store.delete_all(clean.id)
    corpus.fail()
    assert corpus.reads() == Counter(range(6))
    resumed = corpus.make()
    assert corpus.reads() == Counter([5, 6, 7])
    assert "5 of 8 parts were read by an earlier try" in corpus.said.getvalue()
    assert resumed.files == clean.files
    assert (resumed.counts, resumed.details) == (clean.counts, clean.details)
    assert resumed.counts == {"documents": 400, "bytes": 8 * (10 * 11 + 40 * 12), "quarantined.text_of_wrong_type": 3}
    keys = {file.key.removeprefix(f"{resumed.id}/") for file in corpus.store.files(resumed.id)}
    assert keys == {"artifact.json", *(f"{resumed.attempt}/{file.path}" for file in resumed.files)}


def test_a_try_continues_from_all_that_failed_before_it(corpus: Corpus) -> None:
    corpus.fail()
    for prefix in (file.key for file in list(corpus.store.files())):
        if prefix.endswith("done.json") and json.loads(corpus.store.read(prefix))["number"] == 2:
            corpus.store.delete(prefix)
    corpus.reads()
    corpus.fail()
    assert corpus.reads() == Counter([2, 5])
    corpus.make()
    assert corpus.reads() == Counter([5, 6, 7])


def test_a_part_that_is_not_whole_is_read_again(corpus: Corpus) -> None:
    corpus.fail()
    corpus.reads()
    lost = next(file.key for file in corpus.store.files() if "part-00003-000" in file.key)
    corpus.store.delete(lost)
    corpus.make()
    assert corpus.reads() == Counter([3, 5, 6, 7])


def test_force_and_other_configurations_read_everything(corpus: Corpus) -> None:
    corpus.fail()
    corpus.reads()
    corpus.make(version="2")
    assert corpus.reads() == Counter(range(8))
    corpus.make(force=True)
    assert corpus.reads() == Counter(range(8))


def test_other_code_continues_nothing(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus.fail()
    corpus.reads()
    monkeypatch.setattr(finished, "code_digest", lambda *_: "other")
    corpus.make()
    assert corpus.reads() == Counter(range(8))


def test_code_is_known_by_its_sources_and_not_by_where_it_lies(tmp_path: Path) -> None:
    def digest(place: str, **more: str) -> str:
        folder = tmp_path / place
        (folder / "__pycache__").mkdir(parents=True)
        (folder / "__pycache__" / "a.pyc").write_text(place)
        (folder / "README.md").write_text(place)
        for name, text in ({"a.py": "1", "list.txt": "x", "words.json": "{}"} | more).items():
            (folder / name).write_text(text)
        return code_digest(folder)

    changes: list[dict[str, str]] = [{"a.py": "2"}, {"list.txt": "y"}, {"words.json": "[]"}, {"b.py": ""}]
    assert digest("here") == digest("there")
    assert len({code_digest(tmp_path / "here"), *(digest(str(i), **each) for i, each in enumerate(changes))}) == 5


def test_a_cap_is_kept_where_parts_are_taken_over(corpus: Corpus) -> None:
    """The last part is cut; what the failed try committed of it stays whole."""
    cap = 5 * (10 * 11 + 40 * 12) + 300
    clean = corpus.make(max_bytes=cap)
    corpus.store.delete_all(clean.id)
    corpus.fail(max_bytes=cap)
    assert files(corpus.make(max_bytes=cap)) == files(clean)
    assert clean.counts["bytes"] <= cap


def test_a_part_is_known_by_what_is_read_and_not_by_where_it_lies() -> None:
    def digest(number: int = 1, source: str = "web", **keys: Any) -> str:
        about = {"path": "a.jsonl", "location": "/a", "estimated_bytes": 5, "licence": "MIT", "metadata": {"a": 1}}
        return Part(number, (Item("jsonl", **about | keys),)).digest(source)

    assert digest() == digest(location="s3://elsewhere/a")
    changes = [
        {"number": 2},
        {"source": "other"},
        {"path": "b.jsonl"},
        {"estimated_bytes": 6},
        {"licence": "CC0-1.0"},
        {"metadata": {"a": 2}},
        {"span": (0, 10)},
    ]
    assert len({digest(), *(digest(**change) for change in changes)}) == len(changes) + 1


problems = st.builds(Problem, st.text(), st.text(), st.sampled_from(["a", "b"]), st.binary(max_size=20))
documents = st.tuples(st.integers(0, 200_000), st.text(max_size=3), st.text(max_size=3), st.none() | st.just("de"))


@given(st.lists(st.lists(documents)), st.lists(problems), st.dictionaries(st.text(), st.integers(1, 9)))
def test_summaries_survive_as_they_are(
    chunks: list[list[tuple[int, str, str, str | None]]], bad: list[Problem], passed_over: dict[str, int]
) -> None:
    summary = PartSummary(3, quarantine_files={"quarantine/x": Written(1, "ab")}, passed_over=Counter(passed_over))
    for number, rows in enumerate(chunks):
        tally = Tally()
        for row in rows:
            tally.add(*row)
        summary.chunks.append(Chunk(f"data/{number}", Written(number, "cd"), tally))
    summary.bad = Bad()
    for problem in bad:
        summary.bad.add(problem)
    assert PartSummary.decode(summary.encode()) == summary
