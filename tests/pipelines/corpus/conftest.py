"""Runs the corpus stage in this process: the same code as on Ray, with a plain loop in place of Ray Data."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from pipelines.corpus import stage
from pipelines.corpus.config import STAGE, CorpusConfig
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
        return made, [row for name in files for row in decode(store.read(made.key(name))).to_pylist()]

    return run
