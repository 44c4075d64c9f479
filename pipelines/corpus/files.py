"""Files of a source: found by a path, folder or glob, named by their place inside it, identified by content."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import UserError

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_HASHERS = 8


@dataclass(frozen=True)
class FoundFile:
    """A file: where it is, its name inside the source (with ``/``), its size in bytes, and in S3 its entity tag."""

    location: str
    name: str
    size_bytes: int
    tag: str = ""


def find_files(path: str, suffixes: Sequence[str]) -> list[FoundFile]:
    """The files that a path means, in the order of their names.

    A folder gives every file below it with one of the suffixes, compressed or not, hidden ones left out; a file or a
    glob gives exactly what it names, whatever the suffix.

    Raises:
        UserError: nothing is there, nothing matches, or a file cannot be read.
        InfraError: S3 does not answer.
    """
    if path.startswith("s3://"):
        from pipelines.corpus.objects import find_objects

        return find_objects(path, suffixes)
    place = Path(path).expanduser()
    if place.is_dir():
        root, found = place, _below(place, suffixes)
        if not found:
            raise nothing_of_the_kind(path, suffixes)
    elif place.exists():
        root, found = place.parent, [place]
    elif glob.has_magic(path):
        root = _fixed_part(place)
        found = [Path(each) for each in glob.glob(str(place), recursive=True)]  # noqa: PTH207 - Path.glob wants a root
        found = [each for each in found if not each.is_dir()]
        if not found:
            raise UserError("no file matches", where=path, next_step="check the pattern; ** also enters subfolders")
    else:
        raise UserError(
            "no such file or folder", where=path, next_step="check the path; it starts at the current folder"
        )
    files = [_entry(each, root) for each in found]
    return sorted(files, key=lambda each: each.name)


def content_digest(files: Sequence[FoundFile]) -> str:
    """SHA-256, in hex, over name, size and content of each file: equal wherever the same files are.

    The content is the SHA-256 of a local file; of an object in S3 it is the entity tag, so that nothing is read.

    Raises:
        UserError: a file cannot be read.
    """
    whole = hashlib.sha256()
    with ThreadPoolExecutor(_HASHERS) as pool:  # hashing runs outside the interpreter's lock
        for each, digest in zip(files, pool.map(_digest, files), strict=True):
            whole.update(f"{each.name}\0{each.size_bytes}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _digest(file: FoundFile) -> str:
    if file.tag:
        return file.tag
    try:
        with Path(file.location).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(Path(file.location), error) from None


def fits(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a file's name has one of the suffixes, with or without that of a compression after it."""
    lowered = name.lower()
    for each in COMPRESSED:
        lowered = lowered.removesuffix(each)
    return lowered.endswith(tuple(suffixes))


def nothing_of_the_kind(path: str, suffixes: Sequence[str]) -> UserError:
    """What to say of a folder without a file of the kind."""
    return UserError(
        f"the folder holds no {' or '.join(suffixes)} file", where=path, next_step="check the path and the kind"
    )


def unreadable(location: Path, error: OSError) -> UserError:
    """What to say of a file that the system does not let us read."""
    return UserError(
        f"cannot be read: {error.strerror or error}",
        where=str(location),
        next_step="check its permissions, or leave it out of the source's path",
    )


def _below(root: Path, suffixes: Sequence[str]) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename or root), error)

    found = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".") and fits(name, suffixes)]
    return found


def _entry(location: Path, root: Path) -> FoundFile:
    try:
        size = location.stat().st_size
    except OSError as error:
        raise unreadable(location, error) from None
    return FoundFile(str(location), location.relative_to(root).as_posix(), size)


def _fixed_part(pattern: Path) -> Path:
    """The longest folder at the beginning of a pattern that has no wildcard in it."""
    fixed: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed) if fixed else Path()
