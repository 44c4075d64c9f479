"""`raymill convert`: sharded checkpoints to Hugging Face folders and back."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from cluster.errors import UserError
from cluster.store import open_store


def convert(arguments: Namespace) -> int:
    """Convert in the direction that the source asks for; nothing that is there is written over."""
    source, destination = str(arguments.source).rstrip("/"), str(arguments.destination).rstrip("/")
    if "://" not in source and not Path(source).is_dir():
        raise UserError(
            "no such folder", where=source, next_step="name a checkpoint's folder or a Hugging Face model's"
        )
    if "://" not in destination and Path(destination).is_dir() and any(Path(destination).iterdir()):
        raise UserError("is not empty", where=destination, next_step="name a folder that is new or empty")
    backwards = "://" not in source and (Path(source) / "config.json").exists()
    result = _to_checkpoint(source, destination) if backwards else _to_model(source, destination, arguments.tokenizer)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"wrote {result['to']} ({result['parameters']:,} parameters) from {result['from']}")
    return 0


def _to_model(source: str, destination: str, tokenizer: str | None) -> dict[str, object]:
    from transformers.utils import logging

    from pipelines.train.convert import find_checkpoint, to_hugging_face

    logging.disable_progress_bar()
    if "://" in destination:
        raise UserError("is not a local folder", where=destination, next_step="name one: it can be uploaded afterwards")
    parent, _, name = source.rpartition("/")
    store = open_store(parent or ".")
    checkpoint = find_checkpoint(store, name)
    count = to_hugging_face(store, checkpoint, Path(destination), Path(tokenizer) if tokenizer else None)
    return {"from": store.uri(checkpoint.key), "to": destination, "step": checkpoint.step, "parameters": count}


def _to_checkpoint(source: str, destination: str) -> dict[str, object]:
    from transformers.utils import logging

    from pipelines.train.convert import from_hugging_face

    logging.disable_progress_bar()
    parent, _, name = destination.rpartition("/")
    store = open_store(parent or ".")
    checkpoint, count = from_hugging_face(Path(source), store, name)
    return {"from": source, "to": store.uri(checkpoint.key), "step": 0, "parameters": count}
