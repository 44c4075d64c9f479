"""Corpus and curation on a real Ray, twice with different parallelism: the same bytes, and the faults planted found."""

from __future__ import annotations

import io
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.artifact import Artifact, read_json
from cluster.errors import UserError
from cluster.progress import Progress
from cluster.session import ClusterConfig, connect
from cluster.stage import execute, identify
from cluster.store import Store
from cluster.store_local import LocalStore
from pipelines.corpus.config import STAGE as CORPUS
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.table import decode
from pipelines.curate.config import STAGE as CURATE
from pipelines.curate.config import CurateConfig

pytestmark = pytest.mark.ray


@dataclass
class Made:
    """Both artifacts of one run, its store and what its progress said."""

    store: Store
    corpus: Artifact
    curated: Artifact
    said: str

    def rows(self, artifact: Artifact, folder: str) -> list[dict[str, Any]]:
        names = [each.path for each in artifact.files if each.path.startswith(f"{folder}/")]
        return [row for name in names for row in decode(self.store.read(artifact.key(name))).to_pylist()]


def run(root: Path, sources: list[dict[str, Any]], workers: int) -> Made:
    store, stream = LocalStore(root), io.StringIO()
    corpus_config = CorpusConfig.model_validate({"sources": sources, "workers": workers})
    # Several workers also get many small key ranges, which must not show in the result either.
    memory = {} if workers == 1 else {"memory_bytes": 100_000}
    curate_config = CurateConfig.model_validate({"workers": workers, "dedup": memory})
    with Progress(stream, live=False).track("test") as tracker:
        corpus = execute(CORPUS, identify(CORPUS, corpus_config, {}), corpus_config, {}, store, tracker).artifact
        identity = identify(CURATE, curate_config, {"corpus": corpus.fingerprint})
        curated = execute(CURATE, identity, curate_config, {"corpus": corpus}, store, tracker).artifact
    return Made(store, corpus, curated, stream.getvalue())


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with connect(ClusterConfig(object_store_bytes=100 << 20)):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real modules' texts as own files, with duplicates, an e-mail and addresses planted."""
    place = tmp_path_factory.mktemp("notes")
    prose = (Path(sysconfig.get_paths()["stdlib"]) / "LICENSE.txt").read_text(encoding="utf-8")
    paragraphs = [part for part in prose.split("\n\n") if len(part) > 200][:12]
    text = "\n\n".join(paragraphs)
    (place / "original.txt").write_text(text)
    (place / "shouted.txt").write_text(text.replace(",", ""))
    (place / "near.txt").write_text(text + "\n\nOne line more than there was before.\n")
    contact = "Questions about these terms go to terms.desk@example.org, or to the host 8.8.8.8 but not 10.0.0.1."
    (place / "contact.md").write_text("\n\n".join([contact, *paragraphs[:4]]))
    (place / "tiny.txt").write_text("Hardly a text of the kind that we want to keep.")
    return place


@pytest.fixture(scope="module")
def runs(session: None, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    sources = [
        {"kind": "python-docs", "max_bytes": 1_500_000},
        {"kind": "text", "path": str(folder), "licence": "PSF-2.0", "name": "notes"},
    ]
    return [run(tmp_path_factory.mktemp("store"), sources, workers) for workers in (1, 3)]


def test_parallelism_does_not_change_a_byte(runs: list[Made]) -> None:
    one, other = runs
    assert one.corpus.fingerprint == other.corpus.fingerprint
    assert one.corpus.files == other.corpus.files
    assert one.curated.files == other.curated.files
    assert (one.curated.counts, one.curated.licences) == (other.curated.counts, other.curated.licences)


def test_planted_faults_are_found(runs: list[Made]) -> None:
    made = runs[0]
    ids = {row["path"]: row["id"] for row in made.rows(made.corpus, "data") if row["source"] == "notes"}
    dropped = {row["id"]: row for row in made.rows(made.curated, "dropped")}
    kept = {row["id"]: row for folder in ("train", "validation") for row in made.rows(made.curated, folder)}
    near = dropped[ids["original.txt"]]
    assert (near["drop_reason"], near["duplicate_of"] in kept) == ("duplicate.near", True)
    shouted = dropped[ids["shouted.txt"]]
    assert (shouted["drop_reason"], shouted["duplicate_of"]) == ("duplicate.exact", near["duplicate_of"])
    assert dropped[ids["tiny.txt"]]["drop_reason"] == "gopher_quality.min_words"
    assert "go to <EMAIL>, or to the host <IP> but not 10.0.0.1." in kept[ids["contact.md"]]["text"]


def test_the_funnel_adds_up(runs: list[Made]) -> None:
    made = runs[0]
    funnel = read_json(made.store, made.curated, "funnel.json")
    assert funnel["documents_in"] == made.corpus.counts["documents"]
    assert funnel["documents_in"] == funnel["kept"] + sum(funnel["dropped"].values())
    assert funnel["kept"] == len(made.rows(made.curated, "train")) + len(made.rows(made.curated, "validation"))
    assert len(made.rows(made.curated, "dropped")) == sum(funnel["dropped"].values())
    assert sum(made.curated.licences.values()) == funnel["kept"]


def test_curated_docstrings_keep_their_headings(runs: list[Made]) -> None:
    made = runs[0]
    found = [row for row in made.rows(made.curated, "train") if json.loads(row["metadata"])["kind"] == "docstring"]
    assert len(found) > 30
    for row in found:
        lines = row["text"].split("\n")
        assert lines[0] == f"# {json.loads(row['metadata'])['module']}"
        for index, line in enumerate(lines):
            if line.startswith(("## def ", "## class ")) and line.endswith(")"):
                assert lines[index + 1] == ""
                assert lines[index + 2]


def test_progress_and_reports(runs: list[Made]) -> None:
    made = runs[0]
    for words in ("read python-docs", "read notes", "clean and judge", "find duplicates", "kept=", "dropped="):
        assert words in made.said
    for artifact in (made.corpus, made.curated):
        page = made.store.read(artifact.key("report.html")).decode()
        assert page.startswith("<!doctype html>")
        assert "python-docs" in page


def test_an_error_in_a_worker_arrives_as_it_was_raised(session: None, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\nnot json\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2: is not valid JSON"):
        run(tmp_path / "store", [{"kind": "jsonl", "path": str(tmp_path / "bad.jsonl")}], 1)
