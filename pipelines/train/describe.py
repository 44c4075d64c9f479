"""What a checkpoint says of its model, so that it can be built again without the recipe."""

from __future__ import annotations

import json
from typing import Any


def describe(model: Any) -> dict[str, Any] | None:
    """transformers' class and configuration of a model, as plain JSON; None for other models."""
    if not type(model).__module__.startswith("transformers."):
        return None
    return {"class": type(model).__name__, "config": json.loads(model.config.to_json_string(use_diff=False))}
