"""What an earlier curation of the same corpus has measured, found by address in the artifacts of the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.artifact import Artifact, list_artifacts
from cluster.store import Store
from pipelines.corpus.table import part_name
from pipelines.curate.measured.groups import CLEANED_TEXTS, SIGNATURES, group_of, matching
from pipelines.curate.measured.surveyed import DIGEST, load_survey, survey_name
from pipelines.curate.measured.tables import read_kept

SCORES, TEXTS, BANDS = "scores", "measured/texts", "measured/signatures"
"""Folders of an artifact: of all documents, and of those that no rule dropped."""


@dataclass(frozen=True)
class Memory:
    """Where the values are.

    Attributes:
        artifact_id, prefix: the artifact, and the key of its files.
        groups: the values in it that were measured as this recipe does.
    """

    artifact_id: str
    prefix: str
    groups: frozenset[str]

    def load(self, store: Store, part: int) -> dict[str, dict[str, Any]]:
        """Id -> column -> value, of the documents of a part."""
        found: dict[str, dict[str, Any]] = {}
        folders = {SCORES: lambda name: group_of(name) in self.groups}
        if CLEANED_TEXTS in self.groups:
            folders[TEXTS] = lambda name: name == "text" or name.startswith("redacted_")
        if SIGNATURES in self.groups:
            folders[BANDS] = lambda name: name in ("content", "bands")
        for folder, wanted in folders.items():
            key = f"{self.prefix}/{part_name(folder, part)}"
            if store.exists(key):
                for name, values in read_kept(store, key, wanted).items():
                    found.setdefault(name, {}).update(values)
        return found

    def load_survey(self, store: Store, part: int) -> dict[str, dict[str, Any]]:
        """The same of what the survey measured in the texts of a part that stayed, and in which text."""
        return {
            name: {
                column: value for column, value in row.items() if column == DIGEST or group_of(column) in self.groups
            }
            for name, row in load_survey(store, f"{self.prefix}/{survey_name(part)}").items()
        }


def digest_of(corpus: Artifact) -> str:
    """What a corpus holds, by its files."""
    files = [(file.path, file.sha256) for file in corpus.files if file.path.startswith("data/")]
    return hashlib.sha256(json.dumps(sorted(files)).encode("utf-8")).hexdigest()


def record(corpus: Artifact, groups: Mapping[str, str], passed: int) -> dict[str, Any]:
    """What an artifact's details say of what was measured for it.

    Args:
        passed: documents that no rule dropped, whose texts and signatures are kept.
    """
    return {"corpus_sha256": digest_of(corpus), "groups": dict(groups), "passed": passed}


def find_memory(store: Store, corpus: Artifact, groups: Mapping[str, str]) -> Memory | None:
    """The artifact that spares most: with the most groups of this recipe, then with the most documents measured."""
    found: list[tuple[int, int, Artifact, frozenset[str]]] = []
    digest = digest_of(corpus)
    for artifact in list_artifacts(store, "Corpus"):
        made = artifact.details.get("measured")
        if made is not None and made["corpus_sha256"] == digest:
            shared = matching(groups, made["groups"])
            if shared:
                found.append((len(shared), made["passed"], artifact, shared))
    if not found:
        return None
    _, _, best, shared = max(found, key=lambda each: each[:2])
    return Memory(best.id, best.data_prefix, shared)
