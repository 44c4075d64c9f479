"""What ``align.reward`` and the model to align are: found, copied here, and named in an artifact's identity."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.artifact import Artifact, load_artifact, local_copy
from cluster.errors import UserError
from cluster.store import Store

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ARTIFACT = re.compile(r"[A-Z]\w*/[\w.-]+-[0-9a-f]{12}")
ADVICE = "write module:function, the id of a RewardModel (`raymill show` lists them), or a model's folder"


def is_function(reward: str) -> bool:
    """Whether ``align.reward`` names a function and not a model."""
    return bool(FUNCTION.fullmatch(reward))


def reward_identity(reward: str) -> str:
    """What a reward is, for an artifact's identity: a function's or artifact's name, or a folder's content.

    Raises:
        UserError: it is neither, or the folder holds no model.
    """
    if is_function(reward) or ARTIFACT.fullmatch(reward):
        return reward
    folder = Path(reward).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(
            "there is no model in it" if folder.is_dir() else "is no function, artifact or folder",
            where=f"align.reward: {reward}",
            next_step=ADVICE,
        )
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def reward_artifact(reward: str, store: Store) -> Artifact | None:
    """The artifact that a reward names; None for a function or a folder.

    Raises:
        UserError: the store has no such artifact, or it is of another kind.
    """
    if not ARTIFACT.fullmatch(reward):
        return None
    found = load_artifact(store, reward)
    if found is None or found.kind != "RewardModel":
        raise UserError(
            "is not in the store" if found is None else f"is a {found.kind}, not a RewardModel",
            where=f"align.reward: {reward}",
            next_step="make one with align.method: reward, or write module:function",
        )
    return found


@dataclass(frozen=True)
class Base:
    """The model to align, as it is sent to the workers: whole, or with an adapter that is merged into it."""

    model: Artifact
    adapter: Artifact | None = None

    @property
    def id(self) -> str:
        """What the report calls it."""
        return (self.adapter or self.model).id

    def copy(self, store: Store) -> tuple[Path, Path | None]:
        """Folders on this machine: the model's, with its tokenizer, and the adapter's."""
        return local_copy(store, self.model), local_copy(store, self.adapter) if self.adapter else None


def find_base(inputs: Mapping[str, Artifact], store: Store) -> Base:
    """The base that a stage's input ``model`` means.

    Raises:
        UserError: an adapter's base model is gone.
    """
    given = inputs["model"]
    if given.kind != "Adapter":
        return Base(given)
    parent = given.inputs.get("model")
    model = load_artifact(store, parent.id) if parent else None
    if model is None:
        raise UserError(
            f"the base model of {given.id} is gone", where="align", next_step="run the recipe that made it again"
        )
    return Base(model, given)
