"""Pretrained encoder-decoders: which models these are, how a target begins and ends, and what of them is trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationConfig

from cluster.errors import UserError
from pipelines.finetune.config import FinetuneConfig
from pipelines.finetune.methods import adapt, load_adapter

TASK = "SEQ_2_SEQ_LM"
"""peft's name of what such a model does."""

WHERE = "finetune.model"


@dataclass(frozen=True)
class TargetMarks:
    """Ids around a target, the same in training as where transformers' ``generate`` writes one.

    Attributes:
        pad: fills up behind sources and targets.
        start: what the decoder begins with; it is read and never written.
        first: what generation writes first whatever the source (``forced_bos_token_id``: bart's ``<s>``, the target's
            language in nllb); None where the model begins as it likes.
        end: ends a target.
    """

    pad: int
    start: int
    first: int | None
    end: int


def require_encoder_decoder(folder: Path) -> Any:
    """A stored model's configuration.

    Raises:
        UserError: it has no encoder and decoder for text, or transformers cannot read it.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = settings.get("raymill_class") or settings.get("model_type")
    advice = "name an encoder-decoder such as t5 or bart; a decoder learns the same rows with task: generation"
    known = None
    if "raymill_class" not in settings:
        try:
            known = AutoConfig.from_pretrained(folder)
        except (OSError, ValueError) as error:
            what = f"transformers cannot read the model: {str(error).splitlines()[0]}"
            raise UserError(what, where=WHERE, next_step=advice) from None
    if not getattr(known, "is_encoder_decoder", False) or type(known) not in AutoModelForSeq2SeqLM._model_mapping:
        raise UserError(
            f"a {kind} has no encoder and decoder: it does not turn a source into a target",
            where=WHERE,
            next_step=advice,
        )
    return known


def target_marks(folder: Path, tokenizer: Any) -> TargetMarks:
    """The marks of a stored model.

    Raises:
        UserError: nothing says what its decoder begins with, or what ends a text.
    """
    settings, told = AutoConfig.from_pretrained(folder), _generation(folder)
    starts = (
        told.decoder_start_token_id,
        getattr(settings, "decoder_start_token_id", None),
        told.bos_token_id,
        getattr(settings, "bos_token_id", None),
    )
    start = next((each for each in starts if isinstance(each, int)), None)
    if start is None:
        raise UserError(
            "nothing says what its decoder begins with",
            where=WHERE,
            next_step="set decoder_start_token_id in its generation_config.json",
        )
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    end = next((each for each in ends if each is not None), None)
    if end is None:
        raise UserError(
            "the tokenizer has no token that ends a text, so that targets would have no end",
            where=WHERE,
            next_step="name an eos_token in its tokenizer_config.json",
        )
    pads = (getattr(settings, "pad_token_id", None), tokenizer.pad_token_id, end)
    pad = next(each for each in pads if each is not None)
    first = told.forced_bos_token_id
    return TargetMarks(int(pad), start, first if isinstance(first, int) else None, int(end))


def _generation(folder: Path) -> Any:
    """How a stored model generates; older folders say it in ``config.json``, as transformers reads it when it loads."""
    if (folder / "generation_config.json").exists():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_pretrained(
        folder, config_file_name="config.json", local_files_only=True, _from_model_config=True
    )


def load_encoder_decoder(folder: Path, marks: TargetMarks) -> Any:
    """A stored model in fp32 that generates with the marks it is trained with, and is written so."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    told = model.generation_config
    told.decoder_start_token_id = marks.start
    if told.pad_token_id is None:
        told.pad_token_id = marks.pad
    ends = told.eos_token_id if isinstance(told.eos_token_id, list) else [told.eos_token_id]
    if marks.end not in ends:
        told.eos_token_id = marks.end if told.eos_token_id is None else [marks.end, *ends]
    return model


def encoder_decoder(folder: Path, marks: TargetMarks, config: FinetuneConfig) -> Any:
    """The model as the method trains it.

    Raises:
        UserError: the method does not fit the model.
    """
    return adapt(load_encoder_decoder(folder, marks), config, folder, TASK)


def load_pairs_adapter(base: Path, marks: TargetMarks, adapter: Path) -> Any:
    """A stored base with a stored adapter.

    Raises:
        UserError: the adapter is of another model.
    """
    return load_adapter(load_encoder_decoder(base, marks), adapter)
