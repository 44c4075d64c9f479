"""Checkpoints in the store: written whole or not at all, verified before they count.

A checkpoint is ``<prefix>/step-…/state.pt`` and, written after it, ``complete.json`` with the state's size and
SHA-256. Only trained parameters are kept: whatever is frozen comes again from where it came from.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cluster.errors import InfraError, UserError
from cluster.store import Store

STATE = "state.pt"
COMPLETE = "complete.json"
KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder's key, and the steps done when it was made."""

    key: str
    step: int
    sha256: str


def save(store: Store, prefix: str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Write a checkpoint of the state after ``step`` steps, then remove all but the newest two below ``prefix``."""
    buffer = io.BytesIO()
    trained = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
    torch.save({"step": step, "model": trained, "optimizer": optimizer.state_dict()}, buffer)
    data = buffer.getvalue()
    key = f"{prefix}/step-{step:09d}"
    digest = hashlib.sha256(data).hexdigest()
    store.write(f"{key}/{STATE}", data)
    marker = {"step": step, "sha256": digest, "size_bytes": len(data)}
    store.write(f"{key}/{COMPLETE}", json.dumps(marker).encode())
    for old in sorted(store.folders(prefix))[:-KEPT]:
        store.delete(f"{prefix}/{old}/{COMPLETE}")  # first: without it the rest is no checkpoint
        store.delete_all(f"{prefix}/{old}")
    return Checkpoint(key, step, digest)


def find(store: Store, prefixes: Iterable[str]) -> list[Checkpoint]:
    """Complete checkpoints below any of the prefixes, most steps first."""
    found = []
    for prefix in prefixes:
        for name in store.folders(prefix):
            try:
                marker = json.loads(store.read(f"{prefix}/{name}/{COMPLETE}"))
            except (FileNotFoundError, ValueError):
                continue  # never completed, or removed since it was listed
            found.append(Checkpoint(f"{prefix}/{name}", int(marker["step"]), str(marker["sha256"])))
    return sorted(found, key=lambda each: each.step, reverse=True)


def newest_sound(store: Store, prefixes: Iterable[str]) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint with most steps whose bytes are those that were written, and what is wrong with newer ones."""
    damaged: list[str] = []
    for checkpoint in find(store, prefixes):
        try:
            digest, _ = store.sha256(f"{checkpoint.key}/{STATE}")
        except FileNotFoundError:
            continue  # removed since it was listed
        if digest == checkpoint.sha256:
            return checkpoint, damaged
        damaged.append(f"{store.uri(checkpoint.key)} is damaged (its checksum differs) and is not used")
    return None, damaged


def restore(store: Store, checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put a checkpoint's state into a model and its optimiser; the number of steps done.

    Raises:
        InfraError: the checkpoint disappeared.
        UserError: it is of another model.
    """
    try:
        data = store.read(f"{checkpoint.key}/{STATE}")
    except FileNotFoundError:
        raise InfraError(
            "the checkpoint disappeared while it was read", where=store.uri(checkpoint.key), next_step="repeat the run"
        ) from None
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if parameters.keys() != state["model"].keys():
        raise UserError(
            "the checkpoint is of another model",
            where=store.uri(checkpoint.key),
            next_step="run the stage with --force, which starts anew",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["model"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
