"""Summarisation, translation and the like with encoder-decoders, as the training loop sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact, local_copy
from pipelines.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    import torch

    from cluster.store import Store
    from pipelines.finetune.seq2seq.encode import EncodedPairs, PairEncoder, PairSamples
    from pipelines.train.task import Batch


@dataclass
class Seq2SeqTask:
    """Pickled to the workers.

    Attributes:
        examples: part (train, validation) -> store key of its examples as JSON lines.
    """

    config: FinetuneConfig
    base: Artifact
    examples: dict[str, str]
    where: str = field(default="finetune")

    def prepare(self, store: Store) -> None:
        """Make the base model available on this machine, and encode the pairs.

        Raises:
            UserError: the model is no encoder-decoder, or a pair is too long (the row is named), or none is left.
        """
        from pipelines.finetune.examples.records import parse_jsonl
        from pipelines.finetune.load import load_tokenizer, require_any
        from pipelines.finetune.seq2seq.model import require_encoder_decoder, target_marks

        self._base_folder = local_copy(store, self.base)
        require_encoder_decoder(self._base_folder)
        self._tokenizer = load_tokenizer(self._base_folder)
        self._marks = target_marks(self._base_folder, self._tokenizer)
        encoder = encoder_of(self.config, self._tokenizer, self._base_folder)
        self._parts: dict[str, EncodedPairs] = {}
        for part, key in self.examples.items():
            found = encoder.encode_all(parse_jsonl(store.read(key).decode("utf-8")))
            require_any(found, part, encoder.length)
            self._parts[part] = found

    def model(self) -> torch.nn.Module:
        """The base as the method trains it.

        Raises:
            UserError: the method does not fit the model.
        """
        from pipelines.finetune.seq2seq.model import encoder_decoder

        found: torch.nn.Module = encoder_decoder(self._base_folder, self._marks, self.config)
        return found

    def samples(self) -> tuple[PairSamples, PairSamples]:
        """Encoded pairs of both splits."""
        from pipelines.finetune.seq2seq.encode import PairSamples

        train, validation = (PairSamples(self._parts[part].encoded, self._marks) for part in ("train", "validation"))
        return train, validation

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export; write targets for some held-out sources, before and after, and hold them against the expected."""
        from pipelines.finetune.likeness import compare
        from pipelines.finetune.load import left_out
        from pipelines.finetune.methods import without_addition
        from pipelines.finetune.seq2seq.export import export_pairs, export_pairs_adapter
        from pipelines.finetune.seq2seq.model import load_encoder_decoder

        device = next(model.parameters()).device
        count = max(self.config.scored, self.config.examples_shown)
        with without_addition(model) as same:
            untrained = model if same else load_encoder_decoder(self._base_folder, self._marks).to(device)
            before = self._write(untrained, count)
        del untrained
        after = self._write(model, count)
        if self.config.makes_model:
            difference = export_pairs(model, self._marks, self._base_folder, folder, probe)
        else:
            difference = export_pairs_adapter(model, self._marks, self._base_folder, self.base.id, folder, probe)
        examples = self._parts["validation"].examples[:count]
        expected = [each.messages[-1].content for each in examples]
        shown = zip(examples, expected, before, after, strict=True)
        details: dict[str, Any] = {
            "export_difference": difference,
            "examples": [
                {"source": example.messages[0].content[:600], "expected": target, "before": first, "after": second}
                for example, target, first, second in list(shown)[: self.config.examples_shown]
            ],
            **left_out(self._parts.values()),
        }
        if scored := self.config.scored:
            details["likeness"] = compare(before[:scored], after[:scored], expected[:scored])
        return details

    def _write(self, model: Any, count: int) -> list[str]:
        """Greedy targets of the first held-out sources, at most as long as the longest that is expected."""
        import numpy as np
        import torch

        samples, device, was_training = self.samples()[1], next(model.parameters()).device, model.training
        count = min(count, len(samples))
        pairs = self._parts["validation"].encoded[:count]
        model.eval()
        written: list[str] = []
        with torch.no_grad():
            for first in range(0, count, self.config.batch_sequences):
                batch = samples.batch(np.arange(first, min(first + self.config.batch_sequences, count)))
                ids = model.generate(
                    input_ids=batch.inputs.to(device),
                    attention_mask=batch.arguments["attention_mask"].to(device),
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=max(len(each.target) for each in pairs),
                )
                written += self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        model.train(was_training)
        return [text.strip() for text in written]


def encoder_of(config: FinetuneConfig, tokenizer: Any, folder: Path) -> PairEncoder:
    """The encoder that a recipe's section means, for the model in a folder.

    Where positions are relative (t5), the tokenizer's limit is what the model was trained on, and no bound.

    Raises:
        UserError: the recipe asks for more than the model's positions, or nothing says how long a text may be.
    """
    from pipelines.finetune.load import UNBOUNDED, context_of, most_tokens
    from pipelines.finetune.seq2seq.encode import PairEncoder
    from pipelines.finetune.seq2seq.model import require_encoder_decoder, target_marks
    from pipelines.models.export import longest

    positions = longest(require_encoder_decoder(folder))
    usual = [each for each in (positions, tokenizer.model_max_length, context_of(folder)) if each and each < UNBOUNDED]
    bound = positions if config.sequence_length is not None else min(map(int, usual), default=None)
    return PairEncoder(tokenizer, target_marks(folder, tokenizer), most_tokens(config, bound), config.length_policy)
