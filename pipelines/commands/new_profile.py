"""`raymill new NAME --profile`: a profile for Kubernetes in which every key stands, with its default and meaning."""

from __future__ import annotations

from pydantic import BaseModel

from k8s.cluster_profile import Profile
from pipelines.commands.new import model_of, optional_model, value_text

_WRITTEN = {
    "namespace": "raymill",
    "image": "registry.example/raymill:0.1.0-cpu",
    "store": "s3://raymill/store",
    "s3": "{region: us-east-1, secret: raymill-s3}",
}
_EXAMPLES = {"queue": {"name": "raymill"}}
"""Values of keys that need one in sections that are off by default."""


def profile_starter() -> str:
    """The profile's text; see :func:`pipelines.commands.new.starter` for the marks of its lines."""
    lines = [
        "# Where Raymill's work goes on Kubernetes, and with what: docs/kubernetes.md. Lines that begin with '#: '",
        "# show a key with its default: remove these three characters to set it, and those before the name of its",
        "# section. Lines that begin with '#? ' are a section that is off by default: remove them from all of its",
        "# lines to have it.",
    ]
    for key, info in Profile.model_fields.items():
        default = info.get_default(call_default_factory=True)
        lines += ["", f"# {info.description}"]
        optional, section = optional_model(info.annotation), model_of(info.annotation)
        if key in _WRITTEN:
            lines.append(f"{key}: {_WRITTEN[key]}")
            lines += [f"#   {line}" for line in _meanings(optional)] if optional else []
        elif section is not None:
            lines += [f"#: {key}:", *(f"#:   {line}" for line in _keys(section, {}))]
        elif optional is not None:
            lines += [f"#? {key}:", *(f"#?   {line}" for line in _keys(optional, _EXAMPLES.get(key, {})))]
        elif default and isinstance(default, tuple) and isinstance(default[0], BaseModel):
            lines += [f"#   {line}" for line in _meanings(type(default[0]))]
            shown = default[0].model_dump(mode="json", include={"name", "cpus", "memory_gib", "minimum", "maximum"})
            lines += [f"#: {key}:", f"#: - {value_text(shown)}"]
        else:
            lines.append(f"#: {key}: {value_text(default)}")
    return "\n".join(lines) + "\n"


def _meanings(model: type[BaseModel]) -> list[str]:
    return [f"{name}: {info.description}" for name, info in model.model_fields.items()]


def _keys(model: type[BaseModel], examples: dict[str, str]) -> list[str]:
    lines = []
    for name, info in model.model_fields.items():
        value = examples.get(name, info.get_default(call_default_factory=True))
        lines += [f"# {info.description}", f"{name}: {value_text(value)}"]
    return lines
