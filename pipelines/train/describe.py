"""What a checkpoint says of its model, so that it can be built again without the recipe, and told from others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

FUNCTION = (
    "num_attention_heads",
    "n_head",
    "num_heads",
    "num_key_value_heads",
    "hidden_act",
    "activation_function",
    "dense_act_fn",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "layer_norm_eps",
    "rope_theta",
    "rope_type",
)
"""Settings that change what a model computes and that its tensors' names and shapes do not show."""

SAME = {"gelu_new": "gelu_pytorch_tanh"}
"""One function by two names: GPT-2's, and that of the kernel that computes it at once."""

Description = Mapping[str, Any]


def describe(model: Any) -> dict[str, Any] | None:
    """transformers' class and configuration of a model, as plain JSON; None for other models."""
    if not type(model).__module__.startswith("transformers."):
        return None
    return {"class": type(model).__name__, "config": json.loads(model.config.to_json_string(use_diff=False))}


def compare(there: Description | None, here: Description | None) -> list[str]:
    """How two models differ whose tensors may be alike; nothing where one of them is not described.

    A Mistral has a Llama's tensors, and eight heads those of four twice as wide.
    """
    if there is None or here is None:
        return []
    if there["class"] != here["class"]:
        return [f"it is of a {there['class']}, and this is a {here['class']}"]
    first, second = _function(there["config"]), _function(here["config"])
    return [
        f"{name} is {first[name]} there and {second[name]} here"
        for name in FUNCTION
        if name in first and name in second and first[name] != second[name]
    ]


def _function(config: Description) -> dict[str, Any]:
    values = {**config, **(config.get("rope_parameters") or {})}
    return {name: SAME.get(str(values[name]), values[name]) for name in FUNCTION if values.get(name) is not None}
