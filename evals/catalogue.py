"""Every task, group and tag that can be named: lm-eval's, and a team's in a folder; found without importing lm-eval.

lm-eval parses all of its 14,000 YAML files before it looks up a name, which takes about 20 seconds. Here only the few
top-level lines that give a file its name are looked at, and only where a name is not one of the usual suites.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import InfraError, UserError

_FAMILIAR = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "mmlu": "mmlu/default/*.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    "truthfulqa_gen": "truthfulqa/truthfulqa_gen.yaml",
}
"""Where the usual suites are, so that they need no search."""

_IGNORED = frozenset({"__pycache__", ".ipynb_checkpoints"})
_HEADER = re.compile(r"""^["']?(task|group|tag|include|class)["']?[ \t]*:[ \t]*(.*?)[ \t]*$""", re.MULTILINE)
_PLAIN = re.compile(r"""^(?:"([^"\\]+)"|'([^']+)'|([^\s\[\]{}&*!|>'"%@`#,:]+))[ \t]*(?:#.*)?$""")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML that reads lm-eval's ``!function`` as plain text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@dataclass
class Catalogue:
    """Names and the files that define them.

    Attributes:
        tasks, groups: name -> YAML file.
        tags: tag -> the tasks that carry it.
    """

    tasks: dict[str, Path] = field(default_factory=dict)
    groups: dict[str, Path] = field(default_factory=dict)
    tags: dict[str, set[str]] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Everything that can be asked for, in name order."""
        return sorted({*self.tasks, *self.groups, *self.tags})

    def files(self, name: str) -> list[Path]:
        """The files of a task, or of a group or tag with all that it consists of; empty for an unknown name."""
        found: dict[Path, None] = {}
        pending, seen = [name], set()
        while pending:
            current = pending.pop(0)
            if current in seen:
                continue
            seen.add(current)
            if current in self.groups:
                found[self.groups[current]] = None
                pending.extend(_members(read_task_file(self.groups[current]).get("task")))
            elif current in self.tasks:
                found[self.tasks[current]] = None
            else:
                pending.extend(sorted(self.tags.get(current, ())))
        return list(found)

    def over(self, other: Catalogue) -> Catalogue:
        """This catalogue's names, and those of another that it does not have itself."""
        return Catalogue({**other.tasks, **self.tasks}, {**other.groups, **self.groups}, {**other.tags, **self.tags})


def task_files(suites: Iterable[str], folder: str | None = None) -> list[tuple[str, Path]]:
    """(suite, YAML file) of every task and group that the suites consist of, in a fixed order.

    Args:
        folder: a team's own task files; its names come before lm-eval's.

    Raises:
        UserError: a name is unknown (with the nearest known ones), or the folder is not there.
    """
    own = read_folder(folder) if folder else Catalogue()
    files: list[tuple[str, Path]] = []
    for suite in suites:
        if suite in _FAMILIAR and suite not in own.names():
            files += [(suite, path) for path in sorted(tasks_root().glob(_FAMILIAR[suite]))]
            continue
        found = own.over(shipped()).files(suite)
        if not found:
            raise UserError(
                f"unknown task {suite!r}{suggestion(suite, folder)}",
                where="evals.suites",
                next_step="use a task, group or tag of lm-eval by its name, or name a folder of your own in"
                " evals.tasks_folder",
            )
        files += [(suite, path) for path in found]
    return files


def expand_tag(name: str, folder: str | None = None) -> list[str]:
    """The tasks that a tag stands for, in name order; a task or group alone.

    Raises:
        UserError: the name is unknown; see :func:`task_files`.
    """
    known = (read_folder(folder) if folder else Catalogue()).over(shipped())
    if name in known.tasks or name in known.groups:
        return [name]
    if name in known.tags:
        return sorted(known.tags[name])
    task_files([name], folder)
    raise AssertionError(name)


def is_familiar(name: str) -> bool:
    """Whether a name is known without a search."""
    return name in _FAMILIAR


def suggestion(name: str, folder: str | None = None) -> str:
    """``; did you mean …?`` with the nearest names, the usual suites first; else how to list all."""
    near = difflib.get_close_matches(name, _FAMILIAR, n=1, cutoff=0.75)
    if not near:
        known = (read_folder(folder) if folder else Catalogue()).over(shipped())
        near = difflib.get_close_matches(name, known.names(), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else "; `lm_eval ls tasks` lists what there is"


@functools.cache
def shipped() -> Catalogue:
    """What lm-eval ships."""
    return _read_catalogue(tasks_root())


def read_folder(folder: str) -> Catalogue:
    """A team's own tasks.

    Raises:
        UserError: there is no such folder, or no task in it.
    """
    root = Path(folder).expanduser()
    catalogue = _read_catalogue(root) if root.is_dir() else Catalogue()
    if not catalogue.names():
        raise UserError(
            "holds no task: no .yaml file in it has `task:` or `group:`" if root.is_dir() else "no such folder",
            where=f"evals.tasks_folder: {folder}",
            next_step="put lm-eval task files (*.yaml) there; docs/evaluation.md shows one",
        )
    return catalogue


def _read_catalogue(root: Path) -> Catalogue:
    catalogue = Catalogue()
    cache: dict[str, dict[str, Any]] = {}
    for path in sorted(_yaml_files(root)):
        try:
            header = _header(path, cache)
        except (OSError, ValueError, yaml.YAMLError):
            continue  # lm-eval leaves out what it cannot read; a name that is asked for is then unknown
        group, task, tags = header.get("group"), header.get("task"), header.get("tag")
        if isinstance(group, str) and "class" not in header:
            catalogue.groups.setdefault(group, Path(path))
        elif isinstance(task, str) and task not in catalogue.tasks:
            catalogue.tasks[task] = Path(path)
            for tag in [tags] if isinstance(tags, str) else tags or ():
                catalogue.tags.setdefault(str(tag), set()).add(task)
    return catalogue


def _yaml_files(root: Path) -> Iterator[str]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _IGNORED]
        yield from (f"{folder}/{name}" for name in names if name.endswith(".yaml"))


def _header(path: str, cache: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The keys that name a file's content, its own before those that it includes."""
    if path in cache:
        return cache[path]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    found: dict[str, Any] = {}
    for key, value in _HEADER.findall(text):
        plain = _PLAIN.match(value)
        if plain is None:  # a list, a block, an anchor, …: let YAML read it
            settings = yaml.load(text, Loader=_Loader)
            if not isinstance(settings, dict):
                raise ValueError(f"{path} is not a mapping")
            found = {name: settings[name] for name in ("task", "group", "tag", "include", "class") if name in settings}
            break
        found[key] = next(part for part in plain.groups() if part is not None)
    includes = found.pop("include", None) or []
    merged: dict[str, Any] = {}
    cache[path] = found  # for a file that includes itself; read_task_file says so where it is asked for
    for include in [includes] if isinstance(includes, str) else includes:
        merged |= _header(os.path.normpath(f"{os.path.dirname(path)}/{include}"), cache)
    cache[path] = merged | found
    return cache[path]


def _members(tasks: Any) -> list[str]:
    """Names that a group's ``task`` list refers to."""
    names: list[str] = []
    for item in [tasks] if isinstance(tasks, str) else tasks or ():
        if isinstance(item, str):
            names.append(item)
        elif isinstance(item, Mapping):
            inner = item.get("task")
            names += [str(item["group"])] if "group" in item else []
            names += [inner] if isinstance(inner, str) else _members(inner)
    return names


def read_task_file(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A task file's settings with those it includes; the file's own win.

    Raises:
        UserError: it is not YAML, not a mapping, or includes itself or a file that is not there.
    """
    path = Path(os.path.normpath(path))
    if path in including:
        raise UserError("includes itself", where=str(path), next_step="take the `include:` out")
    try:
        settings = _parse(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from None
    if not isinstance(settings, dict):
        raise UserError("is not a YAML mapping", where=str(path), next_step="write it as lm-eval's task files are")
    settings = dict(settings)
    includes = settings.pop("include", None) or []
    merged: dict[str, Any] = {}
    for include in [includes] if isinstance(includes, str) else includes:
        inherited = read_task_file(path.parent / include, (*including, path))
        inherited.pop("task_list", None)
        merged |= inherited
    return merged | settings


@functools.lru_cache(maxsize=64)
def _parse(path: Path, _stamp: int) -> Any:
    """A file's own settings; the template that all subjects of MMLU include is asked for 57 times."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


@functools.cache
def tasks_root() -> Path:
    """lm-eval's own folder of task files."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InfraError("lm-eval is not installed", next_step="`make setup` installs it")
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"
