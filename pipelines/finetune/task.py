"""Fine-tuning as the training loop sees it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifact import Artifact, local_copy
from cluster.errors import UserError
from pipelines.finetune.config import FinetuneConfig

if TYPE_CHECKING:
    import torch

    from cluster.store import Store
    from pipelines.finetune.examples.encode import Encoding
    from pipelines.finetune.examples.records import Conversation, Text
    from pipelines.train.task import Batch, Samples

MEASURED, MEASURED_AT_ONCE = 64, 8
"""Held-out examples that the cost of a quantised base is measured on."""


@dataclass
class FinetuneTask:
    """Pickled to the workers.

    Attributes:
        examples: part (train, validation and maybe forgetting) -> store key of its examples as JSON lines.
        template: the chat template, where it is not the tokenizer's.
    """

    config: FinetuneConfig
    base: Artifact
    examples: dict[str, str]
    template: str | None = None
    where: str = field(default="finetune")

    def prepare(self, store: Store) -> None:
        """Make the base model available on this machine, and encode the examples.

        Raises:
            UserError: an example is too long or its answer gets lost (the row is named), or none of a part is left;
                or a base in 4 bits is asked for, and cannot be kept here.
        """
        from pipelines.finetune.examples.records import parse_jsonl
        from pipelines.finetune.load import context_of, encoder_of, load_tokenizer, require_any
        from pipelines.finetune.quantised import require_here

        if self.config.base_bits:
            require_here()
        self._base_folder = local_copy(store, self.base)
        self._tokenizer = load_tokenizer(self._base_folder)
        self._encoder = encoder_of(self.config, self._tokenizer, self.template, context_of(self._base_folder))
        self._parts: dict[str, Encoding] = {}
        for part, key in self.examples.items():
            found = self._encoder.encode_all(parse_jsonl(store.read(key).decode("utf-8")))
            require_any(found, part, self._encoder.length)
            self._parts[part] = found

    def model(self) -> torch.nn.Module:
        """The base as the method trains it.

        Raises:
            UserError: the method does not fit the model, or packed examples would see each other in it.
        """
        from pipelines.finetune.methods import adapt, load_base
        from pipelines.finetune.quantised import load_quantised

        if self.config.base_bits:
            base = load_quantised(self._base_folder, self.config.resolved_precision())
        else:
            base = load_base(self._base_folder)
        if self.config.packing:
            require_isolation(base)
        model: torch.nn.Module = adapt(base, self.config, self._base_folder)
        return model

    def samples(self) -> tuple[Samples, Samples]:
        """Encoded examples of both splits."""
        from pipelines.finetune.examples.samples import ExampleSamples

        capacity = self._encoder.length if self.config.packing else None
        train, validation = (
            ExampleSamples(self._parts[part].encoded, self._pad_id, capacity) for part in ("train", "validation")
        )
        return train, validation

    @property
    def _begins(self) -> bool:
        """Whether the tokenizer's first token goes before what the model reads; a chat template writes it itself."""
        return self.template == "plain" or self._parts["validation"].is_text

    @property
    def _ends(self) -> list[int]:
        """What ends an answer in the chat template at work."""
        from pipelines.models.stops import ends_of

        if self.template == "plain" or self._parts["validation"].is_text:
            return []
        return ends_of(self._tokenizer, self.template)

    def _unstopped(self) -> str | None:
        """What ends an answer and is nothing that the base stops at, beside which an adapter is served."""
        from pipelines.models.stops import stops_of

        missing = [] if self.config.makes_model else sorted(set(self._ends) - set(stops_of(self._base_folder)))
        return str(self._tokenizer.convert_ids_to_tokens(missing[0])) if missing else None

    @property
    def _pad_id(self) -> int:
        pad = self._tokenizer.pad_token_id
        return int(self._tokenizer.eos_token_id if pad is None else pad)

    def finish(self, model: Any, folder: Path, probe: Batch) -> dict[str, Any]:
        """Export; answer some held-out questions and measure forgetting, each before and after."""
        import torch

        from pipelines.finetune.load import left_out
        from pipelines.finetune.methods import load_base, without_addition
        from pipelines.models.stops import note_stops
        from pipelines.tokens.folder import set_chat_template

        device = next(model.parameters()).device
        with without_addition(model) as same, torch.no_grad():
            untrained = model if same else load_base(self._base_folder).to(device)
            before = self._look(untrained)
        del untrained
        after = self._look(model)
        difference = self._export(model, folder, probe, device)
        if self.template is not None and self.template != "plain":
            set_chat_template(folder, self.template)
            if self.config.makes_model:
                note_stops(folder)
        examples = [
            {"asked": asked, "expected": expected, "before": first, "after": second}
            for (asked, expected), first, second in zip(self._shown(), before["answers"], after["answers"], strict=True)
        ]
        details: dict[str, Any] = {
            "export_difference": difference,
            "examples": examples,
            **left_out(found for name, found in self._parts.items() if name != "forgetting"),
        }
        if unstopped := self._unstopped():
            details["unstopped"] = unstopped
        if scored := self._scored():
            from pipelines.finetune.likeness import compare

            expected = [each.messages[-1].content for each in scored]
            details["likeness"] = compare(before["scored"], after["scored"], expected)
        if self.config.base_bits:
            details["quantised"] = self._cost(model, folder)
        if "forgetting" in self._parts:
            details["forgetting"] = {"before": before["forgetting"], "after": after["forgetting"]}
        return details

    def _export(self, model: Any, folder: Path, probe: Batch, device: Any) -> float:
        from pipelines.finetune.export import export_adapter, export_merged, export_quantised_adapter
        from pipelines.models.export import export_model

        inputs = probe.inputs.to(device)
        if self.config.method == "full":
            arguments = {name: value.to(device) for name, value in probe.arguments.items()}
            return export_model(model, self._base_folder, folder, inputs, arguments)
        if self.config.merge:
            return export_merged(model, self._base_folder, folder, inputs)
        if self.config.base_bits:
            return export_quantised_adapter(model, self._base_folder, self.base.id, folder, inputs)
        return export_adapter(model, self._base_folder, self.base.id, folder, inputs)

    def _cost(self, model: Any, adapter: Path) -> dict[str, float | None]:
        """What it costs that the base was in 4 bits, on some held-out examples; noted beside the adapter as well."""
        from dataclasses import replace

        from pipelines.finetune.quantised import cost, record

        held_out = self._parts["validation"]
        some = replace(held_out, encoded=held_out.encoded[:MEASURED])

        def loss(each: Any) -> float:
            return mean_loss(each, some, self._pad_id, min(self.config.batch_sequences, MEASURED_AT_ONCE))

        measured = cost(model, self._base_folder, adapter, self.config.resolved_precision(), loss)
        record(adapter, measured)
        return measured

    def _shown(self) -> list[tuple[str, str]]:
        """(what is asked, what the example answers) of some held-out conversations; texts are continued."""
        from pipelines.finetune.examples.records import Conversation

        found = []
        for example in self._parts["validation"].examples[: self.config.examples_shown]:
            if isinstance(example, Conversation):
                found.append(
                    (example.messages[-2].content if len(example.messages) > 1 else "", example.messages[-1].content)
                )
            else:
                half = len(example.text) // 2
                found.append((example.text[:half][-200:], example.text[half:][:200]))
        return found

    def _scored(self) -> list[Conversation]:
        """Held-out conversations whose last answer is compared with what the model writes."""
        return list(self._parts["validation"].examples[: self.config.scored])

    def _prompts(self, examples: Sequence[Conversation | Text]) -> list[str]:
        from pipelines.finetune.examples.records import Conversation

        return [
            self._encoder.renderer.prompt(example.messages[:-1], example.where)
            if isinstance(example, Conversation)
            else example.text[: len(example.text) // 2][-200:]
            for example in examples
        ]

    def _look(self, model: Any) -> dict[str, Any]:
        """Greedy answers to held-out questions, and the loss on what should not be forgotten."""
        from pipelines.models.sampling import answer

        shown = self._prompts(self._parts["validation"].examples[: self.config.examples_shown])
        how: dict[str, Any] = {"begin": self._begins, "ends": self._ends}
        found: dict[str, Any] = {"answers": answer(model, self._base_folder, shown, **how)}
        if scored := self._scored():
            expected = [self._tokenizer(each.messages[-1].content).input_ids for each in scored]
            longest = max(map(len, expected)) + 1  # and what ends it
            prompts = self._prompts(scored)
            written = answer(model, self._base_folder, prompts, longest, **how)
            found["scored"] = [text.strip() for text in written]
        if "forgetting" in self._parts:
            found["forgetting"] = mean_loss(model, self._parts["forgetting"], self._pad_id, self.config.batch_sequences)
        return found


def mean_loss(model: Any, examples: Encoding, pad_id: int, batch: int) -> float:
    """Mean loss of examples in nats a target."""
    import numpy as np
    import torch

    from pipelines.finetune.examples.samples import ExampleSamples
    from pipelines.train.loss import LossModule

    samples, module = ExampleSamples(examples.encoded, pad_id), LossModule(model, 0.0)
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    total, everything = 0.0, np.arange(len(samples))
    with torch.no_grad():
        for first in range(0, len(samples), batch):
            part = samples.batch(everything[first : first + batch])
            total += float(module(part.inputs.to(device), part.labels.to(device), {})[1])
    model.train(was_training)
    return total / samples.targets(everything)


def require_isolation(base: Any) -> None:
    """Hold packed examples against the same alone.

    Raises:
        UserError: the model lets them see each other: it does not keep apart what has positions of its own.
    """
    import torch

    length = 6
    device = next(base.parameters()).device
    ids = (torch.arange(2 * length, device=device) * 7 % base.config.vocab_size)[None]
    positions = torch.arange(length, device=device).repeat(2)[None]
    was_training = base.training
    base.eval()
    try:
        with torch.no_grad():
            packed = base(input_ids=ids, position_ids=positions, use_cache=False).logits[:, length:]
            alone = base(input_ids=ids[:, length:], use_cache=False).logits
        difference = float((packed - alone).abs().max())
    except TypeError:  # its forward takes no positions
        difference = math.inf
    base.train(was_training)
    if math.isnan(difference) or difference > 1e-3:
        raise UserError(
            f"in a {base.config.model_type} model packed examples see each other (logits differ by {difference:.1e})",
            where="finetune.packing",
            next_step="set packing: false",
        )
