"""Stage ``finetune``: adapt a model to examples, wholly or by a small addition to it."""

from pipelines.finetune.config import ADAPTER_STAGE, MODEL_STAGE, FinetuneConfig, stage_of

__all__ = ["ADAPTER_STAGE", "MODEL_STAGE", "FinetuneConfig", "stage_of"]
