"""The code that travels with a job: one zip of a folder, the same bytes for the same files.

Left out are what ``.gitignore`` and ``.raymillignore`` name, what no job needs (histories, environments, caches,
stores), what looks like a secret, and links out of the folder. A folder over the size limit is refused with its largest
files named.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cluster.errors import UserError
from cluster.secrecy import RIGHT_WAY, kind_of_key_in_file

MAX_PACKAGE_BYTES = 32 << 20
"""Of all files before compression. Ray keeps a package in its metadata store, which is memory."""
MAX_FILES = 20_000
MAX_SCANNED_BYTES = 1 << 20
IGNORE_FILES = (".gitignore", ".raymillignore")
NEVER = (
    ".git/",
    ".hg/",
    ".svn/",
    ".venv/",
    "venv/",
    "__pycache__/",
    "*.pyc",
    "node_modules/",
    "*.egg-info/",
    ".mypy_cache/",
    ".ruff_cache/",
    ".pytest_cache/",
    ".hypothesis/",
    ".ipynb_checkpoints/",
    "raymill-store/",
    "/.raymill/",
)
SECRET_FILES = (
    ".env",
    ".env.*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "id_rsa",
    "id_ed25519",
    "id_ecdsa",
    ".netrc",
    ".pypirc",
    ".npmrc",
    ".git-credentials",
    ".aws/",
    ".ssh/",
    ".kube/",
    "auth_token",
    "token",
    "*.token",
    "kubeconfig",
)
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """A folder ready to travel.

    Attributes:
        data: the zip file.
        digest: SHA-256, in hex, of the paths and contents.
        files: path -> bytes.
        secret: paths left out because they look like secrets.
        outside: links left out because they lead out of the folder.
    """

    data: bytes = field(repr=False)
    digest: str
    files: Mapping[str, int]
    secret: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """All files together, before compression."""
        return sum(self.files.values())


def pack(folder: Path, extra: Mapping[str, bytes] | None = None, *, max_bytes: int = MAX_PACKAGE_BYTES) -> Package:
    """The package of a folder.

    Args:
        extra: path -> content of files that are added.

    Raises:
        UserError: it is too large, cannot be read, or a file in it holds a secret.
    """
    found = _choose(folder)
    chosen = found.sent
    sizes = {path: (folder / path).stat().st_size for path in chosen} | {p: len(d) for p, d in (extra or {}).items()}
    total = sum(sizes.values())
    if total > max_bytes:
        largest = sorted(sizes.items(), key=lambda item: -item[1])[:5]
        named = ", ".join(f"{path} ({size / (1 << 20):.1f} MiB)" for path, size in largest)
        raise UserError(
            f"{total / (1 << 20):.1f} MiB would travel with the job, at most {max_bytes / (1 << 20):.0f} may;"
            f" largest: {named}",
            where=str(folder),
            next_step="name what the job does not need in .raymillignore, submit from a smaller folder, or put data"
            " into the store",
        )
    contents = {path: _read(folder / path) for path in chosen} | dict(extra or {})
    for path, data in contents.items():
        kind = kind_of_key_in_file(data.decode("utf-8", errors="ignore")) if len(data) <= MAX_SCANNED_BYTES else None
        if kind is not None:
            raise UserError(
                f"{path} holds what looks like {kind}, and is not sent",
                where=str(folder),
                next_step=f"{RIGHT_WAY}; where it is none, name the file in .raymillignore",
            )
    digest = hashlib.sha256()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(contents):
            data = contents[path]
            digest.update(f"{path}\0{len(data)}\0".encode() + data)
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            executable = path in chosen and os.access(folder / path, os.X_OK)
            entry.external_attr = (0o755 if executable else 0o644) << 16
            archive.writestr(entry, data)
    return Package(
        buffer.getvalue(), digest.hexdigest(), sizes, tuple(sorted(found.secret)), tuple(sorted(found.outside))
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=str(path), next_step="fix it, or name it in .raymillignore"
        ) from None


@dataclass
class _Found:
    """Paths of a folder: to send, left out as secrets, left out as links that lead elsewhere."""

    sent: list[str] = field(default_factory=list)
    secret: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


def _choose(folder: Path) -> _Found:
    """What of a folder is sent, sorted; links to folders are not followed, nor links to files elsewhere."""
    rules = [rule for line in NEVER for rule in _rules([line])]
    secrets = list(_rules(SECRET_FILES))
    here, found = folder.resolve(), _Found()
    for current, folders, names in os.walk(folder):
        relative = PurePosixPath(Path(current).relative_to(folder).as_posix())
        rules += _rules_of(folder, relative)
        for name in sorted(folders):
            path = (relative / name).as_posix()
            if _ignored(path, True, secrets):
                found.secret.append(path + "/")
            elif not _ignored(path, True, rules):
                if not (folder / path).is_symlink():
                    continue
                found.outside.append(path)
            folders.remove(name)
        for name in sorted(names):
            path = (relative / name).as_posix()
            if not _is_text(path):
                raise UserError(
                    f"the name of a file is not UTF-8: {path!a}", where=str(folder), next_step="rename or remove it"
                )
            if _ignored(path, False, rules) or not (folder / path).is_file():
                continue
            target = (folder / path).resolve()
            if not target.is_relative_to(here):
                found.outside.append(path)
            elif _is_secret(path, secrets) or _is_secret(target.relative_to(here).as_posix(), secrets):
                found.secret.append(path)
            else:
                found.sent.append(path)
        if len(found.sent) > MAX_FILES:
            raise UserError(
                f"more than {MAX_FILES:,} files would travel with the job",
                where=str(folder),
                next_step="submit from the folder that holds the job's code, or name the rest in .raymillignore",
            )
    found.sent.sort()
    return found


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding, as the file system has them
        return False
    return True


def _rules_of(folder: Path, relative: PurePosixPath) -> Iterator[_Rule]:
    """The rules of the ignore files that lie in one folder; they hold for what is below it."""
    for name in IGNORE_FILES:
        file = folder / relative / name
        if file.is_file():
            yield from _rules(file.read_text(encoding="utf-8", errors="replace").splitlines(), relative.as_posix())


def _is_secret(path: str, secrets: Iterable[_Rule]) -> bool:
    """Whether a file, or a folder that it lies in, has a secret's name."""
    above = [each.as_posix() for each in PurePosixPath(path).parents]
    return _ignored(path, False, secrets) or any(_ignored(each, True, secrets) for each in above)


