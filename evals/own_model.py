"""Models of the user's own: a folder whose ``config.json`` names their class.

``raymill_class`` is a ``module:Class``, ``raymill_arguments`` what it was made with. The class must be importable where
the model is evaluated; nothing in the folder is executed. Adapters that peft does not know name what loads them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import UserError
from cluster.own_code import load_own


@dataclass(frozen=True)
class OwnModel:
    """What ``config.json`` says."""

    name: str
    arguments: dict[str, Any]
    max_position_embeddings: int


def read_own(folder: Path) -> OwnModel | None:
    """The description in a model's folder; None where it is one that transformers knows."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if "raymill_class" not in config:
        return None
    return OwnModel(config["raymill_class"], config["raymill_arguments"], int(config["max_position_embeddings"]))


def load_adapter(model: Any, folder: Path) -> Any:
    """A base with a stored adapter: by the function that its configuration names as ``raymill_loader``, else by peft.

    Raises:
        OSError, ValueError: it does not fit, or cannot be read.
    """
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if "raymill_loader" in settings:
        return load_own(settings["raymill_loader"])(model, folder)
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder)


def load_own_model(folder: Path, described: OwnModel) -> Any:
    """The model with its weights.

    Raises:
        UserError: the class is not here, or takes other arguments or weights by now.
    """
    from safetensors.torch import load_model

    found = load_own(described.name)
    try:
        model = found(**described.arguments)
        load_model(model, str(folder / "model.safetensors"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"does not fit the stored model any more: {str(error).splitlines()[0]}",
            where=f"{described.name}, {folder}",
            next_step="evaluate with the version of the class that the model was trained with",
        ) from error
    return model
