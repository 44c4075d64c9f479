"""The source ``python-docs``: what the standard library and the installed packages say about themselves.

Five kinds of text wait in queues of their own, each in a stable pseudo-random order, and are taken in turn so that
each keeps its share until it runs out. Cutting that one order at ``max_bytes`` then gives every kind its part.
"""

from __future__ import annotations

import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator
from email.message import Message
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, cast

from pipelines.corpus.config import PythonDocsSource
from pipelines.corpus.documents import Item, stable_order
from pipelines.corpus.licences import licence_name

OWN_NAME = "raymill"
STDLIB_LICENCE = "PSF-2.0"

SHARES = {"stdlib": 0.35, "package": 0.35, "readme": 0.15, "licence": 0.10, "topic": 0.05}
"""Of the bytes taken while all last. The standard library is small and well written, so it goes in early and whole."""

DOCSTRING_YIELD = 0.15
"""Bytes of documentation for a byte of Python source, measured over the standard library (1.74 of 11.8 MB)."""

_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "_tests",
    "testing",
    "idle_test",
    "site-packages",
    "dist-packages",
    "lib2to3",
    "__pycache__",
}
_LICENCE_FILE = re.compile(r"(?:licen[sc]e|copying|notice|copyright)", re.IGNORECASE)
_SMALLEST_SOURCE = 200


def identity(source: PythonDocsSource) -> dict[str, Any]:
    """The Python version and every installed package with its version, Raymill itself left out."""
    packages = sorted(f"{name}=={package.version}" for name, package in _packages())
    return {
        "kind": source.kind,
        "max_bytes": source.max_bytes,
        "python": platform.python_version(),
        "packages": packages,
    }


def list_items(source: PythonDocsSource) -> list[Item]:
    """Everything there is to read, in the order in which it is taken."""
    queues: dict[str, list[Item]] = {"stdlib": list(_stdlib()), "topic": list(_topics())}
    for kind in ("package", "readme", "licence"):
        queues[kind] = []
    for name, package in _packages():
        _add_package(queues, name, package)
    return merge_by_share(queues, SHARES)


def merge_by_share(queues: dict[str, list[Item]], shares: dict[str, float]) -> list[Item]:
    """One order in which every prefix holds bytes of each queue in proportion to its share, until it runs out."""
    timed: list[tuple[float, str, str, Item]] = []
    for kind, items in queues.items():
        passed = 0.0
        for item in sorted(items, key=lambda each: stable_order(each.path)):
            passed += item.estimated_bytes
            timed.append((passed / shares[kind], kind, item.path, item))
    return [entry[-1] for entry in sorted(timed, key=lambda entry: entry[:3])]


def _packages() -> Iterator[tuple[str, metadata.Distribution]]:
    """Installed distributions by normalised name; of two with one name the first on the path, which Python imports."""
    seen: set[str] = set()
    for package in metadata.distributions():
        given = package.metadata["Name"]
        name = re.sub(r"[-_.]+", "-", given).lower() if given else ""
        if name and name != OWN_NAME and name not in seen:
            seen.add(name)
            yield name, package


def _stdlib() -> Iterator[Item]:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = platform.python_version()
    about = {"kind": "docstring", "package": "python", "version": version}
    for path in _python_files(root):
        size = path.stat().st_size
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if size >= _SMALLEST_SOURCE:
            yield Item(
                "docstring",
                f"python/{_module(relative)}",
                str(path),
                int(size * DOCSTRING_YIELD),
                STDLIB_LICENCE,
                about | {"module": _module(relative)},
            )


def _python_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir():
            if path.name not in _SKIPPED_FOLDERS and path.name.isidentifier():
                yield from _python_files(path)
        elif path.suffix == ".py" and _is_documentation(PurePosixPath(path.name)):
            yield path


def _topics() -> Iterator[Item]:
    from pydoc_data import topics  # the text of the language reference that `help("topic")` shows

    about = {"kind": "topic", "package": "python", "version": platform.python_version()}
    for name, text in topics.topics.items():
        yield Item("topic", f"python/topics/{name}", name, len(text.encode()), STDLIB_LICENCE, about | {"topic": name})


def _add_package(queues: dict[str, list[Item]], name: str, package: metadata.Distribution) -> None:
    fields = cast(Message, package.metadata)
    licence = licence_name(fields.get("License-Expression"), fields.get("License"), fields.get_all("Classifier") or [])
    about = {"package": name, "version": package.version}
    folder = Path(str(package.locate_file("")))
    readme = fields.get_payload()
    records = list(_records(package))
    own = re.compile(r"[^/]+\.dist-info/(.+)")  # not that of a package vendored inside this one
    information = next((path for path, _ in records if (m := own.fullmatch(path)) and m[1] == "METADATA"), None)
    if information and isinstance(readme, str) and readme.strip():
        size = len(readme.encode("utf-8", "surrogateescape"))
        queues["readme"].append(
            Item("readme", f"{name}/README", str(folder / information), size, licence, about | {"kind": "readme"})
        )
    for path, size in records:
        relative = PurePosixPath(path)
        if path.endswith(".py"):
            if size >= _SMALLEST_SOURCE and _is_documentation(relative):
                module = _module(relative)
                queues["package"].append(
                    Item(
                        "docstring",
                        f"{name}/{module}",
                        str(folder / path),
                        int(size * DOCSTRING_YIELD),
                        licence,
                        about | {"kind": "docstring", "module": module},
                    )
                )
        elif ".dist-info/" in path and _LICENCE_FILE.search(relative.name) and size > 0:
            match = own.fullmatch(path)
            inside = match[1] if match else path
            queues["licence"].append(
                Item("licence", f"{name}/{inside}", str(folder / path), size, licence, about | {"kind": "licence"})
            )


def _records(package: metadata.Distribution) -> Iterator[tuple[str, int]]:
    """Path and size of the installed files, from RECORD; importlib's own reading of it is 50 times slower."""
    for line in (package.read_text("RECORD") or "").splitlines():
        path, _, size = line.rpartition(",")
        path = path.rpartition(",")[0].strip('"')
        if path and size.isdigit() and not path.startswith(("..", "/")):
            yield path, int(size)


def _is_documentation(path: PurePosixPath) -> bool:
    """Whether a module's path is that of importable code rather than of tests or data."""
    folders: Iterable[str] = path.parts[:-1]
    if any(part in _SKIPPED_FOLDERS or not part.isidentifier() for part in folders):
        return False
    return (
        path.stem.isidentifier() and not path.name.startswith(("test_", "conftest")) and not path.stem.endswith("_test")
    )


def _module(path: PurePosixPath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
