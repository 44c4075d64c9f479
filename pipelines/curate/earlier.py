"""Corpora curated earlier, as deduplication compares with them: by the signatures published with each."""

from __future__ import annotations

from typing import Any

from cluster.artifact import Artifact, find_artifact
from cluster.errors import UserError
from cluster.store import Store
from pipelines.curate.config import DedupConfig

WHERE = "curate.dedup.against"


def signature_parameters(config: DedupConfig) -> dict[str, Any]:
    """What two corpora must have in common for their signatures to be comparable; kept in the artifact's details."""
    return {"version": 1, "minhash": config.minhash.model_dump() if config.minhash else None}


def find_earlier(config: DedupConfig, store: Store) -> list[Artifact]:
    """The artifacts that ``against`` names.

    Raises:
        UserError: there is no such artifact, its name alone was given, or it has no comparable signatures.
    """
    ours = signature_parameters(config)
    found = [find_artifact(store, reference) for reference in config.against]
    for reference, artifact in zip(config.against, found, strict=True):
        if reference == artifact.name:
            raise UserError(
                f"{reference} is whichever is newest, so that a recipe would mean another corpus tomorrow",
                where=WHERE,
                next_step=f"name the artifact itself: {artifact.id}",
            )
        made = artifact.details.get("signatures")
        if made is None:
            raise UserError(
                f"{artifact.id} has no signatures",
                where=WHERE,
                next_step="only what the stage curate made can be compared with: curate it anew with this version",
            )
        if config.minhash is not None and made != ours:
            raise UserError(
                f"the signatures of {artifact.id} were made with {made}, this recipe has {ours}",
                where=WHERE,
                next_step="use the same curate.dedup.minhash, or set it to null to compare words exactly",
            )
    return found


def signature_tables(artifacts: list[Artifact]) -> list[str]:
    """Keys of the published tables, each once."""
    keys = [each.key(file.path) for each in artifacts for file in each.files if file.path.startswith("signatures/")]
    return [*dict.fromkeys(keys)]
