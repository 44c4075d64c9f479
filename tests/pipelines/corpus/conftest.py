"""Runs the corpus stage in this process: the same code as on Ray, with a plain loop in place of Ray Data."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.artifact import Artifact, verify_artifact
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from pipelines.corpus import stage
from pipelines.corpus.config import STAGE, CorpusConfig
from pipelines.corpus.documents import Document, PassedOver, Problem
from pipelines.corpus.readers import read_item
from pipelines.corpus.sources import SOURCES
from pipelines.corpus.table import decode

RunCorpus = Callable[..., tuple[Artifact, list[dict[str, Any]]]]


@pytest.fixture
def run_corpus(store: Store, monkeypatch: pytest.MonkeyPatch) -> RunCorpus:
    """Makes a corpus from source dictionaries; gives its record and its rows."""

    def plain(function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
        return map(function, parts)

    monkeypatch.setattr(stage, "map_parts", plain)

    def run(*sources: dict[str, Any], **keys: Any) -> tuple[Artifact, list[dict[str, Any]]]:
        config = CorpusConfig.model_validate({"sources": list(sources)} | keys)
        with Progress(io.StringIO(), live=False).track("corpus") as tracker:
            made = execute(STAGE, identify(STAGE, config, {}), config, {}, store, tracker).artifact
        files = [each.path for each in made.files if each.path.startswith("data/")]
        assert verify_artifact(store, made) == []
        return made, [row for name in files for row in decode(store.read(made.key(name))).to_pylist()]

    return run


@dataclass
class Read:
    """What one source gave, in order."""

    documents: list[Document]
    problems: list[Problem]
    passed_over: list[str]

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]

    @property
    def reasons(self) -> list[tuple[str, str]]:
        return [(problem.where, problem.reason) for problem in self.problems]


ReadSource = Callable[..., Read]


@pytest.fixture
def read_source() -> ReadSource:
    """Lists and reads one source in this process, without a store."""

    def read(part_bytes: int = 32 << 20, **keys: Any) -> Read:
        (source,) = CorpusConfig.model_validate({"sources": [keys]}).sources
        outcomes = [
            outcome
            for item in SOURCES[type(source)].list_items(source, part_bytes)
            for outcome in read_item(item, source)
        ]
        return Read(
            [each for each in outcomes if isinstance(each, Document)],
            [each for each in outcomes if isinstance(each, Problem)],
            [each.reason for each in outcomes if isinstance(each, PassedOver)],
        )

    return read
