"""Checkpoints in the store: sharded, written whole or not at all, verified before they count.

A checkpoint is ``<prefix>/step-…/`` with torch.distributed.checkpoint's files, one of each process and ``.metadata``,
and ``complete.json``, written last: the step, what the run remembers, and every file's size and SHA-256, after it was
read back. Tensors go by the names they have in the undivided model, so that another layout reads them too. Only trained
parameters are kept: whatever is frozen comes again from where it came from.

A run that went back to a checkpoint says so in ``<prefix>/rolled-back.json``: what earlier tries have of later steps
does not count any more, and the run remembers more at that step than the checkpoint does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from cluster.errors import InfraError, UserError
from cluster.store import Store
from pipelines.train.storage import reader

COMPLETE = "complete.json"
METADATA = ".metadata"
ROLLED_BACK = "rolled-back.json"
MODEL, OPTIMIZER = "model/", "optimizer/"
DESCRIBED = "model"
"""Where a checkpoint's memory has the model's class and configuration."""

VALIDATED = "validation_loss"
"""Where a checkpoint's memory has the validation loss of its weights, if it was measured at that step."""

WEIGHTS_ONLY = "weights_only"
"""Marks a checkpoint without an optimiser's state: one made from a finished model."""

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        key: its folder.
        step: steps done when it was made.
        files: name -> (SHA-256, bytes).
        memory: what the run remembers besides tensors, as plain JSON.
    """

    key: str
    step: int
    files: Mapping[str, tuple[str, int]]
    memory: Mapping[str, Any]

    def encode(self) -> bytes:
        """``complete.json``."""
        files = {name: list(value) for name, value in self.files.items()}
        return json.dumps({"step": self.step, "files": files, "memory": self.memory}, sort_keys=True).encode()


def folder_of(prefix: str, step: int) -> str:
    """The key of the folder of the checkpoint after ``step`` steps."""
    return f"{prefix}/step-{step:09d}"


def find(store: Store, prefixes: Iterable[str]) -> list[Checkpoint]:
    """Complete checkpoints that count, most steps first.

    Args:
        prefixes: one for each try, the newest first: where it went back, it rejected checkpoints of the others.
    """
    found: list[Checkpoint] = []
    rejected_beyond: float = math.inf
    remembered: dict[int, Mapping[str, Any]] = {}
    for prefix in prefixes:
        back = _rolled_back(store, prefix)
        if back is not None:
            remembered.setdefault(back.step, back.memory)
        for each in _complete(store, prefix):
            if each.step <= rejected_beyond:
                found.append(replace(each, memory={**each.memory, **remembered.get(each.step, {})}))
        if back is not None:
            rejected_beyond = min(rejected_beyond, back.step)
    return sorted(found, key=lambda each: each.step, reverse=True)


def _complete(store: Store, prefix: str) -> Iterator[Checkpoint]:
    for name in store.folders(prefix):
        found = _read(store, f"{prefix}/{name}")
        if found is not None:
            yield found


def _read(store: Store, key: str) -> Checkpoint | None:
    """None where it was never completed, was removed since it was listed, is damaged, or of an earlier version."""
    try:
        marker = json.loads(store.read(f"{key}/{COMPLETE}"))
        files = {path: (str(digest), int(size)) for path, (digest, size) in marker["files"].items()}
        return Checkpoint(key, int(marker["step"]), files, marker["memory"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def reject(store: Store, prefix: str, beyond: int, memory: Mapping[str, Any]) -> None:
    """Make the checkpoint at step ``beyond`` the newest one: those with more steps are of a run that went wrong.

    Where this is cut off before the note is written, a run that starts again repeats what went wrong, and comes here.

    Args:
        prefix: this try's folder, the only one that is changed.
        memory: what the run remembers at that step, now that it went back.
    """
    for each in list(_complete(store, prefix)):
        if each.step > beyond:
            remove(store, each.key)
    store.write(f"{prefix}/{ROLLED_BACK}", Checkpoint("", beyond, {}, memory).encode())


def newest_try(store: Store, prefixes: Sequence[str]) -> str | None:
    """Which of the tries got to where a run continues: it has that checkpoint, or went back to it."""
    for newest in find(store, prefixes)[:1]:
        for prefix in prefixes:
            back = _rolled_back(store, prefix)
            if newest.key.startswith(f"{prefix}/") or (back is not None and back.step == newest.step):
                return prefix
    return None


def remove(store: Store, key: str) -> None:
    """Delete a checkpoint's folder."""
    store.delete(f"{key}/{COMPLETE}")  # first: without it the rest is no checkpoint
    store.delete_all(key)