@dataclass(frozen=True)
class _Rule:
    """One line of an ignore file."""

    pattern: re.Pattern[str]
    folders_only: bool
    keeps: bool


def _rules(lines: Iterable[str], below: str = ".") -> Iterator[_Rule]:
    """The lines of an ignore file, which lies in the folder ``below``, as git reads them (gitignore(5))."""
    start = "" if below == "." else re.escape(below) + "/"
    for line in lines:
        text = line.rstrip()
        if not text or text.startswith("#"):
            continue
        keeps = text.startswith("!")
        text = text[1:] if keeps else text.removeprefix("\\")
        folders_only = text.endswith("/")
        text = text.rstrip("/")
        anchored = "/" in text
        text = text.lstrip("/")
        expression = start + ("" if anchored else "(?:.*/)?") + _expression(text)
        yield _Rule(re.compile(expression), folders_only, keeps)


def _expression(pattern: str) -> str:
    out = ""
    rest = pattern
    while rest:
        if rest.startswith("/**/"):
            out, rest = out + "/(?:.*/)?", rest[4:]
        elif rest.startswith("**/"):
            out, rest = out + "(?:.*/)?", rest[3:]
        elif rest.startswith("/**"):
            out, rest = out + "/.*", rest[3:]
        elif rest.startswith("**"):
            out, rest = out + ".*", rest[2:]
        elif rest[0] == "*":
            out, rest = out + "[^/]*", rest[1:]
        elif rest[0] == "?":
            out, rest = out + "[^/]", rest[1:]
        elif rest[0] == "[" and "]" in rest[2:]:
            end = rest.index("]", 2)
            out, rest = out + "[" + rest[1:end].replace("\\", "\\\\").replace("!", "^", 1) + "]", rest[end + 1 :]
        else:
            out, rest = out + re.escape(rest[0]), rest[1:]
    return out


def _ignored(path: str, is_folder: bool, rules: Iterable[_Rule]) -> bool:
    """Whether the last rule that fits says so."""
    verdict = False
    for rule in rules:
        if (is_folder or not rule.folders_only) and rule.pattern.fullmatch(path):
            verdict = not rule.keeps
    return verdict
