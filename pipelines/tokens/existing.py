"""Take an existing Hugging Face tokenizer: from a folder, an artifact of the store, or the Hub.

A tokenizer without ``tokenizer.json`` (SentencePiece models, vocabulary lists) is converted by transformers. Marks
asked for besides are added behind its own vocabulary; nothing that it had changes its number.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.artifact import load_artifact, local_copy
from cluster.errors import UserError
from cluster.store import Store

HUB = "hf://"
ARTIFACT = re.compile(r"(Tokenizer|Model)/[\w.-]+-[0-9a-f]{12}")
CONFIG = "tokenizer_config.json"
KEPT = (
    "tokenizer.json",
    CONFIG,
    "chat_template.jinja",
    "special_tokens_map.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)
"""Files that make up a tokenizer, of whatever age."""


def source_identity(source: str) -> str:
    """What a source is, for an artifact's identity: an artifact's id, a name on the Hub, or a folder's content.

    Raises:
        UserError: there is no such folder, or it holds no tokenizer.
    """
    if source.startswith(HUB) or ARTIFACT.fullmatch(source):
        return source
    digest = hashlib.sha256()
    for path in _files(Path(source), source):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return f"sha256:{digest.hexdigest()}"


def take_tokenizer(
    source: str,
    store: Store,
    folder: Path,
    *,
    mask: str | None = None,
    special: Sequence[str] = (),
    chat_template: str | None = None,
) -> None:
    """Put a tokenizer's files into a folder: ``tokenizer.json``, ``tokenizer_config.json``, its template.

    Args:
        mask: the mask token to add, where it has none.
        special: further special tokens to add.
        chat_template: replaces its own.

    Raises:
        UserError: it cannot be found or read, or names no token that ends a document.
    """
    from tokenizers import AddedToken, Tokenizer

    from pipelines.tokens.marks import find_marks

    for path in _files(_locate(source, store), source):
        shutil.copyfile(path, folder / path.name)
    if not (folder / "tokenizer.json").exists():
        _convert(folder, source)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(
            f"its tokenizer.json cannot be read: {error}", where=source, next_step="check the file, or take another"
        ) from error
    settings = _settings(folder)
    wanted = list(special)
    if mask is not None and find_marks(tokenizer, settings, source).mask is None:
        wanted.append(mask)
        settings["mask_token"] = mask
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in wanted])
    if chat_template is not None:
        settings["chat_template"] = chat_template
        (folder / "chat_template.jinja").unlink(missing_ok=True)
    find_marks(tokenizer, settings, source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / CONFIG).write_text(json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
    for name in set(KEPT[3:]):
        (folder / name).unlink(missing_ok=True)  # what tokenizer.json and its settings say by now


def require_rows(folder: Path, rows: int, where: str) -> None:
    """Refuse a tokenizer with tokens that a model's embedding has no row for: training would end at the first of them.

    Args:
        folder: with ``tokenizer.json``.
        rows: of the embedding.

    Raises:
        UserError: it has some.
    """
    from tokenizers import Tokenizer

    from pipelines.tokens.marks import vocabulary_size

    size = vocabulary_size(Tokenizer.from_file(str(folder / "tokenizer.json")))
    if size > rows:
        raise UserError(
            f"the tokenizer has a vocabulary of {size:,}, the model's embedding {rows:,} rows",
            where=where,
            next_step="take the tokenizer that the model was trained with, or give the model more rows with "
            "transformers' resize_token_embeddings and save it again",
        )


def _settings(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, completed by the older ``special_tokens_map.json``; the file's order is kept."""
    found: dict[str, Any] = {}
    for name in ("special_tokens_map.json", CONFIG):
        if (folder / name).exists():
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            # tokenizer.json has a token's flags; transformers takes a bare name here, or a dict that says its type.
            found |= {
                key: value["content"] if key.endswith("_token") and isinstance(value, dict) else value
                for key, value in values.items()
                if value is not None
            }
    found.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    return found


def _locate(source: str, store: Store) -> Path:
    if ARTIFACT.fullmatch(source):
        artifact = load_artifact(store, source)
        if artifact is None:
            raise UserError(
                "no such artifact in the store",
                where=f"tokenizer.source: {source}",
                next_step="`raymill show` lists those that there are",
            )
        return local_copy(store, artifact)
    if source.startswith(HUB):
        return _download(source)
    return Path(source)


def _download(source: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(KEPT)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot be had from the Hub: {str(error).splitlines()[0]}",
            where=f"tokenizer.source: {source}",
            next_step="check the name and the network, or name a folder",
        ) from error


def _files(folder: Path, source: str) -> list[Path]:
    found = [folder / name for name in KEPT if (folder / name).is_file()]
    if not any(path.name not in (CONFIG, "special_tokens_map.json", "chat_template.jinja") for path in found):
        raise UserError(
            f"holds no tokenizer (none of {', '.join(name for name in KEPT if name not in (CONFIG, KEPT[2], KEPT[3]))})"
            if folder.is_dir()
            else "is no folder, no artifact (Tokenizer/name-fingerprint) and no hf://organisation/name",
            where=f"tokenizer.source: {source}",
            next_step="name a folder with a tokenizer.json, or leave the key out and a vocabulary is learned",
        )
    return found


def _convert(folder: Path, source: str) -> None:
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="raymill-tokenizer-") as name:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            tokenizer.save_pretrained(name)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise UserError(
                f"has no tokenizer.json and cannot be converted: {str(error).splitlines()[0]}",
                where=f"tokenizer.source: {source}",
                next_step="save it once with transformers: AutoTokenizer.from_pretrained(…).save_pretrained(folder)",
            ) from error
        for path in Path(name).iterdir():
            if path.name in KEPT:
                shutil.copyfile(path, folder / path.name)
