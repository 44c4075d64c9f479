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
from pipelines.corpus.walking import fixed_part, match, walk, why_unusable

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_HASHERS = 8


@dataclass(frozen=True)
class FoundFile:
    """A file: where it is, its name inside the source (with ``/``), its size in bytes, and in S3 its entity tag.

    ``problem`` says why it cannot be one after all: a pipe, a link that leads nowhere.
    """

    location: str
    name: str
    size_bytes: int
    tag: str = ""
    problem: str = ""


def find_files(path: str, suffixes: Sequence[str]) -> list[FoundFile]:
    """The files that a path means, in the order of their names.

    A folder gives every file below it with one of the suffixes, compressed or not, hidden ones left out; a file or a
    glob gives exactly what it names, whatever the suffix. Links are followed, but not in circles.

    Raises:
        UserError: nothing is there, nothing matches, or a file cannot be read.
        InfraError: S3 does not answer.
    """
    if path.startswith("s3://"):
        from pipelines.corpus.objects import find_objects

        return find_objects(path, suffixes)
    place = Path(path).expanduser()
    try:
        if place.is_dir():
            root, found = place, [each for each in walk(place) if fits(each.name, suffixes)]
            if not found:
                raise nothing_of_the_kind(path, suffixes)
        elif os.path.lexists(place):
            root, found = place.parent, [place]
            if why := why_unusable(place):
                raise UserError(why, where=path, next_step="name a file, a folder or a glob")
        elif glob.has_magic(path):
            root, found = fixed_part(place), match(place)
            if not found:
                raise UserError("no file matches", where=path, next_step="check the pattern; ** also enters subfolders")
        else:
            raise UserError(
                "no such file or folder", where=path, next_step="check the path; it starts at the current folder"
            )
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from None
    files = [entry for each in found if (entry := _entry(each, root))]
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
    if file.tag or file.problem:
        return file.tag or file.problem
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
    if isinstance(error, FileNotFoundError):
        return UserError(
            "has vanished since it was listed",
            where=str(location),
            next_step="leave the files alone while they are read, and repeat the command",
        )
    return UserError(
        f"cannot be read: {error.strerror or error}",
        where=str(location),
        next_step="check its permissions, or leave it out of the source's path",
    )


def _entry(location: Path, root: Path) -> FoundFile | None:
    name = os.fsencode(location.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")
    try:
        problem = why_unusable(location)
        return FoundFile(str(location), name, 0 if problem else location.stat().st_size, problem=problem or "")
    except FileNotFoundError:
        return None  # removed since it was listed
    except OSError as error:
        raise unreadable(location, error) from None
