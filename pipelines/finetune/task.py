"""LoRA fine-tuning as the training loop sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact, local_copy
from cluster.errors import UserError
from pipelines.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    import torch

    from cluster.store import Store
    from pipelines.train.task import Batch, Samples

EXAMPLES = 4


@dataclass
class FinetuneTask:
    """Pickled to the workers.

    Attributes:
        pairs: split -> store key of its pairs as JSON lines.
    """

    config: FinetuneConfig
    base: Artifact
    pairs: dict[str, str]
    where: str = "finetune"

    def prepare(self, store: Store) -> None:
        """Make the base model available on this machine, and encode the pairs.

        Raises:
            UserError: no pair of a split fits the sequence length.
        """
        from transformers import PreTrainedTokenizerFast

        from pipelines.finetune.masking import EncodedPair, encode_pair
        from pipelines.finetune.pairs import Pair, parse_pairs

        self._base_folder = local_copy(store, self.base)
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(self._base_folder)
        limit = self.config.sequence_length or self._tokenizer.model_max_length
        self._texts: dict[str, list[Pair]] = {}
        self._encoded: dict[str, list[EncodedPair]] = {}
        self.too_long = 0
        for split, key in self.pairs.items():
            texts = parse_pairs(store.read(key).decode("utf-8"), key)
            encoded = [(pair, encode_pair(self._tokenizer, pair)) for pair in texts]
            fitting = [(pair, tokens) for pair, tokens in encoded if len(tokens) <= limit]
            self.too_long += len(encoded) - len(fitting)
            if not fitting:
                raise UserError(
                    f"no {split} pair fits {limit} tokens",
                    where="finetune.sequence_length",
                    next_step="shorten the answers, or train a model with a longer context",
                )
            self._texts[split] = [pair for pair, _ in fitting]
            self._encoded[split] = [tokens for _, tokens in fitting]

    def model(self) -> torch.nn.Module:
        """The base with fresh adapters."""
        from pipelines.finetune.lora import add_adapters, load_base

        return add_adapters(load_base(self._base_folder), self.config)

    def samples(self) -> tuple[Samples, Samples]:
        """Encoded pairs of both splits."""
        from pipelines.finetune.masking import PairSamples

        pad = self._tokenizer.pad_token_id
        pad = self._tokenizer.eos_token_id if pad is None else pad
        return PairSamples(self._encoded["train"], pad), PairSamples(self._encoded["validation"], pad)

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export the adapter; answer some held-out questions without and with it."""
        from pipelines.finetune.lora import export_adapter
        from pipelines.finetune.masking import render_prompt
        from pipelines.models.sampling import answer

        difference = export_adapter(model, self._base_folder, self.base.id, folder, probe.inputs.to(model.device))
        shown = self._texts["validation"][:EXAMPLES]
        prompts = [render_prompt(self._tokenizer, pair.prompt) for pair in shown]
        with model.disable_adapter():
            before = answer(model, self._base_folder, prompts)
        after = answer(model, self._base_folder, prompts)
        examples = [
            {"question": pair.prompt, "expected": pair.completion, "before": first, "after": second}
            for pair, first, second in zip(shown, before, after, strict=True)
        ]
        return {"export_difference": difference, "examples": examples, "too_long": self.too_long}
