"""Strict configuration: a YAML file in, a frozen pydantic model out, every mistake named with its line.

Unknown keys are refused with the nearest known one. Fields marked with :func:`execution` say how a run is
carried out and never what it produces, so they stay out of an artifact's identity.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from cluster.errors import UserError
from cluster.secrecy import kind_of_secret

KeyPath = tuple[str | int, ...]


class StrictModel(BaseModel):
    """Base of every configuration: unknown keys are errors, values are never changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


ModelT = TypeVar("ModelT", bound=StrictModel)


def execution(default: Any = ..., **arguments: Any) -> Any:
    """A field that says how the work is carried out; it never enters an artifact's identity."""
    return Field(default, json_schema_extra={"identity": False}, **arguments)


def identity_fields(config: BaseModel) -> dict[str, Any]:
    """The configuration as plain JSON values, without the fields marked by :func:`execution`."""
    return {
        name: _identity_value(getattr(config, name))
        for name, info in type(config).model_fields.items()
        if not _is_execution(info)
    }


def _identity_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity_fields(value)
    if isinstance(value, (list, tuple)):
        return [_identity_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _identity_value(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    return value


def _is_execution(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and extra.get("identity") is False


@dataclass
class Document:
    """A YAML mapping with the line each key stands on.

    Attributes:
        data: the plain values.
        name: what to call the document in messages (its path).
        lines: key path -> line, counted from 1.
        overrides: key path -> the option that gave the value, as it was written (``--set a.b=c``).
    """

    data: dict[str, Any]
    name: str
    lines: dict[KeyPath, int] = field(default_factory=dict)
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """``file:line`` of a key, of its nearest parent, or of the override that set it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overrides:
                return self.overrides[path[:length]]
            if path[:length] in self.lines:
                return f"{self.name}:{self.lines[path[:length]]}"
        return self.name


class _Loader(yaml.SafeLoader):
    """Safe YAML whose numbers follow YAML 1.2, so that ``1e6`` is a number and ``on`` is a word."""


_OWN_TAGS = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OWN_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.inf|\.nan)$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))


def load_document(path: str | Path) -> Document:
    """Read one YAML mapping.

    Raises:
        UserError: the file is missing, unreadable, not YAML, not a mapping, or repeats a key.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError("no such file", where=str(path), next_step="check the path") from None
    except IsADirectoryError:
        raise UserError("is a folder, not a file", where=str(path), next_step="name a .yaml file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot be read: {error}", where=str(path), next_step="check its permissions and encoding (UTF-8)"
        ) from None
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Read one YAML mapping from text; see :func:`load_document`."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines: dict[KeyPath, int] = {}
        data = _plain(loader, node, (), lines, name) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"not valid YAML: {problem}", where=where, next_step="fix the line") from None
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise UserError("must be a mapping of sections", where=name, next_step="start from `raymill new NAME`")
    return Document(data, name, lines)


def _plain(loader: _Loader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node, deep=True))
            line = key_node.start_mark.line + 1
            if key in result:
                first = lines[(*path, key)]
                raise UserError(
                    f"{'.'.join(map(str, (*path, key)))}: given twice (first on line {first})",
                    where=f"{name}:{line}",
                    next_step="keep one of the two",
                )
            lines[(*path, key)] = line
            result[key] = _plain(loader, value_node, (*path, key), lines, name)
        return result
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            items.append(_plain(loader, item, (*path, index), lines, name))
        return items
    return loader.construct_object(node, deep=True)


def apply_overrides(document: Document, overrides: Iterable[str], option: str = "--set") -> Document:
    """Apply ``a.b=value`` texts; values are read as YAML, list items are addressed by index.

    Args:
        option: what they were given with, for messages.

    Raises:
        UserError: the text has no ``=``, or its path runs through something that is not a mapping.
    """
    data = _deep_copy(document.data)
    result = Document(data, document.name, dict(document.lines), dict(document.overrides))
    for text in overrides:
        key, separator, raw = text.partition("=")
        where = f"{option} {text if kind_of_secret(raw) is None else f'{key}=…'}"
        if not separator or not key.strip():
            raise UserError("an override reads key=value", where=where, next_step=f"for example {option} name=mine")
        try:
            value = yaml.load(raw, Loader=_Loader)
        except yaml.YAMLError:
            raise UserError(
                "the value is not valid YAML", where=where, next_step="quote it, or fix its brackets"
            ) from None
        path = key_path(key)
        _set_path(data, path, value, where)
        for below in [each for each in result.lines if each[: len(path)] == path]:
            del result.lines[below]  # what stood there in the file is not what is wrong with it now
        result.overrides[path] = where
    return result


def key_path(dotted: str) -> KeyPath:
    """``a.0.b`` as a path; numbers are places in a list."""
    return tuple(int(part) if part.isdigit() else part for part in dotted.strip().split("."))


def with_values(document: Document, values: Mapping[str, Any], places: Mapping[str, KeyPath]) -> Document:
    """The document with the values of some dotted keys replaced.

    Args:
        places: dotted key -> the key of the document whose line a mistake in that value is reported at.

    Raises:
        UserError: a path runs through something that is neither a mapping nor a list that is long enough.
    """
    data = _deep_copy(document.data)
    result = Document(data, document.name, dict(document.lines), dict(document.overrides))
    for dotted, value in values.items():
        path = key_path(dotted)
        where = document.place(places[dotted])
        _set_path(data, path, value, f"{where}: {dotted}")
        for table in (result.lines, result.overrides):
            for below in [each for each in table if each[: len(path)] == path]:
                del table[below]
        line = document.lines.get(places[dotted])
        for length in range(1, len(path) + 1):
            if line is not None:
                result.lines.setdefault(path[:length], line)
    return result


def _deep_copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _deep_copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_deep_copy(item) for item in value]
    return value


