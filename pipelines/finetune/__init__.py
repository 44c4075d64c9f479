"""Stage ``finetune``: adapt a model to answer questions, by a LoRA adapter trained on instruction pairs."""

from pipelines.finetune.config import STAGE, FinetuneConfig

__all__ = ["STAGE", "FinetuneConfig"]
