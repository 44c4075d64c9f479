"""Objects in S3 as the files of a source: by key, by prefix as a folder, or by a glob over keys."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cluster.errors import UserError
from cluster.store import StoredFile
from cluster.store_s3 import S3Store
from pipelines.corpus.files import FoundFile, fits, nothing_of_the_kind
from pipelines.corpus.walking import glob_pattern

_WILDCARD = re.compile(r"[*?[]")


def find_objects(url: str, suffixes: Sequence[str]) -> list[FoundFile]:
    """The objects that an ``s3://bucket/key``, folder or glob means, in the order of their names.

    Names, and so the documents' ids, are those that the same files would have in a local folder.

    Raises:
        UserError: nothing is there or matches, or access is refused.
        InfraError: S3 does not answer.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise UserError("no bucket named", where=url, next_step="write s3://bucket/folder")
    store = S3Store.open(f"s3://{bucket}")
    if _WILDCARD.search(key):
        root = _fixed_part(key)
        pattern = re.compile(glob_pattern(key))
        found = [each for each in store.files(root) if pattern.fullmatch(each.key)]
        if not found:
            raise UserError("no object matches", where=url, next_step="check the pattern; ** also enters subfolders")
    else:
        root = f"{key.rstrip('/')}/" if key else ""
        everything = list(store.files(key.rstrip("/")))
        exact = [each for each in everything if each.key == key]
        below = [each for each in everything if each.key.startswith(root)]
        if exact:
            root, found = key[: len(key) - len(key.rpartition("/")[2])], exact
        elif below:
            found = [each for each in below if fits(each.key, suffixes) and not _hidden(each.key[len(root) :])]
            if not found:
                raise nothing_of_the_kind(url, suffixes)
        else:
            raise UserError("no such object or folder", where=url, next_step="check the bucket and the key")
    return sorted((_entry(bucket, each, root) for each in found), key=lambda each: each.name)


def _fixed_part(pattern: str) -> str:
    fixed = _WILDCARD.split(pattern, maxsplit=1)[0]
    return fixed[: fixed.rfind("/") + 1]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _entry(bucket: str, file: StoredFile, root: str) -> FoundFile:
    return FoundFile(f"s3://{bucket}/{file.key}", file.key[len(root) :], file.size_bytes, file.tag)