def _set_path(data: Any, path: KeyPath, value: Any, where: str) -> None:
    target = data
    for part, following in itertools.pairwise(path):
        if isinstance(target, dict) and target.get(str(part)) is None:
            target[str(part)] = [] if isinstance(following, int) else {}
        target = _step(target, part, where)
    last = path[-1]
    if isinstance(target, dict):
        target[str(last)] = value
    elif isinstance(target, list) and isinstance(last, int) and last < len(target):
        target[last] = value
    elif isinstance(target, list) and isinstance(last, int) and last == len(target):
        target.append(value)
    else:
        raise UserError(f"{last} cannot be set here", where=where, next_step="check the key's path")


def _step(target: Any, part: str | int, where: str) -> Any:
    try:
        return target[str(part)] if isinstance(target, dict) else target[part]
    except (KeyError, IndexError, TypeError):
        raise UserError(f"{part} does not exist", where=where, next_step="check the key's path") from None


def validate(
    model: type[ModelT],
    document: Document,
    next_step: str = "`raymill new NAME` writes a commented recipe with every key",
) -> ModelT:
    """Check a document against its model.

    Args:
        next_step: what to do about a mistake, where the document is no recipe.

    Raises:
        UserError: naming the first mistake's file, line and key, what is wrong with it, and what was meant.
            Further mistakes follow in the same message, one a line.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        places = [tuple(item["loc"]) for item in error.errors()]
        # A list that lost a bad item is reported as too short as well: only the innermost mistake is one.
        inner = [here for here in places if not any(each != here and each[: len(here)] == here for each in places)]
        problems = [_explain(model, document, dict(item)) for item in error.errors() if tuple(item["loc"]) in inner]
    first, rest = problems[0], problems[1:]
    more = "\n".join(f"{place}: {what}" for place, what in rest)
    raise UserError(
        first[1] + (f"\n{more}" if more else ""),
        where=first[0],
        next_step=next_step,
    )


def _explain(model: type[StrictModel], document: Document, problem: dict[str, Any]) -> tuple[str, str]:
    path = document_path(document.data, tuple(problem["loc"]))
    dotted = ".".join(map(str, path))
    place = document.place(path)
    if problem["type"] == "extra_forbidden":
        known = sorted(_known_keys(model, path[:-1]))
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}" if known else ""
        return place, f"{dotted}: unknown key{'; ' + hint if hint else ''}"
    if problem["type"] == "union_tag_invalid":
        known = re.findall(r"'([^']*)'", problem["ctx"]["expected_tags"])
        near = difflib.get_close_matches(str(problem["ctx"]["tag"]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return place, f"{dotted}: unknown kind {problem['ctx']['tag']!r}; {hint}"
    if problem["type"] == "union_tag_not_found":
        return (
            place,
            f"{dotted}: the key {problem['ctx']['discriminator'].strip(chr(39))} is missing, which says what it is",
        )
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return place, f"{dotted}: must be a section of keys (got {problem.get('input')!r})"
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
    else:
        message = problem["msg"][0].lower() + problem["msg"][1:]
    given = problem.get("input")
    secret = isinstance(given, str) and kind_of_secret(given) is not None
    shown = f" (got {given!r})" if isinstance(given, (str, int, float, bool)) and not secret else ""
    return place, f"{dotted + ': ' if dotted else ''}{message}{shown}"


def document_path(data: Any, location: KeyPath) -> KeyPath:
    """The part of pydantic's location that names keys of the document (it adds union tags of its own)."""
    path: list[str | int] = []
    current = data
    for index, part in enumerate(location):
        in_mapping = isinstance(current, dict) and part in current
        in_list = isinstance(current, list) and isinstance(part, int) and part < len(current)
        if in_mapping or in_list:
            current = current[part]
            path.append(part)
        elif index == len(location) - 1 and isinstance(current, dict):
            path.append(part)
    return tuple(path)


def _known_keys(model: Any, path: KeyPath) -> set[str]:
    models = _models_at(model, path)
    return {name for found in models for name in found.model_fields}


def _models_at(annotation: Any, path: KeyPath) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            return [annotation]
        info = annotation.model_fields.get(str(path[0]))
        return _models_at(info.annotation, path[1:]) if info else []
    origin = get_origin(annotation)
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if origin in (list, tuple, set) and path and isinstance(path[0], int):
        return [found for argument in arguments for found in _models_at(argument, path[1:])]
    if origin is dict and path:
        return _models_at(arguments[-1], path[1:])
    if origin in (Union, UnionType) or (arguments and origin is not None and origin not in (list, tuple, set, dict)):
        return [found for argument in arguments for found in _models_at(argument, path)]
    return []
