"""Runs the curation stage in this process: the same code as on Ray, with a plain loop in place of Ray Data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from cluster.artifact import Artifact, Identity
from cluster.attempt import Attempt
from cluster.progress import Progress
from cluster.stage import execute, identify
from cluster.store import Store
from pipelines.corpus.documents import Document
from pipelines.corpus.table import encode, part_name, to_table
from pipelines.curate import stage
from pipelines.curate.config import STAGE, CurateConfig


@pytest.fixture
def make_corpus(store: Store) -> Callable[..., Artifact]:
    """Publishes a corpus of texts (or of path -> text), cut into parts of ``in_part`` documents."""

    def make(texts: Sequence[str] | dict[str, str], in_part: int = 4, name: str = "corpus") -> Artifact:
        named = texts if isinstance(texts, dict) else {f"{i:03d}": text for i, text in enumerate(texts)}
        documents = [Document(path, text, "MIT", {"kind": "text"}) for path, text in named.items()]
        fields = {"texts": json.dumps(named), "in_part": in_part}
        identity = Identity("Corpus", name, 1, fields, {})
        with Attempt(store, identity.id) as attempt:
            for number, start in enumerate(range(0, len(documents), in_part)):
                table = to_table(documents[start : start + in_part], "notes")
                store.write(attempt.key(part_name("data", number)), encode(table))
            return attempt.publish(
                Artifact(
                    kind="Corpus",
                    name=name,
                    fingerprint=identity.fingerprint,
                    identity=identity.fields(),
                    attempt=attempt.name,
                    files=attempt.seal(),
                    counts={"documents": len(documents)},
                )
            )

    return make


@pytest.fixture
def run_curate(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Artifact]:
    """Curates a corpus with the given settings."""

    def plain(function: Callable[[Any], Any], parts: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
        return map(function, parts)

    monkeypatch.setattr(stage, "map_parts", plain)

    def run(corpus: Artifact, **settings: Any) -> Artifact:
        config = CurateConfig.model_validate(settings)
        identity = identify(STAGE, config, {"corpus": corpus.fingerprint})
        with Progress(io.StringIO(), live=False).track("curate") as tracker:
            return execute(STAGE, identity, config, {"corpus": corpus}, store, tracker).artifact

    return run
