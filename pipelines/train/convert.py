"""Between sharded checkpoints and Hugging Face folders, on a machine without a GPU and without a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from cluster.attempt import RESUME
from cluster.errors import UserError
from cluster.store import Store
from pipelines.tokens.existing import require_rows
from pipelines.train.checkpoint import COMPLETE, DESCRIBED, MODEL, WEIGHTS_ONLY, Checkpoint, damage, find, load
from pipelines.train.course import Course
from pipelines.train.describe import describe
from pipelines.train.group import Group
from pipelines.train.launch import FOLDER
from pipelines.train.saver import Saver
from pipelines.train.worker import CHECKPOINTS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def find_checkpoint(store: Store, folder: str) -> Checkpoint:
    """The sound checkpoint in a folder of the store, or the newest one of those that it holds.

    Args:
        folder: of a checkpoint, of checkpoints, of a try at an artifact, or of an artifact that was never finished: its
            tries' checkpoints then count as they do for a run that continues.

    Raises:
        UserError: there is none, or it is damaged.
    """
    parent, _, name = folder.rpartition("/")
    exact = [each for each in find(store, [parent]) if each.key == folder] if name.startswith("step-") else []
    tries = [folder, *(f"{folder}/{name}" for name in sorted(store.folders(folder), reverse=True))]
    found = exact or find(store, [folder, *(f"{each}/{RESUME}/{FOLDER}/{CHECKPOINTS}" for each in tries)])
    if not found:
        raise UserError(
            f"there is no complete checkpoint here (no {COMPLETE})",
            where=store.uri(folder),
            next_step="name a folder step-…, the folder that holds such, or Model/… of a run that was not finished",
        )
    problems = damage(store, found[0])
    if problems:
        raise UserError(
            f"the checkpoint is damaged: {problems[0]}", where=store.uri(found[0].key), next_step="use an earlier one"
        )
    return found[0]


def to_hugging_face(store: Store, checkpoint: Checkpoint, folder: Path, tokenizer: Path | None) -> int:
    """Write a checkpoint's model as a Hugging Face folder; the number of parameters.

    Raises:
        UserError: the checkpoint does not hold a whole model of transformers' classes, or there is no tokenizer, or a
            larger one than the model has rows for.
    """
    if tokenizer is not None and not (tokenizer / TOKENIZER_FILES[0]).is_file():
        raise UserError(
            f"there is no tokenizer here (no {TOKENIZER_FILES[0]})",
            where=str(tokenizer),
            next_step="name the folder of the tokenizer's files; in a store it is below Tokenizer/, in that of its try",
        )
    described: Mapping[str, Any] = checkpoint.memory.get(DESCRIBED) or {}
    kind = getattr(transformers, str(described.get("class")), None)
    if kind is None:
        raise UserError(
            "the checkpoint is not of a model that transformers knows (adapters and own classes are not converted)",
            where=store.uri(checkpoint.key),
            next_step="let the run finish: its artifact holds the exported model",
        )
    if tokenizer is not None:
        require_rows(tokenizer, int(described["config"]["vocab_size"]), str(tokenizer))
    model = kind(kind.config_class.from_dict(dict(described["config"])))
    wanted = {f"{MODEL}{name}": each.detach() for name, each in model.named_parameters()}
    load(store, checkpoint, wanted)
    model.save_pretrained(folder, safe_serialization=True)
    for weights in folder.glob("*.safetensors"):  # written for their owner only
        weights.chmod((folder / "config.json").stat().st_mode)
    for name in TOKENIZER_FILES:
        if tokenizer is not None and (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)
    return sum(each.numel() for each in model.parameters())


def from_hugging_face(folder: Path, store: Store, prefix: str) -> tuple[Checkpoint, int]:
    """Write a Hugging Face folder's weights (fp32, no optimiser's state) as a checkpoint before the first step.

    Returns:
        the checkpoint, and the number of parameters.

    Raises:
        UserError: the folder is not a model's.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        kind = getattr(transformers, (config.architectures or [""])[0])
        model = kind.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"is not a model that transformers reads: {str(error).splitlines()[0]}",
            where=str(folder),
            next_step="name a folder with config.json and safetensors",
        ) from None
    state = {f"{MODEL}{name}": each.detach() for name, each in model.named_parameters()}
    saver = Saver(store, prefix, Group(), keep=1 << 30)
    saver.save(0, state, Course().to_json() | {DESCRIBED: describe(model), WEIGHTS_ONLY: True})
    saver.finish()
    checkpoint = next(each for each in find(store, [prefix]) if each.step == 0)
    return checkpoint, sum(each.numel() for each in model.parameters())
