"""Evaluating a model that is no artifact: a folder, or a model of the Hub. Its content identifies it, not its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from cluster.artifact import Artifact
from cluster.config import execution
from cluster.stage import Outcome, Stage, StageContext
from evals.config import STAGE, EvalsConfig
from evals.sources import FolderSource
from evals.stage import evaluate_and_write


class GivenConfig(EvalsConfig):
    """An evaluation's settings, and the model that was named."""

    folder: str = execution(description="the full model's folder")
    adapter: str | None = execution(None, description="an adapter's folder")
    label: str = execution(description="what to call the model in the report")
    model_sha256: str = Field(description="SHA-256 over the model's files")

    @classmethod
    def of(cls, config: EvalsConfig, source: FolderSource) -> GivenConfig:
        """The settings with a model in a folder."""
        adapter = str(source.adapter) if source.adapter else None
        own = {"folder": str(source.base), "adapter": adapter, "label": source.name}
        settings = config.model_dump(exclude={"preset"})
        return cls(**settings, **own, model_sha256=source.content_sha256)


GIVEN_STAGE = Stage(STAGE.name, STAGE.kind, STAGE.version, "evals.given:run", STAGE.resolve)


def run(config: GivenConfig, inputs: Mapping[str, Artifact], context: StageContext) -> Outcome:
    """Evaluate the model in ``config.folder``."""
    source = FolderSource(Path(config.folder), Path(config.adapter) if config.adapter else None, config.label)
    model = {
        "id": config.label,
        "content_sha256": config.model_sha256,
        "kind": "Adapter" if source.adapter else "Model",
        "folder": config.folder,
        "adapter": config.adapter,
    }
    return evaluate_and_write(source, model, config, context)
