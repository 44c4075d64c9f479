"""`raymill new`: a starter recipe in which every key stands, with its default and what it means."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Any, get_args

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

_EXAMPLES = {
    "candidate": "tuned",
    "baseline": "base",
    "variant": "tuned",
    "good": "texts/good",
    "bad": "texts/bad",
    "allow": ["CC-BY-4.0", "MIT", "PSF-2.0"],
    "metric": "pretrain.validation.loss",
    "space": {"pretrain.learning_rate": {"loguniform": [1e-3, 1e-2]}},
}
"""Values of keys that need one in sections that are off by default."""

_SECTION = re.compile(r"^(\w+):", re.MULTILINE)


def new(arguments: Namespace) -> int:
    """Write NAME.yaml, a recipe or with ``--profile`` a profile, never over a file that is there."""
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
            file.write(_profile() if arguments.profile else starter(path.stem))
    except FileExistsError:
        raise UserError("is there already", where=str(path), next_step="choose another name") from None
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), next_step="check the folder") from None
    if arguments.profile:
        print(f"wrote {path}; next: `raymill manifests {path}`, then `raymill submit RECIPE --kubernetes {path}`")
    else:
        print(f"wrote {path}; next: `raymill plan {path}`, then `raymill run {path}`")
    return 0


def _profile() -> str:
    from pipelines.commands.new_profile import profile_starter

    return profile_starter()


def starter(name: str) -> str:
    """The starter recipe's text. A line beginning with ``#:`` is a key with its default, ready to be uncommented.

    One beginning with ``#?`` belongs to a section that is off where it is not written.
    """
    active = _split_sections(_ACTIVE)
    parts = [
        "# A Raymill recipe. Lines that begin with '#: ' show a key with its default: remove these three characters to",
        "# set it, and those before the name of the section that it is in. Lines that begin with '#? ' are a section",
        "# that is off by default: remove them from all of its lines to have it.",
        f"name: {name}",
    ]
    for section, info in Recipe.model_fields.items():
        if section == "name":
            continue
        model = model_of(info.annotation)
        parts.append("")
        off = optional_model(info.annotation)
        if off is not None:
            parts += [f"# {info.description}", f"#? {section}:", *(f"#?   {line}" for line in _inner_lines(off))]
            continue
        if model is None:
            parts += [
                f"# {info.description}",
                f"#: {section}: {value_text(info.get_default(call_default_factory=True))}",
            ]
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
        default = info.get_default(call_default_factory=True)
        optional = optional_model(info.annotation)
        if isinstance(default, BaseModel) and model_of(info.annotation):
            lines += [f"  #: {key}:", *(f"  #:   {line}" for line in _inner_lines(type(default)))]
        elif default is None and optional is not None:
            lines += [f"  #? {key}:", *(f"  #?   {line}" for line in _inner_lines(optional))]
        else:
            lines.append(f"  #: {key}: {value_text(default)}")
    return lines


def _inner_lines(model: type[BaseModel]) -> list[str]:
    """Every key of a section within a section, each after what it means."""
    lines = []
    for key, info in model.model_fields.items():
        if info.description:
            lines.append(f"# {info.description}")
        default = _EXAMPLES[key] if key in _EXAMPLES else info.get_default(call_default_factory=True)
        if default and isinstance(default, tuple) and isinstance(default[0], BaseModel):
            lines.append(f"{key}:")
            lines += [f"  # {name}: {each.description}" for name, each in type(default[0]).model_fields.items()]
            lines += [f"  - {value_text(each.model_dump(mode='json', exclude_unset=True))}" for each in default]
        else:
            lines.append(f"{key}: {value_text(default)}")
    return lines


def value_text(default: Any) -> str:
    """A default as YAML on one line."""
    plain = default.model_dump(mode="json") if isinstance(default, BaseModel) else _plain(default)
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return value


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a section; None where a key is none."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def optional_model(annotation: Any) -> type[BaseModel] | None:
    """The model of a section that may be left out: ``Model | None``."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return model_of(kinds[0]) if len(kinds) == 1 else None


def _split_sections(text: str) -> dict[str, str]:
    starts = [(match.start(), match[1]) for match in _SECTION.finditer(text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    return {name: text[start:end] for (start, name), end in zip(starts, ends, strict=True)}
