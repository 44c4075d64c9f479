"""Recipe keys ``evals.sets``: held-out sets of one's own, each a JSON Lines file of one kind."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import Field

from cluster.config import StrictModel, execution
from cluster.errors import UserError

Kind = Literal["text", "answers", "labels", "references"]

FIELDS: dict[Kind, tuple[str, ...]] = {
    "text": ("text",),
    "answers": ("prompt", "answer"),
    "labels": ("prompt", "label"),
    "references": ("prompt", "references"),
}
"""What every line has to have."""


class SetConfig(StrictModel):
    """One set. The file's content is part of the result's identity, its place is not."""

    path: str = execution(description="a .jsonl file, one document a line")
    kind: Kind = Field(
        description="text (field text: perplexity, bits a byte), answers (prompt, answer: exact match, F1 of words),"
        " labels (prompt, label: accuracy, precision, recall, F1) or references (prompt, references: BLEU, ROUGE)"
    )
    max_new_tokens: int = Field(64, ge=1, description="longest answer, for answers and references")
    stop: tuple[str, ...] = Field(("\n",), description="texts that end an answer")


def hash_set(config: SetConfig) -> str:
    """SHA-256 of a set's file.

    Raises:
        UserError: it is not there.
    """
    try:
        with Path(config.path).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=f"evals.sets: {config.path}", next_step="check the path"
        ) from None
