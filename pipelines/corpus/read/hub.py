"""Datasets of the Hugging Face Hub, streamed shard by shard; or local folders in the Hub's layout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import InfraError, RaymillError, UserError
from pipelines.corpus.config import HfSource
from pipelines.corpus.documents import BadInput, Item, Outcome
from pipelines.corpus.files import content_digest, find_files
from pipelines.corpus.read.fields import to_document
from pipelines.corpus.source import SourceBase

_DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".txt", ".arrow", "README.md")
_GUESSED_SHARD_BYTES = 64 << 20
_OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def list_hub(source: HfSource) -> list[Item]:
    """An item for each shard of the dataset.

    Raises:
        UserError: there is no such dataset, subset or split, or the Hub is switched off here.
        InfraError: the Hub cannot be reached.
    """
    place, revision = _place(source)
    try:
        count = int(_load(place, source, revision).num_shards)
    except RaymillError:
        raise
    except Exception as error:
        raise _explain(error, source) from error
    about = {**source.metadata, "kind": "hf"}
    if revision:
        about |= {"dataset": place, "commit": revision}
    if source.subset:
        about["subset"] = source.subset
    name = "/".join(each for each in (source.subset, source.split) if each)
    size = _GUESSED_SHARD_BYTES
    return [
        Item("hf", f"{name}/{shard:05d}", revision, size, source.licence, about, (shard, count))
        for shard in range(count)
    ]


def hub_identity(source: HfSource) -> dict[str, Any]:
    """The commit that the revision means now; of a local folder its content."""
    place, revision = _place(source)
    if not revision:
        return {"content_sha256": content_digest(find_files(place, _DATA_SUFFIXES))}
    return {"dataset": place, "commit": revision}


def read_hub(item: Item, source: SourceBase) -> Iterator[Outcome]:
    """A document for each row of a shard, ``split/shard:row``."""
    assert isinstance(source, HfSource)
    for number, row in hub_rows(item, source):
        yield to_document(row, source, item, f"{item.path}:{number}", {"row": number})


def hub_rows(item: Item, source: HfSource) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, columns) of each row of a shard; BadInput is raised where it cannot be read on.

    Raises:
        UserError: there is no such dataset.
        InfraError: the Hub cannot be reached.
    """
    assert item.span is not None
    shard, count = item.span
    number = 0
    try:
        place = source.path.removeprefix("hf://").removeprefix("datasets/")
        for row in _load(place, source, item.location).shard(num_shards=count, index=shard):
            number += 1
            yield number, row
    except (RaymillError, GeneratorExit):
        raise
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise BadInput("damaged", f"cannot be read after row {number:,}: {error}") from error
    except Exception as error:
        raise _explain(error, source) from error


def _place(source: HfSource) -> tuple[str, str]:
    """(dataset or folder, commit): the commit is empty for a local folder.

    Raises:
        UserError, InfraError: the Hub is switched off or out of reach, or has no such dataset.
    """
    if not source.path.startswith("hf://"):
        if Path(source.path).is_dir():
            return source.path, ""
        raise UserError(
            "no such folder", where=source.path, next_step="a dataset of the Hub is written hf://organisation/name"
        )
    name = source.path.removeprefix("hf://").removeprefix("datasets/")
    off = next((each for each in _OFFLINE_VARIABLES if os.environ.get(each, "").upper() in ("1", "TRUE", "YES")), None)
    if off:
        raise UserError(
            f"the Hugging Face Hub is switched off here ({off} is set)",
            where=source.path,
            next_step="unset it where there is a network, or copy the dataset's files to a folder or bucket and read "
            "them with kind: parquet, jsonl or csv",
        )
    from huggingface_hub import HfApi

    try:
        return name, str(HfApi().dataset_info(name, revision=source.revision, timeout=20).sha)
    except Exception as error:
        raise _explain(error, source) from error


def _load(place: str, source: HfSource, revision: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(place, source.subset, split=source.split, streaming=True, revision=revision or None)


def _explain(error: Exception, source: HfSource) -> RaymillError:
    from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

    # The first lines: what is wrong, and which subsets or splits there are.
    said = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2])[:500]
    if isinstance(error, GatedRepoError):
        return UserError(
            "needs access that you do not have",
            where=source.path,
            next_step="ask for it on its page, then set HF_TOKEN",
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return UserError(
            "no such dataset or revision", where=source.path, next_step="check the name; set HF_TOKEN if it is private"
        )
    if isinstance(error, HTTPError | OSError) and not isinstance(error, FileNotFoundError):
        return InfraError(
            f"the Hugging Face Hub cannot be reached: {said}",
            where=source.path,
            next_step="check the network and repeat the command, or copy the dataset's files and read those",
        )
    return UserError(f"cannot be opened: {said}", where=source.path, next_step="check path, subset, split and revision")
