"""Models of the user's own: any torch module that predicts the next token can be trained, measured and stored.

The class is made as ``Class(vocab_size=…, max_positions=…, **options)``. Its ``forward(input_ids, **further)`` takes
token ids [n, length] and gives an object whose ``logits`` are [n, length, vocab_size]; those of a position may depend
on no later token. It is stored as safetensors beside a ``config.json`` that names the class and its arguments.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from cluster.errors import UserError
from cluster.own_code import load_own

WEIGHTS = "model.safetensors"
PROBE_TOKENS = 6


def own_class(name: str, options: Mapping[str, Any]) -> Any:
    """A class of the user's that takes these options, as far as can be known without making a model.

    Raises:
        UserError: the name is not a torch module's class, or does not take these arguments.
    """
    found = load_own(name)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        kind = f"a class that is not a torch.nn.Module ({found.__mro__[1].__name__})" if inspect.isclass(found) else ""
        raise UserError(
            f"is {kind or type(found).__name__}, not a model",
            where=f"pretrain.architecture: {name}",
            next_step="name a subclass of torch.nn.Module; pipelines/models/recurrent.py is an example",
        )
    arguments = {"vocab_size": 0, "max_positions": 0, **options}
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        raise _not_made(name, found, arguments, error) from None
    return found


def _not_made(name: str, found: Any, arguments: Mapping[str, Any], error: Exception) -> UserError:
    return UserError(
        f"cannot be made with {', '.join(arguments)}: {error}",
        where=f"pretrain.architecture: {name}",
        next_step=f"correct pretrain.options; it takes {inspect.signature(found)}",
    )


def build_own(name: str, options: Mapping[str, Any], *, vocab_size: int, max_positions: int) -> Any:
    """A model of a class of the user's with fresh weights.

    Raises:
        UserError: the name is not a torch module's class, or does not take these arguments.
    """
    found = own_class(name, options)
    arguments = {"vocab_size": vocab_size, "max_positions": max_positions, **options}
    try:
        model: Any = found(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _not_made(name, found, arguments, error) from error
    model.own_record = {"class": name, "arguments": arguments}
    model.own_positions = max_positions
    return model


def check_own(name: str, options: Mapping[str, Any], *, vocab_size: int, max_positions: int) -> None:
    """Hold a class against the contract of this module, with fresh weights and a few tokens.

    Raises:
        UserError: it is not a model, fails, gives something of another shape, or sees the tokens that it predicts.
    """
    model = build_own(name, options, vocab_size=vocab_size, max_positions=max_positions).eval()
    where = f"pretrain.architecture: {name}"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("has no parameters to train", where=where, next_step="keep its layers as attributes")
    length = min(PROBE_TOKENS, max_positions)
    tokens = torch.arange(length)[None] % vocab_size
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % vocab_size
    advice = "see pipelines/models/own.py for what forward takes and gives"
    try:
        with torch.no_grad():
            logits = model(input_ids=tokens, use_cache=False).logits
            others = model(input_ids=changed, use_cache=False).logits
    except Exception as error:  # whatever the user's code raises is for the user to see
        raise UserError(f"its forward fails: {type(error).__name__}: {error}", where=where, next_step=advice) from error
    expected = (1, length, vocab_size)
    if tuple(logits.shape) != expected:
        raise UserError(
            f"its logits are {list(logits.shape)} for tokens {list(tokens.shape)}, not {list(expected)}",
            where=where,
            next_step=advice,
        )
    if not torch.allclose(logits[:, :-1], others[:, :-1], atol=1e-5):
        raise UserError(
            "sees the tokens that it is to predict: logits change with a later token, so that its perplexity means "
            "nothing",
            where=where,
            next_step="let each position read itself and what precedes it: causal masks, left padding, no averages "
            "over the length",
        )


def save_own(model: Any, folder: Path) -> None:
    """Write weights and ``config.json``."""
    record = model.own_record
    save_model(model, str(folder / WEIGHTS), metadata={"format": "pt"})
    config = {
        "architectures": [record["class"].partition(":")[2]],
        "raymill_class": record["class"],
        "raymill_arguments": record["arguments"],
        "vocab_size": record["arguments"]["vocab_size"],
        "max_position_embeddings": model.own_positions,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")


def load_stored(folder: Path) -> Any:
    """The model that :func:`save_own` wrote."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arguments = dict(config["raymill_arguments"])
    sizes = {name: arguments.pop(name) for name in ("vocab_size", "max_positions")}
    model = build_own(config["raymill_class"], arguments, **sizes)
    load_model(model, str(folder / WEIGHTS))
    return model
