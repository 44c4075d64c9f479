"""Sequence classification as the training loop sees it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact, local_copy
from pipelines.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    import torch

    from cluster.store import Store
    from pipelines.finetune.classification.encode import EncodedTexts, TextEncoder, TextSamples
    from pipelines.train.group import Group
    from pipelines.train.task import Batch

MOST_WRONG = 20
"""Held-out texts with a wrong label that the report shows."""


@dataclass
class ClassificationTask:
    """Pickled to the workers.

    Attributes:
        examples: part (train, validation) -> store key of its examples as JSON lines.
        labels: every label, in the order of their numbers.
    """

    config: FinetuneConfig
    base: Artifact
    examples: dict[str, str]
    labels: tuple[str, ...]
    where: str = field(default="finetune")

    def prepare(self, store: Store) -> None:
        """Make the base model available on this machine, and encode the texts.

        Raises:
            UserError: the model takes no head, or a text is too long (the row is named), or none of a part is left.
        """
        from pipelines.finetune.classification.labels import weights_of
        from pipelines.finetune.classification.model import require_classifiable, tells_texts_apart
        from pipelines.finetune.examples.records import parse_jsonl
        from pipelines.finetune.load import context_of, load_tokenizer, require_any

        self._base_folder = local_copy(store, self.base)
        require_classifiable(self._base_folder)
        tokenizer = load_tokenizer(self._base_folder)
        self._pad_id = padding_of(tokenizer)
        encoder = encoder_of(self.config, tokenizer, self.labels, context_of(self._base_folder))
        self._parts: dict[str, EncodedTexts] = {}
        for part, key in self.examples.items():
            found = encoder.encode_all(parse_jsonl(store.read(key).decode("utf-8")))
            require_any(found, part, encoder.length)
            self._parts[part] = found
        counted = [each.label for each in self._parts["train"].examples]
        self._weights = weights_of(self.labels, counted, self.config.class_weights)
        settings = json.loads((self._base_folder / "config.json").read_text(encoding="utf-8"))
        self._kinds = tells_texts_apart(settings)

    def model(self) -> torch.nn.Module:
        """The base under a head, as the method trains it.

        Raises:
            UserError: the method does not fit the model.
        """
        from pipelines.finetune.classification.model import classifier

        found: torch.nn.Module = classifier(self._base_folder, self.labels, self._pad_id, self.config)
        return found

    def samples(self) -> tuple[TextSamples, TextSamples]:
        """Encoded texts of both splits."""
        from pipelines.finetune.classification.encode import TextSamples

        train, validation = (
            TextSamples(self._parts[part].encoded, self._pad_id, kinds=self._kinds, weights=self._weights)
            for part in ("train", "validation")
        )
        return train, validation

    def objective(self, model: torch.nn.Module, group: Group) -> torch.nn.Module:
        """Weighted cross-entropy."""
        from pipelines.finetune.classification.objective import LabelObjective

        return LabelObjective(model, self._weights)

    @property
    def advice(self) -> str:
        """Nothing ends a run but its loss."""
        return ""

    def watch(self, figures: Mapping[str, float], memory: dict[str, Any]) -> str | None:
        """Nothing ends a run but its loss."""
        return None

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export, and name the label of every held-out text with what was written."""
        from pipelines.finetune.classification.export import export_classifier, export_classifier_adapter
        from pipelines.finetune.classification.scores import score
        from pipelines.finetune.load import left_out

        given, sureness = self._predict(model)
        if self.config.makes_model:
            difference = export_classifier(model, self._base_folder, folder, probe)
        else:
            difference = export_classifier_adapter(model, self._base_folder, self.base.id, folder, probe)
        held_out = self._parts["validation"]
        true = [each.label for each in held_out.encoded]
        wrong = [
            {
                "text": example.text[:400] + (f" | {example.pair[:400]}" if example.pair else ""),
                "label": example.label,
                "given": self.labels[number],
                "probability": sure,
                "place": example.where,
            }
            for example, number, sure in zip(held_out.examples, given, sureness, strict=True)
            if self.labels[number] != example.label
        ]
        found = score(true, given, self.labels)
        return {
            "export_difference": difference,
            "labels": list(self.labels),
            "class_weights": self._weights,
            "metrics": found.metrics("validation"),
            "confusion": [list(row) for row in found.confusion],
            "by_label": [vars(each) for each in found.by_label],
            "wrong": sorted(wrong, key=lambda each: -float(str(each["probability"])))[:MOST_WRONG],
            **left_out(self._parts.values()),
        }

    def _predict(self, model: Any) -> tuple[list[int], list[float]]:
        """The label of each held-out text, and the probability that the model gives it."""
        import numpy as np
        import torch

        from pipelines.finetune.classification.objective import takes_cache

        samples, device, was_training = self.samples()[1], next(model.parameters()).device, model.training
        further = {"use_cache": False} if takes_cache(model) else {}
        model.eval()
        given: list[int] = []
        sureness: list[float] = []
        everything = np.arange(len(samples))
        with torch.no_grad():
            for first in range(0, len(samples), self.config.batch_sequences):
                batch = samples.batch(everything[first : first + self.config.batch_sequences])
                arguments = {name: value.to(device) for name, value in batch.arguments.items()}
                logits = model(input_ids=batch.inputs.to(device), **arguments, **further).logits.float()
                best = logits.softmax(-1).max(-1)
                given += best.indices.tolist()
                sureness += best.values.tolist()
        model.train(was_training)
        return given, sureness


def encoder_of(config: FinetuneConfig, tokenizer: Any, labels: tuple[str, ...], context: int | None) -> TextEncoder:
    """The encoder that a recipe's section means, for a model with this context."""
    from pipelines.finetune.classification.encode import TextEncoder
    from pipelines.finetune.load import UNBOUNDED, most_tokens

    # Some models have positions that their tokenizer's limit leaves out (roberta: 514 and 512).
    limits = (context, tokenizer.model_max_length)
    known = [int(each) for each in limits if each and each < UNBOUNDED]
    length = most_tokens(config, min(known, default=None))
    return TextEncoder(tokenizer, labels, length, config.length_policy)


def padding_of(tokenizer: Any) -> int:
    """The token that fills up behind a text: the tokenizer's own, or the one that ends a text."""
    found = [
        each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id) if each is not None
    ]
    return int(found[0])
