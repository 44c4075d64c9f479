"""Local folders and globs without what would hang: links that lead in circles are not entered, pipes are not opened."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[Path]:
    """Every file below a folder, also through links, hidden ones and what is in hidden folders left out.

    Raises:
        OSError: a folder cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        here = Path(folder)
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(here / name, root)]
        yield from (here / name for name in names if not name.startswith("."))


def match(pattern: Path) -> list[Path]:
    """What a glob means, without folders; ``**`` enters any number of folders."""
    if "**" not in pattern.parts:
        found = [Path(each) for each in glob.glob(str(pattern))]  # noqa: PTH207 - Path.glob wants a root
    else:
        root = fixed_part(pattern)
        wanted = re.compile(glob_pattern(pattern.relative_to(root).as_posix()))
        found = [each for each in walk(root) if wanted.fullmatch(each.relative_to(root).as_posix())]
    return [each for each in found if not each.is_dir()]


def fixed_part(pattern: Path) -> Path:
    """The longest folder at the beginning of a pattern that has no wildcard in it."""
    fixed: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed) if fixed else Path()


def glob_pattern(pattern: str) -> str:
    """The regular expression for a glob over names with ``/``: ``*`` stays inside a folder, ``**`` enters folders."""
    parts = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at) and (at == 0 or pattern[at - 1] == "/"):
            parts.append(r"(?:(?!\.)[^/]+/)*")
            at += 3
        elif pattern[at:] == "**" and (at == 0 or pattern[at - 1] == "/"):
            parts.append(r"(?:(?!\.)[^/]+/)*(?!\.)[^/]+")
            at += 2
        elif pattern[at] == "*":
            first = at == 0 or pattern[at - 1] == "/"
            while pattern.startswith("*", at):
                at += 1
            parts.append(r"(?!\.)[^/]*" if first else "[^/]*")
        elif pattern[at] == "?":
            parts.append("[^/]")
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", r"\\")
            parts.append(f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]")
            at = end + 1
        else:
            parts.append(re.escape(pattern[at]))
            at += 1
    return "".join(parts)


def why_unusable(path: Path) -> str | None:
    """Why a place that was listed is no file that could be opened, or None.

    Raises:
        FileNotFoundError: nothing is there any more.
        PermissionError: it may be one, and the system does not tell.
    """
    path.lstat()
    try:
        mode = path.stat().st_mode
    except PermissionError:
        raise
    except OSError as error:
        return f"is a link that leads nowhere: {error.strerror}"
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return None if stat.S_ISREG(mode) else f"is {kinds.get(stat.S_IFMT(mode), 'a folder')} and no file"


def _leads_back(folder: Path, root: Path) -> bool:
    """Whether a link means a folder that it lies in, by the way that led here."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    above = folder.parent
    while not above.resolve().is_relative_to(target):
        if above == root:
            return False
        above = above.parent
    return True