def _rolled_back(store: Store, prefix: str) -> Checkpoint | None:
    """Step and memory of the note that :func:`reject` wrote."""
    try:
        note = json.loads(store.read(f"{prefix}/{ROLLED_BACK}"))
    except FileNotFoundError:
        return None
    return Checkpoint("", int(note["step"]), {}, note["memory"])


def damage(store: Store, checkpoint: Checkpoint) -> list[str]:
    """What is wrong with a checkpoint's files; nothing where they are what was written."""
    problems = []
    for name in sorted(checkpoint.files):
        try:
            found = store.sha256(f"{checkpoint.key}/{name}")
        except FileNotFoundError:
            problems.append(f"{name} is missing")
            continue
        if found != tuple(checkpoint.files[name]):
            problems.append(f"{name} is damaged (its checksum differs)")
    return problems


def newest_sound(
    store: Store, prefixes: Sequence[str], below: int | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint with most steps whose bytes are those that were written, and what is wrong with newer ones.

    Args:
        below: only such with fewer steps.
    """
    damaged: list[str] = []
    newest: Checkpoint | None = None
    for checkpoint in find(store, prefixes):
        if below is not None and checkpoint.step >= below:
            continue
        problems = damage(store, checkpoint)
        if not problems:
            newest = checkpoint
            break
        if store.exists(f"{checkpoint.key}/{COMPLETE}"):  # otherwise it was removed since it was listed
            damaged.append(f"{store.uri(checkpoint.key)} is damaged and is not used: {'; '.join(problems)}")
    return newest, damaged + _unfinished(store, prefixes, -1 if newest is None else newest.step, below)


def _unfinished(store: Store, prefixes: Iterable[str], after: int, below: int | None) -> list[str]:
    """What to say of folders between two steps that somebody began to write a checkpoint to."""
    return [
        f"{store.uri(f'{prefix}/{name}')} was not written to its end (it has no sound {COMPLETE}) and is not used"
        for prefix in prefixes
        for name in store.folders(prefix)
        if after < int(name.removeprefix("step-")) < (math.inf if below is None else below)
        and _read(store, f"{prefix}/{name}") is None
    ]


def load(store: Store, checkpoint: Checkpoint, state: State, group: Any = None, *, alone: bool = True) -> None:
    """Fill tensors, wherever their parts are, with a checkpoint's.

    Args:
        group: the processes that load together; each fills its parts.
        alone: no other process takes part.

    Raises:
        InfraError: the checkpoint disappeared.
        UserError: it is of another model.
    """
    import torch.distributed.checkpoint as dcp

    source = reader(store, checkpoint.key)
    try:
        stored = source.read_metadata().state_dict_metadata
        differences = _gather(_differences(stored, state), group, alone)
        wanted = _gather(list(state), group, alone)  # of all processes: a stage of a pipeline has a part of the names
        differences += _left_over(stored, wanted)
        refuse_another(differences, store.uri(checkpoint.key))
        dcp.load(dict(state), storage_reader=source, process_group=group, no_dist=alone)
    except FileNotFoundError:
        raise InfraError(
            "the checkpoint disappeared while it was read", where=store.uri(checkpoint.key), next_step="repeat the run"
        ) from None


def refuse_another(differences: Sequence[str], where: str) -> None:
    """Refuse a checkpoint that differs from what is trained.

    Raises:
        UserError: it does.
    """
    if differences:
        raise UserError(
            f"the checkpoint is of another model or optimiser: {'; '.join(differences[:3])}",
            where=where,
            next_step="run the stage with --force, which starts anew",
        )


def _differences(stored: Mapping[str, Any], wanted: State) -> list[str]:
    found = []
    for name, tensor in wanted.items():
        size = getattr(stored.get(name), "size", None)
        if size is None:
            found.append(f"it has no {name}")
        elif tuple(size) != tuple(tensor.shape):
            found.append(f"{name} is {tuple(size)} there and {tuple(tensor.shape)} here")
    return found


def _left_over(stored: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Weights that nobody asks for: the model that they are of has more layers, say, and is another function."""
    return [f"it has {name} as well" for name in sorted(set(stored) - set(wanted)) if name.startswith(MODEL)]


def _gather(mine: list[str], group: Any, alone: bool) -> list[str]:
    if alone:
        return mine
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, mine, group=group)
    return [each for part in everyone for each in part]
