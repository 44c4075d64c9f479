"""`raymill new`: a starter recipe in which every key stands, with its default and what it means."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from cluster.errors import UserError
from pipelines.recipe import Recipe

_ACTIVE = """\
corpus:
  sources: [{kind: python-docs}]
curate:
tokenizer:
tokens:
pretrain:
finetune:
evals:
  benchmarks: sample
serving:
  variants:
    - {name: base, model: "@pretrain", weight: 90}
    - {name: tuned, model: "@finetune", weight: 10}
"""

_SECTION = re.compile(r"^(\w+):", re.MULTILINE)


def new(arguments: Namespace) -> int:
    """Write NAME.yaml, never over a file that is there."""
    name = arguments.name.removesuffix(".yaml")
    path = Path(f"{name}.yaml")
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", path.stem):
        raise UserError(
            "not a recipe name",
            where=name,
            next_step="use lower-case letters, digits, '-', '_' and '.', for example docs-qa",
        )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(path.stem))
    except FileExistsError:
        raise UserError("is there already", where=str(path), next_step="choose another name") from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), next_step="check the folder") from None
    print(f"wrote {path}; next: `raymill plan {path}`, then `raymill run {path}`")
    return 0


def starter(name: str) -> str:
    """The starter recipe's text. A line beginning with ``#:`` is a key with its default, ready to be uncommented."""
    active = _split_sections(_ACTIVE)
    parts = [
        "# A Raymill recipe. Lines that begin with '#:' show a key with its default: remove the '#:' to set it.",
        f"name: {name}",
    ]
    for section, info in Recipe.model_fields.items():
        if section == "name":
            continue
        model = _model_of(info.annotation)
        parts.append("")
        if model is None:
            parts += [f"# {info.description}", f"#: {section}: {_value(info.get_default(call_default_factory=True))}"]
            continue
        parts += [f"# {(model.__doc__ or '').strip().splitlines()[0]}"]
        body = active.get(section)
        parts.append(body.rstrip() if body else f"{section}:" if section in active else f"#: {section}:")
        written = set(re.findall(r"^  (\w+):", body or "", re.MULTILINE))
        parts += _field_lines(model, written)
    return "\n".join(parts) + "\n"


def _field_lines(model: type[BaseModel], written: set[str]) -> list[str]:
    lines = []
    for key, info in model.model_fields.items():
        if key in written or info.is_required():
            continue
        if info.description:
            lines.append(f"  # {info.description}")
        lines.append(f"  #: {key}: {_value(info.get_default(call_default_factory=True))}")
    return lines


def _value(default: Any) -> str:
    plain = default.model_dump(mode="json") if isinstance(default, BaseModel) else _plain(default)
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value


def _model_of(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _split_sections(text: str) -> dict[str, str]:
    starts = [(match.start(), match[1]) for match in _SECTION.finditer(text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return {name: text[start:end] for (start, name), end in zip(starts, ends, strict=True)}
